//! What a node has by name, and what its containers use.

use std::collections::BTreeSet;

use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    DeleteImageRequest, Image as Record, ListContainersRequest, ListImagesRequest,
};

use super::cri;
use super::session::Session;
use crate::error::{Error, Result};

/// Lists a node's image records: every name, and the CRI's own by ID.
///
/// # Errors
/// The call's failure.
pub async fn list(session: &Session) -> Result<Vec<Record>> {
    let request = session.request(ListImagesRequest::default(), None);
    let mut client = ImagesClient::new(session.channel());
    let answer = session.call("listing images", client.list(request)).await?;
    Ok(answer.images)
}

/// Lists what a node's containers, running or not, were made of: names and image IDs.
///
/// # Errors
/// The call's failure.
pub async fn used(session: &Session) -> Result<BTreeSet<String>> {
    // The CRI knows the ID, whatever became of the name; containerd knows containers that no
    // kubelet made.
    let by_cri = session
        .call(
            "listing containers",
            cri::list_containers(session.channel()),
        )
        .await?;
    let request = session.request(ListContainersRequest::default(), None);
    let mut client = ContainersClient::new(session.channel());
    let by_containerd = session
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

/// Removes a name where it still stands for the same content.
///
/// Returns whether it was removed.
///
/// # Errors
/// The call's failure.
pub async fn remove(session: &Session, record: &Record) -> Result<bool> {
    // containerd before 2.0 does not compare the target itself.
    let now = super::name::get(session, &record.name).await?;
    if now.and_then(|now| now.target).map(|target| target.digest)
        != record.target.as_ref().map(|target| target.digest.clone())
    {
        return Ok(false);
    }
    let request = session.request(
        DeleteImageRequest {
            name: record.name.clone(),
            sync: false,
            target: record.target.clone(),
        },
        None,
    );
    let mut client = ImagesClient::new(session.channel());
    match session
        .call(&format!("removing {}", record.name), client.delete(request))
        .await
    {
        Err(failure) if failure.not_found() => Ok(false),
        other => other.map(|_| true).map_err(Error::from),
    }
}
