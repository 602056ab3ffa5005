//! Staging: everything an image needs on one node, complete and unpacked under a lease, before
//! any name points at it.
//!
//! What the node has is decided by chain ID first, then by blob digest: images that a kubelet
//! pulled have snapshots but no layer blobs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Kind, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
};
use containerd_client::services::v1::{
    ApplyRequest, Info, InfoRequest, UpdateRequest, WriteAction, WriteContentRequest,
};
use containerd_client::tonic::Status;
use containerd_client::types::{Descriptor, Mount};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use super::lease::Lease;
use super::session::{Failure, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{ChainId, Digest, Document, Image, Layer};
use crate::source::{CHUNK, Source};

/// Layers that travel to one node at the same time.
const LANES: usize = 2;
/// The least speed at which a node is taken to unpack, in bytes a second: such a step tells
/// nothing of how far it is, and may take that long while the node is alive.
const SLOWEST: u64 = 1 << 20;

/// What one node lacks.
#[derive(Debug)]
pub struct Inventory {
    /// How many layers, from the bottom, are unpacked there.
    pub unpacked: usize,
    /// Digests of layer blobs that are there though their chain is not.
    pub blobs: HashSet<Digest>,
}

impl Inventory {
    /// Returns the layers that must travel, each digest once, bottom first.
    pub fn missing<'a>(&self, image: &'a Image) -> Vec<&'a Layer> {
        let mut seen = HashSet::new();
        image.layers[self.unpacked..]
            .iter()
            .filter(|layer| !self.blobs.contains(&layer.digest) && seen.insert(&layer.digest))
            .collect()
    }
}

/// What staging did on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Bytes of layers, manifest and config that went to the node.
    pub sent: u64,
    /// Bytes of the image that did not have to.
    pub skipped: u64,
}

/// Looks which layers a node has, and holds what is found, so that nothing collects it.
///
/// # Errors
/// A call's failure.
pub async fn inventory(session: &Session, lease: &Lease, image: &Image) -> Result<Inventory> {
    let chains: Vec<&ChainId> = image.layers.iter().map(|layer| &layer.chain_id).collect();
    let mut unpacked = chains.len();
    loop {
        let stats = chains[..unpacked]
            .iter()
            .map(|chain| has_snapshot(session, chain));
        let present = futures_util::future::try_join_all(stats).await?;
        unpacked = present
            .iter()
            .rposition(|has| *has)
            .map_or(0, |top| top + 1);
        let Some(top) = unpacked.checked_sub(1) else {
            break;
        };
        let kind = format!("snapshots/{}", session.facts().snapshotter);
        lease.hold(session, &kind, &chains[top].to_string()).await?;
        // Holding what a collection has just taken succeeds too.
        if has_snapshot(session, chains[top]).await? {
            break;
        }
    }
    let lookups = image.layers[unpacked..].iter().map(|layer| async {
        Ok::<_, Failure>(match has_blob(session, &layer.digest).await? {
            true => {
                lease
                    .hold(session, "content", layer.digest.as_str())
                    .await?;
                has_blob(session, &layer.digest)
                    .await?
                    .then(|| layer.digest.clone())
            }
            false => None,
        })
    });
    let blobs = futures_util::future::try_join_all(lookups).await?;
    Ok(Inventory {
        unpacked,
        blobs: blobs.into_iter().flatten().collect(),
    })
}

