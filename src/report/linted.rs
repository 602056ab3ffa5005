//! What `lint` found, as lines.

use std::io::Write;

use super::text::{Verbosity, line};
use crate::run::{Finding, Lint, Problem};

/// Writes the findings to stdout, and how many there are to stderr. What is only worth a note is
/// for people who ask for details.
pub fn linting(lint: &Lint, verbosity: Verbosity) {
    let mut text: String = lint.findings.iter().map(entry).collect();
    if verbosity >= Verbosity::Verbose {
        let note = |note: &Finding| {
            let (at, image) = (place(note), &note.image);
            format!("{at}: note: {image}: {}\n", note.message)
        };
        text.extend(lint.notes.iter().map(note));
    }
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    if verbosity >= Verbosity::Normal {
        summary(lint).iter().for_each(|text| line(text));
    }
}

fn place(finding: &Finding) -> String {
    let file = match finding.file.as_str() {
        "-" => "stdin",
        file => file,
    };
    let object = match (finding.kind.as_str(), finding.name.as_str()) {
        ("", _) => String::new(),
        (kind, "") => format!(" {kind}"),
        (kind, name) => format!(" {kind}/{name}"),
    };
    let path = &finding.path;
    format!("{file}: document {}:{object} {path}", finding.document)
}

fn entry(finding: &Finding) -> String {
    let policy = match finding.problem {
        Problem::UnknownPolicy => format!(" (imagePullPolicy: {})", finding.policy),
        Problem::Pulled | Problem::InvalidName => String::new(),
    };
    format!(
        "{}: {}{policy}: {}\n  fix: {}\n",
        place(finding),
        finding.image,
        finding.message,
        finding.fix
    )
}

fn summary(lint: &Lint) -> Vec<String> {
    let places = |n: usize| if n == 1 { "image" } else { "images" };
    let (checked, found) = (lint.checked, lint.findings.len());
    let of = format!("{checked} {} in the manifests", places(checked));
    if found == 0 {
        let notes = match lint.notes.len() {
            0 => String::new(),
            n => format!(" ({n} of registries, pulled at every start: -v lists them)"),
        };
        return vec![format!("nothing to fix: {of}{notes}")];
    }
    let mut lines = vec![format!("to fix: {found} of {of}")];
    let untagged = |f: &Finding| f.problem == Problem::Pulled && is_untagged(&f.image);
    if lint.findings.iter().any(untagged) {
        lines.push(
            "  hint: Skaffold and Tilt give an image without a tag theirs: look at what they \
             apply, e.g. `skaffold render | kindlift lint -`"
                .to_owned(),
        );
    }
    lines
}

fn is_untagged(image: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or_default();
    !last.contains([':', '@'])
}
