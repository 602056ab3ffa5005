//! OCI layouts: an `index.json` and blobs by digest.

use std::collections::{BTreeSet, HashMap};

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;

use super::Entry;
use super::store::Store;
use crate::error::Result;
use crate::image::choose::Chooser;
use crate::image::{AGAIN, Blobs, Digest, Image, MAX_MANIFEST, Platform, json, refused};
use crate::reference::Reference;
use crate::source::spool::FileBlobs;

/// The annotation with an image's full name.
const NAME: &str = "io.containerd.image.name";
/// The annotation with a name or, as skopeo, umoci and buildah write it, a tag alone.
const REF: &str = "org.opencontainers.image.ref.name";

/// More manifests than any layout lists.
const MAX_DESCRIPTORS: usize = 10_000;

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Lists the images of an OCI layout. Descriptors without a name, or with the same digest, are
/// one image: its platforms, or its names.
pub(super) fn images(store: &Store) -> Result<Vec<Entry>> {
    check_version(store)?;
    let index = store.small("index.json", MAX_MANIFEST)?;
    let index: ImageIndex = json::read(&index, "index.json")?;
    if index.manifests().len() > MAX_DESCRIPTORS {
        return Err(refused(format!(
            "index.json lists more than {MAX_DESCRIPTORS} manifests"
        ))
        .hint(AGAIN));
    }
    struct Listed {
        digest: String,
        /// Whether the index tags it: two that it tags are two images, two that it does not are
        /// two platforms of one.
        tagged: bool,
        names: BTreeSet<String>,
        tags: BTreeSet<String>,
        descriptors: Vec<Descriptor>,
    }
    let mut images: Vec<Listed> = Vec::new();
    for descriptor in index.manifests() {
        let annotation = |key: &str| {
            let annotations = descriptor.annotations().as_ref()?;
            annotations.get(key).map(String::as_str)
        };
        let (full, short) = (annotation(NAME), annotation(REF));
        let name = full
            .or(short)
            .filter(|text| text.contains('/') || text.contains(':'))
            .and_then(|text| Reference::parse(text).ok())
            .map(|name| name.to_string());
        let tag = short.map(str::to_owned);
        let digest = descriptor.digest().to_string();
        let tagged = full.or(short).is_some();
        let known = images
            .iter_mut()
            .find(|image| image.digest == digest || (!tagged && !image.tagged));
        match known {
            Some(image) => {
                image.names.extend(name);
                image.tags.extend(tag);
                image.descriptors.push(descriptor.clone());
            }
            None => images.push(Listed {
                digest,
                tagged,
                names: name.into_iter().collect(),
                tags: tag.into_iter().collect(),
                descriptors: vec![descriptor.clone()],
            }),
        }
    }
    Ok(images
        .into_iter()
        .map(|image| Entry {
            names: image.names,
            tags: image.tags,
            content: super::Content::Layout(image.descriptors),
        })
        .collect())
}

/// Refuses layouts of a later version than is known. Where it is not said, the rest tells.
fn check_version(store: &Store) -> Result<()> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    if !store.has("oci-layout") {
        return Ok(());
    }
    let layout = store.small("oci-layout", 4096)?;
    let layout: Layout = json::read(&layout, "oci-layout")?;
    let version = layout.image_layout_version;
    match version.starts_with("1.") {
        true => Ok(()),
        false => Err(refused(format!(
            "the OCI layout is of version {version}, known is 1.0.0"
        ))
        .hint("write it as an older version, or look for a newer kindlift")),
    }
}

pub(super) fn read(
    store: &Store,
    descriptors: &[Descriptor],
    elsewhere: &Blobs,
    platform: &Platform,
) -> Result<(Image, FileBlobs)> {
    let mut chooser = Chooser::new(descriptors, platform);
    while let Some(want) = chooser.want()? {
        let digest: Digest = want.descriptor.digest().to_string().parse()?;
        let path = blob_path(&digest);
        let document = match store.lacks(&path) {
            true => None,
            false => Some(store.small(&path, want.limit)?),
        };
        chooser.give(document)?;
    }
    let image = chooser.finish()?;
    let mut extents = HashMap::new();
    for (i, layer) in image.layers.iter().enumerate() {
        let path = blob_path(&layer.digest);
        if store.lacks(&path) && elsewhere.get(&layer.digest) == Some(&layer.size) {
            continue;
        }
        let extent = store
            .find(&path)
            .map_err(|e| e.within(format!("layer {} is not there", i + 1)))?;
        if extent.len != layer.size {
            return Err(refused(format!(
                "layer {} has {} bytes, its manifest says {}",
                i + 1,
                extent.len,
                layer.size
            ))
            .hint(AGAIN));
        }
        extents.insert(layer.digest.clone(), extent);
    }
    Ok((image, FileBlobs::new(extents)))
}
