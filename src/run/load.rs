//! `load`: images that are built already, from wherever they are.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::deliver::{Delivery, Destination, deliver, not_there};
use super::fetch::{self, Fetched, Wanted};
use super::{LoadRequest, allow, find, manifests, refuse_shadow, warn_about_latest};
use crate::contract::{self, Naming};
use crate::engine::{Engine, EngineKind, ImageRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::load::{self as transaction, Load};
use crate::node::Session;
use crate::reference::Reference;
use crate::report::{Clock, Event, Outcome};
use crate::source::spec::Spec;

/// One image that is asked for.
enum Subject {
    Engine(InEngine),
    Elsewhere {
        text: String,
        spec: Spec,
        rename: Option<Reference>,
    },
}

impl Subject {
    /// Returns the first name that the image will have, if that is known already.
    fn first_name(&self) -> Option<&Reference> {
        match self {
            Self::Engine(subject) => subject.naming.first(subject.title()),
            Self::Elsewhere { rename, .. } => rename.as_ref(),
        }
    }
}

impl InEngine {
    /// Returns the name that is asked for on the nodes.
    fn title(&self) -> &Reference {
        self.rename.as_ref().unwrap_or(&self.name)
    }
}

/// An image in an engine's store.
struct InEngine {
    engine: Option<EngineKind>,
    name: Reference,
    naming: Naming,
    rename: Option<Reference>,
    pull: bool,
    /// Whether it may be missing: manifests also name what the kubelet is to pull.
    optional: bool,
}

/// An image that was found.
enum Found {
    Engine(Box<InEngine>, ImageRecord),
    Elsewhere(Load),
}

/// Finds images in engines, archives, folders, registries and nodes, and loads them into every node.
///
/// # Errors
/// Image error, if an image is not there, broken or foreign; else of the kind of the step that
/// failed.
pub async fn load(job: &Job, request: &LoadRequest) -> Result<Vec<Outcome>> {
    let mut clock = Clock::start();
    // Manifests may come on stdin, slowly: a read that blocks must not keep signals from us.
    let asked = (job.clone(), request.clone());
    let reading = tokio::task::spawn_blocking(move || subjects(&asked.0, &asked.1));
    let reading = async {
        reading
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
    };
    let subjects = job.cancel.unless(reading).await?;
    if subjects.is_empty() {
        job.report.event(&Event::Done("nothing to load"));
        return Ok(Vec::new());
    }
    let began = Instant::now();
    let (engines, (cluster, nodes)) = futures_util::try_join!(
        Engines::find(job, request, &subjects),
        find(job, &request.place, false),
    )?;
    clock.end("find", began);
    let began = Instant::now();
    let opening = async {
        let name = subjects.first().and_then(Subject::first_name);
        let sessions = transaction::open_to_load(&nodes, name, job).await;
        clock.end("connect", began);
        sessions
    };
    let (sessions, records) = tokio::join!(opening, engines.inspect(job, &subjects));
    let (sessions, records) = (sessions?, records?);

    // Everything is looked up before anything is loaded: a typing error costs nothing.
    let mut found = Vec::new();
    for (subject, record) in subjects.into_iter().zip(records) {
        found.extend(look_up(job, request, &engines, (subject, record), &sessions).await?);
    }
    clock.end("look up", began);
    let to = Destination {
        cluster: &cluster,
        sessions: &sessions,
    };
    let mut outcomes = Vec::new();
    for image in found {
        outcomes.push(match image {
            Found::Engine(subject, record) => {
                let engine = engines.get(subject.engine)?;
                let mut delivery = Delivery {
                    name: subject.title(),
                    naming: subject.naming,
                    record,
                    listener: None,
                };
                deliver(job, engine, &to, &mut delivery, &mut clock).await?
            }
            Found::Elsewhere(load) => {
                transaction::load(job, &cluster, &sessions, &load, &mut clock).await?
            }
        });
    }
    Ok(outcomes)
}

fn subjects(job: &Job, request: &LoadRequest) -> Result<Vec<Subject>> {
    let rename = request
        .rename
        .as_deref()
        .map(Reference::parse)
        .transpose()?;
    if rename.is_some() && (request.images.len() != 1 || !request.from.is_empty()) {
        return Err(Error::usage("--as gives one image its name")
            .hint("load images that need another name one by one"));
    }
    let mut subjects = Vec::new();
    for text in &request.images {
        subjects.push(match Spec::parse(text)? {
            Spec::Engine { engine, name } => Subject::Engine(InEngine {
                engine: engine.or(request.engine),
                name,
                naming: Naming::AsAsked,
                rename: rename.clone(),
                pull: request.pull,
                optional: false,
            }),
            spec => Subject::Elsewhere {
                text: text.clone(),
                spec,
                rename: rename.clone(),
            },
        });
    }
    let in_engine = |name, naming, optional| {
        Subject::Engine(InEngine {
            engine: request.engine,
            name,
            naming,
            rename: None,
            pull: request.pull,
            optional,
        })
    };
    for name in manifests::images(&request.from)? {
        subjects.push(in_engine(name, Naming::AsAsked, true));
    }
    if request.images.is_empty()
        && request.from.is_empty()
        && let Some((name, naming)) = contract::subject(&job.env)?
    {
        subjects.push(in_engine(name, naming, false));
    }
    let any_in_engine = subjects
        .iter()
        .any(|subject| matches!(subject, Subject::Engine(_)));
    if request.platform.is_some() && any_in_engine {
        return Err(Error::usage(
            "--platform picks from an archive or a registry, not from an engine",
        )
        .hint("build or pull the image for that platform instead"));
    }
    let mut seen = HashSet::new();
    subjects.retain(|subject| match subject {
        Subject::Engine(subject) => seen.insert(subject.name.clone()),
        Subject::Elsewhere { .. } => true,
    });
    Ok(subjects)
}

/// The engines that the images are in.
struct Engines(Vec<(Option<EngineKind>, Engine)>);

impl Engines {
    async fn find(job: &Job, request: &LoadRequest, subjects: &[Subject]) -> Result<Self> {
        let mut engines: Vec<(Option<EngineKind>, Engine)> = Vec::new();
        for subject in subjects {
            let Subject::Engine(subject) = subject else {
                continue;
            };
            if engines.iter().any(|(kind, _)| *kind == subject.engine) {
                continue;
            }
            // Skaffold and Tilt look into Docker's API, and so must we.
            let by_api = matches!(subject.naming, Naming::Skaffold | Naming::Tilt);
            let kind = subject.engine.or(request.engine);
            let engine = job
                .cancel
                .unless(Engine::find(kind, by_api, &job.env))
                .await?;
            engines.push((subject.engine, engine));
        }
        Ok(Self(engines))
    }

    /// Asks the engines for the images that are to be theirs.
    async fn inspect(&self, job: &Job, subjects: &[Subject]) -> Result<Vec<Option<ImageRecord>>> {
        let mut records = Vec::new();
        for subject in subjects {
            records.push(match subject {
                Subject::Engine(subject) => {
                    let name = subject.name.to_string();
                    let engine = self.get(subject.engine)?;
                    job.cancel.unless(engine.inspect(&name)).await?
                }
                Subject::Elsewhere { .. } => None,
            });
        }
        Ok(records)
    }

    fn get(&self, kind: Option<EngineKind>) -> Result<&Engine> {
        let found = self.0.iter().find(|(other, _)| *other == kind);
        found
            .map(|(_, engine)| engine)
            .ok_or_else(|| Error::new(ErrorKind::Internal, "an engine was not looked for"))
    }
}

async fn look_up(
    job: &Job,
    request: &LoadRequest,
    engines: &Engines,
    (subject, record): (Subject, Option<ImageRecord>),
    sessions: &[Arc<Session>],
) -> Result<Option<Found>> {
    match subject {
        Subject::Engine(subject) => {
            let engine = engines.get(subject.engine)?;
            let record = in_engine(job, engine, (&subject, record), sessions).await?;
            let Some(record) = record else {
                if subject.optional {
                    let text = format!(
                        "left to the kubelet: {} ({} does not have it)",
                        subject.name.familiar(),
                        engine.describe()
                    );
                    job.report.event(&Event::Done(&text));
                    return Ok(None);
                }
                return Err(not_there(engine, &subject.name));
            };
            warn_about_latest(job, subject.naming, subject.title());
            allow(sessions, &record.platform, &request.place)
                .map_err(|e| e.within(format!("{} is refused", subject.name.familiar())))?;
            Ok(Some(Found::Engine(Box::new(subject), record)))
        }
        Subject::Elsewhere { text, spec, rename } => {
            let load = elsewhere(job, request, spec, rename, sessions)
                .await
                .map_err(|e| e.within(format!("{text} is refused")))?;
            allow(sessions, &load.image.platform, &request.place)
                .map_err(|e| e.within(format!("{text} is refused")))?;
            load.names
                .iter()
                .for_each(|name| warn_about_latest(job, Naming::AsAsked, name));
            Ok(Some(Found::Elsewhere(load)))
        }
    }
}

/// Returns what an engine has, after a pull where that is asked for.
async fn in_engine(
    job: &Job,
    engine: &Engine,
    (subject, record): (&InEngine, Option<ImageRecord>),
    sessions: &[Arc<Session>],
) -> Result<Option<ImageRecord>> {
    let Some(record) = record else {
        if !subject.pull {
            return Ok(None);
        }
        let platform = transaction::platform(sessions)?;
        engine.pull(&subject.name, &platform, job).await?;
        let name = subject.name.to_string();
        return job.cancel.unless(engine.inspect(&name)).await;
    };
    let contract = match subject.naming {
        Naming::Skaffold => Some("Skaffold"),
        Naming::Tilt => Some("Tilt"),
        Naming::AsAsked | Naming::Content => None,
    };
    refuse_shadow(job, &subject.name, &record, &record.id, contract)?;
    Ok(Some(record))
}

/// Looks an image up that no engine has.
async fn elsewhere(
    job: &Job,
    request: &LoadRequest,
    spec: Spec,
    rename: Option<Reference>,
    sessions: &[Arc<Session>],
) -> Result<Load> {
    let found = SystemTime::now();
    let wanted = Wanted {
        platform: request.platform.as_ref(),
        own: || transaction::platform(sessions),
        plain_http: request.plain_http,
        sessions,
    };
    let Fetched {
        image,
        source,
        names,
    } = fetch::fetch(job, spec, wanted).await?;
    let names = rename.map_or(names, |name| vec![name]);
    let Some(first) = names.first() else {
        return Err(fetch::nameless());
    };
    Ok(Load {
        title: first.familiar(),
        image,
        source,
        names,
        found,
    })
}
