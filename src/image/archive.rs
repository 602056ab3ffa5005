//! Reading images out of an archive or a folder: an OCI layout, or what `docker save` wrote
//! before Docker 25 and skopeo and Podman still write as docker-archive.
//!
//! A tar is walked once for its headers; of a layer nothing is read here but its first bytes, or
//! where its digest is not known.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Digest, Image, MAX_CONFIG, MAX_MANIFEST, Platform};
use crate::error::{Error, ErrorKind, Result};
use crate::reference::Reference;
use crate::source::spool::{Extent, FileBlobs};

/// How deep indexes may nest before the archive is refused.
const MAX_DEPTH: usize = 4;
/// More files than any image has blobs.
const MAX_ENTRIES: usize = 100_000;
/// Annotations that name an image in an index, the fuller name first.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

fn refused(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Image, why)
}

/// An archive or a folder with images.
pub struct Archive {
    store: Store,
    images: Vec<Entry>,
}

/// Where the files are.
enum Store {
    /// The members of a tar, by path.
    Tar {
        files: HashMap<String, Extent>,
        links: HashMap<String, String>,
    },
    /// A folder.
    Folder(PathBuf),
}

/// One image of an archive.
struct Entry {
    /// The names that the archive gives it, in full form.
    names: BTreeSet<String>,
    content: Content,
}

enum Content {
    /// In an OCI layout: what the index says of it.
    Layout(Vec<Descriptor>),
    /// In an archive by Docker.
    Docker(DockerImage),
}

/// One image in the `manifest.json` of an archive by Docker.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    layers: Option<Vec<String>>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

impl Archive {
    /// Opens a tar.
    ///
    /// # Errors
    /// Image error, if it is damaged, compressed, or no image archive.
    pub fn tar(file: Arc<File>) -> Result<Self> {
        Self::new(Store::index(&file)?)
    }

    /// Opens a folder with an OCI layout.
    ///
    /// # Errors
    /// Image error, if it is none.
    pub fn folder(path: &Path) -> Result<Self> {
        Self::new(Store::Folder(path.to_owned()))
    }

    fn new(store: Store) -> Result<Self> {
        let images = if store.has("index.json") {
            layout_images(&store)?
        } else if store.has("manifest.json") {
            docker_images(&store)?
        } else {
            return Err(refused("it has neither index.json nor manifest.json")
                .hint("kindlift reads OCI layouts and archives, and what `docker save` writes"));
        };
        if images.is_empty() {
            return Err(refused("it holds no image"));
        }
        Ok(Self { store, images })
    }

    /// Reads the image for a platform: the one of that name, or the only one.
    ///
    /// # Errors
    /// Image error, if the image is damaged, there are several and none was named, or none is for
    /// the platform.
    pub fn read(
        &self,
        name: Option<&Reference>,
        platform: &Platform,
    ) -> Result<(Image, FileBlobs)> {
        match &self.choose(name)?.content {
            Content::Layout(descriptors) => read_layout(&self.store, descriptors, platform),
            Content::Docker(docker) => read_docker(&self.store, docker, platform),
        }
    }

    /// Returns the names that the archive gives the image of that name, or its only image.
    ///
    /// # Errors
    /// Image error, if there are several and none was named.
    pub fn names(&self, name: Option<&Reference>) -> Result<Vec<Reference>> {
        self.choose(name)?
            .names
            .iter()
            .map(|name| Reference::parse(name))
            .collect()
    }

    fn choose(&self, name: Option<&Reference>) -> Result<&Entry> {
        let listing = || {
            let names: Vec<&str> = self
                .images
                .iter()
                .map(|image| {
                    image
                        .names
                        .first()
                        .map_or("one without a name", String::as_str)
                })
                .collect();
            names.join(", ")
        };
        match (name, self.images.as_slice()) {
            (None, [only]) => Ok(only),
            (None, images) => Err(refused(format!("it holds {} images", images.len())).hint(
                format!(
                    "name one behind a second colon, e.g. oci-archive:FILE:NAME; it has {}",
                    listing()
                ),
            )),
            (Some(name), images) => {
                let full = name.to_string();
                let found = images.iter().find(|image| image.names.contains(&full));
                found.ok_or_else(|| {
                    refused(format!("it has no image {}", name.familiar()))
                        .hint(format!("it has {}", listing()))
                })
            }
        }
    }
}

