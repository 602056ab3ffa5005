//! Reading an image out of an archive file: an OCI layout in a tar, or what `docker save` wrote
//! before Docker 25.
//!
//! The tar is walked once for its headers; nothing of a layer is read here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;

use super::{Digest, Image, MAX_CONFIG, MAX_MANIFEST, Platform};
use crate::error::{Error, ErrorKind, Result};
use crate::source::spool::{Extent, FileBlobs};

/// How deep indexes may nest before the archive is refused.
const MAX_DEPTH: usize = 4;
/// More files than any image has blobs.
const MAX_ENTRIES: usize = 100_000;

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Image, why)
}

/// The members of a tar, by path.
struct Members {
    file: Arc<File>,
    files: HashMap<String, Extent>,
    links: HashMap<String, String>,
}

/// Reads the image for a platform out of an archive.
///
/// # Errors
/// Image error, if the archive is damaged, holds several images, or none for the platform.
pub fn read(file: Arc<File>, platform: &Platform) -> Result<(Image, FileBlobs)> {
    let members = Members::index(file)?;
    if members.files.contains_key("index.json") {
        read_layout(&members, platform)
    } else if members.files.contains_key("manifest.json") {
        read_docker(&members, platform)
    } else {
        Err(
            refused("the archive has neither index.json nor manifest.json")
                .hint("kindlift reads OCI archives and what `docker save` writes"),
        )
    }
}

impl Members {
    fn index(file: Arc<File>) -> Result<Self> {
        let damaged = |e: std::io::Error| refused("the archive is damaged").because(e);
        let mut handle = file.try_clone().map_err(damaged)?;
        handle.seek(SeekFrom::Start(0)).map_err(damaged)?;
        let length = handle.metadata().map_err(damaged)?.len();
        let mut archive = tar::Archive::new(BufReader::new(handle));
        let mut files = HashMap::new();
        let mut links = HashMap::new();
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let path = clean(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let extent = Extent {
                    offset: entry.raw_file_position(),
                    len: entry.size(),
                };
                if extent
                    .offset
                    .checked_add(extent.len)
                    .is_none_or(|end| end > length)
                {
                    return Err(refused(format!("the archive ends in the middle of {path}")));
                }
                if files.insert(path.clone(), extent).is_some() {
                    return Err(refused(format!("the archive has {path} twice")));
                }
            } else if kind.is_symlink() || kind.is_hard_link() {
                if let Some(target) = entry.link_name_bytes() {
                    let target = String::from_utf8_lossy(&target).into_owned();
                    links.insert(path, target);
                }
            } else if !kind.is_dir() && !kind.is_pax_global_extensions() {
                return Err(refused(format!(
                    "{path} in the archive is neither file nor folder"
                )));
            }
            if files.len() + links.len() > MAX_ENTRIES {
                return Err(refused(format!(
                    "the archive has more than {MAX_ENTRIES} members"
                )));
            }
        }
        Ok(Self { file, files, links })
    }

    /// Finds a member; Docker before 25 writes a layer that occurs twice as a link.
    fn find(&self, path: &str) -> Result<Extent> {
        if let Some(extent) = self.files.get(path) {
            return Ok(*extent);
        }
        let missing = || refused(format!("the archive lacks {path}"));
        let target = self.links.get(path).ok_or_else(missing)?;
        let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let resolved = match target.strip_prefix("../") {
            Some(up) => match beside.rsplit_once('/') {
                Some((above, _)) => format!("{above}/{up}"),
                None => up.to_owned(),
            },
            None => target.clone(),
        };
        self.files.get(&resolved).copied().ok_or_else(missing)
    }

    fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let extent = self.find(path)?;
        if extent.len > limit {
            return Err(refused(format!(
                "{path} has {} bytes, more than {limit}",
                extent.len
            )));
        }
        let len = usize::try_from(extent.len).expect("the limit fits in memory");
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, extent.offset)
            .map_err(|e| refused(format!("cannot read {path}")).because(e))?;
        Ok(bytes)
    }

    /// Reads a small blob and checks its digest and size.
    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let path = format!("blobs/sha256/{}", digest.hex());
        let bytes = self.small(&path, limit)?;
        if bytes.len() as u64 != descriptor.size() {
            return Err(refused(format!(
                "{digest} has {} bytes where {} are promised",
                bytes.len(),
                descriptor.size()
            )));
        }
        let found = Digest::of(&bytes);
        if found != digest {
            return Err(refused(format!("the content of {path} is {found}")));
        }
        Ok(bytes)
    }
}

/// Refuses absolute paths and `..`, and drops `./` and the final slash.
fn clean(path: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(path)
        .map_err(|_| refused("the archive has a path that is not UTF-8"))?;
    let text = text.trim_start_matches("./").trim_end_matches('/');
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(refused(format!(
            "the archive's path {text:?} leads outside"
        )));
    }
    Ok(text.to_owned())
}

