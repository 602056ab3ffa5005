//! Any tree of indexes, manifests and configs: a search in it ends, and what it finds agrees with
//! itself and runs on the platform.

#![no_main]

use std::collections::HashMap;

use arbitrary::{Result, Unstructured};
use kindlift::image::choose::Chooser;
use kindlift::image::{Digest, Platform};
use kindlift_fuzz::{check, check_error, limit_memory};
use libfuzzer_sys::fuzz_target;
use oci_spec::image::Descriptor;
use serde_json::{Value, json};

const MEDIA_TYPES: [&str; 9] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.oci.artifact.manifest.v1+json",
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "",
];
const ENCRYPTED: &str = "application/vnd.oci.image.layer.v1.tar+encrypted";
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
];
const PLATFORMS: [(&str, &str, &str); 7] = [
    ("linux", "amd64", ""),
    ("linux", "amd64", "v3"),
    ("linux", "arm64", "v8"),
    ("linux", "arm", "v6"),
    ("linux", "arm", "v7"),
    ("windows", "amd64", ""),
    ("unknown", "unknown", ""),
];

/// Documents by digest.
struct Documents {
    bytes: HashMap<String, Vec<u8>>,
    /// How seldom something is wrong: where much is, nothing gets far.
    rarity: u16,
}

impl Documents {
    /// Draws whether something is wrong, once in so many times, or fewer.
    fn wrong(&self, u: &mut Unstructured, once_in: u16) -> Result<bool> {
        Ok(!u.is_empty() && u.ratio(1, once_in * self.rarity)?)
    }

    /// Adds a document and describes it, now and then wrongly.
    fn add(&mut self, u: &mut Unstructured, media_type: &str, document: &Value) -> Result<Value> {
        let mut bytes = document.to_string().into_bytes();
        if self.wrong(u, 8)? {
            let at = u.int_in_range(0..=bytes.len())?;
            let end = u.int_in_range(at..=bytes.len().min(at + 8))?;
            let new = u.bytes(u.len().min(6))?.to_vec();
            bytes.splice(at..end, new);
        }
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        if self.wrong(u, 16)? {
            bytes.push(b' ');
        }
        if !self.wrong(u, 16)? {
            self.bytes.insert(digest.to_string(), bytes);
        }
        let media_type = if self.wrong(u, 12)? {
            *u.choose(&MEDIA_TYPES)?
        } else {
            media_type
        };
        let mut descriptor = json!({"mediaType": media_type, "digest": digest, "size": size});
        if u.ratio(1, 3)? {
            descriptor["platform"] = platform(u)?;
        }
        if self.wrong(u, 24)? {
            descriptor["size"] = json!(u.arbitrary::<u64>()?);
        }
        if self.wrong(u, 24)? {
            descriptor["annotations"] =
                json!({"vnd.docker.reference.type": "attestation-manifest"});
        }
        Ok(descriptor)
    }

    fn tree(&mut self, u: &mut Unstructured, depth: usize) -> Result<Value> {
        if depth < 7 && u.ratio(2, 5)? {
            let mut below = Vec::new();
            for _ in 0..u.int_in_range(0..=4)? {
                below.push(self.tree(u, depth + 1)?);
            }
            let index = json!({"schemaVersion": 2, "manifests": below});
            return self.add(u, MEDIA_TYPES[1], &index);
        }
        let count = u.int_in_range(0..=3)?;
        let promised = match self.wrong(u, 6)? {
            true => u.int_in_range(0..=3)?,
            false => count,
        };
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for _ in 0..count {
            let digest = Digest::of(&[u.arbitrary::<u8>()? % 4]);
            let size = if self.wrong(u, 10)? {
                u.arbitrary::<u64>()?
            } else {
                7
            };
            let media_type = match self.wrong(u, 12)? {
                true => ENCRYPTED,
                false => *u.choose(&LAYERS)?,
            };
            layers.push(json!({"mediaType": media_type, "digest": digest, "size": size}));
            diff_ids.push(match self.wrong(u, 10)? {
                true => json!(u.arbitrary::<&str>()?),
                false => json!(digest),
            });
        }
        diff_ids.resize(promised, json!(Digest::of(b"more")));
        let mut config = platform(u)?;
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let config = self.add(u, MEDIA_TYPES[6], &config)?;
        let mut manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        if self.wrong(u, 24)? {
            manifest["manifests"] = json!([]);
        }
        if self.wrong(u, 24)? {
            manifest["artifactType"] = json!(u.arbitrary::<&str>()?);
        }
        self.add(u, MEDIA_TYPES[0], &manifest)
    }
}

fn platform(u: &mut Unstructured) -> Result<Value> {
    let (os, architecture, variant) = *u.choose(&PLATFORMS)?;
    let mut platform = json!({"os": os, "architecture": architecture});
    if !variant.is_empty() {
        platform["variant"] = json!(variant);
    }
    Ok(platform)
}

fn make(u: &mut Unstructured) -> Result<(Documents, Vec<Value>, Platform)> {
    let (_, architecture, variant) = PLATFORMS[u.int_in_range(0..=4)?];
    let platform = Platform::linux(architecture, Some(variant));
    let mut documents = Documents {
        bytes: HashMap::new(),
        rarity: *u.choose(&[1, 4, 16, 64])?,
    };
    let mut top = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        top.push(documents.tree(u, 0)?);
    }
    Ok((documents, top, platform))
}

fuzz_target!(|bytes: &[u8]| {
    limit_memory();
    let Ok((documents, top, platform)) = make(&mut Unstructured::new(bytes)) else {
        return;
    };
    let top: Vec<Descriptor> = top
        .into_iter()
        .filter_map(|value| serde_json::from_value(value).ok())
        .collect();
    let mut chooser = Chooser::new(&top, &platform);
    // Each document is asked for once as a manifest, and as a config by each manifest.
    let most = 2 * documents.bytes.len() + 8;
    for _ in 0..=most {
        match chooser.want() {
            Err(error) => return check_error(&error),
            Ok(None) => {
                return match chooser.finish() {
                    Ok(image) => check(&image, &platform),
                    Err(error) => check_error(&error),
                };
            }
            Ok(Some(want)) => {
                let document = documents.bytes.get(want.descriptor.digest().as_ref());
                if let Err(error) = chooser.give(document.cloned()) {
                    return check_error(&error);
                }
            }
        }
    }
    panic!("the search goes on after {most} documents");
});
