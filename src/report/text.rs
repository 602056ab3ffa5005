//! Short lines on stderr, for people and for Skaffold's and Tilt's logs.
//!
//! No carriage return, and no line anywhere near the 64 KiB at which Skaffold deadlocks when it
//! buffers the output of several builds. Colour only repeats what a word says. On a terminal of the
//! user's own, what the nodes do is drawn below the lines while it goes on.

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use anstyle::{AnsiColor, Style};

use super::live::Live;
use super::{Event, NodeResult, Outcome, Report};
use crate::error::Error;
use crate::reference::Reference;
use crate::run::Exported;

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

/// What may be done with stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terminal {
    /// Whether it is a terminal to draw on, for the engine's build too.
    pub drawn_on: bool,
    /// Whether what nodes do is drawn there.
    pub live: bool,
    /// Whether words get colours.
    pub colour: bool,
}

/// Writes to stderr.
pub struct Text {
    verbosity: Verbosity,
    terminal: Terminal,
    /// Where the build's output is.
    build: Mutex<Plain>,
    live: Live,
}

impl Text {
    /// Makes a sink.
    pub fn new(verbosity: Verbosity, terminal: Terminal) -> Self {
        Self {
            verbosity,
            terminal,
            build: Mutex::default(),
            live: Live::default(),
        }
    }
}

impl Report for Text {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Build(bytes) => {
                let mut build = self.build.lock().unwrap_or_else(PoisonError::into_inner);
                let plain = build.text(bytes);
                self.live.above(|| {
                    let _ = std::io::stderr().lock().write_all(&plain);
                });
            }
            Event::Warning { message, hint } if self.verbosity >= Verbosity::Normal => {
                let colour = self.terminal.colour;
                self.live.above(|| {
                    labelled(Label::Warning, message, colour);
                    if let Some(hint) = hint {
                        labelled(Label::Hint, hint, colour);
                    }
                });
            }
            Event::Step(step) if self.verbosity >= Verbosity::Verbose => {
                self.live.above(|| line(step));
            }
            Event::Done(done) if self.verbosity >= Verbosity::Normal => {
                self.live.above(|| line(done));
            }
            Event::Delivered { outcome, seconds } if self.verbosity >= Verbosity::Normal => {
                self.live.above(|| summary(outcome, *seconds));
            }
            Event::Bound(_) | Event::Node { .. } | Event::Settled if self.terminal.live => {
                self.live.event(event);
            }
            Event::Warning { .. }
            | Event::Step(_)
            | Event::Done(_)
            | Event::Delivered { .. }
            | Event::Bound(_)
            | Event::Node { .. }
            | Event::Settled => {}
        }
    }

    fn tells_steps(&self) -> bool {
        self.verbosity >= Verbosity::Verbose
    }

    fn owns_terminal(&self) -> bool {
        self.terminal.drawn_on
    }
}

/// Writes a line to stderr. A closed pipe is no reason to fail: the work goes on.
pub(super) fn line(text: &str) {
    let mut plain = Plain::default().text(text.as_bytes());
    plain.push(b'\n');
    let _ = std::io::stderr().lock().write_all(&plain);
}

/// The word that a line begins with.
#[derive(Debug, Clone, Copy)]
enum Label {
    Error,
    Warning,
    Cause,
    Hint,
}

impl Label {
    /// Returns what stands before the word, the word, and how it looks.
    fn parts(self) -> (&'static str, &'static str, Style) {
        let bold = |colour: AnsiColor| colour.on_default().bold();
        match self {
            Self::Error => ("", "error:", bold(AnsiColor::Red)),
            Self::Warning => ("", "warning:", bold(AnsiColor::Yellow)),
            Self::Cause => ("  ", "caused by:", Style::new().dimmed()),
            Self::Hint => ("  ", "hint:", bold(AnsiColor::Cyan)),
        }
    }
}

/// Writes a line that begins with a word, which may be coloured; the rest never is.
fn labelled(label: Label, text: &str, colour: bool) {
    let (indent, word, style) = label.parts();
    let style = if colour { style } else { Style::new() };
    let text = Plain::default().text(text.as_bytes());
    let mut line = format!("{indent}{style}{word}{style:#} ").into_bytes();
    line.extend(text);
    line.push(b'\n');
    let _ = std::io::stderr().lock().write_all(&line);
}

