//! A build by a builder that is no engine: what it sends goes to the nodes, and into no engine.
//!
//! What every node has the builder does not send. That is known by its blobs, before it is known
//! what they are stacked on: so a node may turn out to need one after all, or lose one meanwhile, and
//! the builder, which has it all built by then, is asked again for everything.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures_util::future::try_join_all;

use super::build::Built;
use super::plan::Plan;
use super::{BuildRequest, allow};
use crate::cluster::{Cluster, Node};
use crate::engine::{Builder, EngineId};
use crate::error::{Error, Result, one_line};
use crate::image::Blobs;
use crate::job::Job;
use crate::load::{self, Load};
use crate::node::Session;
use crate::report::Clock;

/// Builds, and loads what the builder sends.
pub(super) async fn by_builder(
    job: &Job,
    builder: &Builder,
    plan: &Plan,
    request: &BuildRequest,
    (cluster, nodes): (&Cluster, &[Node]),
    clock: &mut Clock,
) -> Result<Built> {
    let asked = plan.one_platform()?;
    let began = Instant::now();
    let name = plan.naming.first(&plan.image);
    let sessions = load::open_to_load(nodes, name, job).await?;
    let platform = match asked {
        Some(platform) => platform.clone(),
        None => load::platform(&sessions)?,
    };
    allow(&sessions, &platform, &request.place)?;
    let mut held = job.cancel.unless(held_by_all(&sessions)).await?;
    clock.end("connect", began);
    let mut spec = plan.spec.clone();
    spec.platforms = vec![platform.clone()];
    let began = Instant::now();
    let mut again = false;
    loop {
        job.step(|| format!("building with {}", builder.describe()));
        let (image, sent) = builder.build(&spec, &platform, held, job).await?;
        clock.end("build", began);
        let found = SystemTime::now();
        job.step(|| {
            let (bytes, all) = (sent.bytes(), image.size());
            format!("it has sent {bytes} of {all} bytes; the nodes have the rest")
        });
        allow(&sessions, &image.platform, &request.place)?;
        // No engine has it: the names that are made of an engine's ID are not asked for here.
        let id = EngineId(image.manifest.digest.clone());
        let names = plan.naming.names(&plan.image, &id, &image.id())?;
        let load = Load {
            title: names.first().unwrap_or(&plan.image).familiar(),
            image,
            source: Arc::clone(&sent) as _,
            names,
            found,
        };
        match load::load(job, cluster, &sessions, &load, clock).await {
            Err(e) if sent.was_short() && !again && !job.cancel.is_cancelled() => {
                job.step(|| format!("trying again with everything: {}", one_line(&e)));
                (again, held) = (true, Blobs::new());
            }
            loaded => return loaded.map(|outcome| (sessions, outcome)),
        }
    }
}

/// Returns the blobs whose layers are unpacked on every node.
async fn held_by_all(sessions: &[Arc<Session>]) -> Result<Blobs> {
    let known = sessions.iter().map(|session| async {
        match session.tunnel() {
            Some(tunnel) => tunnel.all_blobs().await.map_err(Error::from),
            // A node without one does not tell.
            None => Ok(Blobs::new()),
        }
    });
    let mut known = try_join_all(known).await?.into_iter();
    let mut held = known.next().unwrap_or_default();
    for other in known {
        held.retain(|digest, size| other.get(digest) == Some(size));
    }
    Ok(held)
}
