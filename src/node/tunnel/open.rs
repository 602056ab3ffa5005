//! Opening a tunnel: one `exec` into the node whose stdin and stdout are containerd's socket.
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
use tokio::io::{AsyncRead, BufReader, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use super::frames::{self, Frames, Shared};
use crate::cluster::{End, Exec, Node, Output};
use crate::error::{Error, ErrorKind, Result};
use crate::node::hello::{self, Hello};

pub(super) const RELAY: &str = include_str!("relay.pl");
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Where containerd has its ingests: <https://github.com/containerd/containerd/blob/main/docs/content-flow.md>.
const INGESTS: &str = "/var/lib/containerd/io.containerd.content.v1.content/ingest";

/// When bytes last came through a tunnel.
#[derive(Debug)]
pub(super) struct Activity {
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
pub(super) struct Opened {
    /// gRPC to the node's containerd.
    pub channel: Channel,
    /// What the relay told.
    pub hello: Hello,
    /// When bytes last came.
    pub activity: Arc<Activity>,
    /// The way to the files of ingests, and to crictls.
    pub frames: Frames,
    /// The exec.
    pub end: End,
    /// What fills its stdin.
    pub filling: AbortOnDropHandle<()>,
}

/// Opens a tunnel to a node's containerd.
///
/// # Errors
/// Cluster error, naming the node and what the exec said, if there is no perl, no containerd or
/// no answer in time.
pub(super) async fn open(node: &Node, patience: Duration) -> Result<Opened, Refusal> {
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
    let starting = node.exec(&["perl", "-e", RELAY, SOCKET, INGESTS]);
    let Exec {
        stdin,
        stdout,
        mut end,
    } = match tokio::time::timeout(patience, starting).await {
        Ok(started) => started.map_err(Refusal::Other)?,
        Err(_) => return Err(silent().into()),
    };
    let activity = Arc::new(Activity::new());
    let mut stdout = BufReader::with_capacity(
        256 * 1024,
        Watched {
            inner: stdout,
            activity: Arc::clone(&activity),
        },
    );
    let hello = match tokio::time::timeout(patience, hello::read(&mut stdout)).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(e)) => {
            // The exec is over; what it said explains it.
            drop(stdout);
            let ended = tokio::time::timeout(patience, end.wait()).await;
            let said = ended.map(|ended| ended.stderr).unwrap_or_default();
            return Err(explain(failed, &said, e));
        }
        Err(_) => return Err(silent().into()),
    };
    let Shared {
        incoming,
        outgoing,
        frames,
        filling,
    } = frames::share(stdin, stdout);
    let mut pipe = Some(tokio::io::join(incoming, outgoing));
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
    Ok(Opened {
        channel,
        hello,
        activity,
        frames,
        end,
        filling,
    })
}

/// Why there is no tunnel.
pub enum Refusal {
    /// The relay cannot run on the node, as far as can be told; there is another way.
    NoRelay(Error),
    /// Whatever it is, another way would not help.
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoRelay(error) | Refusal::Other(error) => error,
        }
    }
}

/// Says why an exec did not become a relay. Docker writes that a program is not there to the
/// exec's stdout, where the greeting is expected; podman writes it to stderr.
fn explain(failed: impl Fn(&str) -> Error, stderr: &str, error: io::Error) -> Refusal {
    let said = format!("{stderr} {error}").to_lowercase();
    let because = |failed: Error| match stderr {
        "" => failed.because(error),
        stderr => failed.because(stderr.to_owned()),
    };
    if said.contains("perl") && (said.contains("not found") || said.contains("no such file")) {
        return Refusal::NoRelay(because(failed("it has no perl")));
    }
    let failed = because(failed("the exec ended at once"));
    // The relay's own words: it runs, but what it should lead to is not there.
    if said.contains(&format!("cannot connect to {SOCKET}")) {
        return Refusal::Other(failed);
    }
    Refusal::NoRelay(failed)
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
            let Refusal::NoRelay(explained) = explain(failed, stderr, error) else {
                panic!("there is another way");
            };
            assert_eq!(explained.to_string(), "it has no perl");
        }
        let ended = |stderr| explain(failed, stderr, io::ErrorKind::UnexpectedEof.into());
        let broken = "Can't locate Socket.pm in @INC";
        assert!(matches!(ended(broken), Refusal::NoRelay(e)
            if e.to_string() == "the exec ended at once"));
        let absent = format!("cannot connect to {SOCKET}: Connection refused");
        assert!(matches!(ended(&absent), Refusal::Other(_)));
    }
}
