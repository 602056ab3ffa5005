use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};

use super::*;
use crate::error::Error;
use crate::source::Source;

const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Blobs in memory.
#[derive(Default)]
struct Memory(HashMap<Digest, Vec<u8>>);

impl Source for Memory {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        let pieces: Vec<_> = self.0[blob]
            .chunks(7)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        stream::iter(pieces).boxed()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One layer: its media type, its blob as stored, and what the config says it holds.
type Layer<'a> = (String, Vec<u8>, &'a [u8]);

fn image(docker: bool, layers: &[Layer<'_>]) -> (Image, Memory) {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer.2)).collect();
    let config = json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let (manifest_type, config_type) = match docker {
        true => (
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
        ),
        false => (MANIFEST, CONFIG),
    };
    let described: Vec<Value> = layers
        .iter()
        .map(|(media_type, blob, _)| {
            json!({"mediaType": media_type, "digest": Digest::of(blob), "size": blob.len()})
        })
        .collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": manifest_type,
        "config": {"mediaType": config_type, "digest": Digest::of(&config), "size": config.len()},
        "layers": described,
    });
    let manifest = manifest.to_string().into_bytes();
    let blobs = layers
        .iter()
        .map(|layer| (Digest::of(&layer.1), layer.1.clone()));
    let memory = Memory(blobs.collect());
    let image = Image::from_documents(manifest, manifest_type, config).unwrap();
    (image, memory)
}

fn written(image: &Image, source: &Memory, format: Format) -> Result<Vec<u8>, Error> {
    let file = tempfile::tempfile().unwrap();
    let mut output = Output::tar(file.try_clone().unwrap());
    let names = [Reference::parse("demo/app:dev").unwrap()];
    let packing = pack(image, &names, source, format, &mut output);
    futures_util::FutureExt::now_or_never(packing).expect("memory never waits")?;
    drop(output);
    let mut bytes = Vec::new();
    let mut file = file;
    std::io::Seek::rewind(&mut file).unwrap();
    file.read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

fn members(tar: &[u8]) -> HashMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    });
    entries.collect()
}

fn three() -> (Image, Memory) {
    image(
        false,
        &[
            (OCI_LAYER.into(), b"raw layer".to_vec(), b"raw layer"),
            (
                format!("{OCI_LAYER}+gzip"),
                gzip(b"gzip layer"),
                b"gzip layer",
            ),
            (
                format!("{OCI_LAYER}+zstd"),
                zstd::encode_all(&b"zstd layer"[..], 1).unwrap(),
                b"zstd layer",
            ),
        ],
    )
}

#[test]
fn docker_s_archive_has_plain_layers() {
    let (image, source) = three();
    let tar = written(&image, &source, Format::DockerArchive).unwrap();
    assert_eq!(
        tar,
        written(&image, &source, Format::DockerArchive).unwrap()
    );
    let members = members(&tar);
    assert_eq!(members.len(), 5);
    let list: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    assert_eq!(list[0]["RepoTags"], json!(["docker.io/demo/app:dev"]));
    let contents: Vec<&[u8]> = list[0]["Layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|path| members[path.as_str().unwrap()].as_slice())
        .collect();
    assert_eq!(contents, [&b"raw layer"[..], b"gzip layer", b"zstd layer"]);
}

#[test]
fn a_layout_keeps_every_byte() {
    let (image, source) = three();
    let members = members(&written(&image, &source, Format::OciArchive).unwrap());
    for (digest, blob) in &source.0 {
        assert_eq!(&members[&blob_path(digest)], blob);
    }
    assert_eq!(
        members[&blob_path(&image.manifest.digest)],
        image.manifest.bytes
    );
    let index: Value = serde_json::from_slice(&members["index.json"]).unwrap();
    let annotations = &index["manifests"][0]["annotations"];
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "dev");
    assert_eq!(
        annotations["io.containerd.image.name"],
        "docker.io/demo/app:dev"
    );
}

#[test]
fn docker_s_media_types_become_oci_s_and_the_id_stays() {
    let layers = [(format!("{DOCKER_LAYER}.gzip"), gzip(b"x"), &b"x"[..])];
    let (image, source) = image(true, &layers);
    let members = members(&written(&image, &source, Format::OciArchive).unwrap());
    let index: Value = serde_json::from_slice(&members["index.json"]).unwrap();
    let digest: Digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let manifest = &members[&blob_path(&digest)];
    assert_eq!(Digest::of(manifest), digest);
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    assert_eq!(manifest["mediaType"], MANIFEST);
    assert_eq!(manifest["config"]["mediaType"], CONFIG);
    assert_eq!(manifest["config"]["digest"], json!(image.config.digest));
    let layer = &manifest["layers"][0];
    assert_eq!(layer["mediaType"], format!("{OCI_LAYER}+gzip"));
    assert_eq!(layer["digest"], json!(image.layers[0].digest));
}

#[test]
fn a_layer_that_occurs_twice_is_written_once() {
    let layer = || (OCI_LAYER.to_owned(), b"same".to_vec(), &b"same"[..]);
    let (image, source) = image(false, &[layer(), layer()]);
    for format in [Format::OciArchive, Format::DockerArchive] {
        let members = members(&written(&image, &source, format).unwrap());
        let list: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        assert_eq!(list[0]["Layers"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn what_is_damaged_is_refused() {
    let refusal = |change: &dyn Fn(&mut Vec<u8>), media_type: &str, holds: &[u8]| {
        let stored = match media_type {
            OCI_LAYER => b"content".to_vec(),
            _ => gzip(b"content"),
        };
        let layers = [(media_type.to_owned(), stored, holds)];
        let (image, mut source) = image(false, &layers);
        source.0.values_mut().for_each(change);
        [Format::OciArchive, Format::DockerArchive].map(|format| {
            let error = written(&image, &source, format).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Image);
            error.to_string()
        })
    };
    let zipped = format!("{OCI_LAYER}+gzip");
    let same: &dyn Fn(&mut Vec<u8>) = &|_| {};
    let last: &dyn Fn(&mut Vec<u8>) = &|blob| *blob.last_mut().unwrap() ^= 1;
    let short: &dyn Fn(&mut Vec<u8>) = &|blob| blob.truncate(blob.len() - 1);
    let long: &dyn Fn(&mut Vec<u8>) = &|blob| blob.push(0);
    let head: &dyn Fn(&mut Vec<u8>) = &|blob| blob[0] ^= 1;
    for (change, media_type, holds, says) in [
        (
            last,
            OCI_LAYER,
            &b"content"[..],
            "is not what its digest says",
        ),
        (short, OCI_LAYER, b"content", "fewer than the 7 bytes"),
        (long, OCI_LAYER, b"content", "more than the 7 bytes"),
        (short, &zipped, b"content", "fewer than"),
        (head, &zipped, b"content", "cannot be decompressed"),
        (
            same,
            &zipped,
            b"other",
            "layer 1 does not match the image's rootfs",
        ),
    ] {
        for said in refusal(change, media_type, holds) {
            assert!(said.contains(says), "no {says:?} in {said:?}");
        }
    }
}

#[test]
fn one_blob_cannot_be_two_layers() {
    let blob = gzip(b"content");
    let zipped = format!("{OCI_LAYER}+gzip");
    let (image, source) = image(
        false,
        &[
            (zipped.clone(), blob.clone(), b"content"),
            (zipped, blob, b"other"),
        ],
    );
    let error = written(&image, &source, Format::OciArchive).unwrap_err();
    assert!(
        error.to_string().contains("layer 2 does not match"),
        "{error}"
    );
}
