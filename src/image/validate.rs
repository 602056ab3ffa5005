//! The checks that make an [`Image`] out of a manifest and a config.
//!
//! Layer bytes are checked where they move: containerd refuses a blob whose digest differs, and
//! the diff ID that unpacking yields is compared before the snapshot is committed.

use oci_spec::image::ImageManifest;
use serde::Deserialize;

use super::choose::is_image_config;
use super::{
    AGAIN, Compression, DiffId, Digest, Document, Image, Layer, Platform, chain_ids, json, refused,
};
use crate::error::{Error, Result};

/// The largest manifest that is read, in bytes; registries use the same limit.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// The largest config that is read, in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// overlayfs and the engines stop well below this.
const MAX_LAYERS: usize = 512;
/// More than any layer has, in bytes: 64 TB, so that sums fit and node's clocks of patience too.
const MAX_LAYER: u64 = 1 << 46;

/// The part of an image config that loading depends on.
///
/// Read leniently: engines put more and odder fields there than the OCI specification names.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type", default)]
    kind: Option<String>,
    #[serde(default)]
    diff_ids: Option<Vec<String>>,
}

impl Image {
    /// Returns the digest of the config that a manifest names.
    ///
    /// # Errors
    /// Image error, if this is no image's manifest.
    pub fn config_of(manifest: &[u8]) -> Result<Digest> {
        let parsed: ImageManifest = serde_json::from_slice(manifest)
            .map_err(|e| refused("the image's manifest cannot be read").because(e))?;
        parsed.config().digest().to_string().parse()
    }

    /// Makes an image from the exact bytes of its manifest and config.
    ///
    /// # Errors
    /// Image error, naming what does not agree.
    pub fn from_documents(manifest: Vec<u8>, media_type: &str, config: Vec<u8>) -> Result<Self> {
        let parsed: ImageManifest = json::read(&manifest, "the image's manifest")?;
        let config_digest = Digest::of(&config);
        let named = parsed.config().digest().to_string();
        if named != config_digest.as_str() {
            return Err(refused(format!(
                "the config's content is {config_digest}, but the manifest names {named}"
            )));
        }
        let config_type = parsed.config().media_type().to_string();
        if !is_image_config(&config_type) {
            return Err(refused(format!(
                "this is an artifact ({config_type}), not a container image"
            )));
        }
        let read: Config = json::read(&config, "the image's config")?;
        let kind = read
            .rootfs
            .as_ref()
            .and_then(|rootfs| rootfs.kind.as_deref());
        if let Some(kind) = kind.filter(|kind| *kind != "layers") {
            return Err(refused(format!(
                "the config's rootfs is of type `{kind}`, not `layers`"
            ))
            .hint(AGAIN));
        }
        let diff_ids = read
            .rootfs
            .and_then(|rootfs| rootfs.diff_ids)
            .unwrap_or_default()
            .iter()
            .map(|text| text.parse().map(DiffId))
            .collect::<Result<Vec<_>>>()
            .map_err(|e| e.within("the config's rootfs is damaged").hint(AGAIN))?;
        let layers = layers(&parsed, &diff_ids)?;
        if read.os.is_empty() || read.architecture.is_empty() {
            return Err(
                refused("the config names no operating system or architecture").hint(AGAIN),
            );
        }
        Ok(Self {
            platform: Platform::new(&read.os, &read.architecture, read.variant.as_deref()),
            config: Document {
                digest: config_digest,
                media_type: config_type,
                bytes: config,
            },
            manifest: Document {
                digest: Digest::of(&manifest),
                media_type: media_type.to_owned(),
                bytes: manifest,
            },
            layers,
        })
    }
}

fn layers(manifest: &ImageManifest, diff_ids: &[DiffId]) -> Result<Vec<Layer>> {
    let count = manifest.layers().len();
    if count > MAX_LAYERS {
        return Err(refused(format!(
            "the image has {count} layers, more than {MAX_LAYERS}"
        ))
        .hint("build it with fewer, e.g. in stages"));
    }
    if count != diff_ids.len() {
        return Err(mismatched(count, diff_ids.len()));
    }
    manifest
        .layers()
        .iter()
        .zip(diff_ids.iter().zip(chain_ids(diff_ids)))
        .enumerate()
        .map(|(i, (descriptor, (diff_id, chain_id)))| {
            let media_type = descriptor.media_type().to_string();
            let compression = compression(&media_type)
                .map_err(|e| e.within(format!("layer {} is a `{media_type:.100}`", i + 1)))?;
            let digest: Digest = descriptor.digest().to_string().parse()?;
            if compression == Compression::None && digest != diff_id.0 {
                return Err(wrong_diff_id(i, diff_ids, &digest));
            }
            if descriptor.size() > MAX_LAYER {
                return Err(refused(format!(
                    "layer {} is said to have {} bytes",
                    i + 1,
                    descriptor.size()
                ))
                .hint(AGAIN));
            }
            Ok(Layer {
                digest,
                size: descriptor.size(),
                media_type,
                compression,
                diff_id: diff_id.clone(),
                chain_id,
            })
        })
        .collect()
}

/// Makes the error for an image whose manifest and config differ in their number of layers.
pub(super) fn mismatched(layers: usize, diff_ids: usize) -> Error {
    // https://github.com/moby/moby/issues/47065
    refused(format!(
        "mismatched image rootfs and manifest layers: there are {layers} layers, the config has {diff_ids}"
    ))
    .hint(
        "Docker 25.0.0 writes such archives, as did what came shortly before it; \
         upgrade to 25.0.1 or later and save again",
    )
}

