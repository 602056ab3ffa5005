//! `build`: build, load, prove; or build and push.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::by_builder;
use super::deliver::{Delivery, Destination, by_push, deliver_under};
use super::plan::{Plan, plan};
use super::prune::{PruneRequest, prune_nodes};
use super::push::{self, push};
use super::{Where, allow, find, refuse_shadow, warn_about_latest};
use crate::cluster::{Cluster, Node};
use crate::contract::{Contract, tilt};
use crate::engine::{BuildSpec, Builder, Engine, EngineId, EngineKind, Hold, ImageRecord};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::Platform;
use crate::job::Job;
use crate::load::{self, Leases};
use crate::node::Session;
use crate::push::Listener;
use crate::reference::Reference;
use crate::report::{Clock, Event, Outcome};

/// A build as a user, Skaffold or Tilt asks for it.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// `--tag`.
    pub tag: Option<String>,
    /// The context; Skaffold's, or the current folder, if not given.
    pub context: Option<String>,
    /// `--file`.
    pub dockerfile: Option<PathBuf>,
    /// `--target`.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: Vec<String>,
    /// `--secret`.
    pub secrets: Vec<String>,
    /// `--ssh`.
    pub ssh: Vec<String>,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// `--builder`: a buildx builder.
    pub builder: Option<String>,
    /// `--engine`.
    pub engine: Option<EngineKind>,
    /// `--push`.
    pub push: bool,
    /// `--ref-file`: where to write the name that is to be deployed.
    pub ref_file: Option<PathBuf>,
    /// `--prune`: remove superseded images afterwards, and keep so many of this name.
    pub prune: Option<usize>,
    /// Where to load.
    pub place: Where,
    /// Flags for the engine's build.
    pub flags: Vec<String>,
}

/// Builds an image and puts it, proven, into every node; or pushes it, and loads nothing.
///
/// # Errors
/// Of the kind of the step that failed.
pub async fn build(job: &Job, request: &BuildRequest) -> Result<Option<Outcome>> {
    let mut clock = Clock::start();
    let plan = plan(job, request)?;
    let builder = builder(job, &plan).await?;
    if plan.push {
        return push(job, request, plan, builder).await.map(|()| None);
    }
    // Skaffold and, without a ref file, Tilt look the image up in Docker's API afterwards.
    let by_api = plan.contract != Contract::Hand;
    let maker = match builder {
        // Then it must be in that engine too, whoever builds it.
        Some(builder) if !by_api => Maker::Builder(builder),
        _ => {
            let finding = Engine::find(request.engine, by_api, &job.env);
            Maker::Engine(job.cancel.unless(finding).await?)
        }
    };
    warn_about_latest(job, plan.naming, &plan.image);
    tell_registry(job, &plan);

    let began = Instant::now();
    let in_loop = by_api || request.ref_file.is_some();
    let (cluster, nodes) = find(job, &request.place, in_loop).await?;
    clock.end("find", began);

    let hosting = push::look(job, &request.place, &plan.contract);
    let (sessions, outcome) = match &maker {
        Maker::Engine(engine) => {
            by_engine(job, engine, &plan, request, (&cluster, &nodes), &mut clock).await?
        }
        Maker::Builder(builder) => {
            by_builder(job, builder, &plan, request, (&cluster, &nodes), &mut clock).await?
        }
    };
    drop(hosting);
    if let (Some(path), Some(name)) = (&request.ref_file, outcome.refs.last()) {
        tilt::write_ref_file(path, name)?;
    }
    if let Some(keep) = request.prune {
        let to = Destination {
            cluster: &cluster,
            sessions: &sessions,
        };
        tidy(job, keep, &plan.image, &to).await;
    }
    Ok(Some(outcome))
}

/// Who builds, and has the image first.
enum Maker {
    Engine(Engine),
    Builder(Builder),
}

/// Looks the builder up that is asked for. None, if it is an engine's own.
async fn builder(job: &Job, plan: &Plan) -> Result<Option<Builder>> {
    let Some(name) = &plan.spec.builder else {
        return Ok(None);
    };
    let builder = job.cancel.unless(Builder::find(name, &job.env)).await?;
    Ok((!builder.is_engine()).then_some(builder))
}

pub(super) type Built = (Vec<Arc<Session>>, Outcome);

