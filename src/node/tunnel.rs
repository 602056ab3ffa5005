//! The tunnel: one `exec` into the node whose stdin and stdout are containerd's socket.
//!
//! A few lines of Perl join the two; every node image based on Debian has perl-base, none has
//! socat. The relay first tells what it sees on the node (see [`Hello`]), which costs no second
//! exec.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use containerd_client::tonic::transport::{Channel, Endpoint};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, ReadBuf};

use crate::cluster::{End, Exec, Node, Output};
use crate::error::{Error, ErrorKind, Result};

const RELAY: &str = include_str!("relay.pl");
const SOCKET: &str = "/run/containerd/containerd.sock";
/// More than the relay's greeting can be.
const MAX_HELLO: u64 = 16 * 1024;

/// What the relay told of the node before it became a pipe.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    /// `uname -m`.
    pub machine: String,
    /// Bytes free where containerd stores, if `df` told.
    pub free: Option<u64>,
    /// The device that lies on, by its number on the provider's host: nodes share disks.
    pub disk: String,
    /// Whether the node's configuration discards layer blobs once they are unpacked.
    pub discard: bool,
    /// Names of the enabled binfmt_misc handlers.
    pub binfmt: Vec<String>,
}

/// When bytes last came through a tunnel.
#[derive(Debug)]
pub struct Activity {
    start: Instant,
    last: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    /// Returns for how long nothing has come.
    pub fn idle(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.start.elapsed().saturating_sub(last)
    }
}

/// An open tunnel.
pub struct Tunnel {
    /// gRPC to the node's containerd.
    pub channel: Channel,
    /// What the relay told.
    pub hello: Hello,
    /// When bytes last came.
    pub activity: Arc<Activity>,
    /// The exec.
    pub end: End,
}

/// Opens a tunnel to a node's containerd.
///
/// # Errors
/// Cluster error, naming the node and what the exec said, if there is no perl, no containerd or
/// no answer in time.
pub async fn open(node: &Node, patience: Duration) -> Result<Tunnel> {
    let failed = |why: &str| {
        Error::new(
            ErrorKind::Cluster,
            format!("cannot reach containerd on node {}: {why}", node.name),
        )
    };
    let silent = || {
        failed(&format!("no answer within {} s", patience.as_secs())).hint(format!(
            "look at it with `{}`",
            node.exec_hint("crictl version")
        ))
    };
    let starting = node.exec(&["perl", "-e", RELAY, SOCKET]);
    let Exec {
        stdin,
        stdout,
        mut end,
    } = match tokio::time::timeout(patience, starting).await {
        Ok(started) => started?,
        Err(_) => return Err(silent()),
    };
    let activity = Arc::new(Activity::new());
    let mut stdout = BufReader::with_capacity(
        256 * 1024,
        Watched {
            inner: stdout,
            activity: Arc::clone(&activity),
        },
    );
    let hello = match tokio::time::timeout(patience, read_hello(&mut stdout)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(e)) => {
            // The exec is over; what it said explains it.
            drop(stdout);
            let ended = tokio::time::timeout(patience, end.wait()).await;
            let said = ended.map(|ended| ended.stderr).unwrap_or_default();
            return Err(explain(failed, &said, e));
        }
        Err(_) => return Err(silent()),
    };
    let mut pipe = Some(tokio::io::join(stdout, stdin));
    let connect = tower::service_fn(move |_| {
        // A tunnel is opened once; a broken one is an error, not a reason to try again.
        let pipe = pipe.take().map(TokioIo::new);
        async move { pipe.ok_or_else(|| io::Error::other("the tunnel is closed")) }
    });
    let endpoint = Endpoint::from_static("http://containerd");
    let connecting = endpoint.connect_with_connector(connect);
    let channel = tokio::time::timeout(patience, connecting)
        .await
        .map_err(|_| silent())?
        .map_err(|e| failed("the connection broke").because(e))?;
    Ok(Tunnel {
        channel,
        hello,
        activity,
        end,
    })
}

/// Says why an exec did not become a relay. Docker writes that a program is not there to the
/// exec's stdout, where the greeting is expected; podman writes it to stderr.
fn explain(failed: impl Fn(&str) -> Error, stderr: &str, error: io::Error) -> Error {
    let said = format!("{stderr} {error}").to_lowercase();
    if said.contains("perl") && (said.contains("not found") || said.contains("no such file")) {
        let failed = failed("it has no perl")
            .hint("kindlift needs perl in the node image; kindest/node images have it");
        return if stderr.is_empty() {
            failed.because(error)
        } else {
            failed.because(stderr.to_owned())
        };
    }
    if stderr.is_empty() {
        failed("the exec ended at once").because(error)
    } else {
        failed("the exec ended at once").because(stderr.to_owned())
    }
}

async fn read_hello(stdout: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<Hello> {
    let mut hello = Hello::default();
    let mut lines = stdout.take(MAX_HELLO);
    let mut first = true;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "kindlift-relay" => first = false,
            _ if first => return Err(io::Error::other(format!("unexpected answer {line:?}"))),
            "" => return Ok(hello),
            "machine" => value.clone_into(&mut hello.machine),
            "free" => hello.free = value.parse().ok(),
            "disk" => value.clone_into(&mut hello.disk),
            "discard" => hello.discard = value == "1",
            "binfmt" => hello.binfmt = value.split_whitespace().map(str::to_owned).collect(),
            _ => {}
        }
    }
}

/// The exec's stdout, noting when bytes come.
struct Watched {
    inner: Output,
    activity: Arc<Activity>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.inner.as_mut().poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.touch();
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reads_the_greeting_and_leaves_what_follows() {
        let text = b"kindlift-relay 1\nmachine x86_64\nfree 1024\ndiscard 1\nbinfmt qemu-aarch64 wasm\n\nPRI";
        let mut reader = BufReader::new(&text[..]);
        let hello = read_hello(&mut reader).await.unwrap();
        assert_eq!(hello.machine, "x86_64");
        assert_eq!(hello.free, Some(1024));
        assert!(hello.discard);
        assert_eq!(hello.binfmt, ["qemu-aarch64", "wasm"]);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "PRI");
    }

    #[test]
    fn a_missing_perl_is_told_whoever_says_it() {
        let failed = |why: &str| Error::new(ErrorKind::Cluster, why);
        let docker = "unexpected answer \"OCI runtime exec failed: exec failed: unable to start \
            container process: exec: \\\"perl\\\": executable file not found in $PATH\"";
        let podman =
            "Error: crun: executable file `perl` not found in $PATH: No such file or directory";
        for (stderr, error) in [
            ("", io::Error::other(docker)),
            (podman, io::ErrorKind::UnexpectedEof.into()),
        ] {
            let explained = explain(failed, stderr, error);
            assert_eq!(explained.to_string(), "it has no perl");
        }
        let other = explain(
            failed,
            "cannot connect to /x",
            io::ErrorKind::UnexpectedEof.into(),
        );
        assert_eq!(other.to_string(), "the exec ended at once");
    }

    #[tokio::test]
    async fn a_greeting_from_something_else_is_refused() {
        for text in [&b""[..], b"hello\n\n", b"kindlift-relay 1\nmachine x\n"] {
            assert!(read_hello(&mut BufReader::new(text)).await.is_err());
        }
    }
}
