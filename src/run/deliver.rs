//! From an image that an engine has to an image that every node has.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{LoadRequest, allow, find, manifests, warn_about_latest};
use crate::cluster::Cluster;
use crate::contract::{self, Naming};
use crate::engine::{Engine, ImageRecord};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{Digest, Image};
use crate::job::Job;
use crate::load::{self, Load};
use crate::node::{Session, find as on_node, stage};
use crate::reference::Reference;
use crate::report::{Clock, Event, Outcome};
use crate::source::Source;

/// An image to deliver.
pub(super) struct Delivery<'a> {
    pub name: &'a Reference,
    pub naming: Naming,
    pub record: ImageRecord,
}

/// Where an image goes.
pub(super) struct Destination<'a> {
    pub cluster: &'a Cluster,
    pub sessions: &'a [Arc<Session>],
}

/// The source of an image that every node has: no layer will be asked for.
struct NoLayers;

impl Source for NoLayers {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        let error = Error::new(ErrorKind::Load, format!("a node has just lost {blob}"));
        stream::once(async { Err(error) }).boxed()
    }
}

/// How often an image may be replaced in the engine while it is being loaded.
const TRIES: usize = 3;

/// Puts an image of an engine onto every node. What all nodes have is not exported.
///
/// Where somebody builds the same name meanwhile and the engine drops this image for it, the
/// later one is loaded, and the delivery's record is that one's.
pub(super) async fn deliver(
    job: &Job,
    engine: &Engine,
    to: &Destination<'_>,
    delivery: &mut Delivery<'_>,
    clock: &mut Clock,
) -> Result<Outcome> {
    if let Some(load) = on_hand(job, to, delivery).await? {
        job.step(|| format!("every node has the layers of {}", load.image.id()));
        match load::load(job, to.cluster, to.sessions, &load, clock).await {
            // Something on a node was collected since we looked: send it after all.
            Err(e) if e.kind() == ErrorKind::Load && !job.cancel.is_cancelled() => {
                job.step(|| format!("trying again with everything: {}", one_line(&e)));
            }
            other => return other,
        }
    }
    let began = Instant::now();
    let (image, source) = export(job, engine, delivery).await?;
    clock.end("export", began);
    let load = delivery.load(image, source)?;
    load::load(job, to.cluster, to.sessions, &load, clock).await
}

/// Exports the image, or the one that has taken its name.
async fn export(
    job: &Job,
    engine: &Engine,
    delivery: &mut Delivery<'_>,
) -> Result<(Arc<Image>, Arc<dyn Source>)> {
    let name = delivery.name.to_string();
    for _ in 0..TRIES {
        let record = &delivery.record;
        job.step(|| format!("saving {} out of {}", record.id, engine.describe()));
        let exported = engine.export(record.id.0.as_str(), &record.platform, job);
        let failure = match job.cancel.unless(exported).await {
            Err(e) if !job.cancel.is_cancelled() => e,
            other => return other,
        };
        // Docker's containerd store drops an image at once when its only name is taken.
        let looked = engine.inspect(record.id.0.as_str());
        if job.cancel.unless(looked).await?.is_some() {
            return Err(failure);
        }
        match job.cancel.unless(engine.inspect(&name)).await? {
            Some(later) => delivery.record = later,
            None => return Err(failure),
        }
        job.report.event(&Event::Warning {
            message: &format!(
                "{} was built again while this was going on: loading the later image",
                delivery.name.familiar()
            ),
            hint: None,
        });
    }
    Err(Error::new(
        ErrorKind::Image,
        format!(
            "{} is replaced in {} all the time",
            delivery.name.familiar(),
            engine.describe()
        ),
    )
    .hint("let one build of a name end before the next begins"))
}

/// Returns what to load, if every node has the layers: then the engine need not export.
async fn on_hand(job: &Job, to: &Destination<'_>, delivery: &Delivery<'_>) -> Result<Option<Load>> {
    let image = job
        .cancel
        .unless(on_all(to.sessions, &delivery.record))
        .await?;
    image
        .map(|image| delivery.load(image, Arc::new(NoLayers)))
        .transpose()
}

impl Delivery<'_> {
    fn load(&self, image: Arc<Image>, source: Arc<dyn Source>) -> Result<Load> {
        let names = self.naming.names(self.name, &self.record.id, &image.id())?;
        // With a ref file the image has no other name than the one made of its content.
        let title = match (self.naming, names.as_slice()) {
            (Naming::Content, [content]) => content.familiar(),
            _ => self.name.familiar(),
        };
        Ok(Load {
            title,
            image,
            source,
            names,
        })
    }
}

