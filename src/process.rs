//! Child processes: the one place that makes them, so that none outlives us, none reads our
//! stdin, and every failure carries the command and the tail of its stderr.

use std::ffi::OsStr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// How much of a child's stderr an error quotes, in bytes.
const TAIL: usize = 2048;

/// Which signal the kernel sends a child when we die without a word.
#[derive(Debug, Clone, Copy)]
pub enum Orphan {
    /// Kill it: it holds nothing worth a goodbye.
    Kill,
    /// Ask it to end: it has work elsewhere (a build in the engine) to cancel.
    Terminate,
}

/// Makes a command with exactly the given environment, an empty stdin and piped output, which
/// dies when dropped and when we die.
pub fn command(program: impl AsRef<OsStr>, env: &Env, orphan: Orphan) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .envs(env.iter())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    die_with_parent(&mut command, orphan);
    command
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, orphan: Orphan) {
    use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
    let signal = match orphan {
        Orphan::Kill => Signal::KILL,
        Orphan::Terminate => Signal::TERM,
    };
    let parent = rustix::process::getpid();
    let set = move || {
        set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above.
        if getppid() != Some(parent) && getppid() != Pid::from_raw(0) {
            return Err(std::io::Error::other("the parent is gone"));
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; the closure makes
    // the raw system calls prctl and getppid and allocates nothing on its good path. Skaffold
    // ends its builders with SIGKILL, so no handler of ours could end the children instead.
    #[expect(
        unsafe_code,
        reason = "PDEATHSIG can only be set between fork and exec"
    )]
    unsafe {
        command.pre_exec(set);
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command, _: Orphan) {}

/// Renders a command for messages, quoting what a shell would split.
pub fn display(command: &Command) -> String {
    let std = command.as_std();
    std::iter::once(std.get_program())
        .chain(std.get_args())
        .map(|arg| {
            let arg = arg.to_string_lossy();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
            if !arg.is_empty() && arg.chars().all(plain) {
                arg.into_owned()
            } else {
                format!("'{}'", arg.replace('\'', r"'\''"))
            }
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Starts a command.
///
/// # Errors
/// Engine error, if the program cannot be started.
pub fn spawn(command: &mut Command) -> Result<Child> {
    let shown = display(command);
    tracing::debug!(command = %shown, "spawn");
    command.spawn().map_err(|e| {
        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let missing = e.kind() == std::io::ErrorKind::NotFound;
        let error = Error::new(ErrorKind::Engine, format!("cannot start `{program}`")).because(e);
        if missing {
            error.hint(format!("install `{program}` or put it on PATH"))
        } else {
            error
        }
    })
}

/// What a finished child left.
#[derive(Debug)]
pub struct Finished {
    /// Its exit status.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// The end of its stderr.
    pub stderr: String,
    /// The command, for messages.
    pub command: String,
}

impl Finished {
    /// Returns stdout if the child succeeded.
    ///
    /// # Errors
    /// An error of the given kind with the command and the tail of stderr.
    pub fn success(self, kind: ErrorKind) -> Result<Vec<u8>> {
        if self.status.success() {
            Ok(self.stdout)
        } else {
            Err(failure(kind, &self.command, self.status, &self.stderr))
        }
    }
}

/// Makes the error for a child that failed.
pub fn failure(kind: ErrorKind, command: &str, status: ExitStatus, stderr: &str) -> Error {
    let error = Error::new(kind, format!("`{command}` failed ({status})"));
    match stderr.trim() {
        "" => error,
        text => error.because(text.to_owned()),
    }
}

/// Runs a command to its end within a deadline and collects its output.
///
/// # Errors
/// Engine error, if it cannot be started; an error of `kind` when the deadline passes.
pub async fn run(mut command: Command, kind: ErrorKind, deadline: Duration) -> Result<Finished> {
    let shown = display(&command);
    let mut child = spawn(&mut command)?;
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let work = async {
        let mut out = Vec::new();
        let (_, tail, status) =
            tokio::join!(stdout.read_to_end(&mut out), tail(stderr), child.wait());
        status.map(|status| Finished {
            status,
            stdout: out,
            stderr: tail,
            command: shown.clone(),
        })
    };
    match tokio::time::timeout(deadline, work).await {
        Ok(finished) => {
            finished.map_err(|e| Error::new(kind, format!("lost track of `{shown}`")).because(e))
        }
        Err(_) => Err(Error::new(
            kind,
            format!("`{shown}` did not end within {} s", deadline.as_secs()),
        )),
    }
}

/// Reads a stream to its end and returns the last bytes of it as text.
pub async fn tail(mut stream: impl AsyncRead + Unpin) -> String {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            break;
        }
        kept.extend_from_slice(&chunk[..n]);
        if kept.len() > 2 * TAIL {
            kept.drain(..kept.len() - TAIL);
        }
    }
    let start = kept.len().saturating_sub(TAIL);
    String::from_utf8_lossy(&kept[start..]).trim().to_owned()
}

/// Asks a child to end and waits for it; kills it when it takes longer than five seconds.
pub async fn end_gently(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        use rustix::process::{Pid, Signal, kill_process};
        if let Some(pid) = Pid::from_raw(pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    if tokio::time::timeout(Duration::from_secs(5), child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}