/// Tells whether a node lacks any layer of an image, unpacked.
///
/// # Errors
/// A call's failure.
pub async fn lacks(session: &Session, image: &Image) -> Result<bool, Failure> {
    match image.top() {
        Some(top) => has_snapshot(session, top).await.map(|has| !has),
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
    let unpacked: u64 = image.layers[inventory.unpacked..]
        .iter()
        .map(|layer| layer.size)
        .sum();
    blobs + unpacked
}

/// Puts an image onto a node, complete and unpacked, held by the lease and by nothing else.
///
/// # Errors
/// Image error, if a layer is not what the manifest or the config says; load error otherwise.
pub async fn stage(
    session: &Arc<Session>,
    lease: &Lease,
    image: &Arc<Image>,
    inventory: &Inventory,
    source: &Arc<dyn Source>,
    sent: &Arc<AtomicU64>,
) -> Result<Staged> {
    let mut writes = JoinSet::new();
    let lanes = Arc::new(Semaphore::new(LANES));
    let mut arrivals: HashMap<Digest, oneshot::Receiver<()>> = HashMap::new();
    for layer in inventory.missing(image) {
        let position = image.layers.iter().position(|l| l.digest == layer.digest);
        let (arrived, arrival) = oneshot::channel();
        arrivals.insert(layer.digest.clone(), arrival);
        let write = Write {
            session: Arc::clone(session),
            lease: lease.clone(),
            what: format!("layer {}", position.map_or(0, |i| i + 1)),
            digest: layer.digest.clone(),
            size: layer.size,
            labels: HashMap::new(),
            sent: Arc::clone(sent),
        };
        let source = Arc::clone(source);
        let turn = Arc::clone(&lanes).acquire_owned();
        writes.spawn(async move {
            let _turn = turn.await.expect("the semaphore is never closed");
            let blob = source.open(&write.digest);
            write.run(blob).await?;
            let _ = arrived.send(());
            Ok::<_, Error>(())
        });
    }
    let unpack = async {
        for (i, layer) in image.layers.iter().enumerate().skip(inventory.unpacked) {
            // A failed write drops its sender; the write's own error is the one to show.
            if let Some(arrival) = arrivals.remove(&layer.digest)
                && arrival.await.is_err()
            {
                return Ok(());
            }
            unpack_layer(session, lease, image, i).await?;
        }
        Ok::<_, Error>(())
    };
    let transfer = async {
        while let Some(done) = writes.join_next().await {
            match done {
                Ok(written) => written?,
                Err(e) => {
                    return Err(
                        Error::new(ErrorKind::Internal, "a transfer was cut off").because(e)
                    );
                }
            }
        }
        Ok(())
    };
    // What did not arrive is no error of `unpack`: the transfer says why.
    tokio::try_join!(unpack, transfer)?;
    write_documents(session, lease, image, sent).await?;
    check(session, image).await?;
    let sent = sent.load(Ordering::Relaxed);
    Ok(Staged {
        sent,
        skipped: image.size().saturating_sub(sent),
    })
}

/// Writes config and manifest with the labels that keep the image alive once it has a name.
async fn write_documents(
    session: &Arc<Session>,
    lease: &Lease,
    image: &Image,
    sent: &Arc<AtomicU64>,
) -> Result<()> {
    let mut config = HashMap::new();
    if let Some(top) = image.top() {
        let key = format!(
            "containerd.io/gc.ref.snapshot.{}",
            session.facts().snapshotter
        );
        config.insert(key, top.to_string());
    }
    let mut manifest = HashMap::from([(
        "containerd.io/gc.ref.content.config".to_owned(),
        image.config.digest.to_string(),
    )]);
    if !session.facts().discard {
        for (i, layer) in image.layers.iter().enumerate() {
            let key = format!("containerd.io/gc.ref.content.l.{i}");
            manifest.insert(key, layer.digest.to_string());
        }
    }
    for (document, labels) in [(&image.config, config), (&image.manifest, manifest)] {
        write_document(session, lease, document, labels, sent).await?;
    }
    Ok(())
}

async fn write_document(
    session: &Arc<Session>,
    lease: &Lease,
    document: &Document,
    labels: HashMap<String, String>,
    sent: &Arc<AtomicU64>,
) -> Result<()> {
    if has_blob(session, &document.digest).await? {
        lease
            .hold(session, "content", document.digest.as_str())
            .await?;
        if label(session, &document.digest, &labels).await? {
            return Ok(());
        }
    }
    let write = Write {
        session: Arc::clone(session),
        lease: lease.clone(),
        what: document.media_type.clone(),
        digest: document.digest.clone(),
        size: document.bytes.len() as u64,
        labels,
        sent: Arc::clone(sent),
    };
    let pieces: Vec<_> = document
        .bytes
        .chunks(CHUNK)
        .map(|piece| Ok(bytes::Bytes::copy_from_slice(piece)))
        .collect();
    write.run(stream::iter(pieces).boxed()).await
}

/// Adds labels to a blob. Returns false if the blob is not there.
async fn label(
    session: &Session,
    digest: &Digest,
    labels: &HashMap<String, String>,
) -> Result<bool> {
    if labels.is_empty() {
        // An update without paths would replace all of the blob's labels by none.
        return Ok(has_blob(session, digest).await?);
    }
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = session.request(
        UpdateRequest {
            info: Some(Info {
                digest: digest.to_string(),
                labels: labels.clone(),
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        },
        None,
    );
    let mut client = ContentClient::new(session.channel());
    match session
        .call("labelling content", client.update(request))
        .await
    {
        Ok(_) => Ok(true),
        Err(failure) if failure.not_found() => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// One blob on its way to one node.
struct Write {
    session: Arc<Session>,
    lease: Lease,
    /// What it is of the image, for messages.
    what: String,
    digest: Digest,
    size: u64,
    labels: HashMap<String, String>,
    sent: Arc<AtomicU64>,
}

impl Write {
    /// Sends the blob; containerd hashes it and refuses one that is not what it should be.
    async fn run(self, blob: BoxStream<'static, Result<bytes::Bytes>>) -> Result<()> {
        let what = format!("writing {}", self.digest);
        let (messages, queue) = mpsc::channel(2);
        let reference = format!("{}-{}", self.lease.id, self.digest.hex());
        let request = self
            .session
            .request(ReceiverStream::new(queue), Some(&self.lease.id));
        let mut client =
            ContentClient::new(self.session.channel()).max_decoding_message_size(16 << 20);
        let answers = async {
            let mut stream = client.write(request).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        let moved = AtomicU64::new(0);
        let feed = self.feed(blob, messages, reference, &moved);
        let both = async { tokio::join!(feed, answers) };
        let (fed, answered) = self.session.while_moving(&moved, &what, both).await?;
        // A broken source ends the stream early; its error says why, containerd's does not.
        fed?;
        match answered {
            Ok(()) => Ok(()),
            Err(status) => {
                let failure = self.session.failure(&what, &status);
                if failure.already_exists() {
                    self.adopt().await
                } else if failure.text.contains("unexpected commit") {
                    Err(Error::new(
                        ErrorKind::Image,
                        format!(
                            "the content of {} is not what its digest says ({})",
                            self.what, self.digest
                        ),
                    )
                    .because(failure.text)
                    .hint(crate::image::AGAIN))
                } else {
                    Err(failure.into())
                }
            }
        }
    }

    /// Takes a blob that somebody else wrote meanwhile: it is neither leased nor labelled yet.
    async fn adopt(&self) -> Result<()> {
        self.lease
            .hold(&self.session, "content", self.digest.as_str())
            .await?;
        if label(&self.session, &self.digest, &self.labels).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Load,
            format!(
                "node {}: blob {} was there and then collected",
                self.session.node().name,
                self.digest
            ),
        )
        .hint("run the command again"))
    }

    async fn feed(
        &self,
        mut blob: BoxStream<'static, Result<bytes::Bytes>>,
        messages: mpsc::Sender<WriteContentRequest>,
        reference: String,
        moved: &AtomicU64,
    ) -> Result<()> {
        let message = |action: WriteAction, offset: u64, data: Vec<u8>| WriteContentRequest {
            action: action.into(),
            r#ref: reference.clone(),
            total: self.size.cast_signed(),
            expected: self.digest.to_string(),
            offset: offset.cast_signed(),
            data,
            labels: if action == WriteAction::Commit {
                self.labels.clone()
            } else {
                HashMap::new()
            },
        };
        // Nobody listens once containerd has answered with an error: that error is the result.
        if messages
            .send(message(WriteAction::Stat, 0, Vec::new()))
            .await
            .is_err()
        {
            return Ok(());
        }
        let mut offset = 0;
        while let Some(piece) = blob.next().await {
            let piece = piece?;
            let len = piece.len() as u64;
            if messages
                .send(message(WriteAction::Write, offset, piece.into()))
                .await
                .is_err()
            {
                return Ok(());
            }
            offset += len;
            moved.store(offset, Ordering::Relaxed);
            self.sent.fetch_add(len, Ordering::Relaxed);
        }
        if offset != self.size {
            return Err(Error::new(
                ErrorKind::Image,
                format!(
                    "{} ends after {offset} of {} bytes ({})",
                    self.what, self.size, self.digest
                ),
            )
            .hint(crate::image::AGAIN));
        }
        let _ = messages
            .send(message(WriteAction::Commit, offset, Vec::new()))
            .await;
        Ok(())
    }
}

fn deadline(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / SLOWEST)
}

async fn has_snapshot(session: &Session, chain: &ChainId) -> Result<bool, Failure> {
    let request = session.request(
        StatSnapshotRequest {
            snapshotter: session.facts().snapshotter.clone(),
            key: chain.to_string(),
        },
        None,
    );
    let mut client = SnapshotsClient::new(session.channel());
    match session
        .call("looking for a layer", client.stat(request))
        .await
    {
        Ok(answer) => Ok(answer
            .info
            .is_some_and(|info| info.kind == i32::from(Kind::Committed))),
        Err(failure) if failure.not_found() => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn has_blob(session: &Session, digest: &Digest) -> Result<bool, Failure> {
    Ok(blob_info(session, digest).await?.is_some())
}

/// Returns what a node knows of a blob: its size and labels. None, if it has none.
///
/// # Errors
/// The call's failure.
pub async fn blob_info(session: &Session, digest: &Digest) -> Result<Option<Info>, Failure> {
    let request = session.request(
        InfoRequest {
            digest: digest.to_string(),
        },
        None,
    );
    let mut client = ContentClient::new(session.channel());
    match session
        .call("looking for a blob", client.info(request))
        .await
    {
        Ok(answer) => Ok(answer.info),
        Err(failure) if failure.not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Unpacks one layer: Prepare, Apply, compare the diff ID, Commit.
async fn unpack_layer(session: &Session, lease: &Lease, image: &Image, index: usize) -> Result<()> {
    let layer = &image.layers[index];
    let snapshotter = session.facts().snapshotter.clone();
    let key = format!("{}-extract-{index}", lease.id);
    let parent = match index.checked_sub(1) {
        Some(below) => image.layers[below].chain_id.to_string(),
        None => String::new(),
    };
    let mut snapshots = SnapshotsClient::new(session.channel());
    let request = session.request(
        PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent,
            labels: HashMap::new(),
        },
        Some(&lease.id),
    );
    let what = format!("preparing layer {}", index + 1);
    let mounts = session
        .call(&what, snapshots.prepare(request))
        .await?
        .mounts;
    apply(session, lease, image, index, mounts).await?;
    let request = session.request(
        CommitSnapshotRequest {
            snapshotter: snapshotter.clone(),
            name: layer.chain_id.to_string(),
            key: key.clone(),
            ..CommitSnapshotRequest::default()
        },
        Some(&lease.id),
    );
    let what = format!("committing layer {}", index + 1);
    match session
        .call_within(deadline(layer.size), &what, snapshots.commit(request))
        .await
    {
        Ok(_) => Ok(()),
        // Another loader was quicker. Ours goes, theirs is held.
        Err(failure) if failure.already_exists() => {
            let request = session.request(
                RemoveSnapshotRequest {
                    snapshotter: snapshotter.clone(),
                    key,
                },
                Some(&lease.id),
            );
            session
                .call("removing a spare snapshot", snapshots.remove(request))
                .await?;
            let kind = format!("snapshots/{snapshotter}");
            lease
                .hold(session, &kind, &layer.chain_id.to_string())
                .await?;
            if has_snapshot(session, &layer.chain_id).await? {
                Ok(())
            } else {
                Err(failure.into())
            }
        }
        Err(failure) => Err(failure.into()),
    }
}

async fn apply(
    session: &Session,
    lease: &Lease,
    image: &Image,
    index: usize,
    mounts: Vec<Mount>,
) -> Result<()> {
    let layer = &image.layers[index];
    let request = session.request(
        ApplyRequest {
            diff: Some(Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size: layer.size.cast_signed(),
                annotations: HashMap::new(),
            }),
            mounts,
            ..ApplyRequest::default()
        },
        Some(&lease.id),
    );
    let mut client = DiffClient::new(session.channel());
    let what = format!("unpacking layer {}", index + 1);
    let applied = session
        .call_within(deadline(layer.size * 4), &what, client.apply(request))
        .await
        .map_err(|failure| match damaged(&failure.text) {
            true => crate::image::refused(format!("layer {} cannot be unpacked", index + 1))
                .because(failure.text)
                .hint(crate::image::AGAIN),
            false => failure.into(),
        })?
        .applied
        .map(|descriptor| descriptor.digest)
        .unwrap_or_default();
    if applied == layer.diff_id.to_string() {
        return Ok(());
    }
    match applied.parse() {
        Ok(found) => {
            let diff_ids: Vec<_> = image.layers.iter().map(|l| l.diff_id.clone()).collect();
            Err(crate::image::wrong_diff_id(index, &diff_ids, &found))
        }
        Err(e) => Err(Error::new(
            ErrorKind::Load,
            format!("node {}: {what} gave no digest", session.node().name),
        )
        .because(e)),
    }
}

/// Tells whether containerd could not unpack a layer because of what is in it: the words of Go's
/// tar and gzip, of klauspost's zstd and of pigz, which containerd prefers where it is installed.
fn damaged(text: &str) -> bool {
    [
        "archive/tar:",
        "gzip:",
        "pigz:",
        "unexpected EOF",
        "invalid input:",
        "magic number mismatch",
        "corrupt",
    ]
    .iter()
    .any(|sign| text.contains(sign))
}

/// Makes sure that everything a name will need is there.
///
/// # Errors
/// Load error, naming what is missing.
pub async fn check(session: &Session, image: &Image) -> Result<()> {
    let missing = |what: String| {
        Error::new(
            ErrorKind::Load,
            format!(
                "node {} lost {what} while the image was loaded",
                session.node().name
            ),
        )
        .hint("something on the node removes images; run the command again")
    };
    for document in [&image.manifest, &image.config] {
        if !has_blob(session, &document.digest).await? {
            return Err(missing(document.digest.to_string()));
        }
    }
    if let Some(top) = image.top()
        && !has_snapshot(session, top).await?
    {
        return Err(missing(format!("the unpacked layers ({top})")));
    }
    Ok(())
}