/// Builds with an engine, and loads out of it.
async fn by_engine(
    job: &Job,
    engine: &Engine,
    plan: &Plan,
    request: &BuildRequest,
    to: (&Cluster, &[Node]),
    clock: &mut Clock,
) -> Result<Built> {
    // What is built gets the name at once under which the engine can push it.
    let listener = match engine.pushes_names() && by_push(job, engine)? {
        // Without one, pushing is tried later, and tells why it cannot be.
        true => Listener::bind().await.ok().map(Arc::new),
        false => None,
    };
    let hold = Hold::new(listener.as_ref().map(|listener| listener.target()));
    let done = held(job, engine, (plan, &hold, listener), request, to, clock).await;
    // Skaffold and Tilt look under the name that they gave, whatever we have loaded.
    let last = async {
        let (built, id) = done?;
        if plan.contract != Contract::Hand {
            named(job, engine, plan, &id).await?;
        }
        Ok(built)
    };
    let (done, released) = tokio::join!(last, engine.release(&hold));
    if let Err(e) = released {
        // The next build does it.
        job.step(|| format!("a name is left in the engine: {}", one_line(&e)));
    }
    done
}

/// The same, with what is built held in the engine by a name that nobody else takes.
async fn held(
    job: &Job,
    engine: &Engine,
    (plan, hold, listener): (&Plan, &Hold, Option<Arc<Listener>>),
    request: &BuildRequest,
    (cluster, nodes): (&Cluster, &[Node]),
    clock: &mut Clock,
) -> Result<(Built, EngineId)> {
    let build = async |spec: &BuildSpec| {
        let mut spec = spec.clone();
        if plan.name_counts() {
            spec.also = Some(hold.name().to_owned());
        } else {
            // Docker refuses one of two builds that make a name at once.
            spec.name = hold.name().to_owned();
        }
        let (built, swept) = tokio::join!(engine.build(&spec, job), engine.sweep_holds());
        if let Err(e) = swept {
            job.step(|| format!("names of killed builds may be left: {}", one_line(&e)));
        }
        built
    };
    let place = (nodes, &request.place);
    let sessions = build_and_open(job, plan, place, engine.native(), clock, build).await?;
    // The nodes have nothing to do meanwhile.
    let (record, leases) = tokio::join!(built(job, engine, plan, hold), Leases::make(&sessions));
    let allowed = record.and_then(|record| {
        allow(&sessions, &record.platform, &request.place)?;
        Ok(record)
    });
    let record = match allowed {
        Ok(record) => record,
        Err(e) => {
            leases.let_go(job, true).await;
            return Err(e);
        }
    };
    let mut delivery = Delivery {
        name: &plan.image,
        naming: plan.naming,
        record,
        listener,
    };
    let to = Destination {
        cluster,
        sessions: &sessions,
    };
    let outcome = deliver_under(job, engine, &to, &mut delivery, leases, clock).await?;
    if let (Some(_), Some(name)) = (&request.ref_file, outcome.refs.last()) {
        // The engine knows the image by the deployed name too, for `verify` and `ensure`.
        let others = [name, &plan.image];
        let others = if plan.name_counts() {
            &others[..1]
        } else {
            &others
        };
        engine.tag(delivery.record.id.0.as_str(), others).await?;
    }
    Ok(((sessions, outcome), delivery.record.id))
}

/// Removes earlier images of the same name. The new one is there: what fails here is no failure of
/// the build.
async fn tidy(job: &Job, keep: usize, image: &Reference, to: &Destination<'_>) {
    let request = PruneRequest {
        images: vec![image.repository()],
        keep,
        older_than: Duration::ZERO,
        yes: true,
        place: Where::default(),
    };
    match prune_nodes(job, &request, to.cluster, to.sessions).await {
        Ok(pruning) => job.step(|| format!("pruned {} superseded images", pruning.gone())),
        Err(e) => job.report.event(&Event::Warning {
            message: &format!("superseded images were not pruned: {}", one_line(&e)),
            hint: e.next_step(),
        }),
    }
}