/// Makes the error for a layer whose content is not what the config says.
pub(crate) fn wrong_diff_id(index: usize, diff_ids: &[DiffId], found: &Digest) -> Error {
    let expected = &diff_ids[index];
    let elsewhere = diff_ids.iter().position(|diff_id| diff_id.0 == *found);
    let layer = index + 1;
    match elsewhere {
        // https://github.com/moby/moby/issues/47150
        Some(other) => refused(format!(
            "layer {layer} does not match the image's rootfs: the config says {expected}, \
             its content is {found}, the config's layer {}",
            other + 1
        ))
        .hint(
            "Docker 25.0.0 writes such archives, with the layers out of order; \
             upgrade to 25.0.1 or later and save again",
        ),
        None => refused(format!(
            "layer {layer} does not match the image's rootfs: the config says {expected}, \
             its content is {found}"
        ))
        .hint(
            "Docker 25.0.0 writes such archives (then upgrade to 25.0.1 or later), \
             and so do tools that change a layer and not the config; build and save again",
        ),
    }
}

/// Returns how a layer of this media type is stored; the error says why a node cannot unpack it.
fn compression(media_type: &str) -> Result<Compression> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Zstd),
        other if other.ends_with("+encrypted") => Err(refused("it is encrypted")
            .hint("decrypt it on the way: `skopeo copy --decryption-key KEY …`")),
        other if other.contains("foreign") || other.contains("nondistributable") => Err(refused(
            "its bytes are not in the image but at a URL of its maker's",
        )
        .hint("build the image on a base whose layers may be passed on")),
        _ => Err(refused("no node can unpack that")
            .hint("nodes unpack tar, plain or compressed with gzip or zstd")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn image(layer_type: &str, layers: usize, diffs: usize) -> Result<Image> {
        let digest = |i: usize| Digest::of(&[u8::try_from(i).unwrap()]);
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": (0..diffs).map(digest).collect::<Vec<_>>()},
        })
        .to_string()
        .into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": Digest::of(&config), "size": config.len()},
            "layers": (0..layers).map(|i| serde_json::json!(
                {"mediaType": layer_type, "digest": digest(i), "size": 1})).collect::<Vec<_>>(),
        });
        Image::from_documents(manifest.to_string().into_bytes(), "m", config)
    }

    const RAW: &str = "application/vnd.oci.image.layer.v1.tar";

    #[test]
    fn accepts_an_image_that_agrees_with_itself() {
        let image = image(RAW, 2, 2).unwrap();
        assert_eq!(image.layers.len(), 2);
        assert_eq!(image.platform.to_string(), "linux/amd64");
        assert_eq!(image.top().unwrap(), &image.layers[1].chain_id);
    }

    #[test]
    fn refuses_layers_that_the_config_does_not_have() {
        let error = image(RAW, 2, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image);
        assert!(
            error.to_string().contains("mismatched image rootfs"),
            "{error}"
        );
        assert!(error.next_step().unwrap().contains("25.0.1"));
    }

    #[test]
    fn refuses_a_layer_no_node_can_unpack() {
        for (media_type, why) in [
            (
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
                "it is encrypted",
            ),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar",
                "at a URL",
            ),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "at a URL",
            ),
            (
                "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                "no node can",
            ),
        ] {
            let error = image(media_type, 2, 2).unwrap_err();
            let said = crate::error::one_line(&error).to_string();
            assert!(said.starts_with("layer 1 is a `application/"), "{said}");
            assert!(said.contains(why), "{said}");
            assert!(error.next_step().is_some());
        }
    }

    #[test]
    fn refuses_a_raw_layer_whose_digest_is_not_its_diff_id() {
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"other")]},
        })
        .to_string()
        .into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": Digest::of(&config), "size": config.len()},
            "layers": [{"mediaType": RAW, "digest": Digest::of(b"this"), "size": 1}],
        });
        let error =
            Image::from_documents(manifest.to_string().into_bytes(), "m", config).unwrap_err();
        assert!(
            error.to_string().contains("layer 1 does not match"),
            "{error}"
        );
    }

    #[test]
    fn tells_layers_out_of_order_from_changed_ones() {
        let diff_ids: Vec<DiffId> = (0..3).map(|i| DiffId(Digest::of(&[i]))).collect();
        let swapped = wrong_diff_id(1, &diff_ids, &diff_ids[2].0).to_string();
        assert!(swapped.ends_with("the config's layer 3"), "{swapped}");
        let changed = wrong_diff_id(1, &diff_ids, &Digest::of(b"x"));
        assert!(
            !changed.to_string().contains("the config's layer"),
            "{changed}"
        );
        assert!(changed.next_step().unwrap().contains("25.0.1"));
    }

    #[test]
    fn refuses_sizes_that_do_not_add_up() {
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"a"), Digest::of(b"b")]},
        })
        .to_string()
        .into_bytes();
        let layer = |of: &[u8]| {
            serde_json::json!({"mediaType": RAW, "digest": Digest::of(of),
            "size": u64::MAX})
        };
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": Digest::of(&config), "size": config.len()},
            "layers": [layer(b"a"), layer(b"b")],
        });
        let error =
            Image::from_documents(manifest.to_string().into_bytes(), "m", config).unwrap_err();
        assert!(
            error.to_string().contains("layer 1 is said to have"),
            "{error}"
        );
    }
}
