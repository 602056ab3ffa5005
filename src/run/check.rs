//! `verify` and `ensure`: is every node's image the engine's image?

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;

use super::deliver::{Delivery, Destination, deliver, not_there};
use super::{LoadRequest, Where, allow, find, warn_about_latest};
use crate::cluster::Cluster;
use crate::contract::{self, Naming};
use crate::engine::{Engine, ImageRecord};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{Image, ImageId};
use crate::job::Job;
use crate::load;
use crate::node::Session;
use crate::node::crictl::{self, Shown};
use crate::node::find::{self as on_node, Held};
use crate::reference::Reference;
use crate::report::{Clock, Event, NodeOutcome, NodeResult, Outcome};

/// What one node shows under a name.
enum Verdict {
    /// A whole image that crictl confirms.
    Good {
        image: Box<Image>,
        shown: Shown,
        seconds: f64,
    },
    /// Anything else, and what.
    Bad(String),
}

/// What all nodes show under a name.
struct Finding {
    /// Per node: its name and what is wrong.
    wrong: Vec<String>,
    /// Per node that is right.
    nodes: Vec<NodeOutcome>,
    image: Option<Image>,
    compared: bool,
}

/// Everything that a check needs, opened at once.
struct Opened {
    engine: Result<Engine>,
    cluster: Cluster,
    sessions: Vec<Arc<Session>>,
}

impl Opened {
    /// Looks an image up in the engine, if there is one.
    async fn look_up(&self, job: &Job, name: &Reference) -> Result<Option<ImageRecord>> {
        match &self.engine {
            Ok(engine) => job.cancel.unless(engine.inspect(&name.to_string())).await,
            Err(_) => Ok(None),
        }
    }

    /// Returns the engine.
    ///
    /// # Errors
    /// Why there is none.
    fn engine(&self) -> Result<&Engine> {
        self.engine.as_ref().map_err(|e| {
            let why = Error::new(ErrorKind::Engine, e.to_string());
            let why = match e.next_step() {
                Some(hint) => why.hint(hint),
                None => why,
            };
            match e.causes() {
                causes if causes.is_empty() => why,
                causes => why.because(causes.join("\n")),
            }
        })
    }

    /// Looks at every node, and compares.
    async fn examine(
        &self,
        job: &Job,
        request: &LoadRequest,
        name: &Reference,
        expected: Option<&Expected<'_>>,
    ) -> Result<Finding> {
        let examining = examine(&self.sessions, name, expected, &request.place);
        job.cancel.unless(examining).await
    }
}

/// Proves with crictl that every node has the engine's image, whole.
///
/// # Errors
/// Verify error, telling for each node what is wrong.
pub async fn verify(job: &Job, request: &LoadRequest) -> Result<Vec<Outcome>> {
    let mut clock = Clock::start();
    let names = request
        .images
        .iter()
        .map(|name| Reference::parse(name))
        .collect::<Result<Vec<_>>>()?;
    let names = if names.is_empty() {
        subject_names(job)?
    } else {
        names
    };
    let opened = open(job, request, names.first(), &mut clock).await?;
    let mut outcomes = Vec::new();
    for name in &names {
        let began = Instant::now();
        let record = opened.look_up(job, name).await?;
        let expected = record.as_ref().map(Expected::Described);
        let mut finding = opened
            .examine(job, request, name, expected.as_ref())
            .await?;
        // The engine's description does not always name the config: then its export does.
        if let (Ok(engine), Some(record)) = (&opened.engine, &record)
            && !finding.compared
            && finding.wrong.is_empty()
        {
            let exported = engine.export(record.id.0.as_str(), &record.platform, job);
            let id = job.cancel.unless(exported).await?.0.id();
            let expected = Expected::Id(id);
            finding = opened.examine(job, request, name, Some(&expected)).await?;
        }
        clock.end("verify", began);
        outcomes.push(finding.outcome(name, &opened.cluster, &clock)?);
    }
    Ok(outcomes)
}

