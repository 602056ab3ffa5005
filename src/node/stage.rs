//! Staging: everything an image needs on one node, complete and unpacked under a lease, before
//! any name points at it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::content::{Expected, Promise, Write, has_blob, label};
use super::inventory::Inventory;
use super::lease::Lease;
use super::session::Session;
use super::snapshot;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Digest, Document, Image};
use crate::source::{CHUNK, Source};

/// Layers that travel to one node at the same time.
const LANES: usize = 2;

/// What staging did on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Bytes of layers, manifest and config that went to the node.
    pub sent: u64,
    /// Bytes of the image that did not have to.
    pub skipped: u64,
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
        let (arrived, arrival) = oneshot::channel();
        arrivals.insert(layer.digest.clone(), arrival);
        let write = Write {
            session: Arc::clone(session),
            lease: lease.clone(),
            key: layer.digest.hex().to_owned(),
            labels: HashMap::new(),
            sent: Arc::clone(sent),
        };
        let expected = Expected {
            digest: layer.digest.clone(),
            size: layer.size,
        };
        let source = Arc::clone(source);
        let turn = Arc::clone(&lanes).acquire_owned();
        writes.spawn(async move {
            let _turn = turn.await.expect("the semaphore is never closed");
            let blob = source.open(&expected.digest);
            write.run(blob, Promise::Known(expected)).await?;
            let _ = arrived.send(());
            Ok::<_, Error>(())
        });
    }
    let unpack = async {
        for (i, layer) in image
            .layers
            .iter()
            .enumerate()
            .skip(inventory.unpacked.len())
        {
            // A failed write drops its sender; the write's own error is the one to show.
            if let Some(arrival) = arrivals.remove(&layer.digest)
                && arrival.await.is_err()
            {
                return Ok(());
            }
            snapshot::unpack(session, lease, image, i).await?;
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
    let known = image.layers.iter().zip(&inventory.unpacked);
    let unknown = known.filter(|(layer, blobs)| !blobs.contains_key(&layer.digest));
    try_join_all(unknown.map(|(layer, _)| snapshot::note(session, layer))).await?;
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
        key: document.digest.hex().to_owned(),
        labels,
        sent: Arc::clone(sent),
    };
    let expected = Expected {
        digest: document.digest.clone(),
        size: document.bytes.len() as u64,
    };
    let pieces: Vec<_> = document
        .bytes
        .chunks(CHUNK)
        .map(|piece| Ok(bytes::Bytes::copy_from_slice(piece)))
        .collect();
    let pieces = stream::iter(pieces).boxed();
    write.run(pieces, Promise::Known(expected)).await
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
        && snapshot::find(session, top).await?.is_none()
    {
        return Err(missing(format!("the unpacked layers ({top})")));
    }
    Ok(())
}
