//! Archives by Docker: a `manifest.json` that lists configs and layers by path.

use std::collections::{BTreeSet, HashMap};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::Entry;
use super::store::{NO_TOOL, Store, clean};
use crate::error::Result;
use crate::image::choose::not_for;
use crate::image::validate::mismatched;
use crate::image::{
    AGAIN, Compression, Digest, Image, MAX_CONFIG, MAX_MANIFEST, Platform, json, refused,
};
use crate::reference::Reference;
use crate::source::spool::{Extent, FileBlobs};

/// One image in the `manifest.json` of an archive by Docker.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    config: String,
    #[serde(default)]
    layers: Option<Vec<String>>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

pub(super) fn images(store: &Store) -> Result<Vec<Entry>> {
    let list = store.small("manifest.json", MAX_MANIFEST)?;
    let list: Vec<DockerImage> = json::read(&list, "manifest.json")?;
    let entry = |docker: DockerImage| Entry {
        names: docker
            .repo_tags
            .iter()
            .flatten()
            .filter_map(|name| Reference::parse(name).ok())
            .map(|name| name.to_string())
            .collect(),
        tags: BTreeSet::new(),
        content: super::Content::Docker(docker),
    };
    Ok(list.into_iter().map(entry).collect())
}

/// Reads an image of an archive by Docker: a config and layers, for which a manifest is made here.
pub(super) fn read(
    store: &Store,
    docker: &DockerImage,
    platform: &Platform,
) -> Result<(Image, FileBlobs)> {
    #[derive(Deserialize)]
    struct Rootfs {
        #[serde(default)]
        diff_ids: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    for path in std::iter::once(&docker.config).chain(docker.layers.iter().flatten()) {
        if clean(path.as_bytes())? != *path {
            return Err(
                refused(format!("manifest.json names a strange path, {path:?}")).hint(NO_TOOL),
            );
        }
    }
    let config = store.small(&docker.config, MAX_CONFIG)?;
    if let Some(named) = digest_in(&docker.config) {
        let found = Digest::of(&config);
        if found != named {
            return Err(
                refused(format!("the content of {} is {found}", docker.config)).hint(AGAIN),
            );
        }
    }
    let read: Config = json::read(&config, "the image's config")?;
    let diff_ids = read.rootfs.diff_ids.unwrap_or_default();
    let paths = docker.layers.as_deref().unwrap_or_default();
    if diff_ids.len() != paths.len() {
        return Err(mismatched(paths.len(), diff_ids.len()));
    }
    let mut extents = HashMap::new();
    let mut layers = Vec::new();
    for (path, diff_id) in paths.iter().zip(&diff_ids) {
        let extent = store.follow(path)?;
        let compression = compression(&extent);
        let digest = match compression {
            // Its digest is its diff ID; that the content agrees is checked where it goes.
            Compression::None => diff_id.parse()?,
            Compression::Gzip | Compression::Zstd => digest_of(&extent)?,
        };
        layers.push(serde_json::json!({
            "mediaType": compression.media_type(),
            "digest": digest,
            "size": extent.len,
        }));
        extents.insert(digest, extent);
    }
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::of(&config),
            "size": config.len(),
        },
        "layers": layers,
    });
    let image = Image::from_documents(manifest.to_string().into_bytes(), media_type, config)?;
    if !platform.runs(&image.platform) {
        return Err(not_for(platform, [image.platform.to_string()]));
    }
    Ok((image, FileBlobs::new(extents)))
}

/// Returns the digest that a config's path is made of: `HEX.json` from Docker before 25,
/// `blobs/sha256/HEX` since, `sha256:HEX` from go-containerregistry. Others choose other names.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let hex = name.strip_suffix(".json").unwrap_or(name);
    let hex = hex.strip_prefix("sha256:").unwrap_or(hex);
    format!("sha256:{hex}").parse().ok()
}

/// Tells how a layer is compressed, by its first bytes: docker-archives do not say.
fn compression(extent: &Extent) -> Compression {
    let mut head = [0; 4];
    let len = usize::try_from(extent.len.min(4)).unwrap_or(0);
    match extent.read_exact_at(&mut head[..len], 0) {
        Ok(()) => Compression::of(&head[..len]),
        Err(_) => Compression::None,
    }
}

fn digest_of(extent: &Extent) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; crate::source::CHUNK];
    let mut done = 0;
    while done < extent.len {
        let left = usize::try_from(extent.len - done).unwrap_or(chunk.len());
        let piece = left.min(chunk.len());
        extent
            .read_exact_at(&mut chunk[..piece], done)
            .map_err(|e| refused("cannot read a layer").because(e))?;
        hasher.update(&chunk[..piece]);
        done += piece as u64;
    }
    Ok(Digest::of_hash(&hasher.finalize()))
}
