//! What a node has of an image, and what it lacks.
//!
//! Decided by chain ID first, then by blob digest: images that a kubelet pulled have snapshots but
//! no layer blobs. What is found is put under the lease and looked up again, so that nothing
//! collects it.

use std::collections::HashSet;

use futures_util::future::try_join_all;

use super::content::{self, has_blob};
use super::lease::Lease;
use super::session::{Failure, Session};
use super::snapshot;
use crate::image::{Blobs, ChainId, Digest, Image, Layer};

/// What one node has of an image, all of it held by a lease.
#[derive(Debug)]
pub struct Inventory {
    /// The layers that are unpacked there, bottom first: the blobs that each is known to come
    /// from.
    pub unpacked: Vec<Blobs>,
    /// Digests of layer blobs that are there though their chain is not.
    pub blobs: HashSet<Digest>,
}

impl Inventory {
    /// Returns the layers that must travel, each digest once, bottom first.
    pub fn missing<'a>(&self, image: &'a Image) -> Vec<&'a Layer> {
        let mut seen = HashSet::new();
        image.layers[self.unpacked.len()..]
            .iter()
            .filter(|layer| !self.blobs.contains(&layer.digest) && seen.insert(&layer.digest))
            .collect()
    }
}

/// Looks which layers of an image a node has, and holds what is found.
///
/// # Errors
/// A call's failure.
pub async fn inventory(
    session: &Session,
    lease: &Lease,
    image: &Image,
) -> Result<Inventory, Failure> {
    let chains: Vec<&ChainId> = image.layers.iter().map(|layer| &layer.chain_id).collect();
    let unpacked = unpacked(session, lease, &chains).await?;
    let lookups = image.layers[unpacked.len()..].iter().map(|layer| async {
        let there = held_blob(session, lease, &layer.digest).await?;
        Ok::<_, Failure>(there.map(|_| layer.digest.clone()))
    });
    let blobs = try_join_all(lookups).await?;
    Ok(Inventory {
        unpacked,
        blobs: blobs.into_iter().flatten().collect(),
    })
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
        let stats = stack.iter().map(|chain| snapshot::find(session, chain));
        let mut found = try_join_all(stats).await?;
        let height = found.iter().rposition(Option::is_some).map_or(0, |i| i + 1);
        found.truncate(height);
        let found = found.into_iter().map(Option::unwrap_or_default).collect();
        let Some(top) = height.checked_sub(1) else {
            return Ok(found);
        };
        let kind = format!("snapshots/{}", session.facts().snapshotter);
        lease.hold(session, &kind, &stack[top].to_string()).await?;
        // Holding what a collection has just taken succeeds too.
        if snapshot::find(session, stack[top]).await?.is_some() {
            return Ok(found);
        }
        stack = &stack[..height];
    }
}

/// Looks for a blob, and holds it if it is there. Returns its size in bytes.
///
/// # Errors
/// A call's failure.
pub async fn held_blob(
    session: &Session,
    lease: &Lease,
    digest: &Digest,
) -> Result<Option<u64>, Failure> {
    if !has_blob(session, digest).await? {
        return Ok(None);
    }
    lease.hold(session, "content", digest.as_str()).await?;
    let info = content::blob_info(session, digest).await?;
    Ok(info.map(|info| info.size.cast_unsigned()))
}

/// Tells whether a node lacks any layer of an image, unpacked.
///
/// # Errors
/// A call's failure.
pub async fn lacks(session: &Session, image: &Image) -> Result<bool, Failure> {
    match image.top() {
        Some(top) => snapshot::find(session, top).await.map(|has| has.is_none()),
        None => Ok(false),
    }
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
