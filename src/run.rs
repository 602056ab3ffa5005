//! What the commands do, as functions: from a request to an outcome.

use std::path::PathBuf;
use std::time::Instant;

use crate::cluster::{self, Cluster, Node, Wanted, kubeconfig};
use crate::contract::skaffold::{self, Platforms};
use crate::engine::{BuildSpec, Engine, EngineKind, ImageRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Platform;
use crate::job::Job;
use crate::load::{self, Load};
use crate::reference::Reference;
use crate::report::{Clock, Event, Outcome};

/// Where to load.
#[derive(Debug, Clone, Default)]
pub struct Where {
    /// The Kind cluster's name.
    pub cluster: Option<String>,
    /// The kube context whose cluster it is.
    pub kube_context: Option<String>,
    /// Only these nodes; all, if empty.
    pub nodes: Vec<String>,
    /// Whether images that the nodes cannot run are loaded all the same.
    pub allow_foreign_platform: bool,
}

/// A build as a user or Skaffold asks for it.
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
    /// `--engine`.
    pub engine: Option<EngineKind>,
    /// `--push`.
    pub push: bool,
    /// Where to load.
    pub place: Where,
    /// Flags for the engine's build.
    pub flags: Vec<String>,
}

/// A request resolved against its contract: what will be done, before anything is.
#[derive(Debug)]
struct Plan {
    image: Reference,
    by_skaffold: bool,
    push: bool,
    platforms: Platforms,
    spec: BuildSpec,
}

/// Builds an image and puts it, proven, into every node; or pushes it, and loads nothing.
///
/// # Errors
/// Of the kind of the step that failed.
pub async fn build(job: &Job, request: &BuildRequest) -> Result<Option<Outcome>> {
    let mut clock = Clock::start();
    let plan = plan(job, request)?;
    let engine = job
        .cancel
        .unless(Engine::find(request.engine, &job.env))
        .await?;
    if plan.push {
        return push(job, &engine, plan).await.map(|()| None);
    }
    warn_about_latest(job, &plan.image);

    let began = Instant::now();
    let (cluster, nodes) = find(job, &request.place, plan.by_skaffold).await?;
    clock.end("find", began);

    let began = Instant::now();
    let sessions = load::open(&nodes, job);
    let mut spec = plan.spec.clone();
    // A build for a platform that is known can go on while the sessions open.
    let sessions = match &plan.platforms {
        Platforms::Listed(listed) => {
            let [platform] = listed.as_slice() else {
                return Err(several_platforms());
            };
            spec.platforms = vec![platform.clone()];
            let allowed = async {
                let sessions = sessions.await?;
                allow(&sessions, platform, &request.place)?;
                Ok(sessions)
            };
            let (sessions, ()) = futures_util::try_join!(allowed, engine.build(&spec, job))?;
            sessions
        }
        Platforms::Nodes | Platforms::All => {
            let sessions = sessions.await?;
            spec.platforms = vec![load::platform(&sessions)?];
            engine.build(&spec, job).await?;
            sessions
        }
    };
    clock.end("build", began);

    let began = Instant::now();
    let name = &plan.spec.name;
    let record = job.cancel.unless(engine.inspect(name)).await?.ok_or_else(|| {
        Error::new(
            ErrorKind::Build,
            format!("the build succeeded, but {} has no {name}", engine.describe()),
        )
        .hint("the builder does not load into the engine's image store: check --output in your flags")
    })?;
    let names = names(&plan, &record)?;
    allow(&sessions, &record.platform, &request.place)?;
    let exported = engine.export(record.id.0.as_str(), &record.platform, job);
    let (image, source) = job.cancel.unless(exported).await?;
    clock.end("export", began);

    let load = Load {
        title: plan.image.familiar(),
        image,
        source,
        names,
    };
    load::load(job, &cluster, &sessions, &load, &mut clock)
        .await
        .map(Some)
}

fn several_platforms() -> Error {
    Error::usage("several platforms can only be built to be pushed")
        .hint("nodes hold one platform: name one, or push")
}

