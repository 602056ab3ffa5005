//! Writing one image into an archive or a folder: the same bytes for the same image, every blob
//! and every layer checked on the way.
//!
//! No times, no owners, members in the order of their names. Manifest, config and layers of an
//! OCI layout are those of the source as they are, so the image keeps its ID and its digest; only
//! a manifest in Docker's media types is written anew in OCI's, which some readers insist on.

mod layer;
mod output;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

pub(crate) use layer::checked;
pub use output::Output;

use super::{Compression, DiffId, Digest, Document, Image, refused};
use crate::error::Result;
use crate::reference::Reference;
use crate::source::Source;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How an image is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// A tar with an OCI layout, and the `manifest.json` by which Docker and crane read it too, as
    /// `docker save` writes since Docker 25.
    OciArchive,
    /// A tar as `docker save` wrote before: layers uncompressed.
    DockerArchive,
    /// A folder with an OCI layout.
    Oci,
}

/// A file of what is written.
enum Member<'a> {
    /// In memory.
    Document(&'a [u8]),
    /// A layer's blob, as it is stored.
    Blob(usize),
    /// A layer, uncompressed.
    Tar(usize),
}

/// Writes an image under names into an output. Returns how many bytes its members have.
///
/// # Errors
/// Image error, if a layer is not what the manifest and the config say; internal error, if the
/// output cannot be written.
pub async fn pack(
    image: &Image,
    names: &[Reference],
    source: &dyn Source,
    format: Format,
    output: &mut Output,
) -> Result<u64> {
    agree(image)?;
    let mut bytes = 0;
    let documents = match format {
        Format::DockerArchive => docker_documents(image, names),
        Format::OciArchive | Format::Oci => oci_documents(image, names, format)?,
    };
    let mut members: BTreeMap<String, Member<'_>> = documents
        .iter()
        .map(|(path, bytes)| (path.clone(), Member::Document(bytes)))
        .collect();
    for (i, layer) in image.layers.iter().enumerate() {
        match format {
            Format::DockerArchive => members
                .entry(tar_path(&layer.diff_id))
                .or_insert(Member::Tar(i)),
            Format::OciArchive | Format::Oci => members
                .entry(blob_path(&layer.digest))
                .or_insert(Member::Blob(i)),
        };
    }
    for (path, member) in members {
        let entry = output.begin(&path)?;
        bytes += match member {
            Member::Document(document) => entry.document(document)?,
            Member::Blob(i) => layer::stored(image, i, source, entry).await?,
            Member::Tar(i) => layer::uncompressed(image, i, source, entry).await?,
        };
    }
    output.end()?;
    Ok(bytes)
}

/// Refuses an image in which one blob is two layers of different content: it would be written, and
/// so checked, only once.
pub(crate) fn agree(image: &Image) -> Result<()> {
    let mut known: HashMap<&Digest, &DiffId> = HashMap::new();
    for (i, layer) in image.layers.iter().enumerate() {
        let before = known.insert(&layer.digest, &layer.diff_id);
        if before.is_some_and(|before| *before != layer.diff_id) {
            return Err(refused(format!(
                "layer {} does not match the image's rootfs: its blob is another layer's too, and \
                 the config says that their content differs",
                i + 1
            )));
        }
    }
    Ok(())
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn tar_path(diff_id: &DiffId) -> String {
    format!("{}.tar", diff_id.0.hex())
}

fn docker_documents(image: &Image, names: &[Reference]) -> Vec<(String, Vec<u8>)> {
    let config = format!("{}.json", image.config.digest.hex());
    let layers = image.layers.iter().map(|layer| tar_path(&layer.diff_id));
    let list = docker_list(&config, names, layers.collect());
    vec![
        (config, image.config.bytes.clone()),
        ("manifest.json".to_owned(), list),
    ]
}

fn docker_list(config: &str, names: &[Reference], layers: Vec<String>) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(Reference::to_string).collect();
    let list = json!([{"Config": config, "RepoTags": names, "Layers": layers}]);
    list.to_string().into_bytes()
}

fn oci_documents(
    image: &Image,
    names: &[Reference],
    format: Format,
) -> Result<Vec<(String, Vec<u8>)>> {
    let manifest = oci_manifest(image)?;
    let platform = &image.platform;
    let mut runs_on = json!({"os": platform.os, "architecture": platform.architecture});
    if let Some(variant) = &platform.variant {
        runs_on["variant"] = json!(variant);
    }
    let named = |name: &Reference| {
        json!({
            "mediaType": MANIFEST,
            "digest": manifest.digest,
            "size": manifest.bytes.len(),
            "platform": runs_on,
            "annotations": {
                // containerd's and Docker's name for it; and what skopeo, umoci and buildah look for.
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag(),
            },
        })
    };
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": names.iter().map(named).collect::<Vec<_>>(),
    });
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    let config = blob_path(&image.config.digest);
    let mut documents = vec![
        ("oci-layout".to_owned(), layout.to_string().into_bytes()),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        (blob_path(&manifest.digest), manifest.bytes),
        (config.clone(), image.config.bytes.clone()),
    ];
    if format == Format::OciArchive {
        let layers = image.layers.iter().map(|layer| blob_path(&layer.digest));
        let list = docker_list(&config, names, layers.collect());
        documents.push(("manifest.json".to_owned(), list));
    }
    Ok(documents)
}

/// Returns the image's manifest, written anew if it has media types that are not OCI's.
fn oci_manifest(image: &Image) -> Result<Document> {
    let is_oci = |media_type: &str| media_type.starts_with("application/vnd.oci.image.");
    let layers = image.layers.iter();
    if is_oci(&image.manifest.media_type)
        && is_oci(&image.config.media_type)
        && layers.clone().all(|layer| is_oci(&layer.media_type))
    {
        return Ok(image.manifest.clone());
    }
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes)
        .map_err(|e| refused("the image's manifest cannot be read").because(e))?;
    manifest["mediaType"] = json!(MANIFEST);
    manifest["config"]["mediaType"] = json!(CONFIG);
    for (i, layer) in layers.enumerate() {
        let suffix = match layer.compression {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        let media_type = format!("application/vnd.oci.image.layer.v1.tar{suffix}");
        manifest["layers"][i]["mediaType"] = json!(media_type);
    }
    let bytes = manifest.to_string().into_bytes();
    Ok(Document {
        digest: Digest::of(&bytes),
        media_type: MANIFEST.to_owned(),
        bytes,
    })
}

#[cfg(test)]
mod tests;
