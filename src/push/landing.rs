//! Where uploads go: the nodes, each under a lease of its own, before anything is known of the
//! image but its layers' diff IDs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::engine::ImageRecord;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{Blobs, ChainId, Compression, DiffId, Digest, Image, Layer, chain_ids};
use crate::job::Job;
use crate::load;
use crate::node::inventory::{self, Inventory};
use crate::node::lease::Lease;
use crate::node::tunnel::Tunnel;
use crate::node::tunnel::content::{Expected, Write};
use crate::node::tunnel::snapshot::Unpack;
use crate::node::{Session, find};
use crate::report::Doing;
use crate::source::{CHUNK, Source};

/// One node.
pub(super) struct Place {
    tunnel: Tunnel,
    lease: Lease,
    /// The diff IDs of the image's layers, bottom first, and their chain IDs.
    diff_ids: Arc<[DiffId]>,
    chains: Arc<[ChainId]>,
    /// The layers that are unpacked there, bottom first: the blobs that each is known to come from.
    stack: Vec<Blobs>,
    /// The same for the last layer, if it was the only one that was missing and is there now.
    last: OnceLock<Blobs>,
    /// Blobs whose layers are unpacked there, and their sizes in bytes.
    unpacked: HashMap<Digest, u64>,
    /// Blobs that the node was asked for and does not have.
    lacking: Mutex<HashSet<Digest>>,
    sent: Arc<AtomicU64>,
    /// Whether a blob has been taken for the last layer's.
    tried: AtomicBool,
}

impl Place {
    /// Tells whether the node lacks any layer of the image.
    fn lacks(&self) -> bool {
        self.stack.len() < self.diff_ids.len()
    }

    /// Looks whether the node has a blob, or what it unpacks to. Returns its size in bytes.
    async fn find(&self, digest: &Digest) -> Result<Option<u64>> {
        if let Some(size) = self.unpacked.get(digest) {
            return Ok(Some(*size));
        }
        let found = self.tunnel.held_blob(&self.lease, digest).await?;
        if found.is_none() {
            self.lacking().insert(digest.clone());
        }
        Ok(found)
    }

    fn lacking(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.lacking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks whether the node needs a blob. One that it lacked when the engine asked it does, whatever
    /// has come there since: it is not looked for twice.
    async fn needs(&self, digest: &Digest) -> Result<bool> {
        if self.lacking().contains(digest) {
            return Ok(true);
        }
        Ok(self.find(digest).await?.is_none())
    }

    /// Prepares to write a blob there.
    pub(super) fn write(&self, key: String) -> Write {
        Write {
            tunnel: self.tunnel.clone(),
            lease: self.lease.clone(),
            key,
            labels: HashMap::new(),
            sent: Arc::clone(&self.sent),
        }
    }

    /// Unpacks a blob that has landed, if only the last layer is missing and this can be it, while
    /// the engine still pushes the image's documents. If it is not, or cannot be unpacked, nothing is
    /// lost: staging does it anew, and tells why it cannot be done.
    pub(super) async fn unpack_early(&self, blob: &Expected, compression: Compression) {
        let index = self.stack.len();
        let [diff_id] = &self.diff_ids[index..] else {
            return;
        };
        let other = compression == Compression::None && blob.digest != diff_id.0;
        if other || self.tried.swap(true, Ordering::Relaxed) {
            return;
        }
        let layer = Layer {
            digest: blob.digest.clone(),
            size: blob.size,
            media_type: compression.media_type().to_owned(),
            compression,
            diff_id: diff_id.clone(),
            chain_id: self.chains[index].clone(),
        };
        let unpack = Unpack {
            tunnel: &self.tunnel,
            lease: &self.lease,
            key: format!("early-{index}"),
            layer: &layer,
            below: self.chains[..index].last(),
            diff_ids: &self.diff_ids,
            index,
        };
        let (node, blob) = (&self.tunnel.node().name, &blob.digest);
        match unpack.run().await {
            Ok(blobs) => {
                tracing::debug!(%node, %blob, "unpacked early");
                let _ = self.last.set(blobs);
            }
            Err(e) => {
                tracing::debug!(%node, %blob, error = %one_line(&e), "not unpacked early");
            }
        }
    }
}

/// All nodes, ready to take blobs of one image.
pub struct Landing {
    places: Vec<Arc<Place>>,
    /// Per disk: what is on its way there, in bytes, packed and unpacked.
    expected: Mutex<HashMap<String, u64>>,
    /// Whether every node has the image's config and manifest.
    documents: AtomicBool,
}

impl Landing {
    /// Looks what of the image is unpacked on nodes, each with a tunnel and a lease.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn begin(nodes: Vec<(Tunnel, Lease)>, record: &ImageRecord) -> Result<Self> {
        let diff_ids: Arc<[DiffId]> = record.diff_ids.clone().into();
        let chains: Arc<[ChainId]> = chain_ids(&diff_ids).into();
        let places = nodes.into_iter().map(|(tunnel, lease)| async {
            let session = Session::from(tunnel.clone());
            let wanted: Vec<_> = chains.iter().collect();
            let stack = inventory::unpacked(&session, &lease, &wanted).await?;
            let (there, missing) = diff_ids.split_at(stack.len());
            // A layer that comes twice in one image is needed for the second time.
            let known = stack.iter().zip(there);
            let known = known.filter(|(_, diff_id)| !missing.contains(diff_id));
            Ok::<_, Error>(Arc::new(Place {
                tunnel,
                lease,
                diff_ids: Arc::clone(&diff_ids),
                chains: Arc::clone(&chains),
                unpacked: known.flat_map(|(blobs, _)| blobs.clone()).collect(),
                stack,
                last: OnceLock::new(),
                lacking: Mutex::default(),
                sent: Arc::default(),
                tried: AtomicBool::new(false),
            }))
        });
        Ok(Self {
            places: try_join_all(places).await?,
            expected: Mutex::default(),
            documents: AtomicBool::new(false),
        })
    }

