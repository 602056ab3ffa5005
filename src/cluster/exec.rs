//! A program that runs in a node, with its stdin, stdout and end.
//!
//! Docker is asked through its API where that is a local socket: starting the `docker` command
//! takes longer than what it is started for. Other providers have their command only.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bytes::Bytes;
use futures_util::stream::{self, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::io::StreamReader;
use tokio_util::sync::CancellationToken;

use super::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::process;

/// How long Docker may take to note that a program has ended, once its output has.
const NOTED: Duration = Duration::from_secs(5);
/// The most of a program's stderr that is kept, in bytes.
const KEPT: usize = 8 * 1024;

/// The stdin of a program in a node.
pub type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// The stdout of a program in a node.
pub type Output = Pin<Box<dyn AsyncRead + Send>>;

/// A program that was started in a node.
pub struct Exec {
    /// Its stdin.
    pub stdin: Input,
    /// Its stdout, which must be read for the end to be noticed.
    pub stdout: Output,
    /// How to wait for its end. Dropping it ends the exec.
    pub end: End,
}

/// The end of a program in a node.
pub struct End(Via);

enum Via {
    Command {
        child: Child,
        stderr: JoinHandle<String>,
    },
    Api {
        api: bollard::Docker,
        id: String,
        stderr: Arc<Mutex<Vec<u8>>>,
        over: oneshot::Receiver<()>,
        stop: CancellationToken,
    },
}

/// How a program in a node ended.
#[derive(Debug)]
pub struct Ended {
    /// Whether it succeeded.
    pub success: bool,
    /// How it ended, e.g. `exit status: 1`.
    pub status: String,
    /// The last it wrote to stderr.
    pub stderr: String,
}

impl Node {
    /// Starts a program in the node.
    ///
    /// # Errors
    /// Cluster error, if the provider does not start it.
    pub async fn exec(&self, args: &[&str]) -> Result<Exec> {
        match self.provider.api().await? {
            Some(api) => self.exec_by_api(api, args).await,
            None => self.exec_by_command(args),
        }
    }

    /// Runs a program in the node to its end, and returns what it wrote to stdout.
    ///
    /// # Errors
    /// Cluster error, if it fails or takes longer than the deadline.
    pub async fn run(&self, args: &[&str], deadline: Duration) -> Result<Vec<u8>> {
        let program = args.first().copied().unwrap_or_default();
        let failed = |why: &str| {
            Error::new(
                ErrorKind::Cluster,
                format!("`{program}` on node {} {why}", self.name),
            )
        };
        let work = async {
            let Exec {
                stdin,
                mut stdout,
                mut end,
            } = self.exec(args).await?;
            let mut output = Vec::new();
            stdout
                .read_to_end(&mut output)
                .await
                .map_err(|e| failed("was cut off").because(e))?;
            drop(stdin);
            let ended = end.wait().await;
            if ended.success {
                return Ok(output);
            }
            Err(failed(&format!("failed ({})", ended.status)).because(ended.stderr))
        };
        match tokio::time::timeout(deadline, work).await {
            Ok(done) => done,
            Err(_) => Err(failed(&format!(
                "did not end within {} s",
                deadline.as_secs()
            ))),
        }
    }

    fn exec_by_command(&self, args: &[&str]) -> Result<Exec> {
        let mut command: Command = self.provider.command();
        command
            .args(["exec", "-i", &self.id])
            .args(args)
            .stdin(Stdio::piped());
        let mut child = process::spawn(&mut command)?;
        let stderr = child.stderr.take().expect("stderr is piped");
        Ok(Exec {
            stdin: Box::pin(child.stdin.take().expect("stdin is piped")),
            stdout: Box::pin(child.stdout.take().expect("stdout is piped")),
            end: End(Via::Command {
                child,
                stderr: tokio::spawn(process::tail(stderr)),
            }),
        })
    }

    async fn exec_by_api(&self, api: &bollard::Docker, args: &[&str]) -> Result<Exec> {
        let failed = |e: bollard::errors::Error| {
            // Docker's own words, without the client's around them.
            let why = match e {
                bollard::errors::Error::DockerResponseServerError { message, .. } => message,
                e => e.to_string(),
            };
            Error::new(
                ErrorKind::Cluster,
                format!("cannot run anything on node {}", self.name),
            )
            .because(why)
        };
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(args.to_vec()),
            ..CreateExecOptions::default()
        };
        let id = api.create_exec(&self.id, options).await.map_err(failed)?.id;
        let StartExecResults::Attached { output, input } =
            api.start_exec(&id, None).await.map_err(failed)?
        else {
            unreachable!("an exec is attached unless it is asked not to be");
        };
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let stop = CancellationToken::new();
        let (last, over) = oneshot::channel();
        let output = output.take_until(stop.clone().cancelled_owned());
        Ok(Exec {
            stdin: input,
            stdout: Box::pin(StreamReader::new(Box::pin(stdout_of(
                output,
                Arc::clone(&stderr),
                last,
            )))),
            end: End(Via::Api {
                api: api.clone(),
                id,
                stderr,
                over,
                stop,
            }),
        })
    }
}

