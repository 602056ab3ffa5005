//! The engines: who builds the image and has it first.
//!
//! Owns building, looking up, tagging, pushing and exporting. Knows nothing of clusters.

pub mod about;
mod builder;
mod command;
pub mod context;
mod dial;
pub mod docker;
pub(crate) mod hold;
mod outlet;
mod podman;

use std::fmt;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

pub use builder::Builder;
pub use docker::Docker;
pub use hold::Hold;
pub use outlet::Sent;
pub use podman::Podman;

use tokio::process::Command;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::archive::Archive;
use crate::image::{DiffId, Digest, Image, ImageId, Platform};
use crate::job::Job;
use crate::push::Target;
use crate::reference::Reference;
use crate::source::Source;
use crate::source::spool::{FileBlobs, unlinked_file};

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
    /// Whether the engine tells that its manifest is one of OCI's, in which a layer may be zstd.
    pub oci: bool,
    /// When the engine was asked: whoever asks it later has the later image.
    pub found: SystemTime,
    /// What else the name that was asked for may mean.
    pub local: Option<Local>,
}

/// A `localhost/X` where `docker.io/X` was asked for: Podman's Docker API, which Skaffold asks, and
/// `podman run X` take that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The whole name.
    pub name: String,
    /// The image that has it.
    pub id: EngineId,
}

impl ImageRecord {
    /// Returns the name that hides an image from whoever asks for it by the name that this was
    /// found by.
    pub fn hides(&self, id: &EngineId) -> Option<&str> {
        let local = self.local.as_ref().filter(|local| local.id != *id)?;
        Some(&local.name)
    }
}

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct BuildSpec {
    /// The name to build under.
    pub name: String,
    /// Another name, beside it.
    pub also: Option<String>,
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
    /// The buildx builder; none means the engine's own.
    pub builder: Option<String>,
    /// Push instead of keeping in the engine's store only.
    pub push: bool,
}

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineKind {
    /// Docker, or what answers like it.
    Docker,
    /// Podman.
    Podman,
}

/// An engine that answers.
pub enum Engine {
    /// Docker.
    Docker(Docker),
    /// Podman.
    Podman(Podman),
}

/// Passes a call on to whichever engine it is.
macro_rules! either {
    ($engine:expr, $it:ident => $call:expr) => {
        match $engine {
            Engine::Docker($it) => $call,
            Engine::Podman($it) => $call,
        }
    };
}

impl Engine {
    /// Finds the engine: the one asked for; else, where somebody will look into Docker's API
    /// afterwards (`by_api`: Skaffold, and Tilt without a ref file) or `DOCKER_HOST` or a context
    /// names a Docker, what answers there; else what answers.
    ///
    /// # Errors
    /// Engine error, naming each place that was tried.
    pub async fn find(kind: Option<EngineKind>, by_api: bool, env: &Env) -> Result<Self> {
        if kind == Some(EngineKind::Podman) && !by_api {
            return Podman::connect(env, None).await.map(Self::Podman);
        }
        match (Docker::connect(env).await, kind) {
            (Ok(docker), Some(EngineKind::Docker)) if docker.is_podman() => Err(Error::new(
                ErrorKind::Engine,
                format!("{} is Podman, not Docker", docker.describe()),
            )
            .hint("use --engine podman, or point DOCKER_HOST at Docker")),
            (Ok(docker), Some(EngineKind::Podman)) if !docker.is_podman() => Err(Error::new(
                ErrorKind::Engine,
                format!("the image is looked for in {} afterwards, which is not Podman", docker.describe()),
            )
            .hint("point DOCKER_HOST at Podman's socket (`podman system service`), as Skaffold and Tilt need it")),
            (Ok(docker), _) if docker.is_podman() => {
                Podman::connect(env, Some(docker.host().to_owned())).await.map(Self::Podman)
            }
            (Ok(docker), _) => Ok(Self::Docker(docker)),
            // Podman in the place of a Docker that was named would take an old image of the same name
            // for the one that was meant.
            (Err(no_docker), None) if !by_api && !context::is_named(env) => match Podman::connect(env, None).await {
                Ok(podman) => Ok(Self::Podman(podman)),
                Err(no_podman) => Err(neither(no_docker, &no_podman)),
            },
            (Err(no_docker), _) => Err(no_docker),
        }
    }

    /// Describes the engine for messages.
    pub fn describe(&self) -> String {
        either!(self, engine => engine.describe())
    }

    /// Returns what the engine builds for by itself, if it tells.
    pub fn native(&self) -> Option<&Platform> {
        either!(self, engine => engine.native())
    }

    /// Builds an image.
    ///
    /// # Errors
    /// Build error.
    pub async fn build(&self, spec: &BuildSpec, job: &Job) -> Result<()> {
        either!(self, engine => engine.build(spec, job).await)
    }

    /// Removes the holds of runs that were killed.
    ///
    /// # Errors
    /// Engine error.
    pub async fn sweep_holds(&self) -> Result<()> {
        either!(self, engine => engine.sweep_holds().await)
    }

