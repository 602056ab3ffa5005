//! The transaction over all nodes: stage everywhere, name everywhere, prove everywhere, settle.
//!
//! No name changes anywhere before every node holds the complete, unpacked image. When naming or
//! the proof fails on one node, the former targets come back on all of them; unless it is somebody
//! else who moved a name: what they did stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{join_all, try_join_all};

use crate::cluster::{Cluster, Node};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{Image, Platform};
use crate::job::Job;
use crate::lock::ClusterLock;
use crate::node::crictl::{self, Shown};
use crate::node::inventory::{self, Inventory};
use crate::node::lease::{self, Lease};
use crate::node::name::{self, Claim, Former};
use crate::node::stage::{self, Staged};
use crate::node::{Link, Session};
use crate::reference::Reference;
use crate::report::{Clock, Doing, Event, NodeOutcome, NodeResult, Outcome};
use crate::source::Source;

/// Opens a session with every node, all at once. Where the name is known for which crictl will be
/// asked, it starts there.
///
/// # Errors
/// Cluster error, naming the first node that does not answer.
pub async fn open(
    nodes: &[Node],
    name: Option<&Reference>,
    job: &Job,
) -> Result<Vec<Arc<Session>>> {
    let name = name.map(Reference::to_string);
    let opening = nodes.iter().map(|node| async {
        let session = Session::open(node, job).await?;
        if let Some(name) = &name {
            session.start_crictl(name).await;
        }
        Ok(Arc::new(session))
    });
    job.cancel.unless(try_join_all(opening)).await
}

/// Opens a session with every node, and sweeps what dead runs have left there.
///
/// # Errors
/// As [`open`].
pub async fn open_to_load(
    nodes: &[Node],
    name: Option<&Reference>,
    job: &Job,
) -> Result<Vec<Arc<Session>>> {
    let sessions = open(nodes, name, job).await?;
    let sweeps = join_all(sessions.iter().map(|session| lease::sweep_once(session)));
    job.cancel.unless(async { Ok(sweeps.await) }).await?;
    Ok(sessions)
}

/// Returns the platform that all nodes run.
///
/// # Errors
/// Cluster error, if they differ.
pub fn platform(sessions: &[Arc<Session>]) -> Result<Platform> {
    let mut platforms = sessions
        .iter()
        .map(|session| (session, &session.facts().platform));
    let Some((_, first)) = platforms.next() else {
        return Err(Error::new(ErrorKind::Cluster, "there is no node to load"));
    };
    match platforms.find(|(_, other)| *other != first) {
        None => Ok(first.clone()),
        Some((session, other)) => Err(Error::new(
            ErrorKind::Cluster,
            format!(
                "the nodes differ: {} is {other}, others are {first}",
                session.node().name
            ),
        )
        .hint("say which to build for with --platform, and which nodes to load with --nodes")),
    }
}

/// Refuses a platform that a node cannot run.
///
/// # Errors
/// Image error, naming the node and what it runs.
pub fn runnable(sessions: &[Arc<Session>], platform: &Platform) -> Result<()> {
    let unable = sessions
        .iter()
        .find(|session| !session.facts().can_run(platform));
    match unable {
        None => Ok(()),
        Some(session) => Err(Error::new(
            ErrorKind::Image,
            format!(
                "the image is for {platform}, but node {} runs {}",
                session.node().name,
                session.facts().platform
            ),
        )
        .hint(format!(
            "build it for {}, install a binfmt handler for {}, or say --allow-foreign-platform",
            session.facts().platform,
            platform.architecture
        ))),
    }
}

/// What to put on the nodes.
pub struct Load {
    /// The name that the user knows it by.
    pub title: String,
    /// The image.
    pub image: Arc<Image>,
    /// Its layers.
    pub source: Arc<dyn Source>,
    /// Every name it gets.
    pub names: Vec<Reference>,
    /// When the image was found. Of two loads of one name, this makes one the later.
    pub found: SystemTime,
}

impl Load {
    fn claim(&self) -> Claim<'_> {
        Claim {
            image: &self.image,
            names: &self.names,
            found: self.found,
        }
    }
}

/// A node with the lease under which this run puts everything there.
pub(crate) struct Leased {
    session: Arc<Session>,
    /// The lease.
    pub lease: Lease,
}

