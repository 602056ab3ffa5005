//! Names: containerd's image records.
//!
//! Every record carries the label that says the CRI plugin manages it: without it the plugin's
//! event handler writes its own target back and one of two quick updates is lost.

use std::collections::BTreeSet;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Record,
    ListContainersRequest, ListImagesRequest, UpdateImageRequest,
};
use containerd_client::types::Descriptor;
use futures_util::future::{join_all, try_join_all};

use super::{Tunnel, cri};
use crate::error::{Error, ErrorKind, Result};
use crate::node::Failure;
use crate::node::name::MANAGED;
use crate::node::session::Labels;

/// How often a create and an update may miss one another.
const TRIES: usize = 40;

impl Tunnel {
    /// Looks names up.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn records(&self, names: &[&str]) -> Result<Vec<Option<Record>>, Failure> {
        try_join_all(names.iter().map(|name| self.record(name))).await
    }

    async fn record(&self, name: &str) -> Result<Option<Record>, Failure> {
        let request = self.request(
            GetImageRequest {
                name: name.to_owned(),
            },
            None,
        );
        let mut client = ImagesClient::new(self.channel());
        match self
            .call(&format!("looking up {name}"), client.get(request))
            .await
        {
            Ok(answer) => Ok(answer.image),
            Err(failure) if failure.not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Lists all names, or those that begin with something.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn all_records(&self, prefix: Option<&str>) -> Result<Vec<Record>, Failure> {
        let filters = prefix.map(starting_with).into_iter().collect();
        let request = self.request(ListImagesRequest { filters }, None);
        let mut client = ImagesClient::new(self.channel());
        let answer = self.call("listing images", client.list(request)).await?;
        Ok(answer.images)
    }

    /// Points names at a document.
    ///
    /// # Errors
    /// A call's failure; some of the names may have moved then.
    pub(crate) async fn point(
        &self,
        names: &[&str],
        to: &Descriptor,
        labels: &Labels,
    ) -> Result<()> {
        let pointing = names.iter().map(|name| self.point_one(name, to, labels));
        // Not to be dropped half way: all that was done must be known.
        join_all(pointing).await.into_iter().collect()
    }

    async fn point_one(&self, name: &str, to: &Descriptor, labels: &Labels) -> Result<()> {
        let mut labels = labels.clone();
        labels.insert(MANAGED.0.to_owned(), MANAGED.1.to_owned());
        let keys = labels.keys().map(|key| format!("labels.{key}"));
        let paths: Vec<String> = std::iter::once("target".to_owned()).chain(keys).collect();
        let record = Record {
            name: name.to_owned(),
            target: Some(to.clone()),
            labels,
            ..Record::default()
        };
        let mut client = ImagesClient::new(self.channel());
        let what = format!("naming {name}");
        // A record by ID is new with its image.
        let mut create = name.starts_with("sha256:");
        // Between a failed update and a create somebody else may create, and the other way round.
        for _ in 0..TRIES {
            let pointed = if create {
                let request = CreateImageRequest {
                    image: Some(record.clone()),
                    ..CreateImageRequest::default()
                };
                let created = client.create(self.request(request, None));
                self.call(&what, created).await.map(drop)
            } else {
                let request = UpdateImageRequest {
                    image: Some(record.clone()),
                    update_mask: Some(prost_types::FieldMask {
                        paths: paths.clone(),
                    }),
                    ..UpdateImageRequest::default()
                };
                let updated = client.update(self.request(request, None));
                self.call(&what, updated).await.map(drop)
            };
            match pointed {
                Err(failure) if failure.already_exists() && create => create = false,
                Err(failure) if failure.not_found() && !create => create = true,
                other => return other.map_err(Error::from),
            }
        }
        Err(Error::new(
            ErrorKind::Load,
            format!(
                "node {}: {name} is created and removed all the time",
                self.node().name
            ),
        ))
    }

    /// Removes a name. Returns false if it was not there.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn remove(
        &self,
        name: &str,
        guard: Option<&Descriptor>,
    ) -> Result<bool, Failure> {
        let request = self.request(
            DeleteImageRequest {
                name: name.to_owned(),
                sync: false,
                target: guard.cloned(),
            },
            None,
        );
        let mut client = ImagesClient::new(self.channel());
        match self
            .call(&format!("removing {name}"), client.delete(request))
            .await
        {
            Err(failure) if failure.not_found() => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Lists what the node's containers were made of.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn used(&self) -> Result<BTreeSet<String>, Failure> {
        // The CRI knows the ID, whatever became of the name; containerd knows containers that no
        // kubelet made.
        let by_cri = self
            .call("listing containers", cri::list_containers(self.channel()))
            .await?;
        let request = self.request(ListContainersRequest::default(), None);
        let mut client = ContainersClient::new(self.channel());
        let by_containerd = self
            .call("listing containers", client.list(request))
            .await?;
        let by_cri = by_cri.containers.into_iter().flat_map(|container| {
            [
                container.image_ref,
                container.image.unwrap_or_default().image,
            ]
        });
        let by_containerd = by_containerd.containers.into_iter().map(|c| c.image);
        Ok(by_cri
            .chain(by_containerd)
            .filter(|image| !image.is_empty())
            .collect())
    }

    /// Asks the CRI which image it shows.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn shown(&self, name: &str) -> Result<Option<String>, Failure> {
        let call = cri::image_status(self.channel(), name);
        let answer = self.call("asking the CRI for the image", call).await?;
        Ok(answer.image.map(|image| image.id))
    }
}

/// Makes a filter for names that begin with a text.
fn starting_with(prefix: &str) -> String {
    format!("name~=\"^{}\"", prefix.replace('.', "\\\\."))
}
