//! Unpacked layers: containerd's snapshots, each named by its chain ID.
//!
//! A snapshot that kindlift unpacks is labelled with the blobs that it comes from: a push names a
//! layer by the digest of its blob, which nodes that discard blobs could not tell otherwise.

use std::collections::HashMap;
use std::time::Duration;

use containerd_client::services::v1::ApplyRequest;
use containerd_client::services::v1::diff_client::DiffClient;
use containerd_client::services::v1::snapshots::snapshots_client::SnapshotsClient;
use containerd_client::services::v1::snapshots::{
    CommitSnapshotRequest, Info, Kind, ListSnapshotsRequest, PrepareSnapshotRequest,
    RemoveSnapshotRequest, StatSnapshotRequest, UpdateSnapshotRequest,
};
use containerd_client::tonic::{Request, Response};
use containerd_client::types::{Descriptor, Mount};
use futures_util::future::try_join_all;

use super::Tunnel;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{AGAIN, Blobs, ChainId, DiffId, Layer, refused, wrong_diff_id};
use crate::node::Failure;
use crate::node::lease::{Held, Lease};

/// The least speed at which a node is taken to unpack, in bytes a second: such a step tells
/// nothing of how far it is, and may take that long while the node is alive.
const SLOWEST: u64 = 1 << 20;
/// The largest answer that is read, in bytes: containerd's own limit.
const MAX_MESSAGE: usize = 16 << 20;
/// Label of a snapshot; a blob's hex digits follow, and its value is the blob's size in bytes.
const BLOB: &str = "io.kindlift.blob.";

impl Tunnel {
    /// Looks committed snapshots up; returns the blobs that each is labelled with: those that its
    /// layer is known as, compressed and uncompressed.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn snapshots(
        &self,
        chains: &[&ChainId],
    ) -> Result<Vec<Option<Blobs>>, Failure> {
        try_join_all(chains.iter().map(|chain| find(self, chain))).await
    }

    /// Returns the blobs that all unpacked layers are labelled with.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn all_blobs(&self) -> Result<Blobs, Failure> {
        let request = self.request(
            ListSnapshotsRequest {
                snapshotter: self.facts().snapshotter.clone(),
                filters: vec!["kind==committed".to_owned()],
            },
            None,
        );
        let mut client =
            SnapshotsClient::new(self.channel()).max_decoding_message_size(MAX_MESSAGE);
        let listing = async {
            let mut found = Blobs::new();
            let mut stream = client.list(request).await?.into_inner();
            while let Some(part) = stream.message().await? {
                found.extend(part.info.iter().flat_map(|info| blobs(&info.labels)));
            }
            Ok(Response::new(found))
        };
        self.call("listing the layers", listing).await
    }
}

