//! Naming: the moment an image becomes visible to the kubelet, and how to take it back.
//!
//! Names are moved by containerd's atomic Update; none is ever absent in between. Every record
//! carries the label that says the CRI plugin manages it: without it the plugin's event handler
//! writes its own target back and one of two quick updates is lost.

use std::collections::HashMap;
use std::time::SystemTime;

use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image as Record, UpdateImageRequest,
};
use containerd_client::types::Descriptor;

use super::lease::Lease;
use super::session::{Failure, Session};
use super::stage;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::reference::Reference;

/// Label on names that kindlift gave; its value is the time, RFC 3339, a space, and the name that
/// was asked for. So the record by ID, which stays when the name moves on, still tells what it was.
pub const LOADED: &str = "io.kindlift.loaded";
const MANAGED: &str = "io.cri-containerd.image";
/// How often a create and an update may miss one another.
const TRIES: usize = 20;

/// What a name pointed at before us.
#[derive(Debug, Clone)]
pub struct Former {
    name: String,
    target: Option<Descriptor>,
    /// When kindlift gave that name, if it was kindlift.
    loaded: Option<String>,
}

/// Points names at an image that is complete on the node. What they pointed at is held by the
/// lease, so that it can come back. `done` is filled as names move, whatever comes then.
///
/// # Errors
/// A call's failure.
pub async fn name(
    session: &Session,
    lease: &Lease,
    image: &Image,
    names: &[Reference],
    done: &mut Vec<Former>,
) -> Result<()> {
    // The CRI's own record by ID comes first: it makes this one visible a little sooner.
    let records =
        std::iter::once(image.id().to_string()).chain(names.iter().map(Reference::to_string));
    let target = target(image);
    // The other nodes' staging and the lock took their time: is all still there?
    stage::check(session, image).await?;
    for record in records {
        let former = get(session, &record).await?;
        let loaded = former
            .as_ref()
            .and_then(|record| record.labels.get(LOADED).cloned());
        let former = former.and_then(|record| record.target);
        if let Some(old) = &former
            && old.digest != target.digest
        {
            lease.hold(session, "content", &old.digest).await?;
        }
        done.push(Former {
            name: record.clone(),
            target: former,
            loaded,
        });
        let now = prost_types::Timestamp::from(SystemTime::now());
        let loaded = match names.first() {
            Some(name) => format!("{now} {name}"),
            None => now.to_string(),
        };
        point(session, &record, &target, loaded).await?;
    }
    Ok(())
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
            // containerd drops a label that is updated to nothing.
            Some(old) => {
                let loaded = former.loaded.clone().unwrap_or_default();
                point(session, &former.name, old, loaded).await?;
            }
            None => delete(session, &former.name).await?,
        }
    }
    Ok(())
}

fn target(image: &Image) -> Descriptor {
    Descriptor {
        media_type: image.manifest.media_type.clone(),
        digest: image.manifest.digest.to_string(),
        size: (image.manifest.bytes.len() as u64).cast_signed(),
        annotations: HashMap::new(),
    }
}

/// Returns a node's record of a name.
///
/// # Errors
/// The call's failure.
pub async fn get(session: &Session, name: &str) -> Result<Option<Record>, Failure> {
    let request = session.request(
        GetImageRequest {
            name: name.to_owned(),
        },
        None,
    );
    let mut client = ImagesClient::new(session.channel());
    match session
        .call(&format!("looking up {name}"), client.get(request))
        .await
    {
        Ok(answer) => Ok(answer.image),
        Err(failure) if failure.not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn point(session: &Session, name: &str, target: &Descriptor, loaded: String) -> Result<()> {
    let record = Record {
        name: name.to_owned(),
        target: Some(target.clone()),
        labels: HashMap::from([
            (MANAGED.to_owned(), "managed".to_owned()),
            (LOADED.to_owned(), loaded),
        ]),
        ..Record::default()
    };
    let paths = vec![
        "target".to_owned(),
        format!("labels.{MANAGED}"),
        format!("labels.{LOADED}"),
    ];
    let mut client = ImagesClient::new(session.channel());
    let what = format!("naming {name}");
    // Between a failed update and a create somebody else may create, and the other way round.
    for _ in 0..TRIES {
        let request = session.request(
            UpdateImageRequest {
                image: Some(record.clone()),
                update_mask: Some(prost_types::FieldMask {
                    paths: paths.clone(),
                }),
                ..UpdateImageRequest::default()
            },
            None,
        );
        match session.call(&what, client.update(request)).await {
            Err(failure) if failure.not_found() => {}
            other => return other.map(|_| ()).map_err(Error::from),
        }
        let request = session.request(
            CreateImageRequest {
                image: Some(record.clone()),
                ..CreateImageRequest::default()
            },
            None,
        );
        match session.call(&what, client.create(request)).await {
            Err(failure) if failure.already_exists() => {}
            other => return other.map(|_| ()).map_err(Error::from),
        }
    }
    Err(Error::new(
        ErrorKind::Load,
        format!(
            "node {}: {name} is created and removed all the time",
            session.node().name
        ),
    ))
}

async fn delete(session: &Session, name: &str) -> Result<()> {
    let request = session.request(
        DeleteImageRequest {
            name: name.to_owned(),
            ..DeleteImageRequest::default()
        },
        None,
    );
    let mut client = ImagesClient::new(session.channel());
    match session
        .call(&format!("removing {name}"), client.delete(request))
        .await
    {
        Err(failure) if failure.not_found() => Ok(()),
        other => other.map(|_| ()).map_err(Error::from),
    }
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
