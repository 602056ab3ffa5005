//! A session with one node: the tunnel, what the node is like, and calls that end.
//!
//! Every call is raced against the session's heartbeat, so that a paused node is told by name
//! within the configured patience instead of hanging. gRPC's own keepalive is not used:
//! containerd closes healthy connections for it (too_many_pings).

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Code, Request, Response, Status};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::cri;
use super::tunnel::{self, Activity, Tunnel};
use crate::cluster::{End, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Platform;

/// The containerd namespace that the kubelet's images are in.
const NAMESPACE: &str = "k8s.io";
/// How long a call that moves no bytes may take while the node is alive.
const CALL: Duration = Duration::from_secs(60);
/// How long a transfer may move nothing while the node is alive: writing a large blob out to a
/// busy disk takes its time.
const STALLED: Duration = Duration::from_secs(120);

/// What a node is like.
#[derive(Debug, Clone)]
pub struct Facts {
    /// What it runs without emulation.
    pub platform: Platform,
    /// Bytes free where containerd stores, if known.
    pub free: Option<u64>,
    /// The device that lies on: nodes of one host share disks.
    pub disk: String,
    /// Whether the node discards layer blobs once they are unpacked.
    pub discard: bool,
    /// Names of its enabled binfmt_misc handlers.
    pub binfmt: Vec<String>,
    /// The snapshotter that its CRI uses.
    pub snapshotter: String,
}

impl Facts {
    /// Tells whether the node runs images of a platform, by itself or through binfmt_misc.
    pub fn can_run(&self, image: &Platform) -> bool {
        self.platform.runs(image) || (image.os == "linux" && self.emulates(image))
    }

    fn emulates(&self, image: &Platform) -> bool {
        let machine = match image.architecture.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "386" => "i386",
            "ppc64le" | "s390x" | "riscv64" | "arm" | "mips64le" => &image.architecture,
            "loong64" => "loongarch64",
            _ => return false,
        };
        self.binfmt
            .iter()
            .any(|name| name.strip_prefix("qemu-") == Some(machine))
    }
}

/// An open session with one node. Dropping it ends the exec.
pub struct Session {
    node: Node,
    channel: Channel,
    facts: Facts,
    dead: watch::Receiver<Option<String>>,
    _keeper: AbortOnDropHandle<()>,
}

/// A call that failed, with the code to decide by and the error to show.
#[derive(Debug)]
pub struct Failure {
    /// The gRPC code.
    pub code: Code,
    /// The node's words.
    pub text: String,
    error: Error,
}

impl Failure {
    /// Tells whether the thing was there already.
    pub fn already_exists(&self) -> bool {
        self.code == Code::AlreadyExists
    }

