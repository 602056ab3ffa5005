//! What is known of one node while an image is on its way there, as a line.

use std::sync::atomic::Ordering;

use super::Doing;
use super::text::size;

/// The length of a bar, in characters.
const BAR: usize = 12;

/// What is known of a node.
pub(super) struct Node {
    doing: Doing,
    /// Whether it has just begun to count anew: what was there before is no speed.
    begins: bool,
    /// Bytes that went there, once it is known how many.
    took: u64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            doing: Doing::Waiting,
            begins: true,
            took: 0,
        }
    }
}

impl Node {
    /// Notes what it does from now on.
    pub(super) fn does(&mut self, doing: Doing) {
        self.took = self.sent();
        self.begins |= matches!(doing, Doing::Staging { .. });
        self.doing = doing;
    }

    /// Returns the bytes that went there.
    pub(super) fn sent(&self) -> u64 {
        match &self.doing {
            Doing::Staging { sent, .. } => sent.load(Ordering::Relaxed),
            _ => self.took,
        }
    }

    /// Tells, once, that it has begun to count.
    pub(super) fn begins(&mut self) -> bool {
        std::mem::take(&mut self.begins)
    }

    /// Writes what there is to say of it: as much as there is room for, the least important part
    /// left out first.
    pub(super) fn line(&self, name: &str, rate: f64, room: usize) -> String {
        let (word, of) = match self.doing {
            Doing::Waiting => ("waiting", None),
            Doing::Staging { of, .. } => ("staging", of.filter(|of| *of > 0)),
            Doing::Staged => ("staged", None),
            Doing::Named => ("named", None),
            Doing::Proven => ("proven", None),
        };
        let sent = self.sent();
        let line = format!("{name}  {word:7}");
        let (bar, amount) = match of {
            Some(of) => (
                scale(sent, of),
                format!("  {:>6} of {}", size(sent), size(of)),
            ),
            None if sent > 0 => (String::new(), format!("  {:>6}", size(sent))),
            None => (String::new(), String::new()),
        };
        // Once all of it is there, it is unpacked.
        let moves = matches!(self.doing, Doing::Staging { .. })
            && sent > 0
            && of.is_none_or(|of| sent < of)
            && rate >= 1.0;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is not negative, and three digits are shown"
        )]
        let rate = match moves {
            true => format!("  {}/s", size(rate as u64)),
            false => String::new(),
        };
        let lines = [
            format!("{line}{amount}{bar}{rate}"),
            format!("{line}{amount}{rate}"),
            format!("{line}{amount}"),
        ];
        let fitting = lines.into_iter().find(|line| line.chars().count() <= room);
        fitting.unwrap_or(line)
    }
}

fn scale(sent: u64, of: u64) -> String {
    let full = u64::try_from(BAR).unwrap_or_default();
    let done = u128::from(sent.min(of)) * u128::from(full) / u128::from(of);
    let done = usize::try_from(done).unwrap_or(BAR);
    format!("  [{:<BAR$}]", "=".repeat(done))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;

    use super::*;

    const MB: u64 = 1_000_000;

    fn staging(sent: u64, of: Option<u64>) -> Doing {
        Doing::Staging {
            sent: Arc::new(AtomicU64::new(sent)),
            of,
        }
    }

    fn node(doing: Doing) -> Node {
        let mut node = Node::default();
        node.does(doing);
        node
    }

    #[test]
    fn a_line_says_what_there_is_room_for() {
        let half = node(staging(125 * MB, Some(250 * MB)));
        for (room, line) in [
            (
                80,
                "dev  staging  125 MB of 250 MB  [======      ]  98 MB/s",
            ),
            (54, "dev  staging  125 MB of 250 MB  98 MB/s"),
            (38, "dev  staging  125 MB of 250 MB"),
            (29, "dev  staging"),
            (0, "dev  staging"),
        ] {
            assert_eq!(half.line("dev", 98e6, room), line, "in {room}");
        }
    }

    #[test]
    fn a_line_says_no_more_than_is_known() {
        for (doing, line) in [
            (Doing::Waiting, "dev  waiting"),
            (staging(0, None), "dev  staging"),
            (staging(5 * MB, None), "dev  staging  5.0 MB  98 MB/s"),
            (staging(0, Some(0)), "dev  staging"),
            (
                staging(7 * MB, Some(5 * MB)),
                "dev  staging  7.0 MB of 5.0 MB  [============]",
            ),
        ] {
            assert_eq!(node(doing).line("dev", 98e6, 80).trim_end(), line);
        }
        // How much it was stays to be seen.
        let mut done = node(staging(5 * MB, Some(5 * MB)));
        for (doing, line) in [
            (Doing::Staged, "dev  staged   5.0 MB"),
            (Doing::Named, "dev  named    5.0 MB"),
            (Doing::Proven, "dev  proven   5.0 MB"),
        ] {
            done.does(doing);
            assert_eq!(done.line("dev", 98e6, 80), line);
        }
    }
}
