//! What README, docs, help topics and examples show: their code, and the `kindlift` commands in it.

use std::path::Path;

/// A text of the project.
pub struct Text {
    path: String,
    content: String,
}

/// A piece of code in a text.
pub struct Block {
    /// Where it begins, for messages.
    pub place: String,
    /// The language that its fence names; `inline` between backticks.
    pub language: String,
    pub text: String,
}

/// A `kindlift` command in a text.
#[derive(Debug, Clone)]
pub struct Documented {
    pub place: String,
    /// Of the code that it stands in.
    pub language: String,
    /// The line of shell that it stands in.
    pub line: String,
    /// What follows `kindlift`.
    pub words: Vec<String>,
}

impl Documented {
    /// Tells whether something must be put in before it can be run: NAME, HOST, `…`.
    pub fn is_a_pattern(&self) -> bool {
        let in_capitals =
            |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase());
        self.line.contains('…')
            || (self.words.iter())
                .flat_map(|word| word.split(['/', ':', '=', '.']))
                .any(in_capitals)
    }

    /// Tells whether a sentence only calls the command by its name.
    pub fn is_a_name(&self) -> bool {
        let is_word = |word: &String| word.chars().all(|c| c.is_ascii_lowercase());
        self.language == "inline"
            && self.line.starts_with("kindlift ")
            && self.words.len() == 1
            && self.words.iter().all(is_word)
    }
}

/// Returns all texts.
pub fn all() -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = vec![Text::read(root, "README.md")];
    for (folder, kinds) in [
        ("docs", &[".md"] as &[&str]),
        ("examples", &["README.md", "Tiltfile", "skaffold.yaml"]),
        ("src/cli/topics", &[".txt"]),
    ] {
        let before = texts.len();
        visit(root, folder, kinds, &mut texts);
        assert!(texts.len() > before, "no text in {folder}");
    }
    texts
}

fn visit(root: &Path, folder: &str, kinds: &[&str], texts: &mut Vec<Text>) {
    let entries = std::fs::read_dir(root.join(folder)).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = format!("{folder}/{}", name.to_str().unwrap());
        if root.join(&path).is_dir() {
            visit(root, &path, kinds, texts);
        } else if kinds.iter().any(|kind| path.ends_with(kind)) {
            texts.push(Text::read(root, &path));
        }
    }
}

impl Text {
    fn read(root: &Path, path: &str) -> Self {
        Self {
            path: path.to_owned(),
            content: std::fs::read_to_string(root.join(path)).unwrap(),
        }
    }

    /// Whether people read it as documentation, and do not only run it.
    pub fn is_page(&self) -> bool {
        self.path == "README.md" || self.path.starts_with("docs/")
    }

    /// Returns the code in some languages.
    pub fn blocks(&self, languages: &[&str]) -> Vec<Block> {
        let mut blocks = self.code();
        blocks.retain(|block| languages.contains(&block.language.as_str()));
        blocks
    }

    fn code(&self) -> Vec<Block> {
        let whole = |language: &str| {
            vec![Block {
                place: self.path.clone(),
                language: language.to_owned(),
                text: self.content.clone(),
            }]
        };
        match self.path.rsplit(['/', '.']).next().unwrap() {
            "md" => self.markdown(),
            "yaml" => whole("yaml"),
            "Tiltfile" => whole("python"),
            _ => {
                // Plain text, in which only what is quoted or comes after `exec` is surely code.
                let mut blocks = self.markdown();
                blocks.extend(whole("python"));
                let lines = self.content.lines();
                for line in lines.filter(|line| line.contains("exec kindlift")) {
                    blocks.push(Block {
                        language: "yaml".to_owned(),
                        text: line.trim().trim_start_matches("- ").to_owned(),
                        place: self.path.clone(),
                    });
                }
                blocks
            }
        }
    }

    /// Fenced code, and code between backticks in each paragraph.
    fn markdown(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut fence: Option<Block> = None;
        let mut paragraph = (0, String::new());
        for (at, line) in self.content.lines().enumerate() {
            let number = at + 1;
            match (&mut fence, line.trim_start().strip_prefix("```")) {
                (Some(_), Some(_)) => blocks.extend(fence.take()),
                (Some(block), None) => block.text += &format!("{line}\n"),
                (None, Some(language)) => {
                    self.inline(&mut paragraph, &mut blocks);
                    fence = Some(Block {
                        place: format!("{}:{number}", self.path),
                        language: language.to_owned(),
                        text: String::new(),
                    });
                }
                (None, None) if line.trim().is_empty() => self.inline(&mut paragraph, &mut blocks),
                (None, None) => {
                    if paragraph.1.is_empty() {
                        paragraph.0 = number;
                    }
                    paragraph.1 += &format!("{line}\n");
                }
            }
        }
        self.inline(&mut paragraph, &mut blocks);
        assert!(fence.is_none(), "{}: a fence has no end", self.path);
        blocks
    }

