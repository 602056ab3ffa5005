//! The plain way to a node: ctr and crictl, one exec a question.
//!
//! For nodes on which the tunnel's relay cannot run. What ctr has no command for is done with
//! names and labels that it has: see `held`. Slower by far, and as safe.
//!
//! ctr is started without a shell. Where a script is needed, what it works on are its arguments.

mod archive;
mod blobs;
mod held;
mod import;
mod records;
mod stage;
mod table;

use std::io::Cursor;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::tonic::Status;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::crictl::{self, Ran};
use super::hello;
use super::link::{Failure, Link, beat};
use super::tunnel::cri::snapshotter_of;
use crate::cluster::{Exec, Node};
use crate::error::{Error, ErrorKind, Result, one_line};

/// Says what the tunnel's relay says; nothing in it comes from outside.
const HELLO: &str = include_str!("hello.sh");
/// How long a question may take while the node is alive.
const CALL: Duration = Duration::from_secs(60);

/// A session by ctr and crictl.
#[derive(Clone)]
pub struct Plain {
    link: Arc<Link>,
    /// Whether ctr does its work itself only if it is told to; else containerd's transfer service
    /// does, which cannot unpack for every snapshotter.
    local: bool,
}

impl Deref for Plain {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Plain {
    /// Looks whether ctr and crictl answer, and what the node is like.
    ///
    /// # Errors
    /// Cluster error, naming the node.
    pub(super) async fn open(node: &Node, patience: Duration) -> Result<Self> {
        let failed = |e: Error| {
            let message = format!("cannot reach containerd on node {} by ctr", node.name);
            e.within(message)
        };
        let said = node.run(&["sh", "-c", HELLO], patience).await;
        let mut said = Cursor::new(said.map_err(failed)?);
        let hello = hello::read(&mut said).await.map_err(|e| {
            let why = Error::new(ErrorKind::Cluster, "it does not tell what it is like");
            failed(why.because(e))
        })?;
        let local = hello.local;
        let beats = node.clone();
        let mut link = Link::new(node.clone(), hello.facts(), |died| {
            keep(beats, patience, died)
        });
        let where_images_lie = ["crictl", "--timeout", "60s", "imagefsinfo", "-o", "json"];
        let told = run(&link, "asking the CRI where images lie", &where_images_lie).await;
        let told = told.map_err(|failure| failure.of_kind(ErrorKind::Cluster))?;
        let snapshotter = snapshotter(&told).ok_or_else(|| {
            Error::new(
                ErrorKind::Cluster,
                format!("node {} does not tell its snapshotter", node.name),
            )
        })?;
        link.set_snapshotter(snapshotter);
        tracing::debug!(node = %node.name, facts = ?link.facts(), "plain");
        Ok(Self {
            link: Arc::new(link),
            local,
        })
    }

    /// Runs ctr in the kubelet's namespace, and returns what it wrote to stdout.
    async fn ctr(&self, what: &str, args: &[&str]) -> Result<String, Failure> {
        let args = [&["ctr", "--namespace", "k8s.io"], args].concat();
        let output = run(&self.link, what, &args).await?;
        Ok(String::from_utf8_lossy(&output).into_owned())
    }

    /// Returns the flag that makes ctr do its work itself, where there is one.
    fn local(&self) -> &'static [&'static str] {
        if self.local { &["--local"] } else { &[] }
    }

