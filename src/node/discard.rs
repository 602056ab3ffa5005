//! Layers' blobs on nodes that discard them once they are unpacked.
//!
//! `ctr images import` makes a manifest hold its layers' blobs whatever the node's setting is. An
//! import of ours lets go of them again; what it is about to do is noted on the node first, so that
//! the next run does it for one that was killed in between.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::Failure;
use super::lease::{EXPIRE, OWNER};
use super::plain::Plain;
use super::session::{Labels, Session};
use crate::error::Result;
use crate::image::Digest;
use crate::owner::Owner;

/// Label of a lease that is only a note: its value is the manifest that shall not hold its layers'
/// blobs.
pub const DISCARDS: &str = "io.kindlift.discards";
/// How labels begin by which a manifest holds its layers' blobs.
const HOLDS_LAYER: &str = "containerd.io/gc.ref.content.l.";
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// That an import of a manifest is under way.
pub(super) struct Note {
    id: String,
    manifest: Digest,
}

impl Note {
    /// Notes it under the lease of the run, where there will be something to let go of. A manifest that holds its layers
    /// already was brought by somebody who wants it so.
    ///
    /// # Errors
    /// A call's failure; image error, if the manifest's digest is none.
    pub async fn make(plain: &Plain, lease: &str, manifest: &str) -> Result<Option<Self>> {
        let manifest: Digest = manifest.parse()?;
        if !plain.facts().discard || !holds(&plain.clone().into(), &manifest).await?.is_empty() {
            return Ok(None);
        }
        let id = format!("{lease}-discards");
        let expire = prost_types::Timestamp::from(SystemTime::now() + LIFETIME);
        let labels = HashMap::from([
            (OWNER.to_owned(), Owner::this().label()),
            (EXPIRE.to_owned(), expire.to_string()),
            (DISCARDS.to_owned(), manifest.to_string()),
        ]);
        plain.create_note(&id, &labels).await?;
        Ok(Some(Self { id, manifest }))
    }

    /// Does what was noted.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn act(self, plain: &Plain) -> Result<(), Failure> {
        let session = Session::from(plain.clone());
        let_go(&session, &self.manifest).await?;
        session.end_lease(&self.id, false).await
    }
}

/// Does what a dead run has noted, if these are the labels of such a note.
///
/// # Errors
/// A call's failure.
pub(super) async fn act_for(session: &Session, note: &Labels) -> Result<(), Failure> {
    match note.get(DISCARDS).and_then(|digest| digest.parse().ok()) {
        Some(manifest) => let_go(session, &manifest).await,
        None => Ok(()),
    }
}

/// Takes away what makes a manifest hold its layers' blobs.
async fn let_go(session: &Session, manifest: &Digest) -> Result<(), Failure> {
    let mut labels = holds(session, manifest).await?;
    if labels.is_empty() {
        return Ok(());
    }
    // One without a value is removed.
    labels.values_mut().for_each(String::clear);
    match session.label_blob(manifest, &labels).await {
        Err(failure) if failure.not_found() => Ok(()),
        other => other,
    }
}

/// Returns the labels by which a manifest holds its layers' blobs.
async fn holds(session: &Session, manifest: &Digest) -> Result<Labels, Failure> {
    let found = session.blobs(&[manifest]).await?;
    let mut labels = found.into_iter().next().flatten().unwrap_or_default();
    labels.retain(|key, _| key.starts_with(HOLDS_LAYER));
    Ok(labels)
}
