//! `build`: build, load, prove; or build and push.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::builder::by_builder;
use super::deliver::{Delivery, Destination, deliver};
use super::prune::{PruneRequest, prune_nodes};
use super::push::{self, push};
use super::{Where, allow, find, refuse_shadow, warn_about_latest};
use crate::cluster::{Cluster, Node};
use crate::contract::skaffold::Platforms;
use crate::contract::{Contract, Naming, tilt};
use crate::engine::{BuildSpec, Builder, Engine, EngineKind, ImageRecord};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::Platform;
use crate::job::Job;
use crate::load;
use crate::node::Session;
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

/// A request resolved against its contract: what will be done, before anything is.
#[derive(Debug)]
pub(super) struct Plan {
    pub image: Reference,
    pub contract: Contract,
    pub naming: Naming,
    push: bool,
    pub platforms: Platforms,
    pub spec: BuildSpec,
}

impl Plan {
    /// Returns the platform that is asked for; none, if it is the nodes'.
    ///
    /// # Errors
    /// Usage error, if there are several.
    pub(super) fn one_platform(&self) -> Result<Option<&Platform>> {
        match &self.platforms {
            Platforms::Listed(listed) => match listed.as_slice() {
                [platform] => Ok(Some(platform)),
                _ => Err(
                    Error::usage("several platforms can only be built to be pushed")
                        .hint("nodes hold one platform: name one, or push"),
                ),
            },
            Platforms::Nodes | Platforms::All => Ok(None),
        }
    }
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
    if plan.naming != Naming::Content || plan.image.had_tag() {
        warn_about_latest(job, &plan.image);
    }
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
    (cluster, nodes): (&Cluster, &[Node]),
    clock: &mut Clock,
) -> Result<Built> {
    let build = async |spec: &BuildSpec| engine.build(spec, job).await;
    let place = (nodes, &request.place);
    let sessions = build_and_open(job, plan, place, engine.native(), clock, build).await?;
    let record = built(job, engine, plan).await?;
    allow(&sessions, &record.platform, &request.place)?;
    let mut delivery = Delivery {
        name: &plan.image,
        naming: plan.naming,
        record,
    };
    let to = Destination {
        cluster,
        sessions: &sessions,
    };
    let outcome = deliver(job, engine, &to, &mut delivery, clock).await?;
    if let (Some(_), Some(name)) = (&request.ref_file, outcome.refs.last()) {
        // The engine knows the image by the deployed name too, for `verify` and `ensure`.
        engine.tag(delivery.record.id.0.as_str(), name).await?;
    }
    Ok((sessions, outcome))
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
        let sessions = load::open(nodes, job).await?;
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

/// Looks up what was built.
async fn built(job: &Job, engine: &Engine, plan: &Plan) -> Result<ImageRecord> {
    let name = &plan.spec.name;
    let record = job.cancel.unless(engine.inspect(name)).await?;
    let record = record.ok_or_else(|| {
        Error::new(
            ErrorKind::Build,
            format!(
                "the build succeeded, but {} has no {name}",
                engine.describe()
            ),
        )
        .hint(
            "the builder does not load into the engine's image store: check --output in your flags",
        )
    })?;
    let contract = (plan.contract != Contract::Hand).then(|| plan.contract.tool());
    refuse_shadow(job, engine, &plan.image, &record, contract).await?;
    Ok(record)
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

/// Turns a request and the environment into a plan. Looks at the context folder only.
fn plan(job: &Job, request: &BuildRequest) -> Result<Plan> {
    let contract = Contract::read(&job.env)?;
    let tag = request.tag.as_deref().map(Reference::parse).transpose()?;
    let image = match (contract.image(), tag) {
        (Some(image), Some(tag)) if tag != *image => {
            return Err(Error::usage(format!(
                "--tag says {}, but {} asks for {}",
                tag.familiar(),
                contract.tool(),
                image.familiar()
            ))
            .hint("leave --tag out: the name is passed in the environment"));
        }
        (Some(image), _) => image.clone(),
        (None, Some(tag)) => tag,
        (None, None) => {
            return Err(Error::usage("the image has no name").hint(
                "give it one with --tag, or let Skaffold or Tilt run this \
                 (they set IMAGE, PUSH_IMAGE and BUILD_CONTEXT, or EXPECTED_REF)",
            ));
        }
    };
    if image.digest().is_some() {
        return Err(
            Error::usage(format!("{image} has a digest, which a build cannot choose"))
                .hint("name the image with a tag"),
        );
    }
    let naming = match (&contract, &request.ref_file) {
        (Contract::Hand, Some(_)) => Naming::Content,
        (Contract::Hand, None) => Naming::AsAsked,
        (Contract::Skaffold(_), None) => Naming::Skaffold,
        (Contract::Tilt(_), None) => Naming::Tilt,
        (contract, Some(_)) => {
            return Err(Error::usage(format!(
                "--ref-file does not go with the name that {} passed",
                contract.tool()
            ))
            .hint("Tilt passes no EXPECTED_REF with outputs_image_ref_to: use both or neither"));
        }
    };
    if let Some(folder) = request.ref_file.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(Error::usage(format!(
            "the folder of the ref file, {}, is not there",
            folder.display()
        ))
        .hint("make the folder, or name a file in another"));
    }
    let skaffold = match &contract {
        Contract::Skaffold(build) => Some(build),
        _ => None,
    };
    let push = request.push || skaffold.is_some_and(|build| build.push);
    let platforms = match (&request.platform, skaffold) {
        (Some(platform), _) => Platforms::Listed(vec![platform.clone()]),
        (None, Some(build)) => build.platforms.clone(),
        (None, None) => Platforms::Nodes,
    };
    let context = match (&request.context, skaffold) {
        (Some(context), _) => context.clone(),
        (None, Some(build)) => build.context.to_string_lossy().into_owned(),
        (None, None) => ".".to_owned(),
    };
    let context = check_context(&context, request)?;
    Ok(Plan {
        contract,
        naming,
        push,
        platforms,
        spec: BuildSpec {
            name: image.familiar(),
            context,
            dockerfile: request.dockerfile.clone(),
            target: request.target.clone(),
            build_args: request.build_args.clone(),
            secrets: request.secrets.clone(),
            ssh: request.ssh.clone(),
            platforms: Vec::new(),
            flags: request.flags.clone(),
            builder: request.builder.clone(),
            push: false,
        },
        image,
    })
}

/// Makes the context absolute and looks for its Dockerfile, so that a typing error costs nothing.
fn check_context(context: &str, request: &BuildRequest) -> Result<String> {
    if context.contains("://") || context.starts_with("git@") {
        return Ok(context.to_owned());
    }
    let folder = std::path::absolute(context)
        .map_err(|e| Error::usage(format!("the context {context:?} cannot be used")).because(e))?;
    if !folder.is_dir() {
        return Err(
            Error::usage(format!("the context {} is not a folder", folder.display()))
                .hint("name the folder that holds the Dockerfile"),
        );
    }
    let named_by_flag = request
        .flags
        .iter()
        .any(|flag| flag.starts_with("-f") || flag.starts_with("--file"));
    let found = |file: &Path| {
        if file.is_file() {
            return Ok(());
        }
        Err(
            Error::usage(format!("there is no Dockerfile at {}", file.display()))
                .hint("name it with --file, or the folder that has it as the context"),
        )
    };
    match &request.dockerfile {
        Some(file) => found(file)?,
        None if named_by_flag => {}
        // Podman's own name for it.
        None if folder.join("Containerfile").is_file() => {}
        None => found(&folder.join("Dockerfile"))?,
    }
    Ok(folder.to_string_lossy().into_owned())
}
