//! Running an engine's command line: output that the user wants to see, and output that goes to
//! a file.

use std::fs::File;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::process;
use crate::report::Event;

/// How long a save may write nothing: overlay2 stores copy all layers before the first byte.
const SILENCE: Duration = Duration::from_secs(180);

/// Runs a command whose output the user wants to see, on stderr. `what` is `build`, `push`, …
///
/// # Errors
/// Build error, or interrupted; the command has ended then.
pub async fn run_visible(mut command: Command, job: &Job, what: &str) -> Result<()> {
    let shown = process::display(&command);
    if job.report.owns_terminal() {
        command
            .stdout(Stdio::from(std::io::stderr()))
            .stderr(Stdio::inherit());
    }
    let mut child = process::spawn(&mut command)?;
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let ended = async {
        let (_, _, status) = tokio::join!(pass(stdout, job), pass(stderr, job), child.wait());
        status
    };
    let status = tokio::select! {
        status = ended => status.map_err(|e| {
            Error::new(ErrorKind::Build, format!("lost track of `{shown}`")).because(e)
        })?,
        () = job.cancel.cancelled() => {
            process::end_gently(&mut child).await;
            return Err(job.cancel.error());
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(
        Error::new(ErrorKind::Build, format!("the {what} failed ({status})"))
            .because(format!("`{shown}`"))
            .hint(format!(
                "the engine's own messages are above; nothing was loaded after the failed {what}"
            )),
    )
}

async fn pass(stream: Option<impl AsyncRead + Unpin>, job: &Job) {
    let Some(mut stream) = stream else { return };
    let mut chunk = vec![0; 8192];
    while let Ok(n) = stream.read(&mut chunk).await {
        if n == 0 {
            return;
        }
        job.report.event(&Event::Build(&chunk[..n]));
    }
}

/// Runs a command whose stdout is a file. The command writes there by itself: no byte passes
/// through us.
///
/// # Errors
/// Engine error with the tail of stderr, or that nothing was written for a long time.
pub async fn spool(mut command: Command, file: &File) -> Result<()> {
    let shown = process::display(&command);
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Engine, format!("cannot spool `{shown}`")).because(e)
    };
    command.stdout(Stdio::from(file.try_clone().map_err(failed)?));
    let mut child = process::spawn(&mut command)?;
    let stderr = child.stderr.take().expect("stderr is piped");
    let silence = async {
        let mut size = 0;
        loop {
            tokio::time::sleep(SILENCE).await;
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
        () = silence => Err(Error::new(
            ErrorKind::Engine,
            format!("`{shown}` has written nothing for {} s", SILENCE.as_secs()),
        )),
    }
}
