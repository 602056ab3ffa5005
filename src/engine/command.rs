//! Running an engine's command line: output that the user wants to see, and a save that goes to
//! a file.

use std::cell::Cell;
use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::process;
use crate::report::Event;

/// Runs a command whose output the user wants to see, on stderr. `what` is `build`, `push`, …
///
/// # Errors
/// An error of the given kind, or interrupted; the command has ended then.
pub async fn run_visible(
    mut command: Command,
    job: &Job,
    kind: ErrorKind,
    what: &str,
) -> Result<()> {
    let shown = process::display(&command);
    let watched = job.report.owns_terminal();
    if watched {
        command
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::inherit());
    }
    let mut child = process::spawn(&mut command)?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let heard = Cell::new(Instant::now());
    let ended = async {
        let (_, _, status) = tokio::join!(
            pass(stdout, job, &heard),
            pass(stderr, job, &heard),
            child.wait()
        );
        status
    };
    let silent = async {
        if watched {
            // Whoever looks at the terminal decides.
            std::future::pending::<()>().await;
        }
        while heard.get().elapsed() < job.silence {
            tokio::time::sleep(job.silence.saturating_sub(heard.get().elapsed())).await;
        }
    };
    let status = tokio::select! {
        status = ended => status.map_err(|e| {
            Error::new(kind, format!("lost track of `{shown}`")).because(e)
        })?,
        () = job.cancel.cancelled() => {
            process::end_gently(&mut child).await;
            return Err(job.cancel.error());
        }
        () = silent => {
            process::end_gently(&mut child).await;
            return Err(stalled(kind, &shown, what, job.silence));
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(Error::new(kind, format!("the {what} failed ({status})"))
        .because(format!("`{shown}`"))
        .hint(format!(
            "the engine's own messages are above; nothing was loaded after the failed {what}"
        )))
}

fn stalled(kind: ErrorKind, shown: &str, what: &str, silence: Duration) -> Error {
    Error::new(
        kind,
        format!("the {what} has said nothing for {} s", silence.as_secs()),
    )
    .because(format!("`{shown}`"))
    .hint("give it longer with --silence-timeout")
}

async fn pass(stream: Option<impl AsyncRead + Unpin>, job: &Job, heard: &Cell<Instant>) {
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0; 8192];
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        heard.set(Instant::now());
        job.report.event(&Event::Build(&chunk[..n]));
    }
}

/// Runs a command whose stdout is a file. The command writes there by itself: no byte passes
/// through us.
///
/// # Errors
/// Image error with the tail of stderr, or that nothing was written for a long time.
pub async fn spool(mut command: Command, file: &File, job: &Job) -> Result<()> {
    let shown = process::display(&command);
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Image, format!("cannot spool `{shown}`")).because(e)
    };
    command.stdout(Stdio::from(file.try_clone().map_err(failed)?));
    let mut child = process::spawn(&mut command)?;
    let stderr = child.stderr.take().expect("stderr is piped");
    // overlay2 stores copy all layers before the first byte.
    let silent = async {
        let mut size = 0;
        loop {
            tokio::time::sleep(job.silence).await;
            let now = file.metadata().map_or(0, |metadata| metadata.len());
            if now == size {
                return;
            }
            size = now;
        }
    };
    let ended = async { tokio::join!(process::tail(stderr), child.wait()) };
    tokio::select! {
        (said, status) = ended => {
            let status = status.map_err(failed)?;
            if status.success() {
                return Ok(());
            }
            Err(process::failure(ErrorKind::Image, &shown, status, &said))
        }
        () = silent => Err(stalled(ErrorKind::Image, &shown, "save", job.silence)),
    }
}