impl Store {
    fn index(file: &Arc<File>) -> Result<Self> {
        let damaged = |e: std::io::Error| refused("the archive is damaged").because(e);
        let mut handle = file.try_clone().map_err(damaged)?;
        handle.seek(SeekFrom::Start(0)).map_err(damaged)?;
        let length = handle.metadata().map_err(damaged)?.len();
        refuse_compressed(&mut handle)?;
        let mut archive = tar::Archive::new(BufReader::new(handle));
        let mut files = HashMap::new();
        let mut links = HashMap::new();
        for entry in archive.entries_with_seek().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let path = clean(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            if kind.is_file() {
                let extent = Extent {
                    file: Arc::clone(file),
                    offset: entry.raw_file_position(),
                    len: entry.size(),
                };
                let end = extent.offset.checked_add(extent.len);
                if end.is_none_or(|end| end > length) {
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
        Ok(Self::Tar { files, links })
    }

    fn has(&self, path: &str) -> bool {
        match self {
            Self::Tar { files, .. } => files.contains_key(path),
            Self::Folder(folder) => folder.join(path).is_file(),
        }
    }

    fn find(&self, path: &str) -> Result<Extent> {
        let missing = || refused(format!("the archive lacks {path}"));
        match self {
            Self::Tar { files, links } => {
                let found = files
                    .get(path)
                    .or_else(|| files.get(&resolve(links, path)?));
                found.cloned().ok_or_else(missing)
            }
            Self::Folder(folder) => {
                let open = || {
                    let file = File::open(folder.join(path))?;
                    let metadata = file.metadata()?;
                    if !metadata.is_file() {
                        return Err(std::io::Error::other("it is no file"));
                    }
                    Ok((file, metadata.len()))
                };
                let (file, len) = open().map_err(|e| missing().because(e))?;
                Ok(Extent {
                    file: Arc::new(file),
                    offset: 0,
                    len,
                })
            }
        }
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
        extent
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| refused(format!("cannot read {path}")).because(e))?;
        Ok(bytes)
    }

    /// Reads a small blob and checks its digest and size.
    fn blob(&self, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
        let digest: Digest = descriptor.digest().to_string().parse()?;
        let path = blob_path(&digest);
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

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Random access needs an uncompressed tar.
fn refuse_compressed(file: &mut File) -> Result<()> {
    let mut magic = [0; 4];
    let read = file.read(&mut magic).unwrap_or(0);
    file.seek(SeekFrom::Start(0))
        .map_err(|e| refused("the archive cannot be read").because(e))?;
    let tool = match &magic[..read] {
        [0x1f, 0x8b, ..] => "zcat",
        [0x28, 0xb5, 0x2f, 0xfd] => "zstdcat",
        [b'B', b'Z', b'h', _] => "bzcat",
        [0xfd, b'7', b'z', b'X'] => "xzcat",
        _ => return Ok(()),
    };
    Err(
        refused("the archive is compressed as a whole").hint(format!(
            "decompress it on the way: `{tool} FILE | kindlift load -`"
        )),
    )
}

/// Follows the link that Docker before 25 writes for a layer that occurs twice.
fn resolve(links: &HashMap<String, String>, path: &str) -> Option<String> {
    let target = links.get(path)?;
    let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    Some(match target.strip_prefix("../") {
        Some(up) => match beside.rsplit_once('/') {
            Some((above, _)) => format!("{above}/{up}"),
            None => up.to_owned(),
        },
        None => target.clone(),
    })
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

/// Lists the images of an OCI layout. Descriptors without a name, or with the same digest, are
/// one image: its platforms, or its names.
fn layout_images(store: &Store) -> Result<Vec<Entry>> {
    let index = store.small("index.json", MAX_MANIFEST)?;
    let index: ImageIndex = serde_json::from_slice(&index)
        .map_err(|e| refused("index.json cannot be read").because(e))?;
    struct Listed {
        digest: String,
        /// Whether the index tags it: two that it tags are two images, two that it does not are
        /// two platforms of one.
        tagged: bool,
        names: BTreeSet<String>,
        descriptors: Vec<Descriptor>,
    }
    let mut images: Vec<Listed> = Vec::new();
    for descriptor in index.manifests() {
        let annotation = descriptor
            .annotations()
            .as_ref()
            .and_then(|annotations| NAMES.iter().find_map(|key| annotations.get(*key)));
        // skopeo writes a tag alone where it was given no name.
        let name = annotation
            .filter(|text| text.contains('/') || text.contains(':'))
            .and_then(|text| Reference::parse(text).ok());
        let digest = descriptor.digest().to_string();
        let tagged = annotation.is_some();
        let known = images
            .iter_mut()
            .find(|image| image.digest == digest || (!tagged && !image.tagged));
        match known {
            Some(image) => {
                image.names.extend(name.map(|name| name.to_string()));
                image.descriptors.push(descriptor.clone());
            }
            None => images.push(Listed {
                digest,
                tagged,
                names: name.map(|name| name.to_string()).into_iter().collect(),
                descriptors: vec![descriptor.clone()],
            }),
        }
    }
    Ok(images
        .into_iter()
        .map(|image| Entry {
            names: image.names,
            content: Content::Layout(image.descriptors),
        })
        .collect())
}

fn docker_images(store: &Store) -> Result<Vec<Entry>> {
    let list = store.small("manifest.json", MAX_MANIFEST)?;
    let list: Vec<DockerImage> = serde_json::from_slice(&list)
        .map_err(|e| refused("manifest.json cannot be read").because(e))?;
    let entry = |docker: DockerImage| Entry {
        names: docker
            .repo_tags
            .iter()
            .flatten()
            .filter_map(|name| Reference::parse(name).ok())
            .map(|name| name.to_string())
            .collect(),
        content: Content::Docker(docker),
    };
    Ok(list.into_iter().map(entry).collect())
}

fn read_layout(
    store: &Store,
    descriptors: &[Descriptor],
    platform: &Platform,
) -> Result<(Image, FileBlobs)> {
    let mut search = Search {
        store,
        platform,
        visited: HashSet::new(),
        seen: BTreeSet::new(),
        found: Vec::new(),
    };
    search.manifests(descriptors, 0)?;
    let Search { seen, found, .. } = search;
    // The closest variant; of equals the first.
    let best = found
        .into_iter()
        .min_by_key(|image| std::cmp::Reverse(image.platform.level()));
    let Some(image) = best else {
        let has: Vec<String> = seen.into_iter().collect();
        let has = if has.is_empty() {
            "none".to_owned()
        } else {
            has.join(", ")
        };
        return Err(refused(format!(
            "the image has no manifest for {platform} (it has: {has})"
        ))
        .hint("build or pull it for that platform"));
    };
    let mut extents = HashMap::new();
    for (i, layer) in image.layers.iter().enumerate() {
        let extent = store.find(&blob_path(&layer.digest))?;
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
    Ok((image, FileBlobs::new(extents)))
}

/// A search for the images that a platform runs.
struct Search<'a> {
    store: &'a Store,
    platform: &'a Platform,
    visited: HashSet<Digest>,
    /// The platforms that are there.
    seen: BTreeSet<String>,
    found: Vec<Image>,
}

impl Search<'_> {
    /// Looks through an index, and through the indexes in it.
    ///
    /// Manifests whose blob is not in the archive are passed over: an index names every platform
    /// of an image, an export holds one. So are those for other platforms, which need not be
    /// sound, and artifacts.
    fn manifests(&mut self, descriptors: &[Descriptor], depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(refused(format!(
                "the archive's indexes nest deeper than {MAX_DEPTH}"
            )));
        }
        for descriptor in descriptors {
            let digest: Digest = descriptor.digest().to_string().parse()?;
            if is_attestation(descriptor) || !self.visited.insert(digest.clone()) {
                continue;
            }
            if let Some(named) = descriptor.platform() {
                let os = named.os().to_string();
                let architecture = named.architecture().to_string();
                let named = Platform::new(&os, &architecture, named.variant().as_deref());
                if !self.platform.runs(&named) {
                    self.seen.insert(named.to_string());
                    continue;
                }
            }
            if !self.store.has(&blob_path(&digest)) {
                continue;
            }
            let media_type = descriptor.media_type().to_string();
            let bytes = self.store.blob(descriptor, MAX_MANIFEST)?;
            if media_type.contains("image.index") || media_type.contains("manifest.list") {
                let index: ImageIndex = serde_json::from_slice(&bytes)
                    .map_err(|e| refused("an index of the image cannot be read").because(e))?;
                self.manifests(index.manifests(), depth + 1)?;
                continue;
            }
            let read: oci_spec::image::ImageManifest = serde_json::from_slice(&bytes)
                .map_err(|e| refused("a manifest of the image cannot be read").because(e))?;
            let config = self.store.blob(read.config(), MAX_CONFIG)?;
            let image = Image::from_documents(bytes, &media_type, config)?;
            self.seen.insert(image.platform.to_string());
            if self.platform.runs(&image.platform) {
                self.found.push(image);
            }
        }
        Ok(())
    }
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

/// Reads an image of an archive by Docker: a config and layers, for which a manifest is made here.
fn read_docker(
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
    let config = store.small(&docker.config, MAX_CONFIG)?;
    let read: Config = serde_json::from_slice(&config)
        .map_err(|e| refused("the image's config cannot be read").because(e))?;
    let diff_ids = read.rootfs.diff_ids.unwrap_or_default();
    let paths = docker.layers.as_deref().unwrap_or_default();
    if diff_ids.len() != paths.len() {
        return Err(refused(format!(
            "mismatched image rootfs: the archive has {} layers, the config {}",
            paths.len(),
            diff_ids.len()
        ))
        .hint("Docker 25.0.0 writes such archives; upgrade to 25.0.1 or later and save again"));
    }
    let mut extents = HashMap::new();
    let mut layers = Vec::new();
    for (path, diff_id) in paths.iter().zip(&diff_ids) {
        let extent = store.find(path)?;
        let (media_type, digest) = match compression(&extent) {
            // Its digest is its diff ID; that the content agrees is checked where it goes.
            None => ("application/vnd.oci.image.layer.v1.tar", diff_id.parse()?),
            Some(media_type) => (media_type, digest_of(&extent)?),
        };
        layers.push(serde_json::json!({
            "mediaType": media_type,
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
            "the image has no manifest for {platform} (it has: {})",
            image.platform
        ))
        .hint("build or pull it for that platform"));
    }
    Ok((image, FileBlobs::new(extents)))
}

/// Tells how a layer is compressed, by its first bytes: docker-archives do not say.
fn compression(extent: &Extent) -> Option<&'static str> {
    let mut magic = [0; 4];
    let len = usize::try_from(extent.len.min(4)).unwrap_or(0);
    extent.read_exact_at(&mut magic[..len], 0).ok()?;
    match &magic[..len] {
        [0x1f, 0x8b, ..] => Some("application/vnd.oci.image.layer.v1.tar+gzip"),
        [0x28, 0xb5, 0x2f, 0xfd] => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
        _ => None,
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