/// Builds while the sessions open. The nodes say what to build for, but not before they are
/// reached; until then it is taken for granted that they are like `native`, if that is known.
async fn build_and_open(
    job: &Job,
    plan: &Plan,
    (nodes, place): (&[Node], &Where),
    native: Option<&Platform>,
    clock: &mut Clock,
    build: impl AsyncFn(&BuildSpec) -> Result<()>,
) -> Result<Vec<Arc<Session>>> {
    let began = Instant::now();
    let asked = plan.one_platform()?;
    let opened = async {
        let name = plan.naming.first(&plan.image);
        let sessions = load::open_to_load(nodes, name, job).await?;
        let connected = Instant::now();
        let platform = match asked {
            Some(platform) => {
                allow(&sessions, platform, place)?;
                platform.clone()
            }
            None => load::platform(&sessions)?,
        };
        Ok::<_, Error>((sessions, platform, connected))
    };
    let build = async |platform: &Platform| {
        let mut spec = plan.spec.clone();
        spec.platforms = vec![platform.clone()];
        build(&spec).await
    };
    let (sessions, connected) = match asked.or(native) {
        Some(likely) => {
            let mut building = Box::pin(build(likely));
            let mut opened = std::pin::pin!(opened);
            // A build that fails may have been for the wrong platform.
            let (built, opened) = tokio::select! {
                built = &mut building => (Some(built), opened.await?),
                opened = &mut opened => (None, opened?),
            };
            let (sessions, platform, connected) = opened;
            match built {
                _ if platform != *likely => {
                    // Two builds at once would trip over one another.
                    drop(building);
                    job.step(|| format!("the nodes are {platform}, the engine is {likely}"));
                    build(&platform).await?
                }
                Some(built) => built?,
                None => building.await?,
            }
            (sessions, connected)
        }
        None => {
            let (sessions, platform, connected) = opened.await?;
            build(&platform).await?;
            (sessions, connected)
        }
    };
    clock.note("connect", began, connected);
    clock.end("build", began);
    Ok(sessions)
}

/// Looks up what was built, by the name that is ours alone.
async fn built(job: &Job, engine: &Engine, plan: &Plan, hold: &Hold) -> Result<ImageRecord> {
    let looked = engine.inspect_both(hold, &plan.spec.name);
    let (ours, named) = job.cancel.unless(looked).await?;
    let mut record = ours.ok_or_else(|| {
        let why = format!(
            "the build succeeded, but {} has no {}",
            engine.describe(),
            plan.spec.name
        );
        Error::new(ErrorKind::Build, why).hint(
            "the builder does not load into the engine's image store: check --output in your flags",
        )
    })?;
    let Some(named) = named else {
        return Ok(record);
    };
    if plan.name_counts() {
        same(engine, plan, &record.id, &named)?;
        // Whoever takes the name from now on has the later image.
        record.found = named.found;
    }
    let contract = (plan.contract != Contract::Hand).then(|| plan.contract.tool());
    refuse_shadow(job, &plan.image, &named, &record.id, contract)?;
    Ok(record)
}

/// Requires that the engine still has an image under the name that was asked for.
async fn named(job: &Job, engine: &Engine, plan: &Plan, id: &EngineId) -> Result<()> {
    let looked = engine.inspect(&plan.spec.name);
    match job.cancel.unless(looked).await? {
        Some(other) => same(engine, plan, id, &other),
        None => Ok(()),
    }
}

/// Requires that what the engine has under the name is our image.
fn same(engine: &Engine, plan: &Plan, id: &EngineId, other: &ImageRecord) -> Result<()> {
    if other.id == *id {
        return Ok(());
    }
    let why = format!(
        "{} was superseded: another build or tag gave the name to {} in {}",
        plan.spec.name,
        other.id,
        engine.describe()
    );
    Err(Error::new(ErrorKind::Superseded, why)
        .hint("if this image is the one you want, build it again"))
}

/// Tells what Tilt does with a registry that it found.
fn tell_registry(job: &Job, plan: &Plan) {
    let Contract::Tilt(build) = &plan.contract else {
        return;
    };
    if let Some(registry) = &build.registry {
        job.report.event(&Event::Warning {
            message: &format!(
                "Tilt found the registry {registry}: unless custom_build says disable_push or \
                 skips_local_docker, it pushes the image there and pods pull it from there"
            ),
            hint: Some(
                "to load only, use skips_local_docker=True with outputs_image_ref_to, and --ref-file here",
            ),
        });
    }
}
