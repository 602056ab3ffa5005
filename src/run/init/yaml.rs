//! Puts text into YAML, so that comments and order stay as they are.
//!
//! Finds lines of block style by their indentation, and does not try to know more: who edits
//! parses the result again and compares it with what it must mean.

use std::ops::Range;

/// Lines of a text, and what will be put between them.
pub struct Lines<'a> {
    lines: Vec<&'a str>,
    /// Before which line, and what.
    inserts: Vec<(usize, String)>,
    /// Which line instead of which.
    replaced: Vec<(usize, String)>,
}

/// A key of a mapping, and what is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key's line.
    pub line: usize,
    /// What follows the key on its line, without a comment.
    pub rest: String,
    /// The lines below it that are its value.
    pub below: Range<usize>,
    /// How far its value is indented.
    pub indent: usize,
}

impl<'a> Lines<'a> {
    /// Takes a text apart.
    pub fn new(text: &'a str) -> Self {
        Self {
            lines: text.split_inclusive('\n').collect(),
            inserts: Vec::new(),
            replaced: Vec::new(),
        }
    }

    /// Returns the lines of each document that is not empty.
    pub fn documents(&self) -> Vec<Range<usize>> {
        let mut documents = Vec::new();
        let mut start = 0;
        for (i, line) in self.lines.iter().enumerate() {
            if line.trim_end() == "---" || line.starts_with("--- ") {
                documents.push(start..i);
                start = i + 1;
            }
        }
        documents.push(start..self.lines.len());
        documents.retain(|lines| lines.clone().any(|i| self.indent(i).is_some()));
        documents
    }

    /// Finds a key among the lines of a mapping.
    pub fn find(&self, mapping: Range<usize>, indent: usize, key: &str) -> Option<Entry> {
        let line = mapping
            .clone()
            .find(|i| self.indent(*i) == Some(indent) && self.after_key(*i, key).is_some())?;
        let is_below = |i: usize| match self.indent(i) {
            Some(at) => at > indent || (at == indent && self.is_item(i)),
            None => true,
        };
        let mut end = (line + 1..mapping.end)
            .find(|i| !is_below(*i))
            .unwrap_or(mapping.end);
        // A comment or a gap above the next key belongs to that.
        while end > line + 1 && self.indent(end - 1).is_none() {
            end -= 1;
        }
        let below = line + 1..end;
        let inner = below.clone().find_map(|i| self.indent(i));
        Some(Entry {
            line,
            rest: self.after_key(line, key)?,
            below,
            indent: inner.unwrap_or(indent + 2),
        })
    }

    /// Puts a text before a line. Texts for the same line keep the order in which they came.
    pub fn insert(&mut self, line: usize, text: String) {
        self.inserts.push((line, text));
    }

    /// Replaces a piece of a line, once.
    pub fn replace(&mut self, line: usize, from: &str, to: &str) {
        let new = self.lines[line].replacen(from, to, 1);
        self.replaced.push((line, new));
    }

    /// Finds a line that has a piece of text before any comment.
    pub fn line_with(&self, lines: Range<usize>, text: &str) -> Option<usize> {
        lines.into_iter().find(|i| {
            let line = self.lines[*i];
            let end = line.find(" #").unwrap_or(line.len());
            line[..end].contains(text)
        })
    }

    /// Joins it all again.
    pub fn finish(self) -> String {
        let end_of_line = match self.lines.first() {
            Some(line) if line.ends_with("\r\n") => "\r\n",
            _ => "\n",
        };
        let mut text = String::new();
        for i in 0..=self.lines.len() {
            for (_, insert) in self.inserts.iter().filter(|(line, _)| *line == i) {
                if !text.is_empty() && !text.ends_with('\n') {
                    text += end_of_line;
                }
                text += &insert.replace('\n', end_of_line);
            }
            let replaced = self.replaced.iter().find(|(line, _)| *line == i);
            match replaced {
                Some((_, line)) => text += line,
                None => text += self.lines.get(i).copied().unwrap_or_default(),
            }
        }
        text
    }

    /// Returns how far a line is indented; none, if it has no content.
    fn indent(&self, i: usize) -> Option<usize> {
        let line = self.lines.get(i)?;
        let content = line.trim_start_matches(' ');
        let is_empty = content.trim().is_empty() || content.starts_with('#');
        (!is_empty).then(|| line.len() - content.len())
    }

    fn is_item(&self, i: usize) -> bool {
        let content = self.lines[i].trim_start();
        content.starts_with("- ") || content.trim_end() == "-"
    }

    /// Returns what follows a key, if the line begins with that key.
    fn after_key(&self, i: usize, key: &str) -> Option<String> {
        let content = self.lines[i].trim();
        let rest = content.strip_prefix(key)?.strip_prefix(':')?;
        if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
            return None;
        }
        let rest = match rest.find(" #") {
            Some(comment) => &rest[..comment],
            None => rest,
        };
        Some(rest.trim().to_owned())
    }
}

/// Writes a text as YAML that is read as that text.
pub fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || "/.".contains(c));
    // What YAML takes for something else than a text.
    let read: Result<serde_yaml::Value, _> = serde_yaml::from_str(text);
    let is_text = read.is_ok_and(|value| value.as_str() == Some(text));
    let words = ["y", "n", "yes", "no", "on", "off"];
    if starts && is_text && text.chars().all(plain) && !words.contains(&&*text.to_lowercase()) {
        text.to_owned()
    } else {
        // JSON's strings are YAML's.
        serde_json::Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# top\na: 1 # one\nb:\n  # inside\n  c:\n  - x\n  - y\n\n# of d\nd: {e: 1}\n---\n# nothing\n---\nbc: 1\n";

    #[test]
    fn finds_keys_and_their_lines() {
        let lines = Lines::new(TEXT);
        assert_eq!(lines.documents(), [0..10, 13..14]);
        let b = lines.find(0..10, 0, "b").unwrap();
        assert_eq!((b.line, b.below.clone(), b.indent), (2, 3..7, 2));
        let c = lines.find(b.below, 2, "c").unwrap();
        assert_eq!((c.line, c.below, c.indent), (4, 5..7, 2));
        assert_eq!(lines.find(0..10, 0, "a").unwrap().rest, "1");
        assert_eq!(lines.find(13..14, 0, "b"), None);
    }

    #[test]
    fn texts_keep_their_order_and_the_line_ends() {
        let mut lines = Lines::new("a: 1\r\nb: 2");
        lines.insert(1, "x: 1\n".into());
        lines.insert(1, "y: 1\n".into());
        lines.insert(2, "z: 1\n".into());
        assert_eq!(lines.finish(), "a: 1\r\nx: 1\r\ny: 1\r\nb: 2\r\nz: 1\r\n");
    }

    #[test]
    fn scalars_are_read_as_they_were() {
        for text in [
            "demo/app", "no", "1", "a b", "a: b", "'", "{{x}}", "null", "1e3", "./x", "a#b",
            "\u{e9}",
        ] {
            let value: serde_yaml::Value = serde_yaml::from_str(&scalar(text)).unwrap();
            assert_eq!(value.as_str(), Some(text));
        }
        assert_eq!(scalar("demo/app"), "demo/app");
    }
}
