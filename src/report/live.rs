//! What each node does while an image is on its way: a line a node at the bottom of a terminal.
//!
//! Drawn by a thread of its own out of counters that are kept anyway, so that what moves bytes
//! does nothing for it. A load that is soon done draws nothing. The lines are gone before anything
//! else is written.

use std::io::Write;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::Event;
use super::node::Node;
use super::screen::{Screen, Size, room};

/// How long a load may take before anything is drawn.
const DELAY: Duration = Duration::from_millis(200);
/// How often the lines are drawn.
const EVERY: Duration = Duration::from_millis(100);
/// The same for `indicatif`, which sees to it: so many times a second.
const RATE: u8 = 10;

/// Draws what nodes do, from [`Event::Bound`] to [`Event::Settled`].
#[derive(Default)]
pub(super) struct Live {
    drawing: Mutex<Option<Drawing>>,
}

/// Lines that are drawn.
struct Drawing {
    names: Vec<String>,
    nodes: Vec<Arc<Mutex<Node>>>,
    lines: MultiProgress,
    /// Dropped to end the thread.
    end: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Live {
    /// Takes an event.
    pub(super) fn event(&self, event: &Event<'_>) {
        match event {
            Event::Bound(names) => self.begin(names, std::io::stderr(), terminal_size),
            Event::Node { name, doing } => {
                let drawing = self.lock();
                let Some(drawing) = &*drawing else { return };
                let known = drawing.names.iter().zip(&drawing.nodes);
                for (_, node) in known.filter(|(known, _)| known == name) {
                    lock(node).does(doing.clone());
                }
            }
            Event::Settled => self.end(),
            _ => {}
        }
    }

    fn begin(&self, names: &[&str], out: impl Write + Send + 'static, size: Size) {
        let mut drawing = self.lock();
        match &mut *drawing {
            // The same nodes once more: their lines stay where they are.
            Some(drawing) if drawing.names == names => {
                for node in &drawing.nodes {
                    *lock(node) = Node::default();
                }
            }
            other => {
                if let Some(other) = other.take() {
                    other.end();
                }
                // Without a thread there are no lines, and the load goes on.
                *other = Drawing::begin(names, out, size).ok();
            }
        }
    }

    /// Ends the drawing: nothing of it stays.
    pub(super) fn end(&self) {
        if let Some(drawing) = self.lock().take() {
            drawing.end();
        }
    }

    /// Writes something else to the terminal, above the lines.
    pub(super) fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        match &*self.lock() {
            Some(drawing) => drawing.lines.suspend(write),
            None => write(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Drawing>> {
        self.drawing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.end();
    }
}

impl Drawing {
    fn begin(
        names: &[&str],
        out: impl Write + Send + 'static,
        size: Size,
    ) -> std::io::Result<Self> {
        let screen = Box::new(Screen::new(out, size));
        let target = ProgressDrawTarget::term_like_with_hz(screen, RATE);
        let lines = MultiProgress::with_draw_target(target);
        let column = names.iter().map(|name| name.chars().count()).max();
        let column = column.unwrap_or_default();
        let mut nodes = Vec::new();
        let mut drawn = Vec::new();
        for name in names {
            let node = Arc::new(Mutex::new(Node::default()));
            drawn.push((lines.add(bar(name, column, size, &node)), Arc::clone(&node)));
            nodes.push(node);
        }
        let (end, ended) = mpsc::channel();
        let draw = move || {
            let mut pause = DELAY;
            while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                drawn.iter().for_each(|(bar, node)| draw(bar, node));
                pause = EVERY;
            }
            // Before the lines: a bar that is dropped would be drawn once more.
            drawn.iter().for_each(|(bar, _)| bar.finish_and_clear());
        };
        Ok(Self {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            nodes,
            lines,
            end,
            thread: std::thread::Builder::new()
                .name("progress".to_owned())
                .spawn(draw)?,
        })
    }

    fn end(self) {
        drop(self.end);
        // A thread that has panicked has drawn nothing since.
        let _ = self.thread.join();
        let _ = self.lines.clear();
    }
}

fn lock(node: &Mutex<Node>) -> MutexGuard<'_, Node> {
    node.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a node's bar, which writes its line when `indicatif` draws it.
fn bar(name: &str, column: usize, size: Size, node: &Arc<Mutex<Node>>) -> ProgressBar {
    let name = format!("{name:column$}");
    let node = Arc::clone(node);
    let line = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let line = lock(&node).line(&name, state.per_sec(), room(size().0));
        let _ = out.write_str(&line);
    };
    let style = ProgressStyle::with_template("{line}").expect("this is a template");
    ProgressBar::no_length().with_style(style.with_key("line", line))
}

/// Tells a bar how far its node is, and lets it be drawn.
fn draw(bar: &ProgressBar, node: &Mutex<Node>) {
    let (sent, begins) = {
        let mut node = lock(node);
        (node.sent(), node.begins())
    };
    bar.set_position(sent);
    bar.tick();
    if begins {
        bar.reset_eta();
    }
}

/// Asks how large the terminal behind stderr is.
fn terminal_size() -> (u16, u16) {
    match terminal_size::terminal_size_of(std::io::stderr()) {
        Some((width, height)) if width.0 > 0 => (width.0, height.0),
        _ => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::time::Instant;

    use super::super::Doing;
    use super::*;

    const MB: u64 = 1_000_000;

    fn staging(sent: u64, of: Option<u64>) -> Doing {
        Doing::Staging {
            sent: Arc::new(AtomicU64::new(sent)),
            of,
        }
    }

    /// A terminal that tells what is to be seen on it.
    #[derive(Clone)]
    struct Emulator(Arc<Mutex<vt100::Parser>>);

    impl Emulator {
        fn new(rows: u16, columns: u16) -> Self {
            Self(Arc::new(Mutex::new(vt100::Parser::new(
                rows.try_into().unwrap(),
                columns.try_into().unwrap(),
                0,
            ))))
        }

        fn shown(&self) -> String {
            let parser = self.0.lock().unwrap();
            parser.screen().contents().trim_end().to_owned()
        }

        #[track_caller]
        fn shows(&self, text: &str) {
            let end = Instant::now() + Duration::from_secs(20);
            while self.shown() != text {
                assert!(Instant::now() < end, "not {text:?} but {:?}", self.shown());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    impl Write for Emulator {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            // As a terminal's driver does.
            let text = String::from_utf8_lossy(bytes).replace('\n', "\r\n");
            self.0.lock().unwrap().process(text.as_bytes());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn tell(live: &Live, name: &str, doing: Doing) {
        live.event(&Event::Node { name, doing });
    }

    #[test]
    fn lines_follow_the_nodes_and_leave_nothing() {
        let terminal = Emulator::new(24, 80);
        let mut other = terminal.clone();
        writeln!(other, "$ kindlift").unwrap();
        let live = Live::default();
        let names = ["dev-control-plane", "dev-worker"];
        live.begin(&names, terminal.clone(), || (80, 24));
        terminal.shows("$ kindlift\ndev-control-plane  waiting\ndev-worker         waiting");
        tell(&live, "dev-worker", staging(0, Some(MB)));
        tell(&live, "a stranger", Doing::Proven);
        terminal.shows(
            "$ kindlift\ndev-control-plane  waiting\n\
             dev-worker         staging     0 B of 1.0 MB  [            ]",
        );
        // What else is written stays, above the lines.
        live.above(|| writeln!(other, "warning: x").unwrap());
        tell(&live, "dev-worker", Doing::Staged);
        terminal
            .shows("$ kindlift\nwarning: x\ndev-control-plane  waiting\ndev-worker         staged");
        // The same nodes once more.
        live.begin(&names, terminal.clone(), || (80, 24));
        terminal.shows(
            "$ kindlift\nwarning: x\ndev-control-plane  waiting\ndev-worker         waiting",
        );
        // Others.
        live.begin(&["a"], terminal.clone(), || (80, 24));
        terminal.shows("$ kindlift\nwarning: x\na  waiting");
        live.event(&Event::Settled);
        assert_eq!(terminal.shown(), "$ kindlift\nwarning: x");
        live.above(|| writeln!(other, "done").unwrap());
        assert_eq!(terminal.shown(), "$ kindlift\nwarning: x\ndone");
    }

    #[test]
    fn a_small_terminal() {
        let terminal = Emulator::new(3, 20);
        let live = Live::default();
        let names = ["a-control-plane", "a-worker", "a-worker2", "a-worker3"];
        live.begin(&names, terminal.clone(), || (20, 3));
        terminal.shows("a-control-plane\na-worker");
        live.end();
        assert_eq!(terminal.shown(), "");
    }

    #[test]
    fn what_is_soon_done_draws_nothing() {
        let terminal = Emulator::new(24, 80);
        let live = Live::default();
        live.begin(&["a", "b"], terminal.clone(), || (80, 24));
        tell(&live, "a", Doing::Proven);
        live.end();
        assert_eq!(
            terminal.0.lock().unwrap().screen().cursor_position(),
            (0, 0)
        );
        assert_eq!(terminal.shown(), "");
    }
}
