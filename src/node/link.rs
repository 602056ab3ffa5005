//! What every session with a node has: what the node is like, and waiting that ends.
//!
//! Whatever is asked of a node is raced against a heartbeat, so that a paused node is told by name
//! within the configured patience instead of hanging.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use containerd_client::tonic::{Code, Status};
use tokio::sync::{OnceCell, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::cluster::Node;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Platform;

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

/// A node that is being watched. Dropping it ends the watch, and what the watch keeps open.
pub struct Link {
    node: Node,
    facts: Facts,
    dead: watch::Receiver<Option<String>>,
    swept: OnceCell<()>,
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

impl Link {
    /// Watches over a node. The keeper tells its sender why, once the node is lost.
    pub(super) fn new<F>(
        node: Node,
        facts: Facts,
        keeper: impl FnOnce(watch::Sender<Option<String>>) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (died, dead) = watch::channel(None);
        Self {
            node,
            facts,
            dead,
            swept: OnceCell::new(),
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper(died))),
        }
    }

    /// Notes which snapshotter the node's CRI uses.
    pub(super) fn set_snapshotter(&mut self, name: String) {
        self.facts.snapshotter = name;
    }

    /// Returns the node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Returns what the node is like.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns what is set once what dead runs left on the node is swept.
    pub(super) fn swept(&self) -> &OnceCell<()> {
        &self.swept
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

/// Beats again and again; returns why, once nothing has been heard for `patience`. `idle` tells
/// for how long nothing has come some other way.
pub(super) async fn beat<F: Future<Output = bool>>(
    patience: Duration,
    idle: impl Fn() -> Duration,
    mut once: impl FnMut() -> F,
) -> String {
    let pause = (patience / 3).clamp(Duration::from_millis(200), Duration::from_secs(3));
    let mut heard = Instant::now();
    loop {
        tokio::time::sleep(pause).await;
        // A node that begins to answer late is not dead for the time that nobody asked it.
        let asked = Instant::now();
        let beat = once();
        tokio::pin!(beat);
        loop {
            tokio::select! {
                answered = &mut beat => {
                    if answered {
                        heard = Instant::now();
                    }
                    break;
                }
                () = tokio::time::sleep(pause) => {
                    if asked.elapsed() >= patience && idle() >= patience {
                        return silent(asked.elapsed().min(idle()));
                    }
                }
            }
        }
        if heard.elapsed() >= patience && idle() >= patience {
            return silent(heard.elapsed().min(idle()));
        }
    }
}

fn silent(since: Duration) -> String {
    format!(
        "it has not answered for {} s; is it paused, or out of memory or disk?",
        since.as_secs()
    )
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
