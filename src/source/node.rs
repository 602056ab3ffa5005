//! An image out of a node: into another cluster, onto nodes that lack it, or into a file.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{CHUNK, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Digest, Image, Platform};
use crate::job::Job;
use crate::node::{Session, find};
use crate::reference::Reference;

/// The content of a node.
struct NodeBlobs {
    session: Arc<Session>,
    /// The image, for messages.
    name: String,
}

/// Reads an image of a node: of several platforms the one that is asked for; if none is, what the
/// node itself runs.
///
/// # Errors
/// Image error, if the node has no such image, or none for the platform.
pub async fn read(
    session: Arc<Session>,
    name: &Reference,
    platform: Option<&Platform>,
    job: &Job,
) -> Result<(Arc<Image>, Arc<dyn Source>)> {
    let node = session.node().name.clone();
    let short = name.familiar();
    let found = job
        .cancel
        .unless(find::image(&session, &name.to_string(), platform))
        .await?;
    let Some(image) = found else {
        return Err(Error::new(
            ErrorKind::Image,
            format!("node {node} has no image {short}"),
        )
        .hint(format!(
            "look with `{}`",
            session.node().exec_hint("crictl images")
        )));
    };
    let blobs = NodeBlobs {
        session,
        name: short,
    };
    Ok((Arc::new(image), Arc::new(blobs)))
}

impl NodeBlobs {
    fn discarded(session: &Session, name: &str, blob: &Digest) -> Error {
        let node = &session.node().name;
        let why = match session.facts().discard {
            true => ": it discards layers once they are unpacked (discard_unpacked_layers)",
            false => "",
        };
        Error::new(
            ErrorKind::Image,
            format!("node {node} has {name} unpacked, but its layer {blob} no more{why}"),
        )
        .hint(
            "take the image from an engine, an archive or its registry; or set \
             discard_unpacked_layers = false in the node's /etc/containerd/config.toml, restart \
             its containerd and load the image there again",
        )
    }
}

impl Source for NodeBlobs {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        let (session, name, blob) = (Arc::clone(&self.session), self.name.clone(), blob.clone());
        session
            .read(blob.as_str())
            .map(move |piece| match piece {
                Ok(bytes) => stream::iter(split(bytes).map(Ok)).left_stream(),
                Err(failure) => {
                    let error = match failure.not_found() {
                        true => NodeBlobs::discarded(&session, &name, &blob),
                        false => failure.into(),
                    };
                    stream::iter([Err(error)]).right_stream()
                }
            })
            .flatten()
            .boxed()
    }
}

/// Cuts what a node sends, which may be large, into pieces of the usual size.
fn split(mut bytes: Bytes) -> impl Iterator<Item = Bytes> {
    std::iter::from_fn(move || {
        let len = bytes.len().min(CHUNK);
        (len > 0).then(|| bytes.split_to(len))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_cut() {
        let whole = Bytes::from(vec![7; 2 * CHUNK + 5]);
        let lens: Vec<usize> = split(whole).map(|piece| piece.len()).collect();
        assert_eq!(lens, [CHUNK, CHUNK, 5]);
        assert_eq!(split(Bytes::new()).count(), 0);
    }
}
