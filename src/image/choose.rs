//! Choosing the one image that a platform runs out of manifests and nested indexes.
//!
//! The chooser does no input or output: it says which document it wants next and is given its
//! bytes. So archives, registries and nodes are read by the same rules.

use std::collections::{BTreeSet, HashSet};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{AGAIN, Digest, Image, MAX_CONFIG, MAX_MANIFEST, Platform, json, refused};
use crate::error::Result;

/// How deep indexes may nest.
const MAX_DEPTH: usize = 4;
/// More documents than any image has.
const MAX_DOCUMENTS: usize = 2000;
/// More descriptors that wait to be looked at than any image has.
const MAX_QUEUE: usize = 10 * MAX_DOCUMENTS;

/// A document that the chooser needs.
#[derive(Debug, Clone)]
pub struct Want {
    /// What the document above says of it.
    pub descriptor: Descriptor,
    /// The most bytes that it may have.
    pub limit: u64,
}

/// A search for the image that a platform runs.
///
/// As long as it [wants](Self::want) a document it is [given](Self::give) that one; then it
/// [finishes](Self::finish) with the image.
pub struct Chooser {
    platform: Platform,
    /// What is still to be looked at, the next one last, and how deep it lies.
    queue: Vec<(Descriptor, usize)>,
    next: Option<Step>,
    asked: usize,
    visited: HashSet<Digest>,
    /// The platforms that are there.
    seen: BTreeSet<String>,
    /// The manifests that should be there and are not.
    missing: Vec<String>,
    /// The artifacts that are there.
    artifacts: BTreeSet<String>,
    /// The best image until now.
    found: Option<Image>,
    /// The first image for another platform, of which nothing above said so, and how many there
    /// are.
    other: Option<Image>,
    others: usize,
}

enum Step {
    Manifest {
        descriptor: Descriptor,
        depth: usize,
    },
    Config {
        descriptor: Descriptor,
        /// The exact bytes of the manifest that names the config, and its media type.
        manifest: Vec<u8>,
        media_type: String,
        /// The platform that the index names for it.
        named: Option<Platform>,
    },
}

impl Chooser {
    /// Begins at these manifests and indexes.
    pub fn new(descriptors: &[Descriptor], platform: &Platform) -> Self {
        Self {
            platform: platform.clone(),
            queue: descriptors.iter().rev().map(|d| (d.clone(), 0)).collect(),
            next: None,
            asked: 0,
            visited: HashSet::new(),
            seen: BTreeSet::new(),
            missing: Vec::new(),
            artifacts: BTreeSet::new(),
            found: None,
            other: None,
            others: 0,
        }
    }

    /// Returns the next document that is needed; none, when the search is over.
    ///
    /// Attestations, and manifests that are said to be for other platforms, are not asked for:
    /// they need not even be sound.
    ///
    /// # Errors
    /// Image error, if there are more documents than any image has, or a digest is damaged.
    pub fn want(&mut self) -> Result<Option<Want>> {
        while self.next.is_none() {
            let Some((descriptor, depth)) = self.queue.pop() else {
                return Ok(None);
            };
            let digest: Digest = descriptor.digest().to_string().parse()?;
            if is_attestation(&descriptor) || !self.visited.insert(digest) {
                continue;
            }
            let media_type = descriptor.media_type().to_string();
            if kind(&media_type) == Kind::Other {
                self.artifacts.insert(media_type);
                continue;
            }
            if let Some(named) = platform_of(&descriptor)
                && !self.platform.runs(&named)
            {
                self.seen.insert(named.to_string());
                continue;
            }
            self.next = Some(Step::Manifest { descriptor, depth });
        }
        self.asked += 1;
        if self.asked > MAX_DOCUMENTS {
            return Err(too_many());
        }
        Ok(self.next.as_ref().map(|step| match step {
            Step::Manifest { descriptor, .. } => Want {
                descriptor: descriptor.clone(),
                limit: MAX_MANIFEST,
            },
            Step::Config { descriptor, .. } => Want {
                descriptor: descriptor.clone(),
                limit: MAX_CONFIG,
            },
        }))
    }