fn read_layout(members: &Members, platform: &Platform) -> Result<(Image, FileBlobs)> {
    let index = members.small("index.json", MAX_MANIFEST)?;
    let index: ImageIndex = serde_json::from_slice(&index)
        .map_err(|e| refused("index.json cannot be read").because(e))?;
    let mut seen = Vec::new();
    let mut found = Vec::new();
    manifests(
        members,
        index.manifests(),
        platform,
        0,
        &mut seen,
        &mut found,
    )?;
    found.sort_by_key(|(_, level)| std::cmp::Reverse(*level));
    let Some((manifest, _)) = found.into_iter().next() else {
        seen.sort();
        seen.dedup();
        let has = if seen.is_empty() {
            "none".to_owned()
        } else {
            seen.join(", ")
        };
        return Err(refused(format!(
            "the image has no manifest for {platform} (it has: {has})"
        ))
        .hint("build or pull it for that platform"));
    };
    let bytes = members.blob(&manifest, MAX_MANIFEST)?;
    let read: oci_spec::image::ImageManifest = serde_json::from_slice(&bytes)
        .map_err(|e| refused("the image's manifest cannot be read").because(e))?;
    let config = members.blob(read.config(), MAX_CONFIG)?;
    let image = Image::from_documents(bytes, manifest.media_type().as_ref(), config)?;
    let mut extents = HashMap::new();
    for (i, layer) in image.layers.iter().enumerate() {
        let path = format!("blobs/sha256/{}", layer.digest.hex());
        let extent = members.find(&path)?;
        if extent.len != layer.size {
            return Err(refused(format!(
                "layer {} has {} bytes, its manifest says {}",
                i + 1,
                extent.len,
                layer.size
            )));
        }
        extents.insert(layer.digest.clone(), extent);
    }
    Ok((image, FileBlobs::new(Arc::clone(&members.file), extents)))
}

/// Collects the manifests that the platform runs, with how well they fit.
///
/// Manifests whose blob is not in the archive are passed over: an index names every platform of
/// an image, an export holds one.
fn manifests(
    members: &Members,
    descriptors: &[Descriptor],
    platform: &Platform,
    depth: usize,
    seen: &mut Vec<String>,
    found: &mut Vec<(Descriptor, u32)>,
) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(refused(format!(
            "the archive's indexes nest deeper than {MAX_DEPTH}"
        )));
    }
    for descriptor in descriptors {
        if is_attestation(descriptor) {
            continue;
        }
        let digest: Digest = descriptor.digest().to_string().parse()?;
        if !members
            .files
            .contains_key(&format!("blobs/sha256/{}", digest.hex()))
        {
            continue;
        }
        let media_type = descriptor.media_type().to_string();
        if media_type.contains("image.index") || media_type.contains("manifest.list") {
            let bytes = members.blob(descriptor, MAX_MANIFEST)?;
            let index: ImageIndex = serde_json::from_slice(&bytes)
                .map_err(|e| refused("an index of the image cannot be read").because(e))?;
            manifests(members, index.manifests(), platform, depth + 1, seen, found)?;
            continue;
        }
        let bytes = members.blob(descriptor, MAX_MANIFEST)?;
        let read: oci_spec::image::ImageManifest = serde_json::from_slice(&bytes)
            .map_err(|e| refused("a manifest of the image cannot be read").because(e))?;
        let config = members.blob(read.config(), MAX_CONFIG)?;
        let image = Image::from_documents(bytes, &media_type, config)?;
        seen.push(image.platform.to_string());
        let known = found
            .iter()
            .any(|(other, _)| other.digest() == descriptor.digest());
        if platform.runs(&image.platform) && !known {
            found.push((descriptor.clone(), image.platform.level()));
        }
    }
    Ok(())
}

fn is_attestation(descriptor: &Descriptor) -> bool {
    let marked = descriptor
        .annotations()
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key("vnd.docker.reference.type"));
    let unknown = descriptor
        .platform()
        .as_ref()
        .is_some_and(|platform| platform.os().to_string() == "unknown");
    marked || unknown
}

/// One image in the `manifest.json` of an archive by Docker.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
}

/// Reads what `docker save` wrote before Docker 25: a config and uncompressed layers, for which
/// a manifest is made here.
fn read_docker(members: &Members, platform: &Platform) -> Result<(Image, FileBlobs)> {
    let list = members.small("manifest.json", MAX_MANIFEST)?;
    let list: Vec<DockerImage> = serde_json::from_slice(&list)
        .map_err(|e| refused("manifest.json cannot be read").because(e))?;
    let [docker] = list.as_slice() else {
        return Err(refused(format!("the archive holds {} images", list.len())));
    };
    let config = members.small(&docker.config, MAX_CONFIG)?;
    #[derive(Deserialize)]
    struct Rootfs {
        diff_ids: Vec<String>,
    }
    #[derive(Deserialize)]
    struct Config {
        rootfs: Rootfs,
    }
    let read: Config = serde_json::from_slice(&config)
        .map_err(|e| refused("the image's config cannot be read").because(e))?;
    let diff_ids = read.rootfs.diff_ids;
    if diff_ids.len() != docker.layers.len() {
        return Err(refused(format!(
            "mismatched image rootfs: the archive has {} layers, the config {}",
            docker.layers.len(),
            diff_ids.len()
        ))
        .hint("Docker 25.0.0 writes such archives; upgrade to 25.0.1 or later and save again"));
    }
    let mut extents = HashMap::new();
    let mut layers = Vec::new();
    for (path, diff_id) in docker.layers.iter().zip(&diff_ids) {
        let extent = members.find(path)?;
        let digest: Digest = diff_id.parse()?;
        layers.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
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
        return Err(refused(format!(
            "the image is for {}, not {platform}",
            image.platform
        )));
    }
    Ok((image, FileBlobs::new(Arc::clone(&members.file), extents)))
}
