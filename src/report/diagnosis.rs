//! What `doctor` found, as a screen: a line a check, and below it what to do.

use std::io::Write;

use crate::run::doctor::{Check, Diagnosis, Verdict};

/// What the reader's terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line; none, where lines are not broken.
    pub width: Option<usize>,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
    /// Whether it takes colours.
    pub colour: bool,
}

/// Writes the screen to stdout; with `failures`, only what failed.
pub fn diagnosis(diagnosis: &Diagnosis, screen: Screen, failures: bool) {
    let text = render(diagnosis, screen, failures);
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn render(diagnosis: &Diagnosis, screen: Screen, failures: bool) -> String {
    let mut text = String::new();
    if !failures {
        text += &format!("kindlift {} on {}\n", diagnosis.version, diagnosis.host);
    }
    let shown: Vec<&Check> = diagnosis
        .checks
        .iter()
        .filter(|check| !failures || check.verdict == Verdict::Fail)
        .collect();
    let names = shown.iter().map(|check| check.name.chars().count());
    // A pod's name may be longer than what is said of it.
    let column = names.max().unwrap_or_default().min(16);
    for check in shown {
        let (mark, width) = mark(check.verdict, screen);
        let name = plain(&check.name);
        let head = format!("{mark} {name:column$}  ");
        let head_width = width + 3 + name.chars().count().max(column);
        let indent = " ".repeat(width + 3 + column);
        text += &paragraph(&head, head_width, &indent, &check.finding, screen);
        if let Some(fix) = &check.fix {
            let head = format!("{indent}{} ", arrow(screen));
            let below = " ".repeat(head.chars().count());
            text += &paragraph(&head, below.len(), &below, fix, screen);
        }
    }
    if !failures {
        text += &summary(&diagnosis.checks);
    }
    text
}

fn mark(verdict: Verdict, screen: Screen) -> (String, usize) {
    let (sign, word, colour) = match verdict {
        Verdict::Ok => ("✓", "ok", "32"),
        Verdict::Warn => ("!", "! ", "33"),
        Verdict::Fail => ("✗", "X ", "31"),
        Verdict::Skipped => ("-", "- ", "2"),
    };
    let (mark, width) = if screen.unicode { (sign, 1) } else { (word, 2) };
    match screen.colour {
        true => (format!("\x1b[{colour}m{mark}\x1b[0m"), width),
        false => (mark.to_owned(), width),
    }
}

fn arrow(screen: Screen) -> &'static str {
    if screen.unicode { "→" } else { "->" }
}

/// Breaks a text into lines that begin below each other.
fn paragraph(head: &str, head_width: usize, indent: &str, text: &str, screen: Screen) -> String {
    let text = plain(text);
    let text = if screen.unicode {
        text
    } else {
        text.replace('…', "...")
    };
    let Some(width) = screen.width else {
        return format!("{}\n", format!("{head}{text}").trim_end());
    };
    // The head may hold colours, which take no room.
    let placeholder = " ".repeat(head_width);
    let options = textwrap::Options::new(width.max(indent.len() + 20))
        .initial_indent(&placeholder)
        .subsequent_indent(indent)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    let lines = textwrap::wrap(&text, options);
    let mut lines = lines.iter().map(|line| line.trim_end());
    let first = lines.next().unwrap_or_default();
    let rest = first.get(head_width..).unwrap_or_default();
    let mut all = format!("{}\n", format!("{head}{rest}").trim_end());
    for line in lines {
        all += line;
        all.push('\n');
    }
    all
}

/// What nodes, engines and Kubernetes say may come in several lines, or with escape sequences.
fn plain(text: &str) -> String {
    let words: Vec<String> = text
        .split_whitespace()
        .map(|word| word.chars().filter(|c| !c.is_control()).collect())
        .collect();
    words.join(" ")
}

fn summary(checks: &[Check]) -> String {
    let count = |verdict| {
        checks
            .iter()
            .filter(|check| check.verdict == verdict)
            .count()
    };
    let plural = |n| if n == 1 { "" } else { "s" };
    match (count(Verdict::Fail), count(Verdict::Warn)) {
        (0, 0) => "nothing is wrong\n".to_owned(),
        (0, warnings) => format!("{warnings} warning{}\n", plural(warnings)),
        (failures, warnings) => format!(
            "{failures} failure{}, {warnings} warning{}\n",
            plural(failures),
            plural(warnings)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn found() -> Diagnosis {
        let check = |name: &str, verdict, finding: &str, fix: Option<&str>| Check {
            name: name.to_owned(),
            verdict,
            finding: finding.to_owned(),
            fix: fix.map(str::to_owned),
            error: (verdict == Verdict::Fail).then_some(ErrorKind::Cluster),
            nodes: Default::default(),
        };
        Diagnosis {
            version: "1.2.3",
            host: "linux".into(),
            checks: vec![
                check("engine", Verdict::Ok, "Docker", None),
                check(
                    "nodes",
                    Verdict::Fail,
                    "a, b (paused) and some more words that need a second line",
                    Some("`docker unpause b` …\nand once more"),
                ),
                check("tilt", Verdict::Skipped, "no\x1b[2J Tiltfile", None),
            ],
        }
    }

    #[test]
    fn plain_where_nobody_looks() {
        let screen = Screen {
            width: None,
            unicode: false,
            colour: false,
        };
        assert_eq!(
            render(&found(), screen, false),
            "kindlift 1.2.3 on linux\n\
             ok engine  Docker\n\
             X  nodes   a, b (paused) and some more words that need a second line\n\
             \x20          -> `docker unpause b` ... and once more\n\
             -  tilt    no[2J Tiltfile\n\
             1 failure, 0 warnings\n"
        );
        assert!(render(&found(), screen, true).starts_with("X  nodes"));
        assert!(render(&found(), screen, true).is_ascii());
    }

    #[test]
    fn lines_fit_a_terminal() {
        let screen = Screen {
            width: Some(40),
            unicode: true,
            colour: true,
        };
        let text = render(&found(), screen, false);
        assert!(
            text.contains(
                "\x1b[31m✗\x1b[0m nodes   a, b (paused) and some more\n          words that need a second line\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("          → `docker unpause b` … and\n            once more\n"),
            "{text}"
        );
    }
}