    /// Takes the document that was wanted; none, if it is not there.
    ///
    /// A manifest that is not there is passed over: an index names every platform of an image, an
    /// export holds one.
    ///
    /// # Errors
    /// Image error, if the document is not what its descriptor says, or cannot be read.
    pub fn give(&mut self, document: Option<Vec<u8>>) -> Result<()> {
        let Some(step) = self.next.take() else {
            return Ok(());
        };
        match (step, document) {
            (Step::Manifest { descriptor, .. }, None) => {
                self.missing.push(descriptor.digest().to_string());
                Ok(())
            }
            (Step::Manifest { descriptor, depth }, Some(bytes)) => {
                agrees(&descriptor, &bytes)?;
                self.manifest(&descriptor, depth, bytes)
            }
            (Step::Config { descriptor, .. }, None) => Err(refused(format!(
                "the image's config {} is missing",
                descriptor.digest()
            ))
            .hint(AGAIN)),
            (
                Step::Config {
                    descriptor,
                    manifest,
                    media_type,
                    named,
                },
                Some(config),
            ) => {
                agrees(&descriptor, &config)?;
                let image = Image::from_documents(manifest, &media_type, config)?;
                if let Some(named) = named
                    && (&named.os, &named.architecture)
                        != (&image.platform.os, &image.platform.architecture)
                {
                    return Err(refused(format!(
                        "the index says that {} is for {named}, its config says {}",
                        image.manifest.digest, image.platform
                    ))
                    .hint("build the image again, one --platform at a time"));
                }
                self.seen.insert(image.platform.to_string());
                // One image is held at a time: there may be many, and their documents large.
                if !self.platform.runs(&image.platform) {
                    self.others += 1;
                    self.other.get_or_insert(image);
                } else if self
                    .found
                    .as_ref()
                    .is_none_or(|best| image.platform.level() > best.platform.level())
                {
                    self.found = Some(image);
                }
                Ok(())
            }
        }
    }

    fn manifest(&mut self, descriptor: &Descriptor, depth: usize, bytes: Vec<u8>) -> Result<()> {
        let media_type = descriptor.media_type().to_string();
        let digest = descriptor.digest();
        let head: Head = json::read(&bytes, &format!("the manifest {digest}"))?;
        if head.schema_version == Some(1) || kind(&media_type) == Kind::Schema1 {
            return Err(refused(format!(
                "the manifest {digest} is of Docker's schema 1, which no node takes any more"
            ))
            .hint("pull it with an engine of today and push or save it again"));
        }
        // Which of the two a document is must not depend on who reads it (CVE-2021-41190).
        if head.manifests.is_some() && (head.layers.is_some() || head.config.is_some()) {
            return Err(refused(format!("{digest} is both a manifest and an index"))
                .hint("no tool writes that by mistake: do not trust where it came from"));
        }
        if kind(&media_type) == Kind::Index {
            if depth == MAX_DEPTH {
                return Err(
                    refused(format!("the image's indexes nest deeper than {MAX_DEPTH}"))
                        .hint(AGAIN),
                );
            }
            let index: ImageIndex = json::read(&bytes, &format!("the index {digest}"))?;
            let below = index.manifests().iter().rev();
            self.queue.extend(below.map(|d| (d.clone(), depth + 1)));
            if self.queue.len() > MAX_QUEUE {
                return Err(too_many());
            }
            return Ok(());
        }
        let read: ImageManifest = json::read(&bytes, &format!("the manifest {digest}"))?;
        let config_type = read.config().media_type().to_string();
        if !is_image_config(&config_type) {
            let kind = read.artifact_type().as_ref().map(ToString::to_string);
            self.artifacts.insert(kind.unwrap_or(config_type));
            return Ok(());
        }
        self.next = Some(Step::Config {
            descriptor: read.config().clone(),
            manifest: bytes,
            media_type,
            named: platform_of(descriptor),
        });
        Ok(())
    }

    /// Returns the image as [`Chooser::finish`] does; where there is none for the platform, the
    /// only one for another.
    ///
    /// # Errors
    /// As [`Chooser::finish`].
    pub fn finish_with_any(mut self) -> Result<Image> {
        if self.found.is_none() && self.others == 1 {
            self.found = self.other.take();
        }
        self.finish()
    }

