//! Staging by ctr: one import of what the node lacks, which ctr unpacks, under a name that belongs
//! to the lease.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::import::Import;
use super::{Plain, archive, held};
use crate::error::{Error, ErrorKind, Result};
use crate::image::pack::{agree, checked};
use crate::image::{AGAIN, Image, refused};
use crate::node::inventory::Inventory;
use crate::node::lease::{Held, Lease};
use crate::node::stage::{Staged, check};
use crate::node::tunnel::snapshot::damaged;
use crate::source::Source;

impl Plain {
    /// Puts an image onto the node.
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
        agree(image)?;
        let manifest = image.manifest.digest.as_str();
        // From here on whatever of it comes is held, whoever brings it.
        let layers = image.layers.iter().map(|layer| &layer.digest);
        let all = [&image.manifest.digest, &image.config.digest];
        let all = all.into_iter().chain(layers);
        let all: Vec<_> = all.map(|digest| Held::Blob(digest.as_str())).collect();
        self.hold(lease, &all).await?;

        let missing = inventory.missing(image);
        let mut members = Vec::new();
        for layer in &missing {
            let position = image.layers.iter().position(|l| l.digest == layer.digest);
            let content = checked(image, position.unwrap_or_default(), &**source);
            let member = archive::Member::blob(&lease.id, &layer.digest, layer.size, content);
            members.push(member);
        }
        let documents = [&image.config, &image.manifest];
        let there = self
            .blobs(&documents.map(|document| &document.digest))
            .await?;
        let mut bytes: u64 = missing.iter().map(|layer| layer.size).sum();
        for (document, there) in documents.into_iter().zip(there) {
            if there.is_none() {
                members.push(archive::Member::document(&lease.id, document));
                bytes += document.bytes.len() as u64;
            }
        }
        let name = held::staged_name(&lease.id);
        let size = image.manifest.bytes.len() as u64;
        let index = archive::index(&[&name], &image.manifest.media_type, manifest, size);
        let unpacking = image.layers[inventory.unpacked.len()..]
            .iter()
            .map(|layer| layer.size * 4)
            .sum::<u64>();
        let import = Import {
            what: "importing the image",
            lease: &lease.id,
            flags: vec![
                format!("--snapshotter={}", self.facts().snapshotter),
                format!("--platform={}", image.platform),
            ],
            unpacking: unpacking.max(1),
        };
        let tar = archive::tar(&lease.id, members, index);
        let imported = self.import_manifest(manifest, import, tar, sent).await;
        imported.map_err(explain)?;
        self.is_whole(&name, image).await?;
        // Not what the tar is wrapped in.
        Ok(Staged {
            sent: bytes,
            skipped: image.size().saturating_sub(bytes),
        })
    }

    /// Makes sure that ctr has done what it was asked to, whatever it said.
    async fn is_whole(&self, name: &str, image: &Image) -> Result<()> {
        let not = |what: String| {
            let message = format!("node {}: ctr has imported something else", self.node().name);
            Error::new(ErrorKind::Load, message).because(what)
        };
        let record = self.records(&[name]).await?.into_iter().next().flatten();
        let target = record.and_then(|record| record.target);
        let target = target.map(|target| target.digest).unwrap_or_default();
        if target != image.manifest.digest.as_str() {
            return Err(not(format!("{name} stands for {target:?}")));
        }
        check(&self.clone().into(), image).await?;
        if let Some(top) = image.top() {
            let key = format!("containerd.io/gc.ref.snapshot.{}", self.facts().snapshotter);
            let found = self.blobs(&[&image.config.digest]).await?;
            let labels = found.into_iter().next().flatten().unwrap_or_default();
            if labels.get(&key) != Some(&top.to_string()) {
                return Err(not(
                    "its config does not hold its unpacked layers".to_owned()
                ));
            }
        }
        Ok(())
    }
}

/// Tells what is wrong with the image from what is wrong with the node.
fn explain(error: Error) -> Error {
    if error.kind() == ErrorKind::Image {
        return error;
    }
    let said = error.causes().join("\n");
    // ctr does not say which layer it is.
    if said.contains("wrong diff id calculated on extraction") {
        return refused("a layer does not match the image's rootfs")
            .because(said)
            .hint(AGAIN);
    }
    if damaged(&said) {
        return refused("a layer cannot be unpacked")
            .because(said)
            .hint(AGAIN);
    }
    error
}