/// Takes stdout out of what Docker sends, keeps the end of stderr, and tells when all is over.
fn stdout_of(
    output: impl Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send + 'static,
    stderr: Arc<Mutex<Vec<u8>>>,
    last: oneshot::Sender<()>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let pieces = output.filter_map(move |piece| {
        let piece = match piece {
            Ok(LogOutput::StdErr { message }) => {
                let mut kept = stderr.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend_from_slice(&message);
                let surplus = kept.len().saturating_sub(KEPT);
                kept.drain(..surplus);
                None
            }
            // Where a program cannot be started, Docker says so without a header.
            Ok(LogOutput::StdOut { message } | LogOutput::Console { message }) => Some(Ok(message)),
            Ok(LogOutput::StdIn { .. }) => None,
            Err(e) => Some(Err(std::io::Error::other(e))),
        };
        std::future::ready(piece)
    });
    let end = stream::once(async move {
        let _ = last.send(());
    });
    pieces.chain(end.filter_map(|()| std::future::ready(None)))
}

impl End {
    /// Waits for the end. Needs somebody who reads stdout.
    pub async fn wait(&mut self) -> Ended {
        match &mut self.0 {
            Via::Command { child, stderr } => {
                let status = child.wait().await;
                // What it said last may still be on its way, or a child of its own hold the pipe.
                let text = tokio::time::timeout(Duration::from_secs(1), stderr).await;
                Ended {
                    success: status.as_ref().is_ok_and(std::process::ExitStatus::success),
                    status: status.map_or_else(|e| e.to_string(), |s| s.to_string()),
                    stderr: text.ok().and_then(Result::ok).unwrap_or_default(),
                }
            }
            Via::Api {
                api,
                id,
                stderr,
                over,
                ..
            } => {
                // An error means that nobody reads any more: that is an end too.
                let _ = over.await;
                let code = exit_code(api, id).await;
                let stderr = stderr.lock().unwrap_or_else(PoisonError::into_inner);
                Ended {
                    success: code == Some(0),
                    status: match code {
                        Some(code) => format!("exit status: {code}"),
                        None => "lost".to_owned(),
                    },
                    stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
                }
            }
        }
    }

    /// Closes stdin and stdout, which ends whatever waits on them.
    pub fn cut(&mut self) {
        match &mut self.0 {
            Via::Command { child, .. } => {
                let _ = child.start_kill();
            }
            Via::Api { stop, .. } => stop.cancel(),
        }
    }
}

/// Asks Docker how a program ended. None, if it does not tell.
async fn exit_code(api: &bollard::Docker, id: &str) -> Option<i64> {
    let until = Instant::now() + NOTED;
    while Instant::now() < until {
        let exec = api.inspect_exec(id).await.ok()?;
        if exec.running != Some(true) {
            return exec.exit_code;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stdout_comes_through_and_stderr_is_kept() {
        let message = |text: &'static str| Bytes::from_static(text.as_bytes());
        let pieces = vec![
            Ok(LogOutput::StdOut {
                message: message("a"),
            }),
            Ok(LogOutput::StdErr {
                message: message("why"),
            }),
            Ok(LogOutput::StdOut {
                message: message("b"),
            }),
        ];
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (last, mut over) = oneshot::channel();
        let out = stdout_of(stream::iter(pieces), Arc::clone(&stderr), last);
        assert!(over.try_recv().is_err());
        let out: Vec<Bytes> = out.map(Result::unwrap).collect().await;
        assert_eq!(out, ["a", "b"]);
        assert_eq!(*stderr.lock().unwrap(), b"why");
        over.try_recv().unwrap();
    }
}