async fn find(tunnel: &Tunnel, chain: &ChainId) -> Result<Option<Blobs>, Failure> {
    let request = tunnel.request(
        StatSnapshotRequest {
            snapshotter: tunnel.facts().snapshotter.clone(),
            key: chain.to_string(),
        },
        None,
    );
    let mut client = SnapshotsClient::new(tunnel.channel());
    match tunnel
        .call("looking for a layer", client.stat(request))
        .await
    {
        Ok(answer) => Ok(answer
            .info
            .filter(|info| info.kind == i32::from(Kind::Committed))
            .map(|info| blobs(&info.labels))),
        Err(failure) if failure.not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn blobs(labels: &HashMap<String, String>) -> Blobs {
    labels
        .iter()
        .filter_map(|(key, size)| {
            let digest = format!("sha256:{}", key.strip_prefix(BLOB)?);
            Some((digest.parse().ok()?, size.parse().ok()?))
        })
        .collect()
}

fn labels(blobs: &Blobs) -> HashMap<String, String> {
    blobs
        .iter()
        .map(|(digest, size)| (format!("{BLOB}{}", digest.hex()), size.to_string()))
        .collect()
}

/// Notes that an unpacked layer comes from this blob too.
///
/// # Errors
/// The call's failure; none, if the snapshot is not there.
pub(super) async fn note(tunnel: &Tunnel, layer: &Layer) -> Result<(), Failure> {
    let labels = labels(&HashMap::from([(layer.digest.clone(), layer.size)]));
    let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
    let request = tunnel.request(
        UpdateSnapshotRequest {
            snapshotter: tunnel.facts().snapshotter.clone(),
            info: Some(Info {
                name: layer.chain_id.to_string(),
                labels,
                ..Info::default()
            }),
            update_mask: Some(prost_types::FieldMask { paths }),
        },
        None,
    );
    let mut client = SnapshotsClient::new(tunnel.channel());
    match tunnel
        .call("labelling a layer", client.update(request))
        .await
    {
        Err(failure) if failure.not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// One layer to unpack on one node, whose blob is there.
pub(crate) struct Unpack<'a> {
    /// The node.
    pub tunnel: &'a Tunnel,
    /// What holds the layer there.
    pub lease: &'a Lease,
    /// What tells this attempt from others under the same lease.
    pub key: String,
    /// The layer.
    pub layer: &'a Layer,
    /// The stack that it lies upon; none for the lowest.
    pub below: Option<&'a ChainId>,
    /// The diff IDs of all layers of its image, bottom first.
    pub diff_ids: &'a [DiffId],
    /// Where it is among them.
    pub index: usize,
}

impl Unpack<'_> {
    /// Unpacks it: Prepare, Apply, compare the diff ID, Commit. Returns the blobs that it is known
    /// to come from now.
    ///
    /// # Errors
    /// Image error, if the layer's content is not what the config says; load error otherwise.
    pub async fn run(&self) -> Result<Blobs> {
        let (tunnel, layer) = (self.tunnel, self.layer);
        let key = format!("{}-{}", self.lease.id, self.key);
        let mounts = self.prepare(&key).await?;
        let raw = self.apply(mounts).await?;
        let mut blobs = Blobs::from([(layer.diff_id.0.clone(), raw)]);
        blobs.insert(layer.digest.clone(), layer.size);
        match self.commit(&key, &blobs).await {
            Ok(()) => Ok(blobs),
            // Another loader was quicker. Ours goes, theirs is held.
            Err(failure) if failure.already_exists() => {
                self.remove(key).await?;
                tunnel
                    .hold(self.lease, &[Held::Snapshot(&layer.chain_id)])
                    .await?;
                find(tunnel, &layer.chain_id)
                    .await?
                    .ok_or_else(|| failure.into())
            }
            Err(failure) => Err(failure.into()),
        }
    }

    async fn prepare(&self, key: &str) -> Result<Vec<Mount>, Failure> {
        let request = self.request(PrepareSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.to_owned(),
            parent: self.below.map_or_else(String::new, ToString::to_string),
            labels: HashMap::new(),
        });
        let what = format!("preparing layer {}", self.index + 1);
        let mut client = SnapshotsClient::new(self.tunnel.channel());
        let prepared = self.tunnel.call(&what, client.prepare(request)).await?;
        Ok(prepared.mounts)
    }

    /// Applies the blob to the mounts and compares the diff ID. Returns the uncompressed size.
    async fn apply(&self, mounts: Vec<Mount>) -> Result<u64> {
        let (layer, index) = (self.layer, self.index);
        let request = self.request(ApplyRequest {
            diff: Some(Descriptor {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size: layer.size.cast_signed(),
                annotations: HashMap::new(),
            }),
            mounts,
            ..ApplyRequest::default()
        });
        let mut client = DiffClient::new(self.tunnel.channel());
        let what = format!("unpacking layer {}", index + 1);
        let applied = self
            .tunnel
            .call_within(deadline(layer.size * 4), &what, client.apply(request))
            .await
            .map_err(|failure| match damaged(&failure.text) {
                true => refused(format!("layer {} cannot be unpacked", index + 1))
                    .because(failure.text)
                    .hint(AGAIN),
                false => failure.into(),
            })?
            .applied
            .unwrap_or_default();
        if applied.digest == layer.diff_id.to_string() {
            return Ok(applied.size.cast_unsigned());
        }
        match applied.digest.parse() {
            Ok(found) => Err(wrong_diff_id(index, self.diff_ids, &found)),
            Err(e) => Err(Error::new(
                ErrorKind::Load,
                format!("node {}: {what} gave no digest", self.tunnel.node().name),
            )
            .because(e)),
        }
    }

    async fn commit(&self, key: &str, blobs: &Blobs) -> Result<(), Failure> {
        let request = self.request(CommitSnapshotRequest {
            snapshotter: self.snapshotter(),
            name: self.layer.chain_id.to_string(),
            key: key.to_owned(),
            labels: labels(blobs),
        });
        let what = format!("committing layer {}", self.index + 1);
        let mut client = SnapshotsClient::new(self.tunnel.channel());
        let commit = client.commit(request);
        let committed = self
            .tunnel
            .call_within(deadline(self.layer.size), &what, commit);
        committed.await.map(drop)
    }

    async fn remove(&self, key: String) -> Result<(), Failure> {
        let request = self.request(RemoveSnapshotRequest {
            snapshotter: self.snapshotter(),
            key,
        });
        let mut client = SnapshotsClient::new(self.tunnel.channel());
        let what = "removing a spare snapshot";
        self.tunnel
            .call(what, client.remove(request))
            .await
            .map(drop)
    }

    fn snapshotter(&self) -> String {
        self.tunnel.facts().snapshotter.clone()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        self.tunnel.request(message, Some(&self.lease.id))
    }
}

/// Tells whether containerd could not unpack a layer because of what is in it: the words of Go's
/// tar and gzip, of klauspost's zstd and of pigz, which containerd prefers where it is installed.
pub(crate) fn damaged(text: &str) -> bool {
    let signs = [
        "archive/tar:",
        "gzip:",
        "pigz:",
        "unexpected EOF",
        "invalid input:",
        "magic number mismatch",
        "corrupt",
    ];
    // A disk that is full makes tar and pigz complain too.
    !text.contains("no space left") && signs.iter().any(|sign| text.contains(sign))
}

pub(crate) fn deadline(bytes: u64) -> Duration {
    Duration::from_secs(60 + bytes / SLOWEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Digest;

    #[test]
    fn labels_keep_what_a_layer_comes_from() {
        let known = Blobs::from([(Digest::of(b"gzip"), 4), (Digest::of(b"raw"), 300)]);
        let mut labels = labels(&known);
        labels.insert("containerd.io/gc.root".into(), "now".into());
        labels.insert(format!("{BLOB}nonsense"), "1".into());
        assert_eq!(blobs(&labels), known);
    }
}
