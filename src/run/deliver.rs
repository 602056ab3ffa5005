//! From an image that an engine has to an image that every node has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::cluster::Cluster;
use crate::contract::Naming;
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
#[derive(Default)]
struct NoLayers {
    /// Whether one was asked for all the same: something was collected since we looked.
    asked: AtomicBool,
}

impl Source for NoLayers {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        self.asked.store(true, Ordering::Relaxed);
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
    let none = Arc::new(NoLayers::default());
    let source = Arc::clone(&none) as Arc<dyn Source>;
    if let Some(load) = on_hand(job, to, delivery, source).await? {
        job.step(|| format!("every node has the layers of {}", load.image.id()));
        match load::load(job, to.cluster, to.sessions, &load, clock).await {
            Err(e) if none.asked.load(Ordering::Relaxed) && !job.cancel.is_cancelled() => {
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
async fn on_hand(
    job: &Job,
    to: &Destination<'_>,
    delivery: &Delivery<'_>,
    source: Arc<dyn Source>,
) -> Result<Option<Load>> {
    let image = job
        .cancel
        .unless(on_all(to.sessions, &delivery.record))
        .await?;
    image.map(|image| delivery.load(image, source)).transpose()
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

/// Makes the error for an image that the engine does not have.
pub(super) fn not_there(engine: &Engine, name: &Reference) -> Error {
    Error::new(
        ErrorKind::Image,
        format!("{} has no image {}", engine.describe(), name.familiar()),
    )
    .hint(format!(
        "build it first, name another engine with --engine, or read it from its registry: \
         docker://{}",
        name.familiar()
    ))
}