/// Turns output into lines that a log can take, piece by piece: none too long, none overwritten,
/// none coloured. buildx colours its warnings even where its output is no terminal.
#[derive(Debug, Default)]
struct Plain {
    /// Bytes of the current line.
    column: usize,
    /// Whether the last byte was a carriage return.
    returned: bool,
    escape: Escape,
}

/// How far into an escape sequence (ECMA-48) the output is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Escape {
    #[default]
    Outside,
    /// After ESC, perhaps with intermediate bytes.
    Begun,
    /// In a control sequence: a colour, a movement.
    Control,
    /// In a string: a window title, a link.
    String,
}

impl Plain {
    fn text(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len() + 8);
        for &byte in bytes {
            if self.is_escaped(byte) {
                continue;
            }
            // A progress bar that starts its line anew gets a new line; CR LF is one end.
            let ends_twice = byte == b'\n' && self.returned;
            self.returned = byte == b'\r';
            match byte {
                b'\n' if ends_twice => {}
                b'\n' => self.end_line(&mut out),
                b'\r' if self.column == 0 => self.returned = false,
                b'\r' => self.end_line(&mut out),
                _ => {
                    if self.column >= MAX_LINE {
                        self.end_line(&mut out);
                    }
                    self.column += 1;
                    out.push(byte);
                }
            }
        }
        out
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        self.column = 0;
        out.push(b'\n');
    }

    /// Tells whether a byte belongs to an escape sequence. A line's end ends any.
    fn is_escaped(&mut self, byte: u8) -> bool {
        let was = self.escape;
        self.escape = match (was, byte) {
            (_, 0x1b) => Escape::Begun,
            (_, b'\n') => Escape::Outside,
            (Escape::Begun, b'[') => Escape::Control,
            (Escape::Begun, b']' | b'P' | b'X' | b'^' | b'_') => Escape::String,
            (Escape::Begun, 0x20..=0x2f) => Escape::Begun,
            (Escape::Control, 0x40..=0x7e) | (Escape::String, 0x07) => Escape::Outside,
            (Escape::Begun | Escape::Outside, _) => Escape::Outside,
            (unfinished, _) => unfinished,
        };
        (was != Escape::Outside && byte != b'\n') || self.escape != Escape::Outside
    }
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
        " (not compared: no engine has such an image)"
    };
    format!(
        "{verb} {} {into} {nodes} {plural} of {}: {seconds:.1} s, {} sent{compared}",
        outcome.image,
        outcome.cluster,
        size(sent)
    )
}

/// Tells what was exported, in one line.
pub fn exported(export: &Exported) {
    let name = export.refs.first().map(Reference::familiar);
    line(&format!(
        "wrote {} for {} to {}: {}",
        name.unwrap_or_default(),
        export.platform,
        export.output.display(),
        size(export.bytes)
    ));
}

/// Writes a size the way people say it, in decimal units.
pub(crate) fn size(bytes: u64) -> String {
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
pub fn error(error: &Error, colour: bool) {
    labelled(Label::Error, &error.to_string(), colour);
    for cause in error.causes() {
        for text in cause.lines().filter(|text| !text.trim().is_empty()) {
            labelled(Label::Cause, text.trim_end(), colour);
        }
    }
    if let Some(hint) = error.next_step() {
        labelled(Label::Hint, hint, colour);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breaks_lines_that_would_deadlock_skaffold() {
        let mut plain = Plain::default();
        let mut out = plain.text(&vec![b'x'; 40_000]);
        out.extend(plain.text(&vec![b'x'; 40_000]));
        let longest = out.split(|b| *b == b'\n').map(<[u8]>::len).max().unwrap();
        assert!(longest <= MAX_LINE, "{longest}");
        let kept = out.iter().filter(|b| **b == b'x').count();
        assert_eq!(kept, 80_000);
    }

    #[test]
    fn output_is_plain_however_it_is_cut() {
        let text = "\x1b[33m1 warning\x1b[0m\r\n10%\r20%\rdone\n\
                    \x1b]0;title\x07a\x1b]8;;x\x1b\\b\x1b(Bc \u{e4}\n\n\x1b[2\nend";
        let plain = "1 warning\n10%\n20%\ndone\nabc \u{e4}\n\n\nend";
        for size in 1..text.len() {
            let mut lines = Plain::default();
            let out: Vec<u8> = text
                .as_bytes()
                .chunks(size)
                .flat_map(|piece| lines.text(piece))
                .collect();
            assert_eq!(
                String::from_utf8(out).unwrap(),
                plain,
                "in pieces of {size}"
            );
        }
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