    /// Asks the CRI which image it shows.
    ///
    /// # Errors
    /// The call's failure.
    pub(super) async fn shown(&self, name: &str) -> Result<Option<String>, Failure> {
        let what = "asking the CRI for the image";
        match run(&self.link, what, &inspecti(name)).await {
            Ok(output) => match crictl::parse(&output) {
                Ok(shown) => Ok(Some(shown.id)),
                Err(e) => Err(self.failure(what, &Status::unknown(one_line(&e).to_string()))),
            },
            Err(failure) if failure.text.contains("no such image") => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Runs `crictl inspecti` on the node.
    ///
    /// # Errors
    /// That the node stopped answering.
    pub(super) async fn inspecti(&self, name: &str) -> Result<Ran, Failure> {
        ran(&self.link, "crictl inspecti", &inspecti(name)).await
    }
}

/// crictl itself gives a busy node two seconds; how long a node may be silent is ours to say.
fn inspecti(name: &str) -> [&str; 7] {
    ["crictl", "--timeout", "60s", "inspecti", "-o", "json", name]
}

/// Runs a program on the node to its end, and returns what it wrote to stdout.
async fn run(link: &Link, what: &str, args: &[&str]) -> Result<Vec<u8>, Failure> {
    let ran = ran(link, what, args).await?;
    if ran.success {
        return Ok(ran.stdout);
    }
    let status = said(&ran.stderr, &String::from_utf8_lossy(&ran.stdout));
    Err(link.failure(what, &status))
}

/// Runs a program on the node to its end.
async fn ran(link: &Link, what: &str, args: &[&str]) -> Result<Ran, Failure> {
    let work = async {
        let Exec {
            stdin,
            mut stdout,
            mut end,
        } = link.node().exec(args).await.map_err(|e| unavailable(&e))?;
        drop(stdin);
        let mut output = Vec::new();
        let read = stdout.read_to_end(&mut output).await;
        read.map_err(|e| Status::unavailable(e.to_string()))?;
        let ended = end.wait().await;
        Ok(Ran {
            stdout: output,
            stderr: ended.stderr,
            success: ended.success,
            status: ended.status,
        })
    };
    let done = link.race(CALL, what, work).await?;
    done.map_err(|status: Status| link.failure(what, &status))
}

fn unavailable(e: &Error) -> Status {
    Status::unavailable(one_line(e).to_string())
}

/// Makes of a program's last words what gRPC would have said. What Docker cannot start, it says on
/// stdout.
fn said(stderr: &str, stdout: &str) -> Status {
    let text = match stderr.trim() {
        "" => stdout.trim(),
        text => text,
    };
    let is = |words: &str| stderr.trim_end().ends_with(words);
    if is(": not found") {
        Status::not_found(text)
    } else if is(": already exists") {
        Status::already_exists(text)
    } else {
        Status::unknown(text)
    }
}

/// Reads the snapshotter out of what `crictl imagefsinfo` says, which differs by version.
fn snapshotter(output: &[u8]) -> Option<String> {
    fn search(value: &Value) -> Option<String> {
        match value {
            Value::Object(fields) => fields
                .get("mountpoint")
                .and_then(Value::as_str)
                .and_then(snapshotter_of)
                .map(str::to_owned)
                .or_else(|| fields.values().find_map(search)),
            Value::Array(items) => items.iter().find_map(search),
            _ => None,
        }
    }
    search(&serde_json::from_slice(output).ok()?)
}

/// Watches over a node: asks for containerd's version now and then.
async fn keep(node: Node, patience: Duration, died: watch::Sender<Option<String>>) {
    let beats = beat(
        patience,
        || Duration::MAX,
        || async {
            let asked = node.run(&["ctr", "version"], Duration::from_secs(3600));
            asked.await.is_ok()
        },
    );
    let why = beats.await;
    tracing::debug!(%why, "session lost");
    died.send_replace(Some(why));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_become_codes() {
        use containerd_client::tonic::Code;
        for (stderr, stdout, code, text) in [
            (
                "ctr: image \"a\": not found\n",
                "",
                Code::NotFound,
                "ctr: image \"a\": not found",
            ),
            (
                "ctr: lease \"a\": already exists",
                "",
                Code::AlreadyExists,
                "ctr: lease \"a\": already exists",
            ),
            (
                "",
                "exec: \"ctr\": not found",
                Code::Unknown,
                "exec: \"ctr\": not found",
            ),
        ] {
            let status = said(stderr, stdout);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn finds_the_snapshotter() {
        let one =
            br#"{"status": {"fsId": {"mountpoint": "/v/io.containerd.snapshotter.v1.native"}}}"#;
        assert_eq!(snapshotter(one).as_deref(), Some("native"));
        let list = br#"{"status": {"imageFilesystems": [{"fsId":
            {"mountpoint": "/v/io.containerd.snapshotter.v1.overlayfs"}}], "containerFilesystems": []}}"#;
        assert_eq!(snapshotter(list).as_deref(), Some("overlayfs"));
        assert_eq!(snapshotter(b"FATA"), None);
    }
}
