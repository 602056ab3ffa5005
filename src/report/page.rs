//! What goes to stdout because it was asked for: texts, and tables in text.

use std::io::Write;

use crate::config::{Config, FILE, SETTINGS, Source};
use crate::run::init::{Change, Initiated};

/// Writes a text to stdout as it is. A closed pipe is no reason to fail.
pub fn page(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// Writes each setting, its value and where it came from to stdout.
pub fn settings(config: &Config) {
    page(&settings_table(config));
}

fn settings_table(config: &Config) -> String {
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned)];
    for setting in &SETTINGS {
        let row = match config.get(setting.key) {
            Some(value) => {
                let (Source::Flag(at) | Source::Environment(at) | Source::File(at)) = &value.source;
                [setting.key.to_owned(), value.parts.join(","), at.clone()]
            }
            None => [setting.key, setting.default, "default"].map(str::to_owned),
        };
        rows.push(row);
    }
    let file = match &config.file {
        Some(path) => format!("file: {}\n", path.display()),
        None => format!("file: none ({FILE} here or above)\n"),
    };
    format!("{}{file}", table(&rows))
}

/// Aligns columns, with a line for each row.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:width$}"))
                .collect();
            format!("{}\n", line.join("  ").trim_end())
        })
        .collect()
}

/// Tells what `init` has written, and what is left to do.
pub fn files(initiated: &Initiated) {
    for file in &initiated.files {
        let done = match file.change {
            Change::Created => "wrote",
            Change::Patched => "changed",
            Change::Unchanged => "nothing to change in",
        };
        super::text::line(&format!("{done} {}", file.path.display()));
    }
    for note in &initiated.notes {
        super::text::line(&format!("next: {note}"));
    }
}
