//! What `prune` found, as a table.

use std::io::Write;

use super::text::size;
use crate::run::{Pruned, Pruning, Verdict};

/// Writes the table to stdout and what was done to stderr.
pub fn pruning(pruning: &Pruning) {
    let _ = std::io::stdout()
        .lock()
        .write_all(table(&pruning.images).as_bytes());
    super::text::line(&summary(pruning));
}

fn table(images: &[Pruned]) -> String {
    if images.is_empty() {
        return String::new();
    }
    let head = ["IMAGE", "LOADED", "SIZE", "NODES", ""].map(str::to_owned);
    let rows: Vec<[String; 5]> = std::iter::once(head)
        .chain(images.iter().map(row))
        .collect();
    super::page::table(&rows)
}

fn row(image: &Pruned) -> [String; 5] {
    let name = match image.names.first() {
        Some(name) => {
            let more = match image.names.len() {
                1 => String::new(),
                names => format!(" (+{})", names - 1),
            };
            format!(
                "{}{more}",
                name.trim_start_matches("docker.io/")
                    .trim_start_matches("library/")
            )
        }
        None => match image.repositories.first() {
            Some(repository) => format!("{repository} (no tag left)"),
            None => "(no name left)".to_owned(),
        },
    };
    let verdict = match image.verdict {
        Verdict::Remove => "remove",
        Verdict::Newest => "keep: newest",
        Verdict::InUse => "keep: a container uses it",
        Verdict::NamedByOthers => "keep: it has a name that kindlift did not give",
        Verdict::Young => "keep: too young",
    };
    [
        name,
        age(image.age_seconds),
        image.size.map_or("?".to_owned(), size),
        image.nodes.len().to_string(),
        verdict.to_owned(),
    ]
}

fn age(seconds: u64) -> String {
    let (number, unit) = match seconds {
        0..60 => (seconds, "second"),
        60..3600 => (seconds / 60, "minute"),
        3600..86400 => (seconds / 3600, "hour"),
        _ => (seconds / 86400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural} ago")
}

fn summary(pruning: &Pruning) -> String {
    let gone: Vec<&Pruned> = pruning
        .images
        .iter()
        .filter(|image| image.verdict == Verdict::Remove)
        .collect();
    let cluster = &pruning.cluster;
    if gone.is_empty() {
        return format!("nothing to remove from {cluster}");
    }
    let bytes = gone.iter().filter_map(|image| image.size).sum();
    let plural = if gone.len() == 1 { "" } else { "s" };
    let what = format!(
        "{} image{plural} ({}) from {cluster}",
        gone.len(),
        size(bytes)
    );
    if pruning.done {
        format!("removed {what}")
    } else {
        format!("would remove {what}; say --yes to do it")
    }
}
