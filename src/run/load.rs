//! `load`: images that are built already, from an engine, an archive or a folder.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::deliver::{Delivery, Destination, deliver, not_there};
use super::{LoadRequest, allow, find, manifests, refuse_shadow, warn_about_latest};
use crate::contract::{self, Naming};
use crate::engine::{Engine, EngineKind, ImageRecord};
use crate::error::{Error, ErrorKind, Result};
use crate::image::archive::Archive;
use crate::image::{Image, Platform};
use crate::job::Job;
use crate::load::{self as transaction, Load};
use crate::node::Session;
use crate::reference::Reference;
use crate::report::{Clock, Event, Outcome};
use crate::source::Source;
use crate::source::spec::Spec;
use crate::source::spool::unlinked_file;

/// One image that is asked for.
enum Subject {
    Engine(InEngine),
    File {
        text: String,
        spec: Spec,
        rename: Option<Reference>,
    },
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
    File(Load),
}

/// Finds images in engines, archives and folders, and loads them into every node.
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
    let sessions = transaction::open(&nodes, job).await?;
    clock.end("connect", began);

    // Everything is looked up before anything is loaded: a typing error costs nothing.
    let began = Instant::now();
    let mut found = Vec::new();
    for subject in subjects {
        found.extend(look_up(job, request, &engines, subject, &sessions).await?);
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
                    name: subject.rename.as_ref().unwrap_or(&subject.name),
                    naming: subject.naming,
                    record,
                };
                deliver(job, engine, &to, &mut delivery, &mut clock).await?
            }
            Found::File(load) => {
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
            Spec::Engine { engine, name, pull } => Subject::Engine(InEngine {
                engine: engine.or(request.engine),
                name,
                naming: Naming::AsAsked,
                rename: rename.clone(),
                pull: pull || request.pull,
                optional: false,
            }),
            spec => Subject::File {
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
        return Err(
            Error::usage("--platform picks from an archive, not from an engine")
                .hint("build or pull the image for that platform instead"),
        );
    }
    let mut seen = HashSet::new();
    subjects.retain(|subject| match subject {
        Subject::Engine(subject) => seen.insert(subject.name.clone()),
        Subject::File { .. } => true,
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
    subject: Subject,
    sessions: &[Arc<Session>],
) -> Result<Option<Found>> {
    match subject {
        Subject::Engine(subject) => {
            let engine = engines.get(subject.engine)?;
            let Some(record) = in_engine(job, engine, &subject, sessions).await? else {
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
            warn_about_latest(job, subject.rename.as_ref().unwrap_or(&subject.name));
            allow(sessions, &record.platform, &request.place)
                .map_err(|e| e.within(format!("{} is refused", subject.name.familiar())))?;
            Ok(Some(Found::Engine(Box::new(subject), record)))
        }
        Subject::File { text, spec, rename } => {
            let platform = match &request.platform {
                Some(platform) => platform.clone(),
                None => transaction::platform(sessions)?,
            };
            let load = in_file(job, spec, rename, platform)
                .await
                .map_err(|e| e.within(format!("{text} is refused")))?;
            allow(sessions, &load.image.platform, &request.place)
                .map_err(|e| e.within(format!("{text} is refused")))?;
            load.names
                .iter()
                .for_each(|name| warn_about_latest(job, name));
            Ok(Some(Found::File(load)))
        }
    }
}

async fn in_engine(
    job: &Job,
    engine: &Engine,
    subject: &InEngine,
    sessions: &[Arc<Session>],
) -> Result<Option<ImageRecord>> {
    let name = subject.name.to_string();
    let record = job.cancel.unless(engine.inspect(&name)).await?;
    if let Some(record) = &record {
        let contract = match subject.naming {
            Naming::Skaffold => Some("Skaffold"),
            Naming::Tilt => Some("Tilt"),
            Naming::AsAsked | Naming::Content => None,
        };
        refuse_shadow(job, engine, &subject.name, record, contract).await?;
    }
    if record.is_some() || !subject.pull {
        return Ok(record);
    }
    let platform = transaction::platform(sessions)?;
    engine.pull(&subject.name, &platform, job).await?;
    job.cancel.unless(engine.inspect(&name)).await
}

/// Reads an image out of an archive or a folder, where it is; out of stdin by way of a file
/// without a name, because an archive's manifest may come last.
async fn in_file(
    job: &Job,
    spec: Spec,
    rename: Option<Reference>,
    platform: Platform,
) -> Result<Load> {
    let found = SystemTime::now();
    let spool = match &spec {
        Spec::Stdin => {
            job.step(|| "spooling stdin to a temporary file".to_owned());
            Some(unlinked_file(&job.env)?)
        }
        _ => None,
    };
    let reading = tokio::task::spawn_blocking(move || {
        let (archive, chosen) = open(&spec, spool)?;
        let (image, blobs) = archive.read(chosen.as_ref(), &platform)?;
        let names = match (rename, chosen) {
            (Some(name), _) | (None, Some(name)) => vec![name],
            (None, None) => archive.names(None)?,
        };
        Ok((image, blobs, names))
    });
    let read = async {
        reading
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
    };
    let (image, blobs, names): (Image, _, Vec<Reference>) = job.cancel.unless(read).await?;
    let Some(first) = names.first() else {
        return Err(Error::usage("the archive gives its image no name")
            .hint("say what to call it: --as NAME:TAG"));
    };
    Ok(Load {
        title: first.familiar(),
        image: Arc::new(image),
        source: Arc::new(blobs) as Arc<dyn Source>,
        names,
        found,
    })
}

fn open(spec: &Spec, spool: Option<File>) -> Result<(Archive, Option<Reference>)> {
    let unreadable = |path: &Path, e: std::io::Error| {
        Error::new(ErrorKind::Image, format!("cannot open {}", path.display())).because(e)
    };
    match (spec, spool) {
        (Spec::Archive { path, image }, _) => {
            let file = File::open(path).map_err(|e| unreadable(path, e))?;
            Ok((Archive::tar(Arc::new(file))?, image.clone()))
        }
        (Spec::Folder { path, image }, _) => Ok((Archive::folder(path)?, image.clone())),
        (Spec::Stdin, Some(mut file)) => {
            std::io::copy(&mut std::io::stdin().lock(), &mut file)
                .map_err(|e| unreadable(Path::new("stdin"), e))?;
            Ok((Archive::tar(Arc::new(file))?, None))
        }
        (Spec::Engine { .. }, _) | (Spec::Stdin, None) => {
            Err(Error::new(ErrorKind::Internal, "this source is no file"))
        }
    }
}