/// A lease on every node. Whoever has them lets go of them, whatever comes of the load.
#[derive(Default)]
pub(crate) struct Leases {
    nodes: Vec<Leased>,
    /// What went wrong on a node that has none.
    failure: Option<Error>,
}

impl Leases {
    /// Makes a lease on every node, once what dead runs have left there is swept: it takes room.
    pub async fn make(sessions: &[Arc<Session>]) -> Self {
        let leases = sessions.iter().map(|session| async {
            lease::sweep_once(session).await;
            Ok::<_, Error>(Leased {
                session: Arc::clone(session),
                lease: Lease::create(session).await?,
            })
        });
        let mut made = Self::default();
        for node in join_all(leases).await {
            match node {
                Ok(node) => made.nodes.push(node),
                Err(e) => made.failure = made.failure.or(Some(e)),
            }
        }
        made
    }

    /// Returns the nodes, in the order of their sessions.
    ///
    /// # Errors
    /// Why one of them has no lease, once.
    pub fn all(&mut self) -> Result<&[Leased]> {
        self.failure.take().map_or(Ok(()), Err)?;
        Ok(&self.nodes)
    }

    /// Ends them, with what was staged, and makes others.
    pub async fn renew(&mut self, job: &Job, sessions: &[Arc<Session>]) {
        std::mem::take(self).let_go(job, true).await;
        *self = Self::make(sessions).await;
    }

    /// Ends them. After a failure the collection is waited for: nothing staged shall be left.
    pub async fn let_go(self, job: &Job, failed: bool) {
        let ends = self.nodes.iter().map(|node| async move {
            let (session, lease) = (&*node.session, &node.lease);
            let ended = if failed {
                let end =
                    async |session: &Session| lease.end(session, true).await.map_err(Error::from);
                insist(session, job, end).await
            } else {
                lease.end(session, false).await.map_err(Error::from)
            };
            (session, ended)
        });
        for (session, ended) in join_all(ends).await {
            if let Err(e) = ended {
                // The lease expires by itself, and the next run sweeps it.
                let node = &session.node().name;
                job.report.event(&Event::Warning {
                    message: &format!(
                        "node {node}: what was staged there could not be let go: {}",
                        one_line(&e)
                    ),
                    hint: Some("the next run removes it"),
                });
            }
        }
    }
}

/// One node's part of the transaction.
struct Part<'a> {
    session: &'a Session,
    lease: &'a Lease,
    before: Option<&'a Inventory>,
    began: Instant,
    sent: Arc<AtomicU64>,
}

impl Part<'_> {
    /// Tells what the node does from now on.
    fn does(&self, job: &Job, doing: Doing) {
        job.node(&self.session.node().name, doing);
    }
}

/// Tells to which nodes an image is on its way.
pub(crate) fn bound(job: &Job, sessions: &[Arc<Session>]) {
    let names = sessions.iter().map(|session| session.node().name.as_str());
    let names: Vec<&str> = names.collect();
    job.report.event(&Event::Bound(&names));
}

/// Loads an image into every node, or into none.
///
/// # Errors
/// Image error, if a layer turns out to be broken; load error, if a node did not take it; verify
/// error, if crictl does not show it. Every node's names are then what they were; the message
/// names any node where that could not be done. Superseded, if a later load, or something else,
/// gave a name to another image: either before this load changed anything, or since; nothing is
/// taken back then.
pub async fn load(
    job: &Job,
    cluster: &Cluster,
    sessions: &[Arc<Session>],
    load: &Load,
    clock: &mut Clock,
) -> Result<Outcome> {
    bound(job, sessions);
    let mut leases = Leases::make(sessions).await;
    let done = match leases.all() {
        Ok(leased) => load_under(job, cluster, (leased, &[]), load, clock).await,
        Err(e) => Err(e),
    };
    leases.let_go(job, done.is_err()).await;
    job.report.event(&Event::Settled);
    done
}

/// Does the same under leases that there are, which are the caller's to let go of, with what each of
/// them holds already of what is to be loaded, if that is known.
///
/// # Errors
/// As [`load`].
pub(crate) async fn load_under(
    job: &Job,
    cluster: &Cluster,
    (leased, before): (&[Leased], &[Inventory]),
    load: &Load,
    clock: &mut Clock,
) -> Result<Outcome> {
    let parts = leased.iter().enumerate().map(|(index, node)| Part {
        session: &node.session,
        lease: &node.lease,
        before: before.get(index),
        began: Instant::now(),
        sent: Arc::new(load.source.sent_before(&node.session.node().name).into()),
    });
    transaction(job, cluster, &parts.collect::<Vec<_>>(), load, clock).await
}

