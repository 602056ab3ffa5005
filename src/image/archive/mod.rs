//! Reading images out of an archive or a folder: an OCI layout, or what `docker save` wrote
//! before Docker 25 and skopeo and Podman still write as docker-archive.
//!
//! A tar is walked once for its headers; of a layer nothing is read here but its first bytes, or
//! where its digest is not known.

mod docker;
mod layout;
mod members;
mod mistaken;
mod store;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use oci_spec::image::Descriptor;

use self::docker::DockerImage;
use self::store::Store;
use super::{Blobs, Image, Platform, refused, tame};
use crate::error::Result;
use crate::reference::Reference;
use crate::source::spool::FileBlobs;

/// The most images that a message lists.
const MAX_LISTED: usize = 20;

/// An archive or a folder with images.
pub struct Archive {
    store: Store,
    images: Vec<Entry>,
}

/// One image of an archive.
struct Entry {
    /// The names that the archive gives it, in full form.
    names: BTreeSet<String>,
    /// What skopeo, umoci and buildah call it in a layout: a bare tag.
    tags: BTreeSet<String>,
    content: Content,
}

enum Content {
    /// In an OCI layout: what the index says of it.
    Layout(Vec<Descriptor>),
    /// In an archive by Docker.
    Docker(DockerImage),
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
            layout::images(&store)?
        } else if store.has("manifest.json") {
            docker::images(&store)?
        } else {
            return Err(mistaken::no_image(&store));
        };
        if images.is_empty() {
            return Err(refused("it holds no image").hint("name one where you save it"));
        }
        Ok(Self { store, images })
    }

    /// Reads the image for a platform: the one of that name or tag, or the only one.
    ///
    /// # Errors
    /// Image error, if the image is damaged, there are several and none was named, or none is for
    /// the platform.
    pub fn read(&self, wanted: Option<&str>, platform: &Platform) -> Result<(Image, FileBlobs)> {
        match &self.choose(wanted)?.content {
            Content::Layout(descriptors) => {
                layout::read(&self.store, descriptors, &Blobs::new(), platform)
            }
            Content::Docker(docker) => docker::read(&self.store, docker, platform),
        }
    }

    /// Reads the one image of an OCI layout of which some layers are elsewhere.
    ///
    /// # Errors
    /// Image error, as for [`Archive::read`].
    pub fn read_beside(
        &self,
        elsewhere: &Blobs,
        platform: &Platform,
    ) -> Result<(Image, FileBlobs)> {
        match &self.choose(None)?.content {
            Content::Layout(descriptors) => {
                layout::read(&self.store, descriptors, elsewhere, platform)
            }
            Content::Docker(docker) => docker::read(&self.store, docker, platform),
        }
    }

    /// Returns the names of the image of that name or tag, or of the only one: the name by which
    /// it was chosen, or all that the archive gives it.
    ///
    /// # Errors
    /// Image error, if there are several and none was named.
    pub fn names(&self, wanted: Option<&str>) -> Result<Vec<Reference>> {
        let image = self.choose(wanted)?;
        match wanted.map(Reference::parse) {
            Some(Ok(name)) if image.names.contains(&name.to_string()) => Ok(vec![name]),
            _ => image
                .names
                .iter()
                .map(|name| Reference::parse(name))
                .collect(),
        }
    }

    fn choose(&self, wanted: Option<&str>) -> Result<&Entry> {
        let Some(wanted) = wanted else {
            return match self.images.as_slice() {
                [only] => Ok(only),
                images => Err(
                    refused(format!("it holds {} images", images.len())).hint(format!(
                        "name one behind a second colon, e.g. oci-archive:FILE:NAME; it has {}",
                        self.listing()
                    )),
                ),
            };
        };
        let tagged: Vec<&Entry> = self
            .images
            .iter()
            .filter(|image| image.tags.contains(wanted))
            .collect();
        if let [only] = tagged.as_slice() {
            return Ok(only);
        }
        let full = Reference::parse(wanted).map(|name| name.to_string());
        let named = self
            .images
            .iter()
            .find(|image| full.as_ref().is_ok_and(|full| image.names.contains(full)));
        named.ok_or_else(|| match tagged.len() {
            0 => refused(format!("it has no image {wanted}"))
                .hint(format!("it has {}", self.listing())),
            several => refused(format!("it has {several} images with the tag {wanted}"))
                .hint(format!("name one in full; it has {}", self.listing())),
        })
    }

    fn listing(&self) -> String {
        let first = |image: &Entry| {
            let name = image.names.first().or(image.tags.first());
            // A tag is whatever the archive says.
            tame(name.map_or("one without a name", String::as_str))
        };
        let mut names: Vec<String> = self.images.iter().take(MAX_LISTED).map(first).collect();
        if let Some(more @ 1..) = self.images.len().checked_sub(MAX_LISTED) {
            names.push(format!("{more} more"));
        }
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_tags_so_that_they_can_be_printed_and_not_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let manifests: Vec<_> = (0..30)
            .map(|n| {
                serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": crate::image::Digest::of(&[n]), "size": 1,
                    "annotations": {"org.opencontainers.image.ref.name": format!("{n}\u{1b}[2J\n")}})
            })
            .collect();
        let index = serde_json::json!({"schemaVersion": 2, "manifests": manifests});
        std::fs::write(folder.path().join("index.json"), index.to_string()).unwrap();
        let archive = Archive::folder(folder.path()).unwrap();
        let error = archive.names(None).unwrap_err();
        let hint = error.next_step().unwrap();
        assert!(hint.contains(r"it has 0\u{1b}[2J\n, 1\u{1b}"), "{hint}");
        assert!(
            hint.ends_with("10 more") && !hint.contains(char::is_control),
            "{hint}"
        );
    }
}
