//! What the commands do, as functions: from a request to an outcome.

mod build;
mod builder;
mod check;
mod deliver;
pub mod doctor;
mod export;
mod fetch;
pub mod init;
mod lint;
mod load;
mod manifests;
mod plan;
mod prune;
mod push;
mod watch;

use crate::cluster::kubeconfig::Context;
use crate::cluster::{self, Cluster, Node, Wanted, kubeconfig};
use crate::contract::{self, Naming};
use crate::engine::{EngineId, EngineKind, ImageRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Platform;
use crate::job::Job;
use crate::load as transaction;
use crate::node::Session;
use crate::reference::Reference;
use crate::report::Event;

use std::path::PathBuf;
use std::sync::Arc;

pub use build::{BuildRequest, build};
pub use check::{ensure, verify};
pub use export::{ExportRequest, Exported, Target, export};
pub use lint::{Finding, Lint, LintRequest, Problem, lint};
pub use load::load;
pub use prune::{PruneRequest, Pruned, Pruning, Verdict, prune};
pub use watch::watch;

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

/// Images that an engine or an archive has, or that manifests name.
#[derive(Debug, Clone, Default)]
pub struct LoadRequest {
    /// Names or sources (see [`crate::source::spec::Spec`]) as the user wrote them; empty for what
    /// Skaffold or Tilt speaks of.
    pub images: Vec<String>,
    /// The name to load under, instead of the image's own.
    pub rename: Option<String>,
    /// Which of an image's platforms to load; the nodes', if not given.
    pub platform: Option<Platform>,
    /// Manifests whose images to load: a path, or `-` for stdin.
    pub from: Vec<String>,
    /// Pull what the engine does not have.
    pub pull: bool,
    /// Whether registries are read without TLS.
    pub plain_http: bool,
    /// Files that hold the name of an image, as `build --ref-file` writes them.
    pub ref_files: Vec<PathBuf>,
    /// `--engine`.
    pub engine: Option<EngineKind>,
    /// Where to load.
    pub place: Where,
}

/// Says which cluster is meant, before any is looked for.
///
/// # Errors
/// Cluster error, if the kubeconfig cannot be read or has no such context.
fn wanted(job: &Job, place: &Where, in_loop: bool) -> Result<Wanted> {
    let context = match &place.cluster {
        Some(_) => None,
        None => context(job, place)?,
    };
    Ok(Wanted {
        name: place.cluster.clone(),
        context,
        kind_env: job.env.get("KIND_CLUSTER_NAME").map(str::to_owned),
        in_loop: in_loop || contract::in_loop(&job.env),
    })
}

/// Finds the cluster and the nodes that take part.
async fn find(job: &Job, place: &Where, in_loop: bool) -> Result<(Cluster, Vec<Node>)> {
    let env = &job.env;
    let wanted = wanted(job, place, in_loop)?;
    let cluster = job.cancel.unless(cluster::choose(&wanted, env)).await?;
    let nodes = cluster.select(&place.nodes)?;
    job.step(|| {
        let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        let provider = cluster.provider.endpoint();
        format!(
            "cluster {} under {provider}: {}",
            cluster.name,
            names.join(", ")
        )
    });
    Ok((cluster, nodes))
}

/// Returns the kube context that is asked for, else the current one, if there is one.
fn context(job: &Job, place: &Where) -> Result<Option<Context>> {
    let env = &job.env;
    let named = place
        .kube_context
        .as_deref()
        .or_else(|| env.get("SKAFFOLD_KUBE_CONTEXT"));
    kubeconfig::context(env, named)
}

fn allow(sessions: &[Arc<Session>], platform: &Platform, place: &Where) -> Result<()> {
    if place.allow_foreign_platform {
        return Ok(());
    }
    transaction::runnable(sessions, platform)
}

/// Warns about a name that makes the kubelet pull, from a registry that does not have it; not where
/// another name will be deployed.
fn warn_about_latest(job: &Job, naming: Naming, image: &Reference) {
    if naming != Naming::AsAsked || !image.is_latest() {
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

/// Tells of a `localhost/` name that hides an image from whoever asks Podman for it; where
/// Skaffold or Tilt will ask, that is an error: they would deploy the other image without a word.
fn refuse_shadow(
    job: &Job,
    name: &Reference,
    named: &ImageRecord,
    id: &EngineId,
    contract: Option<&str>,
) -> Result<()> {
    let Some(local) = named.hides(id) else {
        return Ok(());
    };
    let hint = format!("`podman untag` the older of the two, {local} or {name}");
    if let Some(tool) = contract {
        return Err(Error::new(
            ErrorKind::Image,
            format!("{local} is another image than {name}, and {tool} would deploy that one"),
        )
        .hint(hint));
    }
    job.report.event(&Event::Warning {
        message: &format!(
            "{local} is another image and hides {name} from whoever asks Podman for {}",
            name.familiar()
        ),
        hint: Some(&hint),
    });
    Ok(())
}