    fn inline(&self, paragraph: &mut (usize, String), blocks: &mut Vec<Block>) {
        let (first, text) = std::mem::take(paragraph);
        let mut number = first;
        for (at, piece) in text.split('`').enumerate() {
            if at % 2 == 1 {
                blocks.push(Block {
                    place: format!("{}:{number}", self.path),
                    language: "inline".to_owned(),
                    text: piece.replace('\n', " "),
                });
            }
            number += piece.matches('\n').count();
        }
    }

    /// Returns every `kindlift` command that the text shows.
    pub fn commands(&self) -> Vec<Documented> {
        let mut commands = Vec::new();
        for block in self.code() {
            let before = commands.len();
            for line in block.shell() {
                for words in segments(&line) {
                    if let Some(words) = of_kindlift(&words) {
                        commands.push(Documented {
                            place: block.place.clone(),
                            language: block.language.clone(),
                            line: line.clone(),
                            words,
                        });
                    }
                }
            }
            let is_code = !self.path.ends_with(".txt");
            let unread =
                is_code && block.text.contains("exec kindlift ") && commands.len() == before;
            assert!(
                !unread,
                "{}: what is here is not found:\n{}",
                block.place, block.text
            );
        }
        commands
    }
}

impl Block {
    /// What of it a shell would be given, line by line.
    fn shell(&self) -> Vec<String> {
        match self.language.as_str() {
            "sh" => lines(&self.text),
            "console" => {
                let typed = self.text.lines().filter_map(|line| line.strip_prefix("$ "));
                lines(&typed.collect::<Vec<_>>().join("\n"))
            }
            "yaml" => scalars(&self.text),
            "python" => strings(&self.text),
            "inline" => {
                let mut all = vec![self.text.clone()];
                all.extend(scalars(&self.text));
                all.extend(strings(&self.text));
                let mut seen = std::collections::BTreeSet::new();
                all.retain(|line| seen.insert(line.clone()));
                all
            }
            _ => Vec::new(),
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    joined.lines().map(|line| line.trim().to_owned()).collect()
}

/// All texts in a YAML document; none, if it is none.
fn scalars(text: &str) -> Vec<String> {
    use serde::Deserialize;
    fn collect(value: &serde_yaml::Value, found: &mut Vec<String>) {
        match value {
            serde_yaml::Value::String(text) => found.push(text.clone()),
            serde_yaml::Value::Sequence(items) => items.iter().for_each(|v| collect(v, found)),
            serde_yaml::Value::Mapping(map) => map.values().for_each(|v| collect(v, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        // After what it cannot read, serde_yaml reads the same again.
        let Ok(value) = serde_yaml::Value::deserialize(document) else {
            break;
        };
        collect(&value, &mut found);
    }
    found
}

/// The strings of a Tiltfile, and its lists that begin with a program's name.
fn strings(text: &str) -> Vec<String> {
    let quoted = regex_lite::Regex::new(r#"'([^'\n]*)'|"([^"\n]*)""#).unwrap();
    let text_of = |found: regex_lite::Captures<'_>| {
        let inner = found.get(1).or(found.get(2)).unwrap();
        inner.as_str().to_owned()
    };
    let mut found: Vec<String> = quoted.captures_iter(text).map(text_of).collect();
    for list in text.split("['kindlift',").skip(1) {
        let items = list.split(']').next().unwrap().split(',');
        let words = items.map(|item| item.trim().trim_matches('\'').to_owned());
        found.push(format!("kindlift {}", words.collect::<Vec<_>>().join(" ")));
    }
    found
}

/// Splits a line of shell into its commands, and those into words. Redirections are left out.
fn segments(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut into_file = false;
    let mut chars = line.chars().chain([' ']).peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '$') if chars.peek() == Some(&'{') => {
                // ${{ … }} of GitHub: one word, whatever is in it.
                let rest: String = chars.clone().collect();
                let end = rest
                    .find("}}")
                    .or(rest.find('}'))
                    .map_or(rest.len(), |at| at + 1);
                chars.by_ref().take(end).for_each(drop);
                word.get_or_insert_default().push_str("expanded");
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '&' | ';' | '>' | '<' | ' ' | '\t' | '\n') => {
                if let Some(word) = word.take()
                    && !std::mem::take(&mut into_file)
                {
                    commands.last_mut().unwrap().push(word);
                }
                match c {
                    '>' | '<' => into_file = true,
                    '|' | '&' | ';' => commands.push(Vec::new()),
                    _ => {}
                }
            }
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    // Prose has apostrophes, and is no shell.
    if quote.is_some() {
        Vec::new()
    } else {
        commands
    }
}

/// What follows `kindlift`, if that is the program.
fn of_kindlift(words: &[String]) -> Option<Vec<String>> {
    let is_before = |word: &&String| {
        *word == "exec"
            || word
                .split_once('=')
                .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    };
    let mut words = words.iter().skip_while(is_before);
    (words.next()? == "kindlift").then_some(())?;
    let words: Vec<String> = words.cloned().collect();
    (!words.is_empty()).then_some(words)
}