/// Turns a request and the environment into a plan. Looks at the context folder only.
fn plan(job: &Job, request: &BuildRequest) -> Result<Plan> {
    let contract = skaffold::read(&job.env)?;
    let tag = request.tag.as_deref().map(Reference::parse).transpose()?;
    let image = match (&contract, tag) {
        (Some(build), Some(tag)) if tag != build.image => {
            return Err(Error::usage(format!(
                "--tag says {}, but Skaffold asks for {}",
                tag.familiar(),
                build.image.familiar()
            ))
            .hint("leave --tag out of buildCommand: Skaffold passes the name in IMAGE"));
        }
        (Some(build), _) => build.image.clone(),
        (None, Some(tag)) => tag,
        (None, None) => {
            return Err(Error::usage("the image has no name")
                .hint("give it one with --tag, or let Skaffold run this (it sets IMAGE, PUSH_IMAGE and BUILD_CONTEXT)"));
        }
    };
    if image.digest().is_some() {
        return Err(
            Error::usage(format!("{image} has a digest, which a build cannot choose"))
                .hint("name the image with a tag"),
        );
    }
    let push = request.push || contract.as_ref().is_some_and(|build| build.push);
    let platforms = match (&request.platform, &contract) {
        (Some(platform), _) => Platforms::Listed(vec![platform.clone()]),
        (None, Some(build)) => build.platforms.clone(),
        (None, None) => Platforms::Nodes,
    };
    let context = match (&request.context, &contract) {
        (Some(context), _) => context.clone(),
        (None, Some(build)) => build.context.to_string_lossy().into_owned(),
        (None, None) => ".".to_owned(),
    };
    let context = check_context(&context, request)?;
    Ok(Plan {
        by_skaffold: contract.is_some(),
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
    let file = match &request.dockerfile {
        Some(file) => file.clone(),
        None if named_by_flag => return Ok(folder.to_string_lossy().into_owned()),
        None => folder.join("Dockerfile"),
    };
    if !file.is_file() {
        return Err(
            Error::usage(format!("there is no Dockerfile at {}", file.display()))
                .hint("name it with --file, or the folder that has it as the context"),
        );
    }
    Ok(folder.to_string_lossy().into_owned())
}

fn names(plan: &Plan, record: &ImageRecord) -> Result<Vec<Reference>> {
    if plan.by_skaffold {
        skaffold::names(&plan.image, &record.id)
    } else {
        Ok(vec![plan.image.clone()])
    }
}

/// Builds and pushes with the engine; loads nothing.
async fn push(job: &Job, engine: &Engine, plan: Plan) -> Result<()> {
    let mut spec = plan.spec;
    spec.platforms = match plan.platforms {
        Platforms::Nodes => Vec::new(),
        Platforms::Listed(listed) => listed,
        Platforms::All => {
            return Err(Error::usage("PLATFORMS=all cannot be pushed").hint(
                "list the platforms, e.g. skaffold build --platform linux/amd64,linux/arm64",
            ));
        }
    };
    // Only the engine's builder can push an index of several platforms.
    spec.push = spec.platforms.len() > 1;
    engine.build(&spec, job).await?;
    if !spec.push {
        engine.push(&spec.name, job).await?;
    }
    job.report.event(&Event::Done(&format!(
        "pushed {}; nothing was loaded",
        plan.image.familiar()
    )));
    Ok(())
}

fn allow(
    sessions: &[std::sync::Arc<crate::node::Session>],
    platform: &Platform,
    place: &Where,
) -> Result<()> {
    if place.allow_foreign_platform {
        return Ok(());
    }
    load::runnable(sessions, platform)
}

/// Finds the cluster and the nodes that take part.
async fn find(job: &Job, place: &Where, in_loop: bool) -> Result<(Cluster, Vec<Node>)> {
    let env = &job.env;
    let context = match &place.cluster {
        Some(_) => None,
        None => {
            let named = place
                .kube_context
                .as_deref()
                .or_else(|| env.get("SKAFFOLD_KUBE_CONTEXT"));
            kubeconfig::context(env, named)?
        }
    };
    let wanted = Wanted {
        name: place.cluster.clone(),
        context,
        kind_env: env.get("KIND_CLUSTER_NAME").map(str::to_owned),
        in_loop,
    };
    let cluster = job.cancel.unless(cluster::choose(&wanted, env)).await?;
    let nodes = cluster.select(&place.nodes)?;
    Ok((cluster, nodes))
}

/// Warns about a name that makes the kubelet pull, from a registry that does not have it.
fn warn_about_latest(job: &Job, image: &Reference) {
    if !image.is_latest() {
        return;
    }
    let what = if image.had_tag() {
        "the tag is latest"
    } else {
        "the name has no tag"
    };
    job.report.event(&Event::Warning {
        message: &format!(
            "{}: {what}, so a pod without imagePullPolicy pulls it and does not find it",
            image.familiar()
        ),
        hint: Some("use another tag, or set imagePullPolicy: IfNotPresent"),
    });
}
