//! OCI layouts whose documents do not agree.

use kindlift::image::Digest;
use serde_json::{Value, json};

use super::super::{CONFIG, Files, INDEX, Image, MANIFEST, RAW, architecture};
use super::{Kind, files};

pub(super) fn all(salt: &str, name: &str) -> Vec<Kind> {
    let image = |which: &str| Image::new(name, &format!("{salt} {which}"), RAW);
    let sound = image("layouts").layout();
    let index = |bytes: &[u8]| {
        let mut files = sound.clone();
        *files.get("index.json") = bytes.to_vec();
        files
    };
    // The order in which blobs are written.
    let (config, layer, manifest) = (&sound.0[0].0, &sound.0[1].0, &sound.0[4].0);
    let without = |path: &str| {
        let mut files = sound.clone();
        files.remove(path);
        files
    };
    let changed = |path: &str| {
        let mut files = sound.clone();
        let bytes = files.get(path);
        *bytes.last_mut().unwrap() = b' ';
        files
    };
    let described = |edit: fn(&mut Value)| image("described").descriptor(edit).layout();
    let alone = |make: fn(&mut Files) -> Value| {
        let mut files = Files::default();
        let top = make(&mut files);
        files.finish(&[top]);
        files
    };
    let said = |platform: Value| {
        image("said")
            .descriptor(move |descriptor| descriptor["platform"] = platform.clone())
            .layout()
    };
    let nameless = Kind {
        code: 2,
        ..files(
            "an image without a name",
            "say what to call it: --as NAME:TAG",
            &image_without_name(salt),
        )
    };
    vec![
        files(
            "an index that is no JSON",
            "index.json cannot be read",
            &index(b"{\"manifests\": ["),
        ),
        files(
            "an index that is no index",
            "index.json cannot be read",
            &index(b"[1, 2]"),
        ),
        files(
            "an index of 5 MB",
            "index.json has 5000000 bytes, more than 4194304",
            &index(&[b' '; 5_000_000]),
        ),
        files(
            "an index that nests without end",
            "index.json nests deeper than 64",
            &index("[".repeat(100_000).as_bytes()),
        ),
        files(
            "an index of a million values",
            "index.json has more than 100000 values",
            &index(format!("{{\"annotations\":{{{}", "\"a\":\"\",".repeat(500_000)).as_bytes()),
        ),
        files(
            "an index of too many manifests",
            "index.json lists more than 10000 manifests",
            &index(many().to_string().as_bytes()),
        ),
        files(
            "an index that names a thing twice",
            "duplicate field `manifests`",
            &index(b"{\"schemaVersion\":2,\"manifests\":[],\"manifests\":[]}"),
        ),
        files(
            "an index of no image",
            "it holds no image",
            &index(b"{\"schemaVersion\":2,\"manifests\":[]}"),
        ),
        files(
            "a layout of the future",
            "the OCI layout is of version 2.0.0",
            &{
                let mut files = sound.clone();
                *files.get("oci-layout") = b"{\"imageLayoutVersion\":\"2.0.0\"}".to_vec();
                files
            },
        ),
        files(
            "no manifest",
            "the image's manifest sha256:",
            &without(manifest),
        ),
        files("no config", "the image's config sha256:", &without(config)),
        files("no layer", "layer 1 is not there", &without(layer)),
        files(
            "another manifest",
            "the content of sha256:",
            &changed(manifest),
        ),
        files("another config", "the content of sha256:", &changed(config)),
        files(
            "a manifest of another size",
            "bytes where 7 are promised",
            &described(|d| d["size"] = json!(7)),
        ),
        files(
            "a manifest of a negative size",
            "index.json cannot be read",
            &described(|d| d["size"] = json!(-1)),
        ),
        files(
            "a digest that is none",
            "Invalid digest length",
            &described(|d| d["digest"] = json!("sha256:abc")),
        ),
        files(
            "a digest that leads elsewhere",
            "index.json cannot be read",
            &described(|d| d["digest"] = json!("sha256:../../../etc/passwd")),
        ),
        files(
            "a digest of sha512",
            "is not a sha256 digest",
            &described(|d| d["digest"] = json!(format!("sha512:{}", "0".repeat(128)))),
        ),
        files(
            "a manifest of 5 MB",
            "bytes, more than 4194304",
            &padded_manifest(&image("padded")),
        ),
        files(
            "a config of 9 MB",
            "bytes, more than 8388608",
            &image("large config")
                .config(|c| c["comment"] = json!("x".repeat(9_000_000)))
                .layout(),
        ),
        files(
            "a config of a million values",
            "the image's config has more than 100000 values",
            &image("values")
                .config(|c| c["rootfs"]["diff_ids"] = json!(vec![""; 1_000_000]))
                .layout(),
        ),
        files(
            "another platform",
            "(it has: linux/s390x)",
            &said(json!({"os": "linux", "architecture": "s390x"})),
        ),
        files(
            "another platform, which only its config says",
            "(it has: linux/s390x)",
            &image("config")
                .config(|c| c["architecture"] = json!("s390x"))
                .layout(),
        ),
        files(
            "another system",
            "(it has: windows/",
            &image("windows")
                .config(|c| c["os"] = json!("windows"))
                .layout(),
        ),
        files(
            "a platform that its config denies",
            "its config says linux/s390x",
            &{
                image("denied")
                    .config(|c| c["architecture"] = json!("s390x"))
                    .descriptor(|d| {
                        d["platform"] = json!({"os": "linux", "architecture": architecture()})
                    })
                    .layout()
            },
        ),
        files(
            "an artifact",
            "this is an artifact (application/vnd.cncf.helm.config.v1+json)",
            &alone(|files| {
                let config = files.raw_blob("application/vnd.cncf.helm.config.v1+json", b"{}");
                let layer = files.raw_blob(
                    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
                    b"chart",
                );
                files.blob(
                    MANIFEST,
                    &json!({"schemaVersion": 2, "config": config, "layers": [layer]}),
                )
            }),
        ),
        files(
            "an artifact that says its type",
            "this is an artifact (application/spdx)",
            &alone(|files| {
                let config = files.raw_blob("application/vnd.oci.empty.v1+json", b"{}");
                files.blob(MANIFEST, &json!({"schemaVersion": 2, "artifactType": "application/spdx", "config": config, "layers": [config]}))
            }),
        ),
        files(
            "an artifact manifest",
            "this is an artifact (application/vnd.oci.artifact.manifest.v1+json)",
            &alone(|files| {
                files.blob(
                    "application/vnd.oci.artifact.manifest.v1+json",
                    &json!({"blobs": []}),
                )
            }),
        ),
        files(
            "attestations alone",
            "the image has no manifest for linux/",
            &alone(|files| {
                let mut top = files.blob(MANIFEST, &json!({}));
                top["platform"] = json!({"os": "unknown", "architecture": "unknown"});
                top
            }),
        ),
        files(
            "schema 1",
            "of Docker's schema 1",
            &alone(|files| {
                files.blob(
                    "application/vnd.docker.distribution.manifest.v1+prettyjws",
                    &json!({"schemaVersion": 1, "fsLayers": []}),
                )
            }),
        ),
        files(
            "schema 1 that says it is another",
            "of Docker's schema 1",
            &alone(|files| {
                files.blob(
                    MANIFEST,
                    &json!({"schemaVersion": 1, "fsLayers": [], "history": []}),
                )
            }),
        ),
        files(
            "manifest and index in one",
            "is both a manifest and an index",
            &image("both")
                .manifest(|m| m["manifests"] = json!([]))
                .layout(),
        ),
        files(
            "indexes that nest too deep",
            "nest deeper than 4",
            &nested(&image("nested"), 6),
        ),
        files("two images", "it holds 2 images", &{
            let mut files = Files::default();
            let one = image("one").blobs(&mut files);
            let mut two = image("two").blobs(&mut files);
            two["annotations"] = json!({"io.containerd.image.name": format!("{name}-two")});
            files.finish(&[one, two]);
            files
        }),
        files("two images whose tags move the cursor", "\\u{1b}[2J", &{
            let mut files = Files::default();
            let tagged = ["one", "two"].map(|which| {
                let mut descriptor = image(which).blobs(&mut files);
                descriptor["annotations"] =
                    json!({"org.opencontainers.image.ref.name": format!("{which}\u{1b}[2J\n")});
                descriptor
            });
            files.finish(&tagged);
            files
        }),
        nameless,
        files(
            "a manifest that is none",
            "cannot be read",
            &alone(|files| files.blob(MANIFEST, &json!({"schemaVersion": 2}))),
        ),
        files(
            "a config that is no JSON",
            "the image's config cannot be read",
            &alone(|files| {
                let config = files.raw_blob(CONFIG, b"not JSON");
                files.blob(
                    MANIFEST,
                    &json!({"schemaVersion": 2, "config": config, "layers": []}),
                )
            }),
        ),
    ]
}

fn image_without_name(salt: &str) -> Files {
    Image::new("", &format!("{salt} nameless"), RAW).layout()
}

fn many() -> Value {
    let one = json!({"mediaType": MANIFEST, "digest": Digest::of(b""), "size": 1});
    json!({"schemaVersion": 2, "manifests": vec![one; 10_001]})
}

/// A manifest of 5 MB, nearly all of it spaces.
fn padded_manifest(image: &Image) -> Files {
    let mut files = Files::default();
    let descriptor = image.blobs(&mut files);
    let path = files.0.last().unwrap().0.clone();
    let mut bytes = files.get(&path).clone();
    files.remove(&path);
    bytes.resize(5_000_000, b' ');
    let mut padded = files.raw_blob(MANIFEST, &bytes);
    padded["annotations"] = descriptor["annotations"].clone();
    files.finish(&[padded]);
    files
}

fn nested(image: &Image, depth: usize) -> Files {
    let mut files = Files::default();
    let mut top = image.blobs(&mut files);
    for _ in 0..depth {
        top = files.blob(INDEX, &json!({"schemaVersion": 2, "manifests": [top]}));
    }
    files.finish(&[top]);
    files
}
