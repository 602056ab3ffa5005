//! Runs kindlift as a user's shell would, but in an environment that holds only what the test
//! says, and never for longer than a deadline.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

#[path = "schema.rs"]
pub mod schema;

/// Longer than any command of these tests takes, even on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Run {
    /// The exit code; 128 and the signal's number, if a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Requires an exit code; shows everything otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "the exit code differs:\n{self}");
        self
    }

    /// Requires a piece of text on stderr.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "no {text:?} in:\n{self}");
        self
    }

    /// Requires that a piece of text is not on stderr.
    #[track_caller]
    pub fn never_says(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "{text:?} is in:\n{self}");
        self
    }

    /// Returns the document on stdout, which must be all that is there. If it is kindlift's, which
    /// alone says whether it is `ok`, it must be as docs/schema.json says.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let document: serde_json::Value = serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is no JSON document ({e}):\n{self}"));
        if document.get("ok").is_some()
            && let Err(wrong) = schema::kind(&document)
        {
            panic!("not as docs/schema.json says: {wrong}\n{document:#}");
        }
        document
    }
}

/// Everything at once, for snapshots and for panics.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "exit: {}\n--- stdout\n{}--- stderr\n{}",
            self.code, self.stdout, self.stderr
        )
    }
}

/// A command in an empty environment.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end.
#[track_caller]
pub fn run(command: &mut Command) -> Run {
    start(command).finish()
}

/// Starts a command.
#[track_caller]
pub fn start(command: &mut Command) -> Running {
    let mut child = command
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let stdout = Collected::from(child.stdout.take());
    let stderr = Collected::from(child.stderr.take());
    Running {
        child,
        stdout,
        stderr,
        deadline: Instant::now() + DEADLINE,
    }
}

/// A stream that is read as it comes.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Collected {
    fn from(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let reader = stream.map(|mut stream| {
            let bytes = Arc::clone(&bytes);
            std::thread::spawn(move || {
                let mut chunk = [0; 8192];
                while let Ok(n @ 1..) = stream.read(&mut chunk) {
                    bytes.lock().unwrap().extend_from_slice(&chunk[..n]);
                }
            })
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// A command that runs.
pub struct Running {
    child: Child,
    stdout: Collected,
    stderr: Collected,
    deadline: Instant,
}

impl Running {
    pub fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Returns what it has written to stdout until now.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Tells whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Returns what it has written to stderr until now.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until something holds; the command must be running all the while.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        while !holds(self) {
            if self.has_ended() {
                let status = self.child.wait().unwrap();
                panic!(
                    "it ended ({status}) before {what}:\n{}",
                    self.collect(status)
                );
            }
            if Instant::now() > self.deadline {
                self.give_up(what);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // It has come this far: for the next step it has as long again.
        self.deadline = Instant::now() + DEADLINE;
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Run {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return self.collect(status);
            }
            if Instant::now() > self.deadline {
                self.give_up("its end");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[track_caller]
    fn give_up(&mut self, what: &str) -> ! {
        let _ = self.child.kill();
        let status = self.child.wait().unwrap();
        panic!(
            "it waited {} s for {what}:\n{}",
            DEADLINE.as_secs(),
            self.collect(status)
        );
    }

    /// A child of the command may hold its pipes open after its end: that must not go on either.
    fn collect(&mut self, status: ExitStatus) -> Run {
        let patience = Instant::now() + Duration::from_secs(20);
        let readers = [self.stdout.reader.take(), self.stderr.reader.take()];
        for reader in readers.into_iter().flatten() {
            while !reader.is_finished() {
                assert!(
                    Instant::now() < patience,
                    "it ended ({status}), but something still holds its output open; it said:\n{}",
                    self.stderr.text()
                );
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        Run {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

/// A test that failed must not leave a kindlift that works on.
impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Returns the most memory that a process has had as kindlift, in kB; it only grows.
///
/// Until it has run `exec`, a child has the memory of the test that started it, and its name.
pub fn high_water(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name));
    if field("Name:")?.trim() != "kindlift" {
        return None;
    }
    let peak = field("VmHWM:")?;
    peak.trim().strip_suffix(" kB")?.parse().ok()
}

/// Tells something although the test may succeed, when cargo hides what tests print.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Waits until something holds, at most for the deadline.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds() {
        assert!(
            Instant::now() < end,
            "{} s have passed without this: {what}",
            deadline.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
