//! Finds calls in a Tiltfile and their arguments, as text: enough to put another call in their
//! place, and not an interpreter.

use std::ops::Range;

/// A call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// From the function's name to the closing bracket, in bytes.
    pub span: Range<usize>,
    /// Its line, from 1.
    pub line: usize,
    /// Arguments by position, as they are written.
    pub positional: Vec<String>,
    /// Arguments by name.
    pub named: Vec<(String, String)>,
}

impl Call {
    /// Returns an argument that is given by position or by name.
    pub fn argument(&self, position: usize, name: &str) -> Option<&str> {
        self.named
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
            .or_else(|| self.positional.get(position).map(String::as_str))
    }
}

/// Finds the calls of a function. None for those whose brackets do not close.
pub fn calls(text: &str, function: &str) -> Vec<Call> {
    let code = code(text);
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
    let mut calls = Vec::new();
    let mut from = 0;
    while let Some(found) = find(&code[from..], function.as_bytes()).map(|at| at + from) {
        from = found + function.len();
        let begins = found == 0 || !is_word(code[found - 1]);
        let defined = code[..found].trim_ascii_end().ends_with(b"def");
        let blanks = code[from..]
            .iter()
            .take_while(|byte| **byte == b' ')
            .count();
        if !begins || defined || code.get(from + blanks) != Some(&b'(') {
            continue;
        }
        let open = from + blanks;
        let Some(close) = closing(&code, open) else {
            continue;
        };
        let mut call = Call {
            span: found..close + 1,
            line: 1 + text[..found].matches('\n').count(),
            positional: Vec::new(),
            named: Vec::new(),
        };
        for part in split(&code, open + 1..close) {
            let value = match name(&code[part.clone()]) {
                Some(equals) => part.start + equals + 1..part.end,
                None => part.clone(),
            };
            let name = trimmed(&code, part.start..value.start.saturating_sub(1));
            let value = text[trimmed(&code, value)].to_owned();
            if !name.is_empty() {
                call.named.push((text[name].to_owned(), value));
            } else if !value.is_empty() {
                call.positional.push(value);
            }
        }
        calls.push(call);
        from = close + 1;
    }
    calls
}

/// Returns the text of a literal without escapes, such as `'demo/app'`.
pub fn literal(written: &str) -> Option<&str> {
    let quote = written.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let inner = written.strip_prefix(quote)?.strip_suffix(quote)?;
    (!inner.contains([quote, '\\', '\n'])).then_some(inner)
}

/// Writes a text as a literal.
pub fn string(text: &str) -> String {
    format!(
        "'{}'",
        text.replace('\\', r"\\")
            .replace('\'', r"\'")
            .replace('\n', r"\n")
    )
}

/// Blanks out strings and comments, so that what is left is code; bytes keep their places.
fn code(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut i = 0;
    while i < bytes.len() {
        let end = match bytes[i] {
            b'#' => bytes[i..]
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(bytes.len(), |n| i + n),
            quote @ (b'\'' | b'"') => {
                let raw = i > 0 && bytes[i - 1] == b'r';
                let long = bytes[i..].starts_with(&[quote; 3]);
                end_of_string(bytes, i, quote, long, raw)
            }
            _ => {
                i += 1;
                continue;
            }
        };
        code[i..end]
            .iter_mut()
            .filter(|byte| **byte != b'\n')
            .for_each(|byte| *byte = b'_');
        // A comment is nothing; a string is a value.
        if bytes[i] == b'#' {
            code[i..end].fill(b' ');
        }
        i = end;
    }
    code
}

fn end_of_string(bytes: &[u8], start: usize, quote: u8, long: bool, raw: bool) -> usize {
    let width = if long { 3 } else { 1 };
    let mut i = start + width;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if !raw => i += 1,
            b'\n' if !long => return i,
            byte if byte == quote && (!long || bytes[i..].starts_with(&[quote; 3])) => {
                return i + width;
            }
            _ => {}
        }
        i += 1;
    }
    bytes.len()
}

fn find(code: &[u8], word: &[u8]) -> Option<usize> {
    code.windows(word.len()).position(|window| window == word)
}

fn closing(code: &[u8], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (i, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// Leaves blanks and comments at both ends out.
fn trimmed(code: &[u8], range: Range<usize>) -> Range<usize> {
    let Some(part) = code.get(range.clone()) else {
        return range.start..range.start;
    };
    let start = range.start + (part.len() - part.trim_ascii_start().len());
    start..start.max(range.start + part.trim_ascii_end().len())
}

/// Splits at the commas that are in no further bracket.
fn split(code: &[u8], range: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0_usize, range.start);
    for i in range.clone() {
        match code[i] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(start..i);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(start..range.end);
    parts
}

/// Returns where the `=` of `name=value` is.
fn name(code: &[u8]) -> Option<usize> {
    let equals = code.iter().position(|byte| *byte == b'=')?;
    let name = code[..equals].trim_ascii();
    let is_name = !name.is_empty()
        && name
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    (is_name && code.get(equals + 1) != Some(&b'=')).then_some(equals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_calls_and_not_what_looks_like_them() {
        let text = "# docker_build('a', '.')\nx = \"docker_build('b', '.')\"\n\
                    my_docker_build('c', '.')\ndef docker_build(a): pass\n\
                    docker_build('d,)', '.', # why\n  build_args={'a': f(1, 2)} # x\n,  only=['x'])\n";
        let calls = calls(text, "docker_build");
        assert_eq!(calls.len(), 1, "{calls:?}");
        let call = &calls[0];
        assert_eq!(call.line, 5);
        assert_eq!(call.argument(0, "ref"), Some("'d,)'"));
        assert_eq!(call.argument(1, "context"), Some("'.'"));
        assert!(text[call.span.clone()].ends_with("only=['x'])"));
        let named: Vec<(&str, &str)> = call
            .named
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(named, [("build_args", "{'a': f(1, 2)}"), ("only", "['x']")]);
    }

    #[test]
    fn literals() {
        assert_eq!(literal("'a/b'"), Some("a/b"));
        assert_eq!(literal("\"a\""), Some("a"));
        assert_eq!(literal("'a' + b + 'c'"), None);
        assert_eq!(literal("name"), None);
        assert_eq!(string(r"it's \"), r"'it\'s \\'");
    }
}
