//! From an image that an engine has to an image that every node has.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::contract::Naming;
use crate::engine::{Engine, ImageRecord};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::Image;
use crate::job::Job;
use crate::load::{self, Leased, Leases, Load};
use crate::node::tunnel::Tunnel;
use crate::node::{Session, find as on_node, inventory};
use crate::push::{Landed, Landing, Listener, Registry, Target};
use crate::reference::Reference;
use crate::report::{Clock, Event, Outcome};
use crate::source::Source;

/// An image to deliver.
pub(super) struct Delivery<'a> {
    pub name: &'a Reference,
    pub naming: Naming,
    pub record: ImageRecord,
    /// Where the engine can push it to under a name that it has already.
    pub listener: Option<Arc<Listener>>,
}

/// Where an image goes.
pub(super) struct Destination<'a> {
    pub cluster: &'a Cluster,
    pub sessions: &'a [Arc<Session>],
}

/// How long an engine may take to give a push up that is refused.
const REFUSED: Duration = Duration::from_secs(5);
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
    let leases = Leases::make(to.sessions).await;
    deliver_under(job, engine, to, delivery, leases, clock).await
}

/// Does the same under leases that there are already, and lets go of them.
pub(super) async fn deliver_under(
    job: &Job,
    engine: &Engine,
    to: &Destination<'_>,
    delivery: &mut Delivery<'_>,
    mut leases: Leases,
    clock: &mut Clock,
) -> Result<Outcome> {
    let delivered = try_each_way(job, engine, to, delivery, &mut leases, clock).await;
    leases.let_go(job, delivered.is_err()).await;
    job.report.event(&Event::Settled);
    delivered
}

async fn try_each_way(
    job: &Job,
    engine: &Engine,
    to: &Destination<'_>,
    delivery: &mut Delivery<'_>,
    leases: &mut Leases,
    clock: &mut Clock,
) -> Result<Outcome> {
    // Nothing needs to land.
    let none = Arc::new(Landed::default());
    let source = Arc::clone(&none) as Arc<dyn Source>;
    if let Some(load) = on_hand(job, to, delivery, source).await? {
        job.step(|| format!("every node has the layers of {}", load.image.id()));
        load::bound(job, to.sessions);
        match load::load_under(job, to.cluster, (leases.all()?, &[]), &load, clock).await {
            Err(e) if none.was_short() && !job.cancel.is_cancelled() => {
                job.step(|| format!("trying again with everything: {}", one_line(&e)));
                leases.renew(job, to.sessions).await;
            }
            other => return other,
        }
    }
    if by_push(job, engine)?
        && let Some(tunnels) = tunnels(job, to.sessions)
    {
        // What a node has lost since it was asked, it gets at the second try.
        for _ in 0..2 {
            match push(job, engine, (to, &tunnels), delivery, leases.all()?, clock).await? {
                Pushed::Loaded(outcome) => return Ok(*outcome),
                Pushed::Short(why) => {
                    job.step(|| format!("trying again: {why}"));
                    leases.renew(job, to.sessions).await;
                }
                Pushed::Not(why) => {
                    job.step(|| format!("saving instead: {why}"));
                    leases.renew(job, to.sessions).await;
                    break;
                }
            }
        }
    }
    let began = Instant::now();
    load::bound(job, to.sessions);
    let (image, source) = export(job, engine, delivery).await?;
    clock.end("export", began);
    let load = delivery.load(image, source)?;
    load::load_under(job, to.cluster, (leases.all()?, &[]), &load, clock).await
}

/// Chooses how the image leaves the engine; `KINDLIFT_EXPORT` forces one way, for tests.
pub(super) fn by_push(job: &Job, engine: &Engine) -> Result<bool> {
    match job.env.get("KINDLIFT_EXPORT") {
        None => Ok(engine.may_reach_us()),
        Some("push") => Ok(true),
        Some("save") => Ok(false),
        Some(other) => Err(Error::usage(format!("KINDLIFT_EXPORT is {other:?}"))
            .hint("set it to push or save, or unset it")),
    }
}

/// Returns the tunnels to the nodes, through which uploads go; none, if a node has no tunnel.
fn tunnels(job: &Job, sessions: &[Arc<Session>]) -> Option<Vec<Tunnel>> {
    let mut tunnels = Vec::new();
    for session in sessions {
        let Some(tunnel) = session.tunnel() else {
            job.step(|| {
                let node = &session.node().name;
                format!("saving, because uploads cannot go on to node {node}: it has no tunnel")
            });
            return None;
        };
        tunnels.push(tunnel.clone());
    }
    Some(tunnels)
}