    /// Returns the image: of several that the platform runs, the closest variant; of equals, the
    /// first.
    ///
    /// # Errors
    /// Image error, naming the platforms that are there.
    pub fn finish(self) -> Result<Image> {
        if let Some(image) = self.found {
            return Ok(image);
        }
        if self.seen.is_empty()
            && let Some(artifact) = self.artifacts.first()
        {
            return Err(refused(format!(
                "this is an artifact ({artifact}), not a container image"
            ))
            .hint("name the image that it belongs to"));
        }
        if self.seen.is_empty()
            && let Some(missing) = self.missing.first()
        {
            return Err(
                refused(format!("the image's manifest {missing} is missing")).hint(format!(
                    "save or pull it again, for {} alone",
                    self.platform
                )),
            );
        }
        Err(not_for(&self.platform, self.seen))
    }
}

/// Describes a manifest or index of which nothing is known but its bytes, and perhaps a media type.
pub fn describe(document: &[u8], media_type: &str) -> Result<Descriptor> {
    let media_type = if media_type.is_empty() {
        let head: Head = json::read(document, "the image's manifest")?;
        head.media_type.unwrap_or_else(|| {
            let kind = match head.manifests {
                Some(_) => "index",
                None => "manifest",
            };
            format!("application/vnd.oci.image.{kind}.v1+json")
        })
    } else {
        media_type.to_owned()
    };
    let digest = Digest::of(document)
        .as_str()
        .parse::<oci_spec::image::Digest>()
        .map_err(|e| refused("the image's manifest has no digest").because(e))?;
    Ok(Descriptor::new(
        media_type.as_str().into(),
        document.len() as u64,
        digest,
    ))
}

/// What tells a manifest from an index and an artifact.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
}

/// What a descriptor points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
    Schema1,
    Other,
}

fn kind(media_type: &str) -> Kind {
    match media_type {
        t if t.contains("image.index") || t.contains("manifest.list") => Kind::Index,
        t if t.contains("distribution.manifest.v1") => Kind::Schema1,
        // OCI 1.1 had artifact manifests until shortly before it was done.
        t if t.contains("manifest") && !t.contains("artifact") => Kind::Manifest,
        _ => Kind::Other,
    }
}

fn too_many() -> crate::error::Error {
    refused(format!(
        "the image has more than {MAX_DOCUMENTS} manifests and indexes"
    ))
    .hint(AGAIN)
}

/// Makes the error for an image that has other platforms only.
pub(super) fn not_for(
    platform: &Platform,
    seen: impl IntoIterator<Item = String>,
) -> crate::error::Error {
    let seen: Vec<String> = seen.into_iter().collect();
    let has = if seen.is_empty() {
        "none".to_owned()
    } else {
        seen.join(", ")
    };
    refused(format!(
        "the image has no manifest for {platform} (it has: {has})"
    ))
    .hint("build or pull it for that platform")
}

/// Tells whether a config of this media type is that of a container image.
pub(super) fn is_image_config(media_type: &str) -> bool {
    media_type.contains("container.image") || media_type.contains("oci.image.config")
}

/// Compares a document with what is said of it.
fn agrees(descriptor: &Descriptor, bytes: &[u8]) -> Result<()> {
    let digest: Digest = descriptor.digest().to_string().parse()?;
    if bytes.len() as u64 != descriptor.size() {
        return Err(refused(format!(
            "{digest} has {} bytes where {} are promised",
            bytes.len(),
            descriptor.size()
        ))
        .hint(AGAIN));
    }
    let found = Digest::of(bytes);
    if found != digest {
        return Err(refused(format!("the content of {digest} is {found}")).hint(AGAIN));
    }
    Ok(())
}

fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    let named = descriptor.platform().as_ref()?;
    let os = named.os().to_string();
    let architecture = named.architecture().to_string();
    Some(Platform::new(
        &os,
        &architecture,
        named.variant().as_deref(),
    ))
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;

    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

    /// Documents by digest, and the descriptors of those on top.
    #[derive(Default)]
    struct Documents {
        bytes: HashMap<String, Vec<u8>>,
        asked: Vec<String>,
    }

    impl Documents {
        fn add(&mut self, media_type: &str, document: &Value) -> Value {
            let bytes = document.to_string().into_bytes();
            let digest = Digest::of(&bytes).to_string();
            let size = bytes.len();
            self.bytes.insert(digest.clone(), bytes);
            json!({"mediaType": media_type, "digest": digest, "size": size})
        }

        fn image(&mut self, platform: &str) -> Value {
            let platform: Platform = platform.parse().unwrap();
            let config = self.add(
                CONFIG,
                &json!({"os": platform.os, "architecture": platform.architecture,
                    "variant": platform.variant, "rootfs": {"type": "layers", "diff_ids": []}}),
            );
            self.add(
                MANIFEST,
                &json!({"schemaVersion": 2, "config": config, "layers": []}),
            )
        }

        fn artifact(&mut self) -> Value {
            let config = self.add("application/vnd.example.chart", &json!({}));
            self.add(
                MANIFEST,
                &json!({"schemaVersion": 2, "config": config, "layers": []}),
            )
        }

        fn index(&mut self, manifests: &[Value]) -> Value {
            self.add(INDEX, &json!({"schemaVersion": 2, "manifests": manifests}))
        }

        fn choose(&mut self, top: &Value, platform: &str) -> Result<Image> {
            let top: Descriptor = serde_json::from_value(top.clone()).unwrap();
            let mut chooser = Chooser::new(&[top], &platform.parse().unwrap());
            while let Some(want) = chooser.want()? {
                let digest = want.descriptor.digest().to_string();
                chooser.give(self.bytes.get(&digest).cloned())?;
                self.asked.push(digest);
            }
            chooser.finish()
        }
    }

    fn said(descriptor: &Value, platform: &str) -> Value {
        let platform: Platform = platform.parse().unwrap();
        let mut said = descriptor.clone();
        said["platform"] = json!({"os": platform.os, "architecture": platform.architecture,
            "variant": platform.variant});
        said
    }

    #[test]
    fn takes_the_closest_variant() {
        let mut all = Documents::default();
        let images: Vec<Value> = ["linux/arm/v5", "linux/arm/v6", "linux/arm64"]
            .iter()
            .map(|platform| said(&all.image(platform), platform))
            .collect();
        let top = all.index(&images);
        let platform = |wanted: &str, all: &mut Documents| {
            all.choose(&top, wanted).unwrap().platform.to_string()
        };
        assert_eq!(platform("linux/arm/v7", &mut all), "linux/arm/v6");
        assert_eq!(platform("linux/arm64", &mut all), "linux/arm64");
        let error = all.choose(&top, "linux/amd64").unwrap_err().to_string();
        assert!(
            error.contains("linux/arm/v5, linux/arm/v6, linux/arm64"),
            "{error}"
        );
    }

    #[test]
    fn does_not_ask_for_other_platforms_and_attestations() {
        let mut all = Documents::default();
        let ours = said(&all.image("linux/amd64"), "linux/amd64");
        let other = said(&all.image("linux/s390x"), "linux/s390x");
        let mut attestation = all.artifact();
        attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        let nested = all.index(&[attestation.clone(), other.clone(), ours]);
        let top = all.index(&[nested]);
        all.choose(&top, "linux/amd64").unwrap();
        for passed in [attestation, other] {
            let digest = passed["digest"].as_str().unwrap().to_owned();
            assert!(!all.asked.contains(&digest));
        }
    }

    #[test]
    fn refuses_an_index_that_says_another_platform_than_the_config() {
        let mut all = Documents::default();
        let wrong = said(&all.image("linux/arm64"), "linux/amd64");
        let top = all.index(&[wrong]);
        let error = all.choose(&top, "linux/amd64").unwrap_err().to_string();
        assert!(error.contains("its config says linux/arm64"), "{error}");
    }

    #[test]
    fn refuses_an_artifact_by_name_and_passes_over_one_beside_an_image() {
        let mut all = Documents::default();
        let artifact = all.artifact();
        let error = all
            .choose(&artifact, "linux/amd64")
            .unwrap_err()
            .to_string();
        assert!(error.contains("application/vnd.example.chart"), "{error}");
        let image = all.image("linux/amd64");
        let top = all.index(&[artifact, image]);
        all.choose(&top, "linux/amd64").unwrap();
    }

    #[test]
    fn refuses_what_is_no_manifest_of_today_by_its_name() {
        let mut all = Documents::default();
        let mut refused = |media_type: &str, document: Value| {
            let top = all.add(media_type, &document);
            all.choose(&top, "linux/amd64").unwrap_err().to_string()
        };
        let jws = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        let old = json!({"schemaVersion": 1, "fsLayers": []});
        assert!(refused(jws, old.clone()).contains("schema 1"));
        assert!(refused(MANIFEST, old).contains("schema 1"));
        let both = json!({"schemaVersion": 2, "manifests": [], "layers": []});
        assert!(refused(MANIFEST, both.clone()).contains("both a manifest and an index"));
        assert!(refused(INDEX, both).contains("both a manifest and an index"));
        let artifact = "application/vnd.oci.artifact.manifest.v1+json";
        let said = refused(artifact, json!({"blobs": []}));
        assert!(said.contains(&format!("artifact ({artifact})")), "{said}");
    }

    #[test]
    fn takes_the_first_of_equals_and_any_only_if_it_is_the_only_one() {
        let mut all = Documents::default();
        let one = all.image("linux/amd64");
        let mut two = all.image("linux/amd64/v1");
        two["annotations"] = json!({"a": "b"});
        let arm = all.image("linux/arm64");
        let top = all.index(&[arm.clone(), one.clone(), two]);
        let found = all.choose(&top, "linux/amd64").unwrap();
        assert_eq!(one["digest"], found.manifest.digest.as_str());
        let any = |all: &mut Documents, top: &Value| {
            let top: Descriptor = serde_json::from_value(top.clone()).unwrap();
            let mut chooser = Chooser::new(&[top], &"linux/amd64".parse().unwrap());
            while let Some(want) = chooser.want().unwrap() {
                chooser
                    .give(all.bytes.get(want.descriptor.digest().as_ref()).cloned())
                    .unwrap();
            }
            chooser
                .finish_with_any()
                .map(|image| image.platform.to_string())
        };
        let top = all.index(std::slice::from_ref(&arm));
        assert_eq!(any(&mut all, &top).unwrap(), "linux/arm64");
        let other = all.image("linux/s390x");
        let top = all.index(&[arm, other]);
        assert!(any(&mut all, &top).is_err());
    }

    #[test]
    fn names_the_manifest_that_is_missing() {
        let mut all = Documents::default();
        let image = said(&all.image("linux/amd64"), "linux/amd64");
        let digest = image["digest"].as_str().unwrap().to_owned();
        let top = all.index(&[image]);
        all.bytes.remove(&digest);
        let error = all.choose(&top, "linux/amd64").unwrap_err().to_string();
        assert!(error.contains(&format!("{digest} is missing")), "{error}");
    }

    #[test]
    fn stops_at_indexes_that_nest_too_deep() {
        let mut all = Documents::default();
        let mut top = all.image("linux/amd64");
        for _ in 0..MAX_DEPTH {
            top = all.index(&[top]);
        }
        all.choose(&top, "linux/amd64").unwrap();
        let top = all.index(&[top]);
        let error = all.choose(&top, "linux/amd64").unwrap_err().to_string();
        assert!(error.contains("nest deeper"), "{error}");
    }

    #[test]
    fn refuses_documents_that_are_not_what_was_promised() {
        let mut all = Documents::default();
        let image = all.image("linux/amd64");
        let digest = image["digest"].as_str().unwrap().to_owned();
        let last = all.bytes.get_mut(&digest).unwrap();
        *last.last_mut().unwrap() = b' ';
        let error = all.choose(&image, "linux/amd64").unwrap_err().to_string();
        assert!(
            error.contains(&format!("the content of {digest} is")),
            "{error}"
        );
    }
}