/// Does what must not be left undone on a node; over a new session, where the old one is lost. A
/// containerd that was restarted answers again within a second, and its leases are still there.
async fn insist(old: &Session, job: &Job, act: impl AsyncFn(&Session) -> Result<()>) -> Result<()> {
    let Err(mut last) = act(old).await else {
        return Ok(());
    };
    let until = Instant::now() + job.patience;
    while Instant::now() < until {
        match Session::open(old.node(), job).await {
            Ok(session) => return act(&session).await,
            Err(e) => last = e,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Err(last)
}

async fn transaction(
    job: &Job,
    cluster: &Cluster,
    parts: &[Part<'_>],
    load: &Load,
    clock: &mut Clock,
) -> Result<Outcome> {
    let began = Instant::now();
    let staging = async {
        if let Some(name) = load.names.first() {
            let name = name.to_string();
            join_all(parts.iter().map(|part| part.session.start_crictl(&name))).await;
        }
        stage_all(job, parts, load).await
    };
    let staged = job.cancel.unless(staging).await?;
    clock.end("stage", began);

    job.step(|| "staged on every node".to_owned());

    let began = Instant::now();
    let lock = ClusterLock::acquire(cluster, job.patience * 8);
    let _lock = job.cancel.unless(lock).await?;
    // All nodes are asked before a name moves on any: whoever was overtaken changes nothing. And the
    // image must still be there: the other nodes and the lock took their time.
    let claim = load.claim();
    let looks = parts.iter().map(|part| async {
        let (there, formers) = tokio::join!(
            stage::check(part.session, &load.image),
            name::look(part.session, part.lease, &claim)
        );
        there.inspect_err(|_| load.source.lost())?;
        formers
    });
    let formers = job.cancel.unless(try_join_all(looks)).await?;
    // Not to be dropped half way: it takes milliseconds, and what it did must be known.
    let given = join_all(parts.iter().zip(&formers).map(|(part, formers)| async {
        name::give(part.session, &claim, formers).await?;
        part.does(job, Doing::Named);
        Ok::<_, Error>(())
    }))
    .await;
    clock.end("name", began);
    job.step(|| "named on every node".to_owned());

    let began = Instant::now();
    let proven = match given.into_iter().find_map(Result::err) {
        Some(e) => Err(e),
        None => job.cancel.unless(prove_all(job, parts, &claim)).await,
    };
    clock.end("verify", began);
    match proven {
        Ok(shown) => {
            job.step(|| "proven on every node".to_owned());
            Ok(outcome(
                cluster, parts, load, &staged, &formers, shown, clock,
            ))
        }
        // What somebody else did later stays.
        Err(e) if e.kind() == ErrorKind::Superseded => Err(e),
        Err(e) => Err(take_back(job, parts, load, &formers, e).await),
    }
}

async fn stage_all(job: &Job, parts: &[Part<'_>], load: &Load) -> Result<Vec<Staged>> {
    let inventories = try_join_all(parts.iter().map(|part| async {
        let inventory =
            inventory::inventory(part.session, part.lease, &load.image, part.before).await?;
        job.step(|| {
            let missing = inventory.missing(&load.image);
            format!(
                "node {}: {} of {} layers unpacked, {} to send ({} bytes)",
                part.session.node().name,
                inventory.unpacked.len(),
                load.image.layers.len(),
                missing.len(),
                missing.iter().map(|layer| layer.size).sum::<u64>()
            )
        });
        Ok::<_, Error>(inventory)
    }))
    .await?;
    enough_space(parts, load, &inventories).await?;
    let staged = parts
        .iter()
        .zip(&inventories)
        .map(|(part, inventory)| async {
            let missing = inventory.missing(&load.image);
            let rest: u64 = missing.iter().map(|layer| layer.size).sum();
            let doing = Doing::Staging {
                sent: Arc::clone(&part.sent),
                of: Some(part.sent.load(Ordering::Relaxed) + rest),
            };
            part.does(job, doing);
            let (image, source) = (&load.image, &load.source);
            let staged = part
                .session
                .stage(part.lease, image, inventory, source, &part.sent)
                .await?;
            part.does(job, Doing::Staged);
            Ok(staged)
        });
    try_join_all(staged).await
}

/// Refuses a load for which a disk is too small. The nodes of one host often share a disk: what
/// they need is added up.
async fn enough_space(parts: &[Part<'_>], load: &Load, inventories: &[Inventory]) -> Result<()> {
    let mut needed: HashMap<&str, u64> = HashMap::new();
    for (part, inventory) in parts.iter().zip(inventories) {
        let disk = part.session.facts().disk.as_str();
        *needed.entry(disk).or_default() += inventory::space_needed(&load.image, inventory);
    }
    for part in parts {
        let needed = needed[part.session.facts().disk.as_str()];
        has_room(part.session, needed).await?;
    }
    Ok(())
}

/// Refuses what does not fit on a node's disk.
pub(crate) async fn has_room(session: &Link, needed: u64) -> Result<()> {
    let enough = |free: Option<u64>| free.is_none_or(|free| free >= needed);
    if enough(session.facts().free) {
        return Ok(());
    }
    // What was free when the session opened may be more by now: a sweep came between.
    let node = session.node();
    let free = node.free_space().await?;
    if enough(free) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Load,
        format!(
            "node {} has too little disk: {} MB free, the image needs at least {} MB",
            node.name,
            free.unwrap_or_default() / 1_000_000,
            needed.div_ceil(1_000_000)
        ),
    )
    .hint(format!(
        "make room on the node, e.g. `{}`",
        node.exec_hint("crictl rmi --prune")
    )))
}

async fn prove_all(job: &Job, parts: &[Part<'_>], claim: &Claim<'_>) -> Result<Vec<(Shown, f64)>> {
    try_join_all(parts.iter().map(|part| async {
        let shown = crictl::prove(part.session, claim).await?;
        part.does(job, Doing::Proven);
        Ok((shown, part.began.elapsed().as_secs_f64()))
    }))
    .await
}

/// Gives every node its former names back and adds to the error where that failed.
async fn take_back(
    job: &Job,
    parts: &[Part<'_>],
    load: &Load,
    formers: &[Vec<Former>],
    failure: Error,
) -> Error {
    job.report
        .event(&Event::Step("giving the nodes their former names back"));
    let restored = parts.iter().zip(formers).map(|(part, formers)| {
        let restore = async |session: &Session| name::restore(session, &load.image, formers).await;
        insist(part.session, job, restore)
    });
    let left: Vec<String> = parts
        .iter()
        .zip(join_all(restored).await)
        .filter_map(|(part, restored)| {
            let e = restored.err()?;
            Some(format!("{} ({})", part.session.node().name, one_line(&e)))
        })
        .collect();
    if left.is_empty() {
        return failure;
    }
    let message = format!(
        "{failure}; the former names could not be given back on {}",
        left.join(", ")
    );
    failure
        .within(message)
        .hint("run the command again once the node answers: it makes all nodes equal")
}

fn outcome(
    cluster: &Cluster,
    parts: &[Part<'_>],
    load: &Load,
    staged: &[Staged],
    formers: &[Vec<Former>],
    shown: Vec<(Shown, f64)>,
    clock: &Clock,
) -> Outcome {
    let nodes = parts
        .iter()
        .zip(staged)
        .zip(formers)
        .zip(shown)
        .map(
            |(((part, staged), formers), (shown, seconds))| NodeOutcome {
                name: part.session.node().name.clone(),
                result: if staged.sent == 0 && name::unchanged(&load.image, formers) {
                    NodeResult::Present
                } else {
                    NodeResult::Loaded
                },
                bytes_sent: staged.sent,
                bytes_skipped: staged.skipped,
                seconds,
                crictl_id: shown.id,
            },
        )
        .collect();
    Outcome {
        cluster: cluster.name.clone(),
        image: load.title.clone(),
        config_digest: load.image.id(),
        manifest_digest: load.image.manifest.digest.clone(),
        platform: load.image.platform.clone(),
        refs: load.names.clone(),
        nodes,
        compared: true,
        phases: clock.phases(),
    }
}