/// What became of a push.
enum Pushed {
    /// Every node has the image.
    Loaded(Box<Outcome>),
    /// A node lost something that it had when the engine asked for it.
    Short(String),
    /// The engine could not push: why.
    Not(String),
}

/// Lets the engine push what the nodes lack, and loads that. While the engine gets its push ready, the
/// nodes are asked what they have.
async fn push(
    job: &Job,
    engine: &Engine,
    (to, tunnels): (&Destination<'_>, &[Tunnel]),
    delivery: &Delivery<'_>,
    leased: &[Leased],
    clock: &mut Clock,
) -> Result<Pushed> {
    let began = Instant::now();
    load::bound(job, to.sessions);
    let listener = match &delivery.listener {
        Some(listener) => Arc::clone(listener),
        None => match Listener::bind().await {
            Ok(listener) => Arc::new(listener),
            Err(why) => return Ok(Pushed::Not(one_line(&why).to_string())),
        },
    };
    let registry = Registry::start(Arc::clone(&listener));
    let landing = async {
        let leases = leased.iter().map(|node| node.lease.clone());
        let places = tunnels.iter().cloned().zip(leases).collect();
        let landing = Landing::begin(places, &delivery.record);
        let landing = job.cancel.unless(landing).await;
        registry.land(landing.inspect(|landing| landing.tell(job)));
    };
    let load = async |received: Received| {
        let (image, landed) = match received? {
            Ok(received) => received,
            Err(why) => return Ok(Pushed::Not(one_line(&why).to_string())),
        };
        clock.end("push", began);
        let landed = Arc::new(landed);
        let source = Arc::clone(&landed) as Arc<dyn Source>;
        let load = delivery.load(Arc::new(image), source)?;
        match load::load_under(job, to.cluster, (leased, landed.held()), &load, clock).await {
            Err(e) if landed.was_short() && !job.cancel.is_cancelled() => {
                Ok(Pushed::Short(one_line(&e).to_string()))
            }
            other => other.map(|outcome| Pushed::Loaded(Box::new(outcome))),
        }
    };
    let receiving = receive(job, engine, &registry, listener.target(), delivery, load);
    let ((), done) = tokio::join!(landing, receiving);
    registry.stop().await;
    done
}

/// What the engine has pushed. The inner error is the engine's, for which there is another way;
/// the outer one is ours, a node's or the user's.
type Received = Result<Result<(Image, Landed)>>;

/// Receives what the engine pushes and hands it on as soon as it is whole; how the engine puts its
/// own things in order then is waited for, but only at the end.
async fn receive<T>(
    job: &Job,
    engine: &Engine,
    registry: &Registry,
    target: &Target,
    delivery: &Delivery<'_>,
    then: impl AsyncFnOnce(Received) -> Result<T>,
) -> Result<T> {
    let record = &delivery.record;
    job.step(|| {
        format!(
            "letting {} push {} to 127.0.0.1:{}",
            engine.describe(),
            record.id,
            target.port
        )
    });
    let silent = Cell::new(false);
    let over = CancellationToken::new();
    let stop = async {
        tokio::select! {
            () = job.cancel.cancelled() => {}
            () = registry.silent(job.silence) => silent.set(true),
            // It is refused now, or has all it asked for, and ends by itself.
            () = registry.failed() => tokio::time::sleep(REFUSED).await,
            () = over.cancelled() => tokio::time::sleep(REFUSED).await,
        }
    };
    let (tell, told) = oneshot::channel();
    let pushing = async {
        let held = delivery.listener.is_some();
        if let Err(Err(e)) = tell.send(engine.push_to(record, target, held, stop).await) {
            // What it was to push is here all the same; a name that it keeps the next run removes.
            tracing::debug!(error = %one_line(&e), "a push failed once it was over");
        }
    };
    let handing_on = async {
        let ended = tokio::select! {
            biased;
            () = registry.whole() => Ok(()),
            ended = told => ended.expect("the push tells how it ended"),
        };
        let received = if job.cancel.is_cancelled() {
            Err(job.cancel.error())
        } else if let Some(failure) = registry.failure() {
            Err(failure)
        } else if silent.get() {
            Err(Error::new(
                ErrorKind::Image,
                format!("the push has said nothing for {} s", job.silence.as_secs()),
            )
            .because(engine.describe())
            .hint("give it longer with --silence-timeout"))
        } else {
            match ended {
                Ok(()) => Ok(registry.pushed(record)),
                Err(e) => Ok(Err(e)),
            }
        };
        let done = then(received).await;
        over.cancel();
        done
    };
    tokio::join!(pushing, handing_on).1
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
            found: self.record.found,
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
        .map(|session| async { inventory::lacks(session, &image).await.map_err(Error::from) });
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