    /// Tells whether the thing was not there.
    pub fn not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// Changes the kind of the error to show.
    #[must_use]
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.error = self.error.with_kind(kind);
        self
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Session {
    /// Opens a session: exec, relay, connection, and the node's snapshotter.
    ///
    /// # Errors
    /// Cluster error, naming the node.
    pub async fn open(node: &Node, patience: Duration) -> Result<Self> {
        let Tunnel {
            channel,
            hello,
            activity,
            end,
        } = tunnel::open(node, patience).await?;
        let (died, dead) = watch::channel(None);
        let keeper = keep(channel.clone(), end, activity, patience, died);
        let mut session = Self {
            node: node.clone(),
            channel,
            facts: Facts {
                platform: Platform::of_machine(&hello.machine),
                free: hello.free,
                disk: hello.disk,
                discard: hello.discard,
                binfmt: hello.binfmt,
                snapshotter: String::new(),
            },
            dead,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)),
        };
        session.facts.snapshotter = session.snapshotter().await?;
        tracing::debug!(node = %node.name, facts = ?session.facts, "session");
        Ok(session)
    }

    async fn snapshotter(&self) -> Result<String> {
        let answer = self
            .call(
                "asking the CRI where images lie",
                cri::image_fs_info(self.channel()),
            )
            .await
            .map_err(|f| f.of_kind(ErrorKind::Cluster))?;
        let mountpoint = answer
            .image_filesystems
            .iter()
            .filter_map(|fs| fs.fs_id.as_ref())
            .map(|id| id.mountpoint.as_str())
            .find_map(cri::snapshotter_of);
        mountpoint.map(str::to_owned).ok_or_else(|| {
            Error::new(
                ErrorKind::Cluster,
                format!("node {} does not tell its snapshotter", self.node.name),
            )
        })
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns what the node is like.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns the connection to containerd.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes a request in the kubelet's namespace, under a lease if one is given.
    pub fn request<T>(&self, message: T, lease: Option<&str>) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(
            "containerd-namespace",
            NAMESPACE.parse().expect("the namespace is ASCII"),
        );
        if let Some(lease) = lease {
            metadata.insert(
                "containerd-lease",
                lease.parse().expect("lease names are ASCII"),
            );
        }
        request
    }

    /// Makes a call that moves no bytes.
    ///
    /// # Errors
    /// The call's failure, or that the node stopped answering.
    pub async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        self.call_within(CALL, what, call).await
    }

    /// Makes a call that may take a given time while the node is alive.
    ///
    /// # Errors
    /// The call's failure, or that the node stopped answering.
    pub async fn call_within<T>(
        &self,
        deadline: Duration,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let answer = self.race(deadline, what, call).await?;
        match answer {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(self.failure(what, &status)),
        }
    }

    /// Waits for anything the node owes us, but not for a dead node and not for ever.
    ///
    /// # Errors
    /// That the node stopped answering, or that the deadline passed.
    pub async fn race<T>(
        &self,
        deadline: Duration,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut dead = self.dead.clone();
        let lost = async move {
            // An error means that the keeper is gone, which only happens with the session.
            match dead.wait_for(Option::is_some).await {
                Ok(why) => why.clone().unwrap_or_default(),
                Err(_) => "the session is closed".to_owned(),
            }
        };
        tokio::select! {
            biased;
            done = work => Ok(done),
            why = lost => Err(self.failure(what, &Status::unavailable(why))),
            () = tokio::time::sleep(deadline) => {
                let why = format!("no end within {} s", deadline.as_secs());
                Err(self.failure(what, &Status::deadline_exceeded(why)))
            }
        }
    }

    /// Waits for work that moves bytes, as long as `moved` grows now and then.
    ///
    /// # Errors
    /// That the node stopped answering, or that nothing has moved for a long time.
    pub async fn while_moving<T>(
        &self,
        moved: &AtomicU64,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let stalled = async {
            let mut before = 0;
            loop {
                // The last step, the node's own writing out, moves nothing.
                tokio::time::sleep(STALLED).await;
                let now = moved.load(Ordering::Relaxed);
                if now == before {
                    return now;
                }
                before = now;
            }
        };
        tokio::select! {
            biased;
            done = self.race(Duration::MAX, what, work) => done,
            at = stalled => {
                let why = format!("nothing has moved for {} s, after {at} bytes", STALLED.as_secs());
                Err(self.failure(what, &Status::deadline_exceeded(why)))
            }
        }
    }

    /// Turns a status into a failure that names node and step.
    pub fn failure(&self, what: &str, status: &Status) -> Failure {
        let code = status.code();
        // When the exec has died, its own words say more than the broken pipe.
        let died = self.dead.borrow().clone();
        let text = match died {
            Some(why) => why,
            None => status.message().to_owned(),
        };
        let mut error = Error::new(
            ErrorKind::Load,
            format!("node {}: {what} failed", self.node.name),
        );
        if text.contains("no space left on device") {
            error = error.hint(format!(
                "make room on the node: `{}` lists images, `crictl rmi --prune` there removes unused ones",
                self.node.exec_hint("crictl images")
            ));
        }
        let shown = if text.is_empty() {
            format!("{code:?}")
        } else {
            text.clone()
        };
        Failure {
            code,
            text,
            error: error.because(shown),
        }
    }
}

/// Watches over a session: beats, and notes when the node or the exec is gone. The exec dies
/// with this task.
async fn keep(
    channel: Channel,
    mut end: End,
    activity: Arc<Activity>,
    patience: Duration,
    died: watch::Sender<Option<String>>,
) {
    let beats = beat(channel, activity, patience);
    let why = tokio::select! {
        why = beats => why,
        ended = end.wait() => {
            let status = ended.status;
            match ended.stderr.as_str() {
                "" => format!("the exec into the node ended ({status})"),
                said => format!("the exec into the node ended ({status}): {said}"),
            }
        }
    };
    tracing::debug!(%why, "session lost");
    died.send_replace(Some(why));
    // Ending the exec closes both pipes, which unblocks whatever still waits on them.
    end.cut();
}

/// Asks for containerd's version now and then; returns when no byte has come for `patience`.
async fn beat(channel: Channel, activity: Arc<Activity>, patience: Duration) -> String {
    let pause = (patience / 3).clamp(Duration::from_millis(200), Duration::from_secs(3));
    let mut client = containerd_client::services::v1::version_client::VersionClient::new(channel);
    loop {
        tokio::time::sleep(pause).await;
        // The connection is shared: bytes of a bulk answer prove life as well as a beat does.
        let asked = Instant::now();
        let beat = client.version(Request::new(()));
        tokio::pin!(beat);
        loop {
            tokio::select! {
                _ = &mut beat => break,
                () = tokio::time::sleep(pause) => {
                    if asked.elapsed() >= patience && activity.idle() >= patience {
                        return format!(
                            "it has not answered for {} s; is it paused, or out of memory or disk?",
                            activity.idle().as_secs()
                        );
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_images_need_a_handler() {
        let facts = |binfmt: &[&str]| Facts {
            platform: Platform::linux("amd64", None),
            free: None,
            disk: String::new(),
            discard: true,
            binfmt: binfmt.iter().map(|s| (*s).to_owned()).collect(),
            snapshotter: "overlayfs".into(),
        };
        let arm: Platform = "linux/arm64".parse().unwrap();
        assert!(!facts(&[]).can_run(&arm));
        assert!(!facts(&["qemu-arm", "python3.11"]).can_run(&arm));
        assert!(facts(&["qemu-aarch64"]).can_run(&arm));
        assert!(facts(&[]).can_run(&"linux/amd64".parse().unwrap()));
    }
}
