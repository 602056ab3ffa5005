//! The engines: who builds the image and has it first.
//!
//! Owns building, looking up, tagging, pushing and exporting. Knows nothing of clusters.

pub mod context;
mod dial;
mod docker;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

pub use docker::Docker;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{DiffId, Digest, Image, ImageId, Platform, archive};
use crate::job::Job;
use crate::source::Source;
use crate::source::spool::unlinked_file;

/// What the engine calls an image's ID; Skaffold and Tilt make their tags of it.
///
/// The config's digest in Docker's overlay2 store and in Podman; the manifest's or the index's
/// digest in Docker's containerd store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct EngineId(pub Digest);

impl fmt::Display for EngineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What an engine says of an image, before any byte of it moves.
#[derive(Debug, Clone)]
pub struct ImageRecord {
    /// The engine's ID.
    pub id: EngineId,
    /// The platform that the engine would run.
    pub platform: Platform,
    /// The layers, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// The config's digest, where the engine tells it.
    pub image_id: Option<ImageId>,
    /// The manifest's digest, where the engine tells it.
    pub manifest: Option<Digest>,
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildSpec {
    /// The name to build under.
    pub name: String,
    /// The context: an absolute folder, or a URL.
    pub context: String,
    /// The Dockerfile, if not the context's own.
    pub dockerfile: Option<PathBuf>,
    /// The stage to build.
    pub target: Option<String>,
    /// `K=V` or `K`.
    pub build_args: Vec<String>,
    /// `id=…,src=…`.
    pub secrets: Vec<String>,
    /// `default` or `id=socket`.
    pub ssh: Vec<String>,
    /// Platforms; none means the engine's own.
    pub platforms: Vec<Platform>,
    /// Flags for the engine's build, as they are.
    pub flags: Vec<String>,
    /// Push instead of keeping in the engine's store only.
    pub push: bool,
}

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Docker, or what answers like it.
    Docker,
}

/// An engine that answers.
pub enum Engine {
    /// Docker.
    Docker(Docker),
}

impl Engine {
    /// Finds the engine: the one asked for, else what answers.
    ///
    /// # Errors
    /// Engine error, naming each socket that was tried.
    pub async fn find(kind: Option<EngineKind>, env: &Env) -> Result<Self> {
        let _ = kind;
        Docker::connect(env).await.map(Self::Docker)
    }

    /// Describes the engine for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Docker(docker) => docker.describe(),
        }
    }

    /// Builds an image.
    ///
    /// # Errors
    /// Build error.
    pub async fn build(&self, spec: &BuildSpec, job: &Job) -> Result<()> {
        match self {
            Self::Docker(docker) => docker.build(spec, job).await,
        }
    }

    /// Pushes an image to its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn push(&self, name: &str, job: &Job) -> Result<()> {
        match self {
            Self::Docker(docker) => docker.push(name, job).await,
        }
    }

    /// Looks an image up. None, if the engine has no such image.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect(&self, name: &str) -> Result<Option<ImageRecord>> {
        match self {
            Self::Docker(docker) => docker.inspect(name).await,
        }
    }

    /// Gives an image another name in the engine's store.
    ///
    /// # Errors
    /// Engine error.
    pub async fn tag(&self, name: &str, other: &crate::reference::Reference) -> Result<()> {
        match self {
            Self::Docker(docker) => docker.tag(name, other).await,
        }
    }

    /// Exports one platform of an image into a file without a name and reads it there.
    ///
    /// # Errors
    /// Image error, if what the engine exports does not agree with itself.
    pub async fn export(
        &self,
        name: &str,
        platform: &Platform,
        job: &Job,
    ) -> Result<(Arc<Image>, Arc<dyn Source>)> {
        let file = unlinked_file(&job.env)?;
        let spool = file
            .try_clone()
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot spool the image").because(e))?;
        match self {
            Self::Docker(docker) => docker.save(name, platform, spool).await?,
        }
        let platform = platform.clone();
        let (image, blobs) = read(file, platform).await.map_err(|e| {
            e.within(format!(
                "{name}, as {} exports it, is refused",
                self.describe()
            ))
        })?;
        Ok((Arc::new(image), Arc::new(blobs)))
    }
}

async fn read(file: File, platform: Platform) -> Result<(Image, crate::source::spool::FileBlobs)> {
    tokio::task::spawn_blocking(move || archive::read(Arc::new(file), &platform))
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
}
