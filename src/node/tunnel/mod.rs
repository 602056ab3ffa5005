//! The tunnel: gRPC to a node's containerd and its CRI through one exec.
//!
//! gRPC's own keepalive is not used: containerd closes healthy connections for it
//! (too_many_pings).

pub mod content;
pub mod cri;
mod frames;
mod leases;
mod open;
mod records;
pub mod snapshot;
mod stage;

use std::future::Future;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use containerd_client::services::v1::version_client::VersionClient;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Request, Response, Status};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use super::crictl::Ran;
use super::link::{Failure, Link, beat};
use crate::cluster::{End, Node};
use crate::error::{Error, ErrorKind, Result};
use frames::{Closed, Crictl, Frames};
use open::{Activity, Opened};

pub use open::Refusal;

/// The containerd namespace that the kubelet's images are in.
const NAMESPACE: &str = "k8s.io";
/// How long a call that moves no bytes may take while the node is alive.
pub(super) const CALL: Duration = Duration::from_secs(60);

/// An open tunnel to one node. Dropping the last copy ends the exec.
#[derive(Clone)]
pub struct Tunnel {
    link: Arc<Link>,
    channel: Channel,
    frames: Frames,
    /// A crictl that was started before it is needed, and for which name.
    crictl: Arc<Mutex<Option<(String, Crictl)>>>,
}

impl Deref for Tunnel {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Tunnel {
    /// Opens a tunnel: exec, relay, connection, and the node's snapshotter.
    ///
    /// # Errors
    /// Cluster error, naming the node.
    pub(super) async fn open(node: &Node, patience: Duration) -> Result<Self, Refusal> {
        let Opened {
            channel,
            hello,
            activity,
            frames,
            end,
            filling,
        } = open::open(node, patience).await?;
        let beats = channel.clone();
        let mut link = Link::new(node.clone(), hello.facts(), |died| {
            keep(beats, end, filling, activity, patience, died)
        });
        let snapshotter = snapshotter(&link, channel.clone()).await;
        link.set_snapshotter(snapshotter.map_err(Refusal::Other)?);
        tracing::debug!(node = %node.name, facts = ?link.facts(), "tunnel");
        Ok(Self {
            link: Arc::new(link),
            channel,
            frames,
            crictl: Arc::default(),
        })
    }

    /// Lets a crictl start that will inspect this image.
    pub(super) async fn start_crictl(&self, name: &str) {
        let mut early = self.crictl.lock().await;
        if early.as_ref().is_none_or(|(other, _)| other != name) {
            // What is closed fails when it is asked.
            let started = self.frames.crictl(name).await.ok();
            *early = started.map(|crictl| (name.to_owned(), crictl));
        }
    }

    /// Runs `crictl inspecti` on the node.
    ///
    /// # Errors
    /// That the node stopped answering.
    pub(super) async fn inspecti(&self, name: &str) -> Result<Ran, Failure> {
        let what = "crictl inspecti";
        let early = self.crictl.lock().await.take();
        let work = async {
            if let Some((other, crictl)) = early
                && other == name
            {
                let ran = crictl.ask().await?;
                if ran.success {
                    return Ok(ran);
                }
                // It may have waited since before a build, and been ended meanwhile.
                tracing::debug!(status = ran.status, stderr = ran.stderr, "crictl again");
            }
            self.frames.crictl(name).await?.ask().await
        };
        match self.race(CALL, what, work).await? {
            Ok(ran) => Ok(ran),
            Err(Closed) => Err(self.failure(what, &Status::unavailable("the tunnel is closed"))),
        }
    }

    /// Returns the connection to containerd.
    fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes a request in the kubelet's namespace, under a lease if one is given.
    fn request<T>(&self, message: T, lease: Option<&str>) -> Request<T> {
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
    async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        call_within(&self.link, CALL, what, call).await
    }

    /// Makes a call that may take a given time while the node is alive.
    ///
    /// # Errors
    /// The call's failure, or that the node stopped answering.
    async fn call_within<T>(
        &self,
        deadline: Duration,
        what: &str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        call_within(&self.link, deadline, what, call).await
    }
}

async fn call_within<T>(
    link: &Link,
    deadline: Duration,
    what: &str,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Failure> {
    let answer = link.race(deadline, what, call).await?;
    match answer {
        Ok(response) => Ok(response.into_inner()),
        Err(status) => Err(link.failure(what, &status)),
    }
}

async fn snapshotter(link: &Link, channel: Channel) -> Result<String> {
    let call = cri::image_fs_info(channel);
    let answer = call_within(link, CALL, "asking the CRI where images lie", call)
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
            format!("node {} does not tell its snapshotter", link.node().name),
        )
    })
}

/// Watches over a tunnel: beats, and notes when the node or the exec is gone. The exec dies with
/// this task.
async fn keep(
    channel: Channel,
    mut end: End,
    filling: AbortOnDropHandle<()>,
    activity: Arc<Activity>,
    patience: Duration,
    died: watch::Sender<Option<String>>,
) {
    let client = VersionClient::new(channel);
    // The connection is shared: bytes of a bulk answer prove life as well as a beat does. A beat
    // that fails is an end of the exec, which is noticed below.
    let beats = beat(
        patience,
        || activity.idle(),
        || {
            let mut client = client.clone();
            async move {
                let _ = client.version(Request::new(())).await;
                true
            }
        },
    );
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
    drop(filling);
}
