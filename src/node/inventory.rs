//! What a node has of an image, and what it lacks.
//!
//! Decided by chain ID first, then by blob digest: images that a kubelet pulled have snapshots but
//! no layer blobs. What is found is put under the lease and looked up again, so that nothing
//! collects it.

use std::collections::HashSet;

use super::Failure;
use super::lease::{Held, Lease};
use super::session::Session;
use crate::image::{Blobs, ChainId, Digest, Image, Layer};

/// What one node has of an image, all of it held by a lease.
#[derive(Debug, Clone)]
pub struct Inventory {
    /// The layers that are unpacked there, bottom first: the blobs that each is known to come
    /// from.
    pub unpacked: Vec<Blobs>,
    /// Digests of layer blobs that are there though their chain is not.
    pub blobs: HashSet<Digest>,
    /// Whether config and manifest are there, with the labels that staging gives them.
    pub documents: bool,
}

impl Inventory {
    /// Tells whether the node has all of the image, complete and unpacked.
    fn is_whole(&self, image: &Image) -> bool {
        self.documents && self.unpacked.len() == image.layers.len()
    }

    /// Returns the layers that must travel, each digest once, bottom first.
    pub fn missing<'a>(&self, image: &'a Image) -> Vec<&'a Layer> {
        let mut seen = HashSet::new();
        image.layers[self.unpacked.len()..]
            .iter()
            .filter(|layer| !self.blobs.contains(&layer.digest) && seen.insert(&layer.digest))
            .collect()
    }
}

/// Looks which layers of an image a node has, and holds what is found. `before` is what the lease
/// holds already of what the image needs.
///
/// # Errors
/// A call's failure.
pub async fn inventory(
    session: &Session,
    lease: &Lease,
    image: &Image,
    before: Option<&Inventory>,
) -> Result<Inventory, Failure> {
    if let Some(before) = before {
        // Then nothing is left to stage, and before a name moves all is looked up once more.
        if before.is_whole(image) {
            return Ok(before.clone());
        }
        if let Some(still) = still_there(session, image, before).await? {
            return Ok(still);
        }
    }
    let chains: Vec<&ChainId> = image.layers.iter().map(|layer| &layer.chain_id).collect();
    let unpacked = unpacked(session, lease, &chains).await?;
    let blobs: Vec<&Digest> = image.layers[unpacked.len()..]
        .iter()
        .map(|layer| &layer.digest)
        .collect();
    let there = present(session, &blobs).await?;
    let held: Vec<_> = there
        .iter()
        .map(|digest| Held::Blob(digest.as_str()))
        .collect();
    session.hold(lease, &held).await?;
    let blobs = present(session, &there).await?;
    Ok(Inventory {
        unpacked,
        blobs: blobs.into_iter().cloned().collect(),
        documents: false,
    })
}

/// Looks whether all that a lease holds is still there: no collection takes it, but whoever works on
/// the node by hand can. None, if anything is gone.
async fn still_there(
    session: &Session,
    image: &Image,
    before: &Inventory,
) -> Result<Option<Inventory>, Failure> {
    let (below, above) = image.layers.split_at(before.unpacked.len());
    let top = async {
        match below.last() {
            Some(top) => is_unpacked(session, &top.chain_id).await,
            None => Ok(true),
        }
    };
    let blobs = above.iter().map(|layer| &layer.digest);
    let blobs: Vec<&Digest> = blobs.filter(|blob| before.blobs.contains(blob)).collect();
    let mut wanted = blobs.clone();
    if before.documents {
        wanted.extend([&image.config.digest, &image.manifest.digest]);
    }
    let (unpacked, there) = tokio::try_join!(top, present(session, &wanted))?;
    let whole = unpacked && there.len() == wanted.len();
    Ok(whole.then(|| Inventory {
        unpacked: before.unpacked.clone(),
        blobs: blobs.into_iter().cloned().collect(),
        documents: before.documents,
    }))
}

/// Looks how many chains of one stack, from the bottom, are unpacked, and holds the topmost, which
/// holds those below it. Returns the blobs that each is known to come from.
///
/// # Errors
/// A call's failure.
pub async fn unpacked(
    session: &Session,
    lease: &Lease,
    chains: &[&ChainId],
) -> Result<Vec<Blobs>, Failure> {
    let mut stack = chains;
    loop {
        if stack.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = session.snapshots(stack).await?;
        let height = found.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        found.truncate(height);
        let found = found.into_iter().map(Option::unwrap_or_default).collect();
        let Some(top) = height.checked_sub(1) else {
            return Ok(found);
        };
        session.hold(lease, &[Held::Snapshot(stack[top])]).await?;
        // Holding what a collection has just taken succeeds too.
        if is_unpacked(session, stack[top]).await? {
            return Ok(found);
        }
        stack = &stack[..height];
    }
}

/// Returns those blobs that a node has.
async fn present<'a>(
    session: &Session,
    digests: &[&'a Digest],
) -> Result<Vec<&'a Digest>, Failure> {
    if digests.is_empty() {
        return Ok(Vec::new());
    }
    let found = session.blobs(digests).await?;
    let there = digests.iter().zip(found).filter(|(_, blob)| blob.is_some());
    Ok(there.map(|(digest, _)| *digest).collect())
}

/// Tells whether a node lacks any layer of an image, unpacked.
///
/// # Errors
/// A call's failure.
pub async fn lacks(session: &Session, image: &Image) -> Result<bool, Failure> {
    match image.top() {
        Some(top) => is_unpacked(session, top).await.map(|is| !is),
        None => Ok(false),
    }
}

async fn is_unpacked(session: &Session, chain: &ChainId) -> Result<bool, Failure> {
    let found = session.snapshots(&[chain]).await?;
    Ok(found.iter().any(Option::is_some))
}

/// Returns how many bytes staging will need on the node's disk, at the least.
pub fn space_needed(image: &Image, inventory: &Inventory) -> u64 {
    let blobs: u64 = inventory
        .missing(image)
        .iter()
        .map(|layer| layer.size)
        .sum();
    let unpacked: u64 = image.layers[inventory.unpacked.len()..]
        .iter()
        .map(|layer| layer.size)
        .sum();
    blobs + unpacked
}