/// Verifies, and loads what is missing.
///
/// # Errors
/// Of the kind of the step that failed.
pub async fn ensure(job: &Job, request: &LoadRequest) -> Result<Vec<Outcome>> {
    let mut clock = Clock::start();
    let subjects = subjects(job, request)?;
    if subjects.is_empty() {
        // Skaffold deploys a pushed image by its digest; the kubelet pulls it.
        job.report
            .event(&Event::Done("the image was pushed: nothing to ensure"));
        return Ok(Vec::new());
    }
    subjects
        .iter()
        .for_each(|(name, naming)| warn_about_latest(job, *naming, name));
    let first = subjects.first().map(|(name, _)| name);
    let opened = open(job, request, first, &mut clock).await?;
    let mut outcomes = Vec::new();
    for (name, naming) in subjects {
        outcomes.push(ensure_one(job, request, &opened, (&name, naming), &mut clock).await?);
    }
    Ok(outcomes)
}

/// Returns the images to ensure: those that are named, or written in ref files, or that Skaffold
/// or Tilt speaks of. None of them was pushed.
fn subjects(job: &Job, request: &LoadRequest) -> Result<Vec<(Reference, Naming)>> {
    let mut subjects = Vec::new();
    for name in &request.images {
        subjects.push((Reference::parse(name)?, Naming::AsAsked));
    }
    for path in &request.ref_files {
        subjects.push((contract::tilt::read_ref_file(path)?, Naming::AsAsked));
    }
    if subjects.is_empty() {
        subjects.extend(contract::subject(&job.env)?);
    }
    subjects.retain(|(name, _)| name.digest().is_none());
    Ok(subjects)
}

async fn ensure_one(
    job: &Job,
    request: &LoadRequest,
    opened: &Opened,
    (name, naming): (&Reference, Naming),
    clock: &mut Clock,
) -> Result<Outcome> {
    let began = Instant::now();
    let record = opened.look_up(job, name).await?;
    let names = match &record {
        Some(record) => naming.known(name, &record.id)?,
        None => vec![name.clone()],
    };
    let expected = record.as_ref().map(Expected::Described);
    let mut findings = Vec::new();
    for name in &names {
        findings.push(
            opened
                .examine(job, request, name, expected.as_ref())
                .await?,
        );
    }
    clock.end("verify", began);
    let good =
        |finding: &Finding| finding.wrong.is_empty() && (finding.compared || record.is_none());
    if findings.iter().all(good)
        && let Some(finding) = findings.into_iter().next()
    {
        let mut outcome = finding.outcome(name, &opened.cluster, clock)?;
        outcome.refs = names;
        return Ok(outcome);
    }
    let engine = opened.engine()?;
    let record = record.ok_or_else(|| not_there(engine, name))?;
    allow(&opened.sessions, &record.platform, &request.place)?;
    let mut delivery = Delivery {
        name,
        naming,
        record,
        listener: None,
    };
    let to = Destination {
        cluster: &opened.cluster,
        sessions: &opened.sessions,
    };
    deliver(job, opened.engine()?, &to, &mut delivery, clock).await
}

fn subject_names(job: &Job) -> Result<Vec<Reference>> {
    Ok(contract::subject(&job.env)?
        .map(|(name, _)| name)
        .into_iter()
        .collect())
}

/// Opens everything that a check needs; `first` is the name that it begins with.
async fn open(
    job: &Job,
    request: &LoadRequest,
    first: Option<&Reference>,
    clock: &mut Clock,
) -> Result<Opened> {
    let began = Instant::now();
    let engine = async {
        // Without an engine the nodes can still be compared with one another.
        // What the environment names lies in the engine that Skaffold and Tilt look into.
        let by_api = request.images.is_empty() && request.ref_files.is_empty();
        Ok::<_, Error>(Engine::find(request.engine, by_api, &job.env).await)
    };
    let place = async {
        let (cluster, nodes) = find(job, &request.place, false).await?;
        let sessions = load::open(&nodes, first, job).await?;
        Ok((cluster, sessions))
    };
    let (engine, (cluster, sessions)) = futures_util::try_join!(job.cancel.unless(engine), place)?;
    clock.end("find", began);
    match &engine {
        Err(_) if request.engine.is_some() => {
            return Err(engine.err().expect("it is an error"));
        }
        Err(e) => job.report.event(&Event::Warning {
            message: &format!("no engine to compare with: {}", one_line(e)),
            hint: e.next_step(),
        }),
        Ok(_) => {}
    }
    Ok(Opened {
        engine,
        cluster,
        sessions,
    })
}

