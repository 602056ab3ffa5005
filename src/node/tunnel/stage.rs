//! Staging through the tunnel: blobs written and layers unpacked one by one, under the lease.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use futures_util::stream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

use super::content::{Expected, Promise, Write};
use super::snapshot::Unpack;
use super::{Tunnel, snapshot};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Digest, Document, Image};
use crate::node::inventory::Inventory;
use crate::node::lease::Lease;
use crate::node::stage::Staged;
use crate::source::{CHUNK, Source};

/// Layers that travel to one node at the same time.
const LANES: usize = 2;

impl Tunnel {
    /// Puts an image onto a node, complete and unpacked, held by the lease and by nothing else.
    ///
    /// # Errors
    /// Image error, if a layer is not what the manifest or the config says; load error otherwise.
    pub(crate) async fn stage(
        &self,
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
            let number = position.map_or(0, |i| i + 1);
            let (arrived, arrival) = oneshot::channel();
            arrivals.insert(layer.digest.clone(), arrival);
            let write = Write {
                tunnel: self.clone(),
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
                let written = write.run(blob, Promise::Known(expected)).await;
                written.map_err(|e| match e.kind() {
                    ErrorKind::Image => e.within(format!("layer {number} is damaged")),
                    _ => e,
                })?;
                let _ = arrived.send(());
                Ok::<_, Error>(())
            });
        }
        let diff_ids = image.diff_ids();
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
                let unpack = Unpack {
                    tunnel: self,
                    lease,
                    key: format!("extract-{i}"),
                    layer,
                    below: image.layers[..i].last().map(|below| &below.chain_id),
                    diff_ids: &diff_ids,
                    index: i,
                };
                unpack.run().await?;
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
        let known = image.layers.iter().zip(&inventory.unpacked);
        let unknown = known.filter(|(layer, blobs)| !blobs.contains_key(&layer.digest));
        let notes = try_join_all(unknown.map(|(layer, _)| snapshot::note(self, layer)));
        let notes = async { notes.await.map_err(Error::from) };
        let documents = async {
            if inventory.documents {
                return Ok(());
            }
            self.write_documents(lease, image, sent).await
        };
        // What did not arrive is no error of `unpack`: the transfer says why.
        tokio::try_join!(unpack, transfer, notes, documents)?;
        let sent = sent.load(Ordering::Relaxed);
        Ok(Staged {
            sent,
            skipped: image.size().saturating_sub(sent),
        })
    }

    /// Writes config and manifest with the labels that keep the image alive once it has a name.
    ///
    /// # Errors
    /// Load error.
    pub(crate) async fn write_documents(
        &self,
        lease: &Lease,
        image: &Image,
        sent: &Arc<AtomicU64>,
    ) -> Result<()> {
        let mut config = HashMap::new();
        if let Some(top) = image.top() {
            let key = format!("containerd.io/gc.ref.snapshot.{}", self.facts().snapshotter);
            config.insert(key, top.to_string());
        }
        let mut manifest = HashMap::from([(
            "containerd.io/gc.ref.content.config".to_owned(),
            image.config.digest.to_string(),
        )]);
        if !self.facts().discard {
            for (i, layer) in image.layers.iter().enumerate() {
                let key = format!("containerd.io/gc.ref.content.l.{i}");
                manifest.insert(key, layer.digest.to_string());
            }
        }
        tokio::try_join!(
            write_document(self, lease, &image.config, config, sent),
            write_document(self, lease, &image.manifest, manifest, sent)
        )?;
        Ok(())
    }
}

/// Writes one of both; one that is there gets the lease and the labels.
async fn write_document(
    tunnel: &Tunnel,
    lease: &Lease,
    document: &Document,
    labels: HashMap<String, String>,
    sent: &Arc<AtomicU64>,
) -> Result<()> {
    let write = Write {
        tunnel: tunnel.clone(),
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
