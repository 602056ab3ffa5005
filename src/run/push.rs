//! Pushing instead of loading, and the local registry that a cluster may document.

use tokio_util::task::AbortOnDropHandle;

use super::build::BuildRequest;
use super::plan::Plan;
use super::{Where, context};
use crate::cluster::kubeconfig;
use crate::cluster::registry::{self, LocalRegistry};
use crate::contract::Contract;
use crate::contract::skaffold::Platforms;
use crate::engine::{Builder, Engine};
use crate::error::{Error, Result, one_line};
use crate::job::Job;
use crate::reference::Reference;
use crate::report::Event;

/// A local registry, and the context of the cluster that documents it.
struct Hosting {
    context: String,
    registry: LocalRegistry,
}

/// Builds and pushes with the engine or a builder; loads nothing.
///
/// By hand, a name without a registry goes to the cluster's local one, if it documents one.
/// Skaffold has looked for that itself, and asks for the digest under the name that it passed.
pub(super) async fn push(
    job: &Job,
    request: &BuildRequest,
    plan: Plan,
    builder: Option<Builder>,
) -> Result<()> {
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
    let by_hand = plan.contract == Contract::Hand;
    let mut in_pods = None;
    // Who has named a registry, or a loop that has, need not wait for an answer.
    let mut later = None;
    if by_hand && !plan.image.had_registry() {
        let found = match hosting(job, &request.place).await {
            Err(e) if !job.cancel.is_cancelled() => {
                job.report.event(&Event::Warning {
                    message: &not_asked(&e),
                    hint: e.next_step(),
                });
                None
            }
            found => found?,
        };
        if let Some(found) = found {
            let name = spec.name.clone();
            in_pods = retarget(&found, &plan.image, &mut spec.name)?;
            let (to, context) = (&spec.name, &found.context);
            job.step(|| format!("{context} has a local registry: {name} goes there as {to}"));
        }
    } else {
        let (job, place) = (job.clone(), request.place.clone());
        let looking = tokio::spawn(async move { hosting(&job, &place).await });
        later = Some(AbortOnDropHandle::new(looking));
    }
    let pushed = match builder {
        Some(builder) => {
            job.step(|| format!("building with {}", builder.describe()));
            let digest = builder.push(&spec, job).await?;
            format!("{}@{digest}", spec.name)
        }
        None => {
            let finding = Engine::find(request.engine, false, &job.env);
            let engine = job.cancel.unless(finding).await?;
            // Only the engine's builder can push an index of several platforms.
            spec.push = spec.platforms.len() > 1;
            engine.build(&spec, job).await?;
            if !spec.push {
                engine.push(&spec.name, job).await?;
            }
            spec.name.clone()
        }
    };
    let done = format!("pushed {pushed}; nothing was loaded");
    job.report.event(&Event::Done(&done));
    if let Some(name) = in_pods {
        let told = format!("in manifests it is {}", name.familiar());
        job.report.event(&Event::Done(&told));
    }
    // A push takes longer than the answer, or nobody waits for it.
    if let Some(found) = later.filter(AbortOnDropHandle::is_finished)
        && let Ok(found) = found.await
    {
        match found {
            Ok(Some(found)) => tell(job, &found, &plan.image, &plan.contract),
            Ok(None) => {}
            Err(e) => job.step(|| not_asked(&e)),
        }
    }
    Ok(())
}

/// Changes the name to push to that of the local registry; returns the name for pods.
fn retarget(found: &Hosting, image: &Reference, name: &mut String) -> Result<Option<Reference>> {
    let Some((to_push, in_pods)) = found.registry.names(image)? else {
        return Ok(None);
    };
    *name = to_push.familiar();
    Ok(Some(in_pods))
}

/// Tells why Skaffold pushes, and where pods pull from.
fn tell(job: &Job, found: &Hosting, image: &Reference, contract: &Contract) {
    let host = &found.registry.host;
    if !image.to_string().starts_with(&format!("{host}/")) {
        return;
    }
    let context = &found.context;
    let told = match contract {
        Contract::Skaffold(_) => format!(
            "Skaffold pushes because {context} documents the local registry {host}; with \
             build.local.push: false in skaffold.yaml the image is loaded"
        ),
        _ => format!("{host} is the local registry of {context}: its pods can pull from there"),
    };
    job.report.event(&Event::Done(&told));
}

/// Looks, while an image is built and loaded, for a registry that a loop would rather push to.
/// For people who ask for details only, and never waited for: drop it when the image is there.
pub(super) fn look(job: &Job, place: &Where, contract: &Contract) -> Option<AbortOnDropHandle<()>> {
    if !job.report.tells_steps() {
        return None;
    }
    let (job, place, contract) = (job.clone(), place.clone(), contract.clone());
    let looking = tokio::spawn(async move {
        let found = match hosting(&job, &place).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(e) => return job.step(|| not_asked(&e)),
        };
        let (context, host) = (&found.context, &found.registry.host);
        job.step(|| match &contract {
            Contract::Skaffold(_) => format!(
                "{context} documents the local registry {host}: without build.local.push: false, \
                 Skaffold would push there"
            ),
            Contract::Tilt(_) => format!(
                "{context} documents the local registry {host}: without disable_push or \
                 skips_local_docker, Tilt pushes there"
            ),
            Contract::Hand => {
                format!("{context} documents the local registry {host}: --push would push there")
            }
        });
    });
    Some(AbortOnDropHandle::new(looking))
}

/// Looks for the local registry of the cluster that is asked for.
///
/// # Errors
/// Cluster error, if there is no such context or its API server does not answer.
async fn hosting(job: &Job, place: &Where) -> Result<Option<Hosting>> {
    let context = match &place.cluster {
        // kind's own name for it; who has renamed it names the context.
        Some(cluster) => kubeconfig::context(&job.env, Some(&format!("kind-{cluster}")))?,
        None => context(job, place)?,
    };
    let Some(context) = context else {
        return Ok(None);
    };
    let registry = job
        .cancel
        .unless(registry::find(&job.env, &context))
        .await?;
    Ok(registry.map(|registry| Hosting {
        context: context.name,
        registry,
    }))
}

fn not_asked(e: &Error) -> String {
    format!("no cluster was asked for a local registry: {}", one_line(e))
}