/// What the nodes' image is compared with.
enum Expected<'a> {
    /// What the engine says of its image.
    Described(&'a ImageRecord),
    /// The config's digest itself.
    Id(ImageId),
}

impl Expected<'_> {
    fn matches(&self, image: &Image) -> Option<bool> {
        match self {
            Self::Described(record) => on_node::matches(image, record),
            Self::Id(id) => Some(image.id() == *id),
        }
    }
}

/// Looks at every node, and compares.
async fn examine(
    sessions: &[Arc<Session>],
    name: &Reference,
    expected: Option<&Expected<'_>>,
    place: &Where,
) -> Result<Finding> {
    let judging = sessions.iter().map(|session| judge(session, name, place));
    let verdicts = try_join_all(judging).await?;
    let mut finding = Finding {
        wrong: Vec::new(),
        nodes: Vec::new(),
        image: None,
        compared: expected.is_some(),
    };
    for (session, verdict) in sessions.iter().zip(verdicts) {
        let node = &session.node().name;
        let (image, shown, seconds) = match verdict {
            Verdict::Good {
                image,
                shown,
                seconds,
            } => (image, shown, seconds),
            Verdict::Bad(why) => {
                finding.wrong.push(format!("{node}: {why}"));
                continue;
            }
        };
        match expected.map(|expected| expected.matches(&image)) {
            Some(Some(true)) | None => {}
            Some(Some(false)) => {
                finding
                    .wrong
                    .push(format!("{node}: it has another image, {}", image.id()));
                continue;
            }
            Some(None) => finding.compared = false,
        }
        if let Some(first) = &finding.image
            && first.id() != image.id()
        {
            finding.wrong.push(format!(
                "{node}: it has {}, others have {}",
                image.id(),
                first.id()
            ));
            continue;
        }
        finding.nodes.push(NodeOutcome {
            name: node.clone(),
            result: NodeResult::Present,
            bytes_sent: 0,
            bytes_skipped: image.size(),
            seconds,
            crictl_id: shown.id,
        });
        finding.image.get_or_insert(*image);
    }
    Ok(finding)
}

async fn judge(session: &Session, name: &Reference, place: &Where) -> Result<Verdict> {
    let began = Instant::now();
    let image = match on_node::held(session, &name.to_string())
        .await
        .map_err(|e| e.with_kind(ErrorKind::Verify))?
    {
        Held::Absent => return Ok(Verdict::Bad("it does not have it".to_owned())),
        Held::Broken(why) => return Ok(Verdict::Bad(format!("it is not complete: {why}"))),
        Held::Whole(image) => image,
    };
    if !place.allow_foreign_platform && !session.facts().can_run(&image.platform) {
        return Ok(Verdict::Bad(format!(
            "the image is for {}, the node runs {}",
            image.platform,
            session.facts().platform
        )));
    }
    match crictl::confirm(session, &image, std::slice::from_ref(name)).await {
        Ok(shown) => Ok(Verdict::Good {
            image,
            shown,
            seconds: began.elapsed().as_secs_f64(),
        }),
        Err(e) => Ok(Verdict::Bad(one_line(&e).to_string())),
    }
}

impl Finding {
    fn outcome(self, name: &Reference, cluster: &Cluster, clock: &Clock) -> Result<Outcome> {
        let image = match self.image {
            Some(image) if self.wrong.is_empty() => image,
            _ => {
                return Err(Error::new(
                    ErrorKind::Verify,
                    format!(
                        "{} is not on every node of {}",
                        name.familiar(),
                        cluster.name
                    ),
                )
                .because(self.wrong.join("\n"))
                .hint(format!("load it: `kindlift load {}`", name.familiar())));
            }
        };
        Ok(Outcome {
            cluster: cluster.name.clone(),
            image: name.familiar(),
            config_digest: image.id(),
            manifest_digest: image.manifest.digest.clone(),
            platform: image.platform.clone(),
            refs: vec![name.clone()],
            nodes: self.nodes,
            compared: self.compared,
            phases: clock.phases(),
        })
    }
}