/// Returns an image that every node has unpacked, with the manifest that a node has for it.
async fn on_all(sessions: &[Arc<Session>], record: &ImageRecord) -> Result<Option<Arc<Image>>> {
    let described = sessions
        .iter()
        .map(|session| on_node::described(session, record));
    let Some(image) = try_join_all(described).await?.into_iter().flatten().next() else {
        return Ok(None);
    };
    let lacking = sessions
        .iter()
        .map(|session| async { stage::lacks(session, &image).await.map_err(Error::from) });
    let lacking = try_join_all(lacking).await?.contains(&true);
    Ok((!lacking).then(|| Arc::new(image)))
}

/// Finds images in the engine, and loads them into every node.
///
/// # Errors
/// Image error, if the engine has no such image; else of the kind of the step that failed.
pub async fn load(job: &Job, request: &LoadRequest) -> Result<Vec<Outcome>> {
    let mut clock = Clock::start();
    let subjects = subjects(job, request)?;
    if subjects.is_empty() {
        job.report.event(&Event::Done("nothing to load"));
        return Ok(Vec::new());
    }
    for subject in &subjects {
        warn_about_latest(job, &subject.name);
    }
    let by_api = subjects
        .iter()
        .any(|s| matches!(s.naming, Naming::Skaffold | Naming::Tilt));
    let began = Instant::now();
    let (engine, (cluster, nodes)) = futures_util::try_join!(
        job.cancel
            .unless(Engine::find(request.engine, by_api, &job.env)),
        find(job, &request.place, false),
    )?;
    clock.end("find", began);
    let began = Instant::now();
    let sessions = load::open(&nodes, job).await?;
    clock.end("connect", began);

    // Everything is looked up before anything is loaded: a typing error costs nothing.
    let mut found = Vec::new();
    for subject in &subjects {
        match look_up(job, &engine, subject, &sessions).await? {
            Some(record) => {
                allow(&sessions, &record.platform, &request.place)
                    .map_err(|e| e.within(format!("{} is refused", subject.name.familiar())))?;
                found.push((subject, record));
            }
            // What manifests name and the engine does not have is the kubelet's to pull.
            None if subject.optional => job.report.event(&Event::Done(&format!(
                "left to the kubelet: {} ({} does not have it)",
                subject.name.familiar(),
                engine.describe()
            ))),
            None => return Err(not_there(&engine, &subject.name)),
        }
    }
    let mut outcomes = Vec::new();
    for (subject, record) in found {
        let mut delivery = Delivery {
            name: &subject.name,
            naming: subject.naming,
            record,
        };
        let to = Destination {
            cluster: &cluster,
            sessions: &sessions,
        };
        outcomes.push(deliver(job, &engine, &to, &mut delivery, &mut clock).await?);
    }
    Ok(outcomes)
}

/// One image that is asked for.
struct Subject {
    name: Reference,
    naming: Naming,
    pull: bool,
    optional: bool,
}

fn subjects(job: &Job, request: &LoadRequest) -> Result<Vec<Subject>> {
    let mut subjects: Vec<Subject> = Vec::new();
    for image in &request.images {
        let (image, pull) = match image.strip_prefix("docker://") {
            Some(image) => (image, true),
            None => (image.as_str(), request.pull),
        };
        subjects.push(Subject {
            name: Reference::parse(image)?,
            naming: Naming::AsAsked,
            pull,
            optional: false,
        });
    }
    for image in manifests::images(&request.from)? {
        subjects.push(Subject {
            name: image,
            naming: Naming::AsAsked,
            pull: request.pull,
            optional: true,
        });
    }
    if request.images.is_empty()
        && request.from.is_empty()
        && let Some((name, naming)) = contract::subject(&job.env)?
    {
        subjects.push(Subject {
            name,
            naming,
            pull: request.pull,
            optional: false,
        });
    }
    let mut seen = std::collections::HashSet::new();
    subjects.retain(|subject| seen.insert(subject.name.clone()));
    Ok(subjects)
}

async fn look_up(
    job: &Job,
    engine: &Engine,
    subject: &Subject,
    sessions: &[Arc<Session>],
) -> Result<Option<ImageRecord>> {
    // Docker knows an image by what a user writes; the full form finds it too.
    let name = subject.name.to_string();
    let record = job.cancel.unless(engine.inspect(&name)).await?;
    if record.is_some() || !subject.pull {
        if let Some(record) = &record {
            super::build::tell_shadow(job, engine, &subject.name, record).await?;
        }
        return Ok(record);
    }
    let platform = load::platform(sessions)?;
    engine.pull(&subject.name, &platform, job).await?;
    job.cancel.unless(engine.inspect(&name)).await
}

/// Makes the error for an image that the engine does not have.
pub(super) fn not_there(engine: &Engine, name: &Reference) -> Error {
    Error::new(
        ErrorKind::Image,
        format!("{} has no image {}", engine.describe(), name.familiar()),
    )
    .hint(format!(
        "build it first, name another engine with --engine, or pull it: `kindlift load docker://{}`",
        name.familiar()
    ))
}
