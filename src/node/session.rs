//! A session with one node, and everything that is asked of its containerd and its CRI.
//!
//! There are two ways to a node. The tunnel is the fast one. A node on which its relay cannot run
//! is spoken to with ctr and crictl, one exec a question: the plain way. What is done with the
//! answers is the same for both, and knows nothing of the way: it is in the modules beside this
//! one. What differs is below, one method each.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use containerd_client::services::v1::Image as Record;
use containerd_client::types::Descriptor;
use futures_util::stream::BoxStream;

use super::crictl;
use super::inventory::Inventory;
use super::lease::{Held, Lease, Listed};
use super::link::{Failure, Link};
use super::plain::Plain;
use super::stage::Staged;
use super::tunnel::{self, Tunnel};
use crate::cluster::Node;
use crate::error::{Error, Result, one_line};
use crate::image::{Blobs, ChainId, Digest, Image};
use crate::job::Job;
use crate::source::Source;

/// Labels by their keys.
pub type Labels = HashMap<String, String>;

/// An open session with one node. Dropping the last copy ends what it keeps open.
#[derive(Clone)]
pub enum Session {
    /// Through the relay, by gRPC.
    Tunnel(Tunnel),
    /// By ctr and crictl.
    Plain(Plain),
}

impl From<Tunnel> for Session {
    fn from(tunnel: Tunnel) -> Self {
        Self::Tunnel(tunnel)
    }
}

impl From<Plain> for Session {
    fn from(plain: Plain) -> Self {
        Self::Plain(plain)
    }
}

impl Deref for Session {
    type Target = Link;

    fn deref(&self) -> &Link {
        match self {
            Self::Tunnel(tunnel) => tunnel,
            Self::Plain(plain) => plain,
        }
    }
}

impl Session {
    /// Opens a session: through the tunnel, or plainly where its relay cannot run.
    /// `KINDLIFT_SESSION` forces one of the two, for tests.
    ///
    /// # Errors
    /// Usage error, if `KINDLIFT_SESSION` is something else; cluster error, naming the node.
    pub async fn open(node: &Node, job: &Job) -> Result<Self> {
        let why = match job.env.get("KINDLIFT_SESSION") {
            None => match Tunnel::open(node, job.patience).await {
                Ok(tunnel) => return Ok(Self::Tunnel(tunnel)),
                Err(tunnel::Refusal::NoRelay(why)) => Some(why),
                Err(tunnel::Refusal::Other(e)) => return Err(e),
            },
            Some("tunnel") => {
                let open = Tunnel::open(node, job.patience).await;
                return open.map(Self::Tunnel).map_err(Error::from);
            }
            Some("plain") => None,
            Some(other) => {
                return Err(Error::usage(format!("KINDLIFT_SESSION is {other:?}"))
                    .hint("set it to tunnel or plain, or unset it"));
            }
        };
        let plain = Plain::open(node, job.patience).await;
        let plain = match (plain, why) {
            (Ok(plain), why) => {
                job.step(|| {
                    let why = why.map_or_else(|| "as asked".to_owned(), |e| e.to_string());
                    format!("node {}: with ctr and crictl, slower: {why}", node.name)
                });
                plain
            }
            (Err(e), None) => return Err(e),
            // What is missing first is what to put right.
            (Err(e), Some(why)) => return Err(e.within(one_line(&why).to_string())),
        };
        Ok(Self::Plain(plain))
    }

    /// Returns the tunnel, if that is the way.
    pub fn tunnel(&self) -> Option<&Tunnel> {
        match self {
            Self::Tunnel(tunnel) => Some(tunnel),
            Self::Plain(_) => None,
        }
    }

