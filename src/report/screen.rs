//! Rows at the bottom of a terminal that are drawn again and again, and then are gone.
//!
//! `indicatif` says what the rows are and when to draw them. It would fill each one up to the
//! terminal's edge, and terminals break such rows in two when they get narrower; here rows are no
//! longer than what they say, and what is erased is what the terminal has made of them. Where it
//! has just become narrower than a row and has not said so yet, a piece of the row may stay. An
//! error of the terminal is no reason to fail.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::TermLike;

/// The width that `indicatif` is told, in columns. No row is as long, so it breaks none.
const CANVAS: u16 = 400;
/// Columns at a row's end that stay free, for what the terminal echoes: `^C`.
const MARGIN: usize = 3;

/// How large a terminal is at the moment: columns and rows.
pub(super) type Size = fn() -> (u16, u16);

/// Returns how long a row may be, in characters.
pub(super) fn room(columns: u16) -> usize {
    usize::from(columns).saturating_sub(MARGIN)
}

/// The bottom of a terminal.
pub(super) struct Screen<W> {
    size: Size,
    inner: Mutex<Inner<W>>,
}

struct Inner<W> {
    out: W,
    /// What is to be drawn next, each row filled up to the canvas' width.
    canvas: String,
    /// The length of each row that is to be seen.
    shown: Vec<usize>,
}

impl<W> Screen<W> {
    pub(super) fn new(out: W, size: Size) -> Self {
        Self {
            size,
            inner: Mutex::new(Inner {
                out,
                canvas: String::new(),
                shown: Vec::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<W> fmt::Debug for Screen<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen").finish_non_exhaustive()
    }
}

/// The cursor stays below the rows. So its movements over the canvas mean nothing here, and a
/// canvas that is flushed takes the place of the one before.
impl<W: Write + Send> TermLike for Screen<W> {
    fn width(&self) -> u16 {
        CANVAS
    }

    fn height(&self) -> u16 {
        // The row below belongs to the cursor.
        (self.size)().1.saturating_sub(1).max(1)
    }

    fn move_cursor_up(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> io::Result<()> {
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.lock().canvas.push_str(text);
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        let width = CANVAS.into();
        self.lock().canvas += &format!("{text:width$.width$}");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let columns = (self.size)().0.max(1);
        let mut inner = self.lock();
        let canvas: Vec<char> = std::mem::take(&mut inner.canvas).chars().collect();
        let mut rows = Vec::new();
        for row in canvas.chunks(CANVAS.into()) {
            let row = &row[..row.len().min(room(columns))];
            rows.push(String::from_iter(row).trim_end().to_owned());
        }
        let mut frame = erasure(&inner.shown, columns.into());
        inner.shown = rows.iter().map(|row| row.chars().count()).collect();
        for row in rows {
            frame += &row;
            frame.push('\n');
        }
        if !frame.is_empty() {
            let _ = inner.out.write_all(frame.as_bytes());
            let _ = inner.out.flush();
        }
        Ok(())
    }
}

/// Returns what erases rows of these lengths above the cursor, and what was echoed behind them. A
/// terminal that has become narrower since has broken the longer ones. Row by row: what is erased
/// at once with the whole screen is kept by tmux among the lines that have scrolled away.
fn erasure(shown: &[usize], columns: usize) -> String {
    let up: usize = shown.iter().map(|row| row.div_ceil(columns).max(1)).sum();
    match up {
        0 => String::new(),
        up => format!("\r\x1b[2K{}", "\x1b[1A\x1b[2K".repeat(up)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erases_what_the_terminal_has_broken() {
        let rows = |shown: &[usize], columns| erasure(shown, columns).matches("1A").count();
        assert_eq!(erasure(&[], 80), "");
        assert_eq!(rows(&[60, 60, 0], 80), 3);
        assert_eq!(rows(&[60, 60, 0], 60), 3);
        assert_eq!(rows(&[60, 61, 0], 30), 6);
    }
}
