//! Looking at what a node holds: the image behind a name, and whether it is whole.
//!
//! CRI's word is no evidence: it lists images whose layers were never unpacked or are gone.

use futures_util::StreamExt;

use super::session::Session;
use super::{inventory, name};
use crate::engine::ImageRecord;
use crate::error::{Error, ErrorKind, Result};
use crate::image::choose::{self, Chooser};
use crate::image::{Digest, Image, MAX_MANIFEST, Platform, refused};

/// What stands behind a name on a node.
#[derive(Debug)]
pub enum Held {
    /// Nothing.
    Absent,
    /// An image that cannot run, and why: somebody's load was cut short.
    Broken(String),
    /// An image, complete and unpacked.
    Whole(Box<Image>),
}

/// Finds the image that a name stands for on a node.
///
/// # Errors
/// A call's failure.
pub async fn held(session: &Session, name: &str) -> Result<Held> {
    let Some(target) = name::get(session, name)
        .await?
        .and_then(|record| record.target)
    else {
        return Ok(Held::Absent);
    };
    let image = match read(session, &target.digest, &target.media_type).await? {
        Ok(image) => image,
        Err(why) => return Ok(Held::Broken(why)),
    };
    if let Some(top) = image.top() {
        if inventory::lacks(session, &image).await? {
            return Ok(Held::Broken("its layers are not unpacked".to_owned()));
        }
        let key = format!(
            "containerd.io/gc.ref.snapshot.{}",
            session.facts().snapshotter
        );
        let config = session.blobs(&[&image.config.digest]).await?;
        let labels = config.into_iter().next().flatten().unwrap_or_default();
        // Without the label the layers go with the next collection.
        if labels.get(&key).map(String::as_str) != Some(top.to_string().as_str()) {
            return Ok(Held::Broken("nothing holds its unpacked layers".to_owned()));
        }
    }
    Ok(Held::Whole(Box::new(image)))
}

/// Finds an image that an engine describes, under whatever name, with its documents.
///
/// # Errors
/// A call's failure.
pub async fn described(session: &Session, record: &ImageRecord) -> Result<Option<Image>> {
    let target = match (&record.manifest, &record.image_id) {
        (Some(manifest), _) => Some((manifest.to_string(), String::new())),
        (None, Some(id)) => name::get(session, &id.to_string())
            .await?
            .and_then(|record| record.target)
            .map(|target| (target.digest, target.media_type)),
        (None, None) => None,
    };
    let Some((digest, media_type)) = target else {
        return Ok(None);
    };
    let image = read(session, &digest, &media_type).await?.ok();
    Ok(image.filter(|image| matches(image, record) == Some(true)))
}

/// Tells whether an image is the one that an engine describes; none, if the engine's description
/// does not say.
pub fn matches(image: &Image, record: &ImageRecord) -> Option<bool> {
    if record.manifest.as_ref() == Some(&image.manifest.digest) {
        return Some(true);
    }
    if let Some(id) = &record.image_id {
        return Some(*id == image.id());
    }
    let layers = image.layers.iter().map(|layer| &layer.diff_id);
    if record.diff_ids.is_empty() || layers.eq(&record.diff_ids) {
        // The same image may have another manifest here (other compression): not known.
        None
    } else {
        Some(false)
    }
}

/// Finds the image of a name, unpacked or not: for a platform, or, if none is asked for, what the
/// node runs or the only one that is there.
///
/// # Errors
/// Image error, if it is damaged or not for that platform; else a call's failure.
pub async fn image(
    session: &Session,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Option<Image>> {
    let record = name::get(session, name).await?;
    let Some(target) = record.and_then(|record| record.target) else {
        return Ok(None);
    };
    choose(session, &target.digest, &target.media_type, platform)
        .await?
        .map(Some)
}

/// Reads manifest and config; the inner error says what is missing or does not agree.
///
/// # Errors
/// A call's failure.
pub async fn read(
    session: &Session,
    digest: &str,
    media_type: &str,
) -> Result<Result<Image, String>> {
    let chosen = choose(session, digest, media_type, None).await?;
    Ok(chosen.map_err(|why| why.to_string()))
}

/// Chooses an image below a document; the inner error says what is missing or does not agree.
async fn choose(
    session: &Session,
    digest: &str,
    media_type: &str,
    platform: Option<&Platform>,
) -> Result<Result<Image>> {
    let Some(root) = blob(session, digest, MAX_MANIFEST).await? else {
        return Ok(Err(refused(format!("its manifest {digest} is not there"))));
    };
    let own = &session.facts().platform;
    let mut chooser = match choose::describe(&root, media_type) {
        Ok(descriptor) => Chooser::new(&[descriptor], platform.unwrap_or(own)),
        Err(why) => return Ok(Err(why)),
    };
    let mut root = Some(root);
    loop {
        let want = match chooser.want() {
            Ok(Some(want)) => want,
            Ok(None) => {
                return Ok(match platform {
                    Some(_) => chooser.finish(),
                    // Somebody may have loaded an image for a foreign platform on purpose.
                    None => chooser.finish_with_any(),
                });
            }
            Err(why) => return Ok(Err(why)),
        };
        let document = match root.take() {
            Some(root) => Some(root),
            None => blob(session, want.descriptor.digest().as_ref(), want.limit).await?,
        };
        if let Err(why) = chooser.give(document) {
            return Ok(Err(why));
        }
    }
}

/// Reads a blob of at most `limit` bytes. None, if it is not there or not what its digest says.
///
/// # Errors
/// The call's failure.
pub async fn blob(session: &Session, digest: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut stream = session.read(digest);
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(failure) if failure.not_found() => return Ok(None),
            Err(failure) => return Err(failure.into()),
        }
        if bytes.len() as u64 > limit {
            return Err(Error::new(
                ErrorKind::Load,
                format!(
                    "node {}: {digest} is larger than {limit} bytes",
                    session.node().name
                ),
            ));
        }
    }
    let right = digest
        .parse::<Digest>()
        .is_ok_and(|d| d == Digest::of(&bytes));
    Ok(right.then_some(bytes))
}