    /// Looks names up.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn records(&self, names: &[&str]) -> Result<Vec<Option<Record>>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.records(names).await,
            Self::Plain(plain) => plain.records(names).await,
        }
    }

    /// Lists all names, or those that begin with something.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn all_records(&self, prefix: Option<&str>) -> Result<Vec<Record>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.all_records(prefix).await,
            Self::Plain(plain) => plain.all_records(prefix).await,
        }
    }

    /// Points names at a document. None of them is absent in between.
    ///
    /// # Errors
    /// A call's failure; some of the names may have moved then.
    pub async fn point(&self, names: &[&str], to: &Descriptor, labels: &Labels) -> Result<()> {
        match self {
            Self::Tunnel(tunnel) => tunnel.point(names, to, labels).await,
            Self::Plain(plain) => plain.point(names, to, labels).await,
        }
    }

    /// Removes a name. Returns false if it was not there.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn remove(&self, name: &str, guard: Option<&Descriptor>) -> Result<bool, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.remove(name, guard).await,
            Self::Plain(plain) => plain.remove(name).await,
        }
    }

    /// Looks for blobs. Returns the labels of those that are there.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn blobs(&self, digests: &[&Digest]) -> Result<Vec<Option<Labels>>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.blobs(digests).await,
            Self::Plain(plain) => plain.blobs(digests).await,
        }
    }

    /// Tells whether blobs whose transfers' names begin like this are on their way.
    ///
    /// # Errors
    /// The call's failure.
    pub(super) async fn is_receiving(&self, prefix: &str) -> Result<bool, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.is_receiving(prefix).await,
            Self::Plain(plain) => plain.is_receiving(prefix).await,
        }
    }

    /// Adds labels to a blob, or removes those that are given no value.
    ///
    /// # Errors
    /// The call's failure; not found, if there is no such blob.
    pub(super) async fn label_blob(&self, digest: &Digest, labels: &Labels) -> Result<(), Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.label_blob(digest, labels).await,
            Self::Plain(plain) => plain.label_blob(digest, labels).await,
        }
    }

    /// Reads a blob. The failure comes as an item of the stream.
    pub fn read(&self, digest: &str) -> BoxStream<'static, Result<Bytes, Failure>> {
        match self {
            Self::Tunnel(tunnel) => tunnel.read(digest),
            Self::Plain(plain) => plain.read(digest),
        }
    }

    /// Looks for unpacked layers. Returns the blobs that each is known to come from.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn snapshots(&self, chains: &[&ChainId]) -> Result<Vec<Option<Blobs>>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.snapshots(chains).await,
            Self::Plain(plain) => plain.snapshots(chains).await,
        }
    }

    /// Makes a lease with labels. Returns the image names that it takes to hold something.
    ///
    /// # Errors
    /// The call's failure.
    pub(super) async fn create_lease(
        &self,
        id: &str,
        labels: &Labels,
    ) -> Result<Vec<String>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.create_lease(id, labels).await.map(|()| Vec::new()),
            Self::Plain(plain) => plain.create_lease(id, labels).await,
        }
    }

    /// Lists the leases that have a label.
    ///
    /// # Errors
    /// The call's failure.
    pub(super) async fn leases(&self, label: &str) -> Result<Vec<Listed>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.leases(label).await,
            Self::Plain(plain) => plain.leases(label).await,
        }
    }

    /// Makes a lease hold things. Holding what does not exist succeeds too: look again afterwards.
    ///
    /// # Errors
    /// A call's failure.
    pub(super) async fn hold(&self, lease: &Lease, held: &[Held<'_>]) -> Result<(), Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.hold(lease, held).await,
            Self::Plain(plain) => plain.hold(lease, held).await,
        }
    }

    /// Ends a lease. With `collect`, returns when what only it held is gone.
    ///
    /// # Errors
    /// The call's failure; a lease that is gone already is none.
    pub(super) async fn end_lease(&self, id: &str, collect: bool) -> Result<(), Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.end_lease(id, collect).await,
            Self::Plain(plain) => plain.end_lease(id, collect).await,
        }
    }

    /// Puts an image onto the node, complete and unpacked, held by the lease and by nothing else.
    ///
    /// # Errors
    /// Image error, if a layer is not what the manifest or the config says; load error otherwise.
    pub async fn stage(
        &self,
        lease: &Lease,
        image: &Arc<Image>,
        inventory: &Inventory,
        source: &Arc<dyn Source>,
        sent: &Arc<AtomicU64>,
    ) -> Result<Staged> {
        match self {
            Self::Tunnel(tunnel) => tunnel.stage(lease, image, inventory, source, sent).await,
            Self::Plain(plain) => plain.stage(lease, image, inventory, source, sent).await,
        }
    }

    /// Asks the CRI which image it shows under a name or ID.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn shown(&self, name: &str) -> Result<Option<String>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.shown(name).await,
            Self::Plain(plain) => plain.shown(name).await,
        }
    }

    /// Lets a crictl start that will inspect this image, where one can wait until it is needed: it
    /// takes longer to start than to ask.
    pub async fn start_crictl(&self, name: &str) {
        if let Self::Tunnel(tunnel) = self {
            tunnel.start_crictl(name).await;
        }
    }

    /// Runs `crictl inspecti` on the node: lets the one ask that was started, or another.
    ///
    /// # Errors
    /// That the node stopped answering.
    pub(super) async fn inspecti(&self, name: &str) -> Result<crictl::Ran, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.inspecti(name).await,
            Self::Plain(plain) => plain.inspecti(name).await,
        }
    }

    /// Lists what the node's containers, running or not, were made of: names and image IDs.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn used(&self) -> Result<BTreeSet<String>, Failure> {
        match self {
            Self::Tunnel(tunnel) => tunnel.used().await,
            Self::Plain(plain) => plain.used().await,
        }
    }
}
