//! Staging: everything an image needs on one node, complete and unpacked under a lease, before
//! any name points at it.

use super::inventory;
use super::session::Session;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;

/// What staging did on one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staged {
    /// Bytes of layers, manifest and config that went to the node.
    pub sent: u64,
    /// Bytes of the image that did not have to.
    pub skipped: u64,
}

/// Makes sure that everything a name will need is there.
///
/// # Errors
/// Load error, naming what is missing.
pub async fn check(session: &Session, image: &Image) -> Result<()> {
    let missing = |what: String| {
        Error::new(
            ErrorKind::Load,
            format!(
                "node {} lost {what} while the image was loaded",
                session.node().name
            ),
        )
        .hint("something on the node removes images; run the command again")
    };
    let documents = [&image.manifest.digest, &image.config.digest];
    let (found, lacks) =
        tokio::try_join!(session.blobs(&documents), inventory::lacks(session, image))?;
    if let Some((digest, _)) = documents.iter().zip(found).find(|(_, blob)| blob.is_none()) {
        return Err(missing(digest.to_string()));
    }
    if let Some(top) = image.top().filter(|_| lacks) {
        return Err(missing(format!("the unpacked layers ({top})")));
    }
    Ok(())
}