    /// Gives a hold up. What has no other name may go with it.
    ///
    /// # Errors
    /// Engine error; a hold that is not there is none.
    pub async fn release(&self, hold: &Hold) -> Result<()> {
        either!(self, engine => engine.release(hold.name()).await)
    }

    /// Pushes an image to its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn push(&self, name: &str, job: &Job) -> Result<()> {
        either!(self, engine => engine.push(name, job).await)
    }

    /// Pulls an image from its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn pull(&self, name: &Reference, platform: &Platform, job: &Job) -> Result<()> {
        either!(self, engine => engine.pull(name, platform, job).await)
    }

    /// Tells whether the engine pushes names, not IDs.
    pub fn pushes_names(&self) -> bool {
        matches!(self, Self::Docker(_))
    }

    /// Looks two names up as [`Engine::inspect`] does, where the first is likely to be one more name
    /// of the second's image. Asking is most of the work.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect_both(
        &self,
        hold: &Hold,
        name: &str,
    ) -> Result<(Option<ImageRecord>, Option<ImageRecord>)> {
        either!(self, engine => engine.inspect_both(hold.name(), name).await)
    }

    /// Looks an image up by name or ID. None, if the engine has no such image.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect(&self, name: &str) -> Result<Option<ImageRecord>> {
        either!(self, engine => engine.inspect(name).await)
    }

    /// Gives an image other names in the engine's store.
    ///
    /// # Errors
    /// Engine error.
    pub async fn tag(&self, name: &str, others: &[&Reference]) -> Result<()> {
        either!(self, engine => engine.tag(name, others).await)
    }

    /// Tells whether the engine may reach a registry of ours on 127.0.0.1.
    pub fn may_reach_us(&self) -> bool {
        either!(self, engine => engine.is_local())
    }

    /// Pushes one platform of an image to our registry, until `stop`. `held` tells whether a hold
    /// at that target is the image's name already.
    ///
    /// # Errors
    /// Engine error, with what the engine said; none, if it was stopped.
    pub async fn push_to(
        &self,
        record: &ImageRecord,
        target: &Target,
        held: bool,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        match self {
            Self::Docker(docker) if held => docker.push_to(record, target, stop).await,
            Self::Docker(docker) => docker.tag_and_push_to(record, target, stop).await,
            Self::Podman(podman) => podman.push_to(record, target, stop).await,
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
        match self {
            Self::Docker(docker) => docker.save(name, platform, &file, job).await?,
            Self::Podman(podman) => podman.save(name, &file, job).await?,
        }
        let (image, blobs) = read(file, platform.clone()).await.map_err(|e| {
            e.within(format!(
                "{name}, as {} exports it, is refused",
                self.describe()
            ))
        })?;
        Ok((Arc::new(image), Arc::new(blobs)))
    }
}

/// Makes one error of both engines': the user has neither.
fn neither(no_docker: Error, no_podman: &Error) -> Error {
    let message = format!(
        "no container engine answers: {}; and {}",
        one_line(&no_docker),
        one_line(no_podman)
    );
    let hint = no_docker
        .next_step()
        .unwrap_or("start Docker or Podman")
        .to_owned();
    Error::new(ErrorKind::Engine, message).hint(hint)
}

/// Adds the flags that docker and podman share.
fn build_arguments(command: &mut Command, spec: &BuildSpec) {
    if !spec.platforms.is_empty() {
        let platforms: Vec<String> = spec.platforms.iter().map(Platform::to_string).collect();
        command.args(["--platform", &platforms.join(",")]);
    }
    if let Some(file) = &spec.dockerfile {
        command.arg("--file").arg(file);
    }
    if let Some(target) = &spec.target {
        command.args(["--target", target]);
    }
    for (flag, values) in [
        ("--build-arg", &spec.build_args),
        ("--secret", &spec.secrets),
        ("--ssh", &spec.ssh),
    ] {
        for value in values {
            command.args([flag, value]);
        }
    }
    command.args(&spec.flags).arg("--").arg(&spec.context);
}

async fn read(file: File, platform: Platform) -> Result<(Image, FileBlobs)> {
    tokio::task::spawn_blocking(move || Archive::tar(Arc::new(file))?.read(None, &platform))
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_any_engine_both_tell_why() {
        let failed = |text: &str| Error::new(ErrorKind::Engine, text);
        let no_docker = failed("Docker does not answer")
            .because("no such file")
            .hint("start Docker");
        let no_podman = failed("cannot start `podman`").because("not found");
        let error = neither(no_docker, &no_podman);
        assert_eq!(
            error.to_string(),
            "no container engine answers: Docker does not answer: no such file; \
             and cannot start `podman`: not found"
        );
        assert_eq!(error.next_step(), Some("start Docker"));
    }

    #[test]
    fn what_a_user_types_stays_one_argument() {
        let mut command = Command::new("docker");
        build_arguments(
            &mut command,
            &BuildSpec {
                context: "-x y".into(),
                build_args: vec!["K=a b; $(c)".into()],
                ..BuildSpec::default()
            },
        );
        let args: Vec<_> = command.as_std().get_args().collect();
        assert_eq!(args, ["--build-arg", "K=a b; $(c)", "--", "-x y"]);
    }
}
