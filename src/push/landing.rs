//! Where uploads go: the nodes, each under a lease of its own, before anything is known of the
//! image but its layers' diff IDs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::engine::ImageRecord;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{Digest, chain_ids};
use crate::job::Job;
use crate::load;
use crate::node::Session;
use crate::node::inventory;
use crate::node::lease::{self, Lease};
use crate::node::tunnel::Tunnel;
use crate::node::tunnel::content::{Expected, Write};
use crate::report::Doing;
use crate::source::{CHUNK, Source};

/// One node.
pub(super) struct Place {
    session: Session,
    tunnel: Tunnel,
    lease: Lease,
    /// Whether it lacks any layer of the image.
    lacks: bool,
    /// Blobs whose layers are unpacked there, and their sizes in bytes.
    unpacked: HashMap<Digest, u64>,
    sent: Arc<AtomicU64>,
}

impl Place {
    /// Looks whether the node has a blob, or what it unpacks to. Returns its size in bytes.
    async fn find(&self, digest: &Digest) -> Result<Option<u64>> {
        if let Some(size) = self.unpacked.get(digest) {
            return Ok(Some(*size));
        }
        Ok(self.tunnel.held_blob(&self.lease, digest).await?)
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
}

/// All nodes, ready to take blobs of one image.
pub struct Landing {
    places: Vec<Place>,
    /// Per disk: what is on its way there, in bytes, packed and unpacked.
    expected: Mutex<HashMap<String, u64>>,
}

impl Landing {
    /// Makes a lease on every node and looks what of the image is unpacked there. What was made is
    /// returned with the first error.
    pub async fn begin(tunnels: Vec<Tunnel>, record: &ImageRecord) -> (Self, Result<()>) {
        let chains = chain_ids(&record.diff_ids);
        let chains: Vec<_> = chains.iter().collect();
        let places = join_all(tunnels.into_iter().map(|tunnel| async {
            let session = Session::from(tunnel.clone());
            let mut place = Place {
                lease: Lease::create(&session).await?,
                session: session.clone(),
                tunnel,
                lacks: true,
                unpacked: HashMap::new(),
                sent: Arc::default(),
            };
            // What killed runs left takes room. Others' leftovers are no reason to fail.
            let (found, swept) = tokio::join!(
                inventory::unpacked(&session, &place.lease, &chains),
                lease::sweep(&session)
            );
            if let Err(e) = swept {
                tracing::warn!(node = %session.node().name, error = %one_line(&e), "sweep");
            }
            let result = found.map_err(Error::from).map(|unpacked| {
                let (there, missing) = record.diff_ids.split_at(unpacked.len());
                place.lacks = !missing.is_empty();
                // A layer that comes twice in one image is needed for the second time.
                let known = unpacked.into_iter().zip(there);
                place.unpacked = known
                    .filter(|(_, diff_id)| !missing.contains(diff_id))
                    .flat_map(|(blobs, _)| blobs)
                    .collect();
            });
            Ok::<_, Error>((place, result))
        }));
        let mut landing = Self {
            places: Vec::new(),
            expected: Mutex::default(),
        };
        let mut result = Ok(());
        for place in places.await {
            match place {
                Ok((place, found)) => {
                    landing.places.push(place);
                    result = result.and(found);
                }
                Err(e) => result = result.and(Err(e)),
            }
        }
        (landing, result)
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
    pub(super) async fn needing(&self, blob: Option<&Expected>) -> Result<Vec<&Place>> {
        let Some(blob) = blob else {
            return Ok(self.places.iter().filter(|place| place.lacks).collect());
        };
        let found = try_join_all(self.places.iter().map(|place| place.find(&blob.digest))).await?;
        let lacking = self.places.iter().zip(found);
        let needing: Vec<_> = lacking
            .filter_map(|(place, size)| size.is_none().then_some(place))
            .collect();
        for place in &needing {
            let needed = {
                let mut expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner);
                let disk = expected
                    .entry(place.session.facts().disk.clone())
                    .or_default();
                // The blob, and at the least as much unpacked.
                *disk += 2 * blob.size;
                *disk
            };
            load::has_room(&place.session, needed).await?;
        }
        Ok(needing)
    }

    /// Reads a small blob that every node has.
    pub(super) async fn read(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.places.first() {
            Some(place) => crate::node::find::blob(&place.session, digest.as_str(), limit).await,
            None => Ok(None),
        }
    }

    /// Tells which nodes take what the engine pushes; how much that is, nobody knows before.
    pub fn tell(&self, job: &Job) {
        for place in self.places.iter().filter(|place| place.lacks) {
            let sent = Arc::clone(&place.sent);
            let doing = Doing::Staging { sent, of: None };
            job.node(&place.session.node().name, doing);
        }
    }

    /// Makes the source for loading what has landed: the small blobs that were kept.
    pub fn landed(&self, kept: HashMap<Digest, Bytes>) -> Landed {
        let sent = self.places.iter().map(|place| {
            let node = place.session.node().name.clone();
            (node, place.sent.load(Ordering::Relaxed))
        });
        Landed {
            kept,
            sent: sent.collect(),
            asked: AtomicBool::new(false),
        }
    }

    /// Lets go of what has landed; what was loaded meanwhile is held by its names. After a failure
    /// the collection is waited for.
    pub async fn end(&self, job: &Job, failed: bool) {
        let held = self
            .places
            .iter()
            .map(|place| (&place.session, &place.lease));
        load::let_go(job, held, failed).await;
    }
}

/// The source of an image that an engine has pushed. The large blobs are on the nodes already.
pub struct Landed {
    kept: HashMap<Digest, Bytes>,
    sent: HashMap<String, u64>,
    asked: AtomicBool,
}

impl Landed {
    /// Tells whether a blob was asked for that is not here: a node has lost it since we looked.
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

    fn sent_before(&self, node: &str) -> u64 {
        self.sent.get(node).copied().unwrap_or_default()
    }
}
