//! Short lines on stderr, for people and for Skaffold's and Tilt's logs.
//!
//! No carriage return, and no line anywhere near the 64 KiB at which Skaffold deadlocks when it
//! buffers the output of several builds.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use super::{Event, NodeResult, Outcome, Report};
use crate::error::Error;

/// The longest line that is passed on, in bytes; longer ones are broken.
const MAX_LINE: usize = 16 * 1024;

/// How much to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// What was done.
    Normal,
    /// Each step.
    Verbose,
}

/// Writes to stderr.
pub struct Text {
    verbosity: Verbosity,
    terminal: bool,
    /// Bytes of the build's current line.
    column: Mutex<usize>,
}

impl Text {
    /// Makes a sink.
    pub fn new(verbosity: Verbosity) -> Self {
        Self {
            verbosity,
            terminal: std::io::stderr().is_terminal(),
            column: Mutex::new(0),
        }
    }
}

impl Report for Text {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Build(bytes) => {
                let mut column = self.column.lock().unwrap_or_else(PoisonError::into_inner);
                let broken = break_lines(bytes, &mut column);
                let _ = std::io::stderr().lock().write_all(&broken);
            }
            Event::Warning { message, hint } if self.verbosity >= Verbosity::Normal => {
                line(&format!("warning: {message}"));
                if let Some(hint) = hint {
                    line(&format!("  hint: {hint}"));
                }
            }
            Event::Step(step) if self.verbosity >= Verbosity::Verbose => line(step),
            Event::Done(done) if self.verbosity >= Verbosity::Normal => line(done),
            Event::Warning { .. } | Event::Step(_) | Event::Done(_) => {}
        }
    }

    fn owns_terminal(&self) -> bool {
        self.terminal
    }
}

/// Writes a line to stderr. A closed pipe is no reason to fail: the work goes on.
fn line(text: &str) {
    let mut text = text.replace('\r', "");
    text.push('\n');
    let mut column = 0;
    let broken = break_lines(text.as_bytes(), &mut column);
    let _ = std::io::stderr().lock().write_all(&broken);
}

/// Breaks lines that are too long; `column` is where the last piece ended.
fn break_lines(bytes: &[u8], column: &mut usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    for &byte in bytes {
        if byte == b'\n' {
            *column = 0;
        } else if *column >= MAX_LINE {
            out.push(b'\n');
            *column = 1;
        } else {
            *column += 1;
        }
        out.push(byte);
    }
    out
}

/// Tells what was done, in one line.
pub fn summary(outcome: &Outcome, seconds: f64) {
    line(&summary_line(outcome, seconds));
}

fn summary_line(outcome: &Outcome, seconds: f64) -> String {
    let nodes = outcome.nodes.len();
    let sent: u64 = outcome.nodes.iter().map(|node| node.bytes_sent).sum();
    let all_present = outcome
        .nodes
        .iter()
        .all(|node| node.result == NodeResult::Present);
    let (verb, into) = if all_present {
        ("already there:", "on")
    } else {
        ("loaded", "into")
    };
    let plural = if nodes == 1 { "node" } else { "nodes" };
    let compared = if outcome.compared {
        ""
    } else {
        " (not compared: the engine has no such image)"
    };
    format!(
        "{verb} {} {into} {nodes} {plural} of {}: {seconds:.1} s, {} sent{compared}",
        outcome.image,
        outcome.cluster,
        size(sent)
    )
}

/// Writes a size the way people say it, in decimal units.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Tells an error: what, why, and what to do.
pub fn error(error: &Error) {
    line(&format!("error: {error}"));
    for cause in error.causes() {
        for text in cause.lines().filter(|text| !text.trim().is_empty()) {
            line(&format!("  caused by: {}", text.trim_end()));
        }
    }
    if let Some(hint) = error.next_step() {
        line(&format!("  hint: {hint}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_lines_that_would_deadlock_skaffold() {
        let mut column = 0;
        let mut out = break_lines(&vec![b'x'; 40_000], &mut column);
        out.extend(break_lines(&vec![b'x'; 40_000], &mut column));
        let longest = out.split(|b| *b == b'\n').map(<[u8]>::len).max().unwrap();
        assert!(longest <= MAX_LINE, "{longest}");
        let kept = out.iter().filter(|b| **b == b'x').count();
        assert_eq!(kept, 80_000);
    }

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_234, "1.2 kB"),
            (12_345_678, "12 MB"),
            (999_600, "1.0 MB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