    /// Looks whether every node has a blob, or what it unpacks to. Returns its size in bytes.
    pub(super) async fn find(&self, digest: &Digest) -> Result<Option<u64>> {
        let sizes = try_join_all(self.places.iter().map(|place| place.find(digest))).await?;
        Ok(sizes
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .and_then(|sizes| sizes.first().copied()))
    }

    /// Returns the nodes that need a blob. One that is not named yet is needed where any layer is.
    pub(super) async fn needing(&self, blob: Option<&Expected>) -> Result<Vec<Arc<Place>>> {
        let Some(blob) = blob else {
            let lacking = self.places.iter().filter(|place| place.lacks());
            return Ok(lacking.cloned().collect());
        };
        let needs = self.places.iter().map(|place| place.needs(&blob.digest));
        let needs = try_join_all(needs).await?;
        let needing = self.places.iter().zip(needs);
        let needing: Vec<_> = needing
            .filter(|(_, needs)| *needs)
            .map(|(place, _)| Arc::clone(place))
            .collect();
        for place in &needing {
            let needed = {
                let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
                let disk = expected
                    .entry(place.tunnel.facts().disk.clone())
                    .or_default();
                // The blob, and at the least as much unpacked.
                *disk += 2 * blob.size;
                *disk
            };
            load::has_room(&place.tunnel, needed).await?;
        }
        Ok(needing)
    }

    /// Writes the image's config and manifest to every node.
    pub(super) async fn write_documents(&self, image: &Image) -> Result<()> {
        let writes = self.places.iter().map(|place| {
            let Place { lease, sent, .. } = &**place;
            place.tunnel.write_documents(lease, image, sent)
        });
        try_join_all(writes).await?;
        self.documents.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Reads a small blob that every node has.
    pub(super) async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.places.first() {
            Some(place) => {
                let session = Session::from(place.tunnel.clone());
                find::blob(&session, digest.as_str(), limit).await
            }
            None => Ok(None),
        }
    }

    /// Tells which nodes take what the engine pushes; how much that is, nobody knows before.
    pub fn tell(&self, job: &Job) {
        for place in self.places.iter().filter(|place| place.lacks()) {
            let sent = Arc::clone(&place.sent);
            let doing = Doing::Staging { sent, of: None };
            job.node(&place.tunnel.node().name, doing);
        }
    }

    /// Makes the source for loading what has landed: the small blobs that were kept, now that the
    /// others are on those nodes that lacked them.
    pub(super) fn landed(&self, kept: HashMap<Digest, Bytes>, landed: HashSet<Digest>) -> Landed {
        let sent = self.places.iter().map(|place| {
            let node = place.tunnel.node().name.clone();
            (node, place.sent.load(Ordering::Relaxed))
        });
        let held = self.places.iter().map(|place| Inventory {
            unpacked: place
                .stack
                .iter()
                .chain(place.last.get())
                .cloned()
                .collect(),
            blobs: landed.clone(),
            documents: self.documents.load(Ordering::Relaxed),
        });
        Landed {
            held: held.collect(),
            kept,
            sent: sent.collect(),
            asked: AtomicBool::new(false),
        }
    }
}

/// The source of an image that an engine has pushed. The large blobs are on the nodes already. By
/// default nothing was pushed: they have everything.
#[derive(Default)]
pub struct Landed {
    kept: HashMap<Digest, Bytes>,
    held: Vec<Inventory>,
    sent: HashMap<String, u64>,
    asked: AtomicBool,
}

impl Landed {
    /// Returns what each node's lease holds of the image, in the order of the nodes.
    pub fn held(&self) -> &[Inventory] {
        &self.held
    }

    /// Tells whether a node has lost something since we looked, or asked for a blob that is not here.
    pub fn was_short(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Source for Landed {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        if let Some(bytes) = self.kept.get(blob) {
            let bytes = bytes.clone();
            let pieces = (0..bytes.len()).step_by(CHUNK);
            let pieces: Vec<_> = pieces
                .map(|at| Ok(bytes.slice(at..bytes.len().min(at + CHUNK))))
                .collect();
            return stream::iter(pieces).boxed();
        }
        self.asked.store(true, Ordering::Relaxed);
        let error = Error::new(ErrorKind::Load, format!("a node has just lost {blob}"));
        stream::once(async { Err(error) }).boxed()
    }

    fn lost(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    fn sent_before(&self, node: &str) -> u64 {
        self.sent.get(node).copied().unwrap_or_default()
    }
}
