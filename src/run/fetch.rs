//! Reading an image that no engine has: from an archive, a folder, stdin, a registry or a node.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use crate::cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::image::archive::Archive;
use crate::image::{Image, Platform};
use crate::job::Job;
use crate::node::Session;
use crate::reference::Reference;
use crate::source::spec::Spec;
use crate::source::spool::unlinked_file;
use crate::source::{Source, node, registry};

/// An image that was found, before any layer of it moved.
pub(super) struct Fetched {
    pub image: Arc<Image>,
    pub source: Arc<dyn Source>,
    /// Its names where it was found; none, if it has none there.
    pub names: Vec<Reference>,
}

/// What to look for.
pub(super) struct Wanted<'a, F> {
    /// The platform that was asked for.
    pub platform: Option<&'a Platform>,
    /// The platform to take if none was.
    pub own: F,
    /// Whether registries are read without TLS.
    pub plain_http: bool,
    /// Nodes that are spoken to already.
    pub sessions: &'a [Arc<Session>],
}

/// Looks an image up.
///
/// # Errors
/// Image error, if it is not there, broken, or for other platforms only.
pub(super) async fn fetch<F: FnOnce() -> Result<Platform>>(
    job: &Job,
    spec: Spec,
    wanted: Wanted<'_, F>,
) -> Result<Fetched> {
    let asked = wanted.platform.cloned();
    match spec {
        Spec::Node { node, name } => {
            let known = wanted
                .sessions
                .iter()
                .find(|session| session.node().name == node);
            let session = match known {
                Some(session) => Arc::clone(session),
                None => {
                    let opening = async {
                        let node = cluster::node(&node, &job.env).await?;
                        Session::open(&node, job).await
                    };
                    Arc::new(job.cancel.unless(opening).await?)
                }
            };
            let (image, source) = node::read(session, &name, asked.as_ref(), job).await?;
            Ok(Fetched {
                image,
                source,
                names: vec![name],
            })
        }
        Spec::Registry(name) => {
            let platform = asked.map_or_else(wanted.own, Ok)?;
            let (image, source) = registry::read(&name, &platform, wanted.plain_http, job).await?;
            Ok(Fetched {
                image,
                source,
                names: vec![name],
            })
        }
        spec => {
            let platform = asked.map_or_else(wanted.own, Ok)?;
            in_file(job, spec, platform).await
        }
    }
}

/// Makes the error for an image that has no name where it was found.
pub(super) fn nameless() -> Error {
    Error::usage("the archive gives its image no name").hint("say what to call it: --as NAME:TAG")
}

/// Reads an image out of an archive or a folder, where it is; out of stdin by way of a file
/// without a name, because an archive's manifest may come last.
async fn in_file(job: &Job, spec: Spec, platform: Platform) -> Result<Fetched> {
    let spool = match &spec {
        Spec::Stdin => {
            job.step(|| "spooling stdin to a temporary file".to_owned());
            Some(unlinked_file(&job.env)?)
        }
        _ => None,
    };
    let reading = tokio::task::spawn_blocking(move || {
        let (archive, chosen) = open(&spec, spool)?;
        let (image, blobs) = archive.read(chosen.as_deref(), &platform)?;
        Ok(Fetched {
            image: Arc::new(image),
            source: Arc::new(blobs),
            names: archive.names(chosen.as_deref())?,
        })
    });
    let read = async {
        reading
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
    };
    job.cancel.unless(read).await
}

fn open(spec: &Spec, spool: Option<File>) -> Result<(Archive, Option<String>)> {
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
        _ => Err(Error::new(ErrorKind::Internal, "this source is no file")),
    }
}
