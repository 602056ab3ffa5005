//! Images whose config and layers do not agree, down to the bytes.

use serde_json::{Value, json};

use super::super::sound::docker_25;
use super::super::{Files, GZIP, Image, Layer, RAW, ZSTD};
use super::{Kind, files};

pub(super) fn all(salt: &str, name: &str) -> Vec<Kind> {
    let image = |media_type, which: &str| Image::new(name, &format!("{salt} {which}"), media_type);
    let manifest = |which: &str, edit: fn(&mut Value)| image(RAW, which).manifest(edit).layout();
    let config = |which: &str, edit: fn(&mut Value)| image(RAW, which).config(edit).layout();
    let typed = |which: &str, media_type: &'static str| {
        image(GZIP, which)
            .manifest(move |m| m["layers"][1]["mediaType"] = json!(media_type))
            .layout()
    };
    vec![
        // https://github.com/moby/moby/issues/47150: index.json's manifest has the layers in
        // another order than the config and manifest.json.
        files(
            "as Docker 25.0.0",
            "layer 1 does not match the image's rootfs",
            &docker_25(&image(RAW, "25.0.0").manifest(rotate)),
        ),
        files(
            "as Docker 25.0.0, the last two layers",
            "layer 2 does not match the image's rootfs",
            &docker_25(&image(RAW, "25.0.0 b").manifest(swap)),
        ),
        // https://github.com/moby/moby/issues/47065: it has none.
        files(
            "as Docker 25.0.0-rc.2",
            "mismatched image rootfs and manifest layers: there are 0 layers, the config has 3",
            &docker_25(&image(RAW, "25 rc").manifest(|m| m["layers"] = json!([]))),
        ),
        files(
            "gzip layers out of order",
            "the config's layer 2",
            &image(GZIP, "gzip order").manifest(rotate).layout(),
        ),
        files(
            "one layer less than the config has",
            "there are 2 layers, the config has 3",
            &manifest("less", |m| drop(m["layers"].as_array_mut().unwrap().pop())),
        ),
        files(
            "one layer more than the config has",
            "there are 3 layers, the config has 2",
            &config("more", |c| {
                drop(c["rootfs"]["diff_ids"].as_array_mut().unwrap().pop())
            }),
        ),
        files(
            "no rootfs",
            "there are 3 layers, the config has 0",
            &config("no rootfs", |c| {
                drop(c.as_object_mut().unwrap().remove("rootfs"))
            }),
        ),
        files(
            "rootfs of another type",
            "the config's rootfs is of type `layers+base`",
            &config("type", |c| c["rootfs"]["type"] = json!("layers+base")),
        ),
        files(
            "a diff ID that is none",
            "the config's rootfs is damaged",
            &config("diff", |c| c["rootfs"]["diff_ids"][1] = json!("tarsum:1")),
        ),
        files(
            "no system in the config",
            "the config names no operating system or architecture",
            &config("os", |c| drop(c.as_object_mut().unwrap().remove("os"))),
        ),
        files(
            "no architecture in the config",
            "the config names no operating system or architecture",
            &config("arch", |c| c["architecture"] = json!("")),
        ),
        files(
            "an architecture that moves the cursor",
            "it has: linux/\\u{1b}[2J",
            &config("escape", |c| c["architecture"] = json!("\u{1b}[2J")),
        ),
        files(
            "an encrypted layer",
            "it is encrypted",
            &typed(
                "encrypted",
                "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            ),
        ),
        files(
            "a foreign layer",
            "its bytes are not in the image",
            &typed(
                "foreign",
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            ),
        ),
        files(
            "a nondistributable layer",
            "its bytes are not in the image",
            &typed(
                "nondistributable",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
        ),
        files(
            "a layer of an unknown type",
            "layer 2 is a `application/vnd.wasm.content.layer.v1+wasm`",
            &typed("wasm", "application/vnd.wasm.content.layer.v1+wasm"),
        ),
        files(
            "more layers than any image has",
            "the image has 513 layers, more than 512",
            &many_layers(name, salt),
        ),
        files(
            "a layer of another size",
            "layer 2 has ",
            &manifest("size", |m| m["layers"][1]["size"] = json!(9)),
        ),
        files(
            "a layer beyond all disks",
            "layer 2 is said to have 18446744073709551615 bytes",
            &manifest("beyond", |m| m["layers"][1]["size"] = json!(u64::MAX)),
        ),
        files(
            "a layer of a negative size",
            "cannot be read",
            &manifest("negative", |m| m["layers"][1]["size"] = json!(-5)),
        ),
        files(
            "a changed raw layer",
            "layer 2 is damaged",
            &changed(&image(RAW, "changed")),
        ),
        files(
            "a changed gzip layer",
            "layer 2 is damaged",
            &changed(&image(GZIP, "changed")),
        ),
        files(
            "a gzip layer that the config does not know",
            "layer 2 does not match the image's rootfs",
            &other_diff(image(GZIP, "other diff"), salt),
        ),
        files(
            "a zstd layer that the config does not know",
            "layer 2 does not match the image's rootfs",
            &other_diff(image(ZSTD, "other diff"), salt),
        ),
        files(
            "a raw layer that the config does not know",
            "layer 2 does not match the image's rootfs",
            &other_diff(image(RAW, "other diff"), salt),
        ),
        files(
            "a gzip layer cut short",
            "layer 2 cannot be unpacked",
            &blob(image(GZIP, "cut"), |blob| blob.truncate(blob.len() / 2)),
        ),
        files(
            "a zstd layer cut short",
            "layer 2 cannot be unpacked",
            &blob(image(ZSTD, "cut"), |blob| blob.truncate(blob.len() / 2)),
        ),
        files(
            "a gzip layer with a wrong checksum",
            "layer 2 cannot be unpacked",
            &blob(image(GZIP, "crc"), |blob| {
                let at = blob.len() - 6;
                blob[at] ^= 1;
            }),
        ),
        files(
            "a layer that is no tar",
            "layer 2 cannot be unpacked",
            &tarless(image(GZIP, "tarless"), salt),
        ),
    ]
}

fn rotate(manifest: &mut Value) {
    manifest["layers"].as_array_mut().unwrap().rotate_left(1);
}

fn swap(manifest: &mut Value) {
    manifest["layers"].as_array_mut().unwrap().swap(1, 2);
}

fn many_layers(name: &str, salt: &str) -> Files {
    let one = Layer::new(RAW, &format!("{salt} many"), 1);
    Image::of(name, vec![one; 513]).layout()
}

/// Changes one bit of the second layer, and nothing that is said of it.
fn changed(image: &Image) -> Files {
    let mut files = image.layout();
    let path = files.0[2].0.clone();
    files.get(&path)[600] ^= 1;
    files
}

/// Changes the second layer before it is digested; the config stays.
fn blob(mut image: Image, change: impl FnOnce(&mut Vec<u8>)) -> Files {
    change(&mut image.layers[1].blob);
    image.layout()
}

fn other_diff(mut image: Image, salt: &str) -> Files {
    image.layers[1].blob = Layer::new(image.layers[1].media_type, &format!("{salt} other"), 7).blob;
    image.layout()
}

/// The second layer is something else, of which the config knows.
fn tarless(mut image: Image, salt: &str) -> Files {
    let text = format!("{salt} is no tar\n").repeat(100);
    image.layers[1] = Layer::of(GZIP, text.as_bytes());
    let diff_id = image.layers[1].diff_id.clone();
    image
        .config(|c| c["rootfs"]["diff_ids"][1] = json!(diff_id))
        .layout()
}
