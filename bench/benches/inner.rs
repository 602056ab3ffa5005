//! What kindlift does to each byte and each name, without engine and nodes.

use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_util::StreamExt;
use kindlift::image::archive::Archive;
use kindlift::image::pack::{Format, Output, pack};
use kindlift::image::{ChainId, DiffId, Digest, Image, Platform, chain_ids};
use kindlift::reference::Reference;
use kindlift::source::Source;
use kindlift::source::spool::FileBlobs;

/// Bytes of the layer.
const LAYER: usize = 16 << 20;
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI archive with one layer that nothing compresses, stored as gzip.
fn archive() -> Arc<File> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        // xorshift64: the same bytes each time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(LAYER / 8)
    .flatten()
    .collect();
    append(&mut tar, "random", &random);
    let layer = tar.into_inner().expect("memory takes it");
    let diff_id = Digest::of(&layer);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&layer).expect("memory takes it");
    let blob = gzip.finish().expect("memory takes it");

    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    })
    .to_string();
    let descriptor = |media_type: &str, bytes: &[u8]| serde_json::json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &blob)],
    })
    .to_string();
    let mut named = descriptor(MANIFEST, manifest.as_bytes());
    named["annotations"] = serde_json::json!({"io.containerd.image.name": "docker.io/bench/app:1"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [named]}).to_string();

    let file = tempfile::tempfile().expect("a temporary file");
    let mut tar = tar::Builder::new(file);
    for bytes in [&blob, config.as_bytes(), manifest.as_bytes()] {
        append(
            &mut tar,
            &format!("blobs/sha256/{}", Digest::of(bytes).hex()),
            bytes,
        );
    }
    append(&mut tar, "index.json", index.as_bytes());
    append(
        &mut tar,
        "oci-layout",
        br#"{"imageLayoutVersion": "1.0.0"}"#,
    );
    Arc::new(tar.into_inner().expect("the file takes it"))
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, bytes)
        .expect("it takes it");
}

fn read(file: &Arc<File>) -> (Image, FileBlobs) {
    let archive = Archive::tar(Arc::clone(file)).expect("the archive is sound");
    archive
        .read(None, &Platform::linux("amd64", None))
        .expect("the image is sound")
}

fn inner(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let file = archive();
    let (image, blobs) = read(&file);
    let name = [Reference::parse("bench/app:1").expect("a name")];

    c.bench_function("parse a name", |b| {
        b.iter(|| Reference::parse(black_box("registry.example:5000/team/app:v1.2.3")));
    });
    c.bench_function("chain IDs of 100 layers", |b| {
        let diff_ids: Vec<DiffId> = (0..100_u8).map(|n| DiffId(Digest::of(&[n]))).collect();
        b.iter(|| -> Vec<ChainId> { chain_ids(black_box(&diff_ids)) });
    });
    c.bench_function("open and validate an archive", |b| b.iter(|| read(&file)));

    let mut group = c.benchmark_group("a layer");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(LAYER as u64));
    group.bench_function("read in pieces, as a node gets it", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let mut stream = blobs.open(&image.layers[0].digest);
                let mut read = 0;
                while let Some(piece) = stream.next().await {
                    read += piece.expect("a piece").len();
                }
                read
            })
        });
    });
    for format in [Format::OciArchive, Format::DockerArchive] {
        group.bench_function(format!("checked and written: {format:?}"), |b| {
            b.iter(|| {
                let mut output = Output::tar(tempfile::tempfile().expect("a temporary file"));
                runtime
                    .block_on(pack(&image, &name, &blobs, format, &mut output))
                    .expect("the image is sound")
            });
        });
    }
    group.finish();
}

criterion_group!(benches, inner);
criterion_main!(benches);
