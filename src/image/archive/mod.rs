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
use super::{Image, Platform, refused};
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
            Content::Layout(descriptors) => layout::read(&self.store, descriptors, platform),
            Content::Docker(docker) => docker::read(&self.store, docker, platform),
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
            let mut names: Vec<&str> = self
                .images
                .iter()
                .take(MAX_LISTED)
                .map(|image| {
                    image
                        .names
                        .first()
                        .map_or("one without a name", String::as_str)
                })
                .collect();
            let more = format!("{} more", self.images.len().saturating_sub(MAX_LISTED));
            if self.images.len() > MAX_LISTED {
                names.push(&more);
            }
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
