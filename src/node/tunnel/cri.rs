//! The few calls of the CRI that kindlift needs.
//!
//! Field numbers from k8s.io/cri-api `pkg/apis/runtime/v1/api.proto`; fields that are not read
//! are left out. crictl is still the proof; these tell when to ask it.

use std::collections::HashMap;

use containerd_client::tonic::client::Grpc;
use containerd_client::tonic::codegen::http::uri::PathAndQuery;
use containerd_client::tonic::transport::Channel;
use containerd_client::tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Names an image, by any of its names or its ID.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageSpec {
    /// The name.
    #[prost(string, tag = "1")]
    pub image: String,
}

/// Asks for one image.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageStatusRequest {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageSpec>,
}

/// An image as the kubelet sees it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Image {
    /// The config digest.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Names with a tag.
    #[prost(string, repeated, tag = "2")]
    pub repo_tags: Vec<String>,
    /// Names with a digest.
    #[prost(string, repeated, tag = "3")]
    pub repo_digests: Vec<String>,
}

/// The answer: no image means that there is none.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageStatusResponse {
    /// The image.
    #[prost(message, optional, tag = "1")]
    pub image: Option<Image>,
    /// Not asked for.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// Asks where images lie.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageFsInfoRequest {}

/// A folder.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilesystemIdentifier {
    /// Its path on the node.
    #[prost(string, tag = "1")]
    pub mountpoint: String,
}

/// A folder and what is in it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FilesystemUsage {
    /// The folder.
    #[prost(message, optional, tag = "2")]
    pub fs_id: Option<FilesystemIdentifier>,
}

/// Where images lie.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageFsInfoResponse {
    /// One for the snapshotter in use.
    #[prost(message, repeated, tag = "1")]
    pub image_filesystems: Vec<FilesystemUsage>,
}

/// Asks for all containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersRequest {}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// The image as the pod names it.
    #[prost(message, optional, tag = "4")]
    pub image: Option<ImageSpec>,
    /// The ID of the image that it was made of.
    #[prost(string, tag = "5")]
    pub image_ref: String,
}

/// All containers, whatever their state.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersResponse {
    /// The containers.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

async fn unary<M, R>(
    channel: Channel,
    path: &'static str,
    message: M,
) -> Result<Response<R>, Status>
where
    M: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    let mut grpc = Grpc::new(channel);
    grpc.ready()
        .await
        .map_err(|e| Status::unavailable(e.to_string()))?;
    let codec: ProstCodec<M, R> = ProstCodec::default();
    grpc.unary(
        Request::new(message),
        PathAndQuery::from_static(path),
        codec,
    )
    .await
}

/// Asks for one image.
///
/// # Errors
/// The status of the call.
pub async fn image_status(
    channel: Channel,
    name: &str,
) -> Result<Response<ImageStatusResponse>, Status> {
    let request = ImageStatusRequest {
        image: Some(ImageSpec {
            image: name.to_owned(),
        }),
    };
    unary(channel, "/runtime.v1.ImageService/ImageStatus", request).await
}

/// Asks where images lie.
///
/// # Errors
/// The status of the call.
pub async fn image_fs_info(channel: Channel) -> Result<Response<ImageFsInfoResponse>, Status> {
    unary(
        channel,
        "/runtime.v1.ImageService/ImageFsInfo",
        ImageFsInfoRequest {},
    )
    .await
}

/// Asks for all containers.
///
/// # Errors
/// The status of the call.
pub async fn list_containers(channel: Channel) -> Result<Response<ListContainersResponse>, Status> {
    unary(
        channel,
        "/runtime.v1.RuntimeService/ListContainers",
        ListContainersRequest {},
    )
    .await
}

/// Reads the snapshotter out of a mountpoint like
/// `/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs`.
pub fn snapshotter_of(mountpoint: &str) -> Option<&str> {
    let last = mountpoint.trim_end_matches('/').rsplit('/').next()?;
    last.strip_prefix("io.containerd.snapshotter.v1.")
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_snapshotter() {
        let of = super::snapshotter_of;
        assert_eq!(
            of("/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs"),
            Some("overlayfs")
        );
        assert_eq!(
            of("/x/io.containerd.snapshotter.v1.native/"),
            Some("native")
        );
        assert_eq!(of("/var/lib/containerd"), None);
    }
}
