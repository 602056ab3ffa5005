//! Naming: the moment an image becomes visible to the kubelet, and how to take it back.
//!
//! Names are moved by containerd's atomic Update; none is ever absent in between. Every record
//! carries the label that says the CRI plugin manages it: without it the plugin's event handler
//! writes its own target back and one of two quick updates is lost.
//!
//! Of two loads that want one name the later one gets it. Later is the one that found its image
//! later; each name tells when that was, so that a load sees that it was overtaken.

use std::collections::HashMap;
use std::time::SystemTime;

use containerd_client::services::v1::Image as Record;
use containerd_client::types::Descriptor;

use super::Failure;
use super::lease::{Held, Lease};
use super::session::{Labels, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::reference::Reference;

/// Label on names that kindlift gave; its value is when the load found its image, RFC 3339.
pub const FOUND: &str = "io.kindlift.found";
/// Label on them with the name that was asked for. So the record by ID, which stays when the name
/// moves on, still tells what the image was.
pub const ASKED: &str = "io.kindlift.asked";
/// The CRI plugin's label on what it manages, and its value.
pub(super) const MANAGED: (&str, &str) = ("io.cri-containerd.image", "managed");

/// What a load wants of a node, once the image is staged there.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    /// The image.
    pub image: &'a Image,
    /// The names that shall point at it.
    pub names: &'a [Reference],
    /// When the load found the image.
    pub found: SystemTime,
}

impl Claim<'_> {
    fn target(&self) -> Descriptor {
        Descriptor {
            media_type: self.image.manifest.media_type.clone(),
            digest: self.image.manifest.digest.to_string(),
            size: (self.image.manifest.bytes.len() as u64).cast_signed(),
            annotations: HashMap::new(),
        }
    }

    fn labels(&self) -> Labels {
        let asked = self.names.first().map(Reference::to_string);
        labels(
            prost_types::Timestamp::from(self.found).to_string(),
            asked.unwrap_or_default(),
        )
    }

    /// Tells whose a name is.
    fn standing(&self, record: &Record, now: SystemTime) -> Standing {
        let target = record.target.as_ref().map(|target| target.digest.as_str());
        if target == Some(self.image.manifest.digest.as_str()) {
            return Standing::Ours;
        }
        let found = record
            .labels
            .get(FOUND)
            .and_then(|label| label.parse::<prost_types::Timestamp>().ok())
            .and_then(|at| SystemTime::try_from(at).ok());
        match found {
            // Another machine's clock that is ahead of ours says nothing.
            Some(found) if found > now => Standing::Others,
            Some(found) if found > self.found => Standing::Later,
            Some(found) if found < self.found => Standing::Earlier,
            // The same: who moved our name left our label where it was.
            _ => Standing::Others,
        }
    }

    /// Makes the error for a name that somebody else has given away.
    fn superseded(&self, session: &Session, record: &Record, standing: Standing) -> Error {
        let name = self
            .names
            .iter()
            .find(|name| name.to_string() == record.name)
            .map_or_else(|| record.name.clone(), Reference::familiar);
        let who = match standing {
            Standing::Later => "a later load",
            _ => "something other than kindlift",
        };
        let digest = record.target.as_ref().map_or("", |target| &target.digest);
        Error::new(
            ErrorKind::Superseded,
            format!(
                "{name} was superseded: {who} gave the name to {digest} on node {}",
                session.node().name
            ),
        )
        .hint("if this image is the one you want, load it again")
    }
}

/// Whose a name is, for a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It points at our image.
    Ours,
    /// At that of a load that found its image after us.
    Later,
    /// At that of a load that found its image before us.
    Earlier,
    /// At an image that came some other way.
    Others,
}

/// What a name pointed at before us.
#[derive(Debug, Clone)]
pub struct Former {
    name: String,
    target: Option<Descriptor>,
    /// The labels that the name had, if it was kindlift that gave it.
    labels: Labels,
}

/// Our labels on a name; containerd drops one that is updated to nothing.
fn labels(found: String, asked: String) -> Labels {
    Labels::from([(FOUND.to_owned(), found), (ASKED.to_owned(), asked)])
}

/// Looks what the names point at now, and holds it by the lease, so that it can come back.
///
/// # Errors
/// Superseded, if a later load has a name already; a call's failure.
pub async fn look(session: &Session, lease: &Lease, claim: &Claim<'_>) -> Result<Vec<Former>> {
    // The CRI's own record by ID is one of them.
    let id = claim.image.id().to_string();
    let names = std::iter::once(id).chain(claim.names.iter().map(Reference::to_string));
    let names: Vec<String> = names.collect();
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let records = session.records(&asked).await?;
    let mut formers = Vec::new();
    let mut held = Vec::new();
    for (name, record) in names.into_iter().zip(records) {
        let mut former = Former {
            name,
            target: None,
            labels: labels(String::new(), String::new()),
        };
        if let Some(record) = record {
            let standing = claim.standing(&record, SystemTime::now());
            if standing == Standing::Later {
                return Err(claim.superseded(session, &record, standing));
            }
            if standing != Standing::Ours
                && let Some(old) = &record.target
            {
                held.push(old.digest.clone());
            }
            let label = |key| record.labels.get(key).cloned().unwrap_or_default();
            former.labels = labels(label(FOUND), label(ASKED));
            former.target = record.target;
        }
        formers.push(former);
    }
    let held: Vec<_> = held.iter().map(|digest| Held::Blob(digest)).collect();
    session.hold(lease, &held).await?;
    Ok(formers)
}

/// Points the names that were looked at to the image, which must be complete on the node.
///
/// # Errors
/// A call's failure; names after it are left.
pub async fn give(session: &Session, claim: &Claim<'_>, formers: &[Former]) -> Result<()> {
    let names: Vec<&str> = formers.iter().map(|former| former.name.as_str()).collect();
    session
        .point(&names, &claim.target(), &claim.labels())
        .await
}

/// Looks whether the names that were given still point at the image. One that an earlier load
/// has taken since (without our lock: from another host, or by another user) is given again;
/// then the answer is false. One that is gone is left to the proof.
///
/// # Errors
/// Superseded, if a name was moved by a later load or by something else; a call's failure.
pub async fn keep(session: &Session, claim: &Claim<'_>) -> Result<bool> {
    let mut kept = true;
    let names: Vec<String> = claim.names.iter().map(Reference::to_string).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for record in session.records(&names).await?.into_iter().flatten() {
        match claim.standing(&record, SystemTime::now()) {
            Standing::Ours => {}
            Standing::Earlier => {
                session
                    .point(&[&record.name], &claim.target(), &claim.labels())
                    .await?;
                kept = false;
            }
            standing => return Err(claim.superseded(session, &record, standing)),
        }
    }
    Ok(kept)
}

/// Gives names back what they pointed at, where they still point at our image.
///
/// # Errors
/// A call's failure; names after it are left.
pub async fn restore(session: &Session, image: &Image, formers: &[Former]) -> Result<()> {
    let ours = image.manifest.digest.as_str();
    for former in formers.iter().rev() {
        let now = get(session, &former.name)
            .await?
            .and_then(|record| record.target);
        if now.is_none_or(|now| now.digest != ours) {
            continue;
        }
        match &former.target {
            Some(old) if old.digest == ours => {}
            Some(old) => session.point(&[&former.name], old, &former.labels).await?,
            None => {
                session.remove(&former.name, None).await?;
            }
        }
    }
    Ok(())
}

/// Returns a node's record of a name.
///
/// # Errors
/// The call's failure.
pub async fn get(session: &Session, name: &str) -> Result<Option<Record>, Failure> {
    let records = session.records(&[name]).await?;
    Ok(records.into_iter().next().flatten())
}

/// Tells whether every name pointed at the image already.
pub fn unchanged(image: &Image, formers: &[Former]) -> bool {
    formers.iter().all(|former| {
        former
            .target
            .as_ref()
            .is_some_and(|target| target.digest == image.manifest.digest.as_str())
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::image::{Digest, Document, Platform};

    #[test]
    fn the_later_load_is_the_one_that_found_its_image_later() {
        let document = |bytes: &[u8]| Document {
            digest: Digest::of(bytes),
            media_type: String::new(),
            bytes: bytes.to_vec(),
        };
        let image = Image {
            manifest: document(b"manifest"),
            config: document(b"config"),
            platform: Platform::linux("amd64", None),
            layers: Vec::new(),
        };
        let found = SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789);
        let now = found + Duration::from_secs(60);
        let claim = Claim {
            image: &image,
            names: &[],
            found,
        };
        let with = |digest: &str, found: Option<String>| Record {
            target: Some(Descriptor {
                digest: digest.to_owned(),
                ..Descriptor::default()
            }),
            labels: found
                .map(|found| (FOUND.to_owned(), found))
                .into_iter()
                .collect(),
            ..Record::default()
        };
        let at = |at: SystemTime| Some(prost_types::Timestamp::from(at).to_string());
        let tick = Duration::from_nanos(1);
        for (label, standing) in [
            (at(found + tick), Standing::Later),
            (at(found - tick), Standing::Earlier),
            (at(found), Standing::Others),
            (at(now + tick), Standing::Others),
            (None, Standing::Others),
            (Some("yesterday".to_owned()), Standing::Others),
        ] {
            let record = with("sha256:1", label.clone());
            assert_eq!(claim.standing(&record, now), standing, "{label:?}");
        }
        let ours = with(image.manifest.digest.as_str(), at(found + tick));
        assert_eq!(claim.standing(&ours, now), Standing::Ours);
    }
}
