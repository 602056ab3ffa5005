//! Docker: the API through bollard for looking up, tagging and pushing to us, the `docker` command
//! for building, saving and pushing to the user's registries.
//!
//! Saving goes through the command because bollard's export has no `platform`, without which the
//! containerd store writes an index that names platforms it does not have.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind as IoKind;
use std::time::{Duration, SystemTime};

use bollard::auth::DockerCredentials;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    ListImagesOptions, PushImageOptionsBuilder, RemoveImageOptionsBuilder, TagImageOptions,
};
use futures_util::StreamExt;
use tokio::net::UnixStream;
use tokio::process::Command;

use super::command::{Sign, run_visible, run_visible_for, spool};
use super::context::{self, Endpoint};
use super::dial;
use super::{BuildSpec, EngineId, ImageRecord, hold};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{DiffId, Digest, ImageId, Platform};
use crate::job::Job;
use crate::process::{self, Orphan};
use crate::push::{self, Target};
use crate::reference::Reference;
use crate::report::Event;

/// How long Docker may take to answer about an image.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a build begins anew because the engine lost a layer.
const COLLECTED: usize = 2;
/// The first API version whose export takes a platform (Engine 28.0).
const EXPORT_PLATFORM: (usize, usize) = (1, 48);
/// The first API version whose push takes a platform (Engine 27.2).
const PUSH_PLATFORM: (usize, usize) = (1, 46);

/// A Docker engine that answers.
pub struct Docker {
    pub(super) api: bollard::Docker,
    endpoint: Endpoint,
    version: String,
    native: Option<Platform>,
    podman: bool,
    env: Env,
}

impl Docker {
    /// Connects to the endpoint that the `docker` command would use.
    ///
    /// # Errors
    /// Engine error, naming the endpoint and telling "not there" from "no permission".
    pub async fn connect(env: &Env) -> Result<Self> {
        let endpoint = context::resolve(env)?;
        let failed = |why: String| {
            Error::new(
                ErrorKind::Engine,
                format!(
                    "Docker does not answer at {} ({}): {why}",
                    endpoint.host, endpoint.chosen_by
                ),
            )
        };
        let api = match endpoint.socket() {
            Some(socket) => {
                knock(&socket).await.map_err(|e| explain(e, &failed))?;
                at_socket(&socket)
            }
            None => dial::connect(env, DEADLINE),
        }
        .map_err(|e| failed("it cannot be used".into()).because(e))?;
        let silent = |e| match e {
            bollard::errors::Error::RequestTimeoutError => {
                failed(format!("no answer within {} s", DEADLINE.as_secs()))
            }
            e => failed("it gives no version".into()).because(e),
        };
        let api = api.negotiate_version().await.map_err(silent)?;
        let answer = api.version().await.map_err(silent)?;
        let podman = answer
            .components
            .iter()
            .flatten()
            .any(|part| part.name.contains("Podman"));
        let version = answer.version.unwrap_or_default();
        let native = answer.os.zip(answer.arch);
        let native = native.map(|(os, arch)| Platform::new(&os, &arch, None));
        tracing::debug!(host = %endpoint.host, %version, "docker");
        Ok(Self {
            api,
            endpoint,
            version,
            native,
            podman,
            env: env.clone(),
        })
    }

    /// Describes the engine for messages.
    pub fn describe(&self) -> String {
        format!("Docker {} at {}", self.version, self.endpoint.host)
    }

    /// Tells whether it is Podman that answers like Docker.
    pub fn is_podman(&self) -> bool {
        self.podman
    }

    /// Returns what it builds for by itself.
    pub fn native(&self) -> Option<&Platform> {
        self.native.as_ref()
    }

    /// Returns the endpoint.
    pub fn host(&self) -> &str {
        &self.endpoint.host
    }

    pub(super) fn command(&self, args: &[&str], orphan: Orphan) -> Command {
        let mut command = process::command("docker", &self.env, orphan);
        command.args(args);
        command
    }

    async fn has_buildx(&self) -> Result<bool> {
        let command = self.command(&["buildx", "version"], Orphan::Kill);
        let finished = process::run(command, ErrorKind::Engine, DEADLINE).await?;
        Ok(finished.status.success())
    }

    /// Builds an image into the engine's store, or pushes it where the spec says so.
    ///
    /// Once more, if Docker's containerd store lost a layer to its own collection while it named
    /// the image: that begins whenever anybody removes an image, and the layers of the former one
    /// are held by nothing for a moment. All steps of the build are cached by then.
    ///
    /// # Errors
    /// Build error.
    pub async fn build(&self, spec: &BuildSpec, job: &Job) -> Result<()> {
        let buildx = self.has_buildx().await?;
        for _ in 0..COLLECTED {
            let lost = Sign::new("parent snapshot sha256:");
            let command = self.build_command(spec, buildx)?;
            match run_visible_for(&lost, command, job, ErrorKind::Build, "build").await {
                Err(_) if lost.was_said() && !job.cancel.is_cancelled() => {
                    job.report.event(&Event::Warning {
                        message: "the engine lost a layer to its own collection: building again",
                        hint: None,
                    });
                }
                other => return other,
            }
        }
        let command = self.build_command(spec, buildx)?;
        run_visible(command, job, ErrorKind::Build, "build").await
    }

    fn build_command(&self, spec: &BuildSpec, buildx: bool) -> Result<Command> {
        let mut command = if buildx {
            let mut command = self.command(&["buildx", "build"], Orphan::Terminate);
            // An attestation's time would change the image ID, and with it the tag that
            // Skaffold and Tilt deploy, at every build.
            command.args(["--provenance=false", "--sbom=false"]);
            command.arg(if spec.push { "--push" } else { "--load" });
            if let Some(builder) = &spec.builder {
                command.arg(format!("--builder={builder}"));
            }
            command
        } else {
            if let Some(what) = needs_buildkit(spec) {
                return Err(Error::new(
                    ErrorKind::Build,
                    format!("{what} needs BuildKit, but the docker command has no buildx"),
                )
                .hint("install the docker-buildx plugin"));
            }
            self.command(&["build"], Orphan::Terminate)
        };
        command.args(["--tag", &spec.name]);
        if let Some(also) = &spec.also {
            command.args(["--tag", also]);
        }
        super::build_arguments(&mut command, spec);
        Ok(command)
    }

    /// Pushes an image to its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn push(&self, name: &str, job: &Job) -> Result<()> {
        let command = self.command(&["image", "push", name], Orphan::Terminate);
        run_visible(command, job, ErrorKind::Build, "push").await
    }

    /// Pulls an image from its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn pull(&self, name: &Reference, platform: &Platform, job: &Job) -> Result<()> {
        let platform = platform.to_string();
        let args = ["image", "pull", "--platform", &platform, &name.to_string()];
        run_visible(
            self.command(&args, Orphan::Kill),
            job,
            ErrorKind::Image,
            "pull",
        )
        .await
    }

    /// Looks an image up.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect(&self, name: &str) -> Result<Option<ImageRecord>> {
        let inspected = self.inspected(name).await?;
        Ok(inspected.map(|(record, _)| record))
    }

    /// Looks up what has the name `ours`, and what has another one, which is often the same.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect_both(
        &self,
        ours: &str,
        name: &str,
    ) -> Result<(Option<ImageRecord>, Option<ImageRecord>)> {
        let full = Reference::parse(name)?;
        let is_named = |name: &String| Reference::parse(name).is_ok_and(|name| name == full);
        match self.inspected(ours).await? {
            Some((record, names)) if names.iter().any(is_named) => {
                Ok((Some(record.clone()), Some(record)))
            }
            other => Ok((other.map(|(record, _)| record), self.inspect(name).await?)),
        }
    }

    /// Looks an image up, with all its names as Docker writes them.
    async fn inspected(&self, name: &str) -> Result<Option<(ImageRecord, Vec<String>)>> {
        let found = SystemTime::now();
        match self.api.inspect_image(name).await {
            Ok(inspected) => {
                let mut record = record(&inspected, found)?;
                if inspected.descriptor.is_some() && record.manifest.is_none() {
                    record.manifest = self.manifest_of(&record, name).await;
                }
                Ok(Some((record, inspected.repo_tags.unwrap_or_default())))
            }
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(None),
            Err(e) => Err(Error::new(
                ErrorKind::Engine,
                format!("{} cannot look up {name}", self.describe()),
            )
            .because(e)),
        }
    }

    /// Finds the manifest for the record's platform in an image that is an index. None, if the
    /// engine does not tell: then the image must be exported to learn it.
    async fn manifest_of(&self, record: &ImageRecord, name: &str) -> Option<Digest> {
        // Of all images it takes long, and fails when another one goes meanwhile.
        let by_name = name.parse::<Digest>().is_err();
        let options = ListImagesOptions {
            all: true,
            manifests: true,
            filters: by_name.then(|| by_reference([name.to_owned()])),
            ..ListImagesOptions::default()
        };
        let images = self.api.list_images(Some(options)).await.ok()?;
        let image = images
            .into_iter()
            .find(|image| image.id == record.id.0.as_str())?;
        image
            .manifests?
            .into_iter()
            .filter(|manifest| manifest.available)
            .find_map(|manifest| {
                let platform = manifest.image_data?.platform;
                let platform = Platform::new(
                    &platform.os?,
                    &platform.architecture?,
                    platform.variant.as_deref(),
                );
                (platform == record.platform)
                    .then(|| manifest.id.parse().ok())
                    .flatten()
            })
    }

    /// Gives an image other names.
    ///
    /// # Errors
    /// Engine error.
    pub async fn tag(&self, name: &str, others: &[&Reference]) -> Result<()> {
        for other in others {
            let options = TagImageOptions {
                repo: Some(other.repository()),
                tag: other.tag().map(str::to_owned),
            };
            self.api.tag_image(name, Some(options)).await.map_err(|e| {
                let why = format!("{} cannot tag {name} as {other}", self.describe());
                Error::new(ErrorKind::Engine, why).because(e)
            })?;
        }
        Ok(())
    }

    /// Tells whether 127.0.0.1 may be the same for the engine as for us: it has a socket on this
    /// host. An engine in a virtual machine has one too, and shows it by not coming.
    pub fn is_local(&self) -> bool {
        self.endpoint.socket().is_some()
    }

    /// Pushes an image to our registry under a name that is there for the push only: Docker pushes
    /// names, not IDs. Meanwhile names go that killed runs have left.
    ///
    /// # Errors
    /// As [`Docker::push_to`].
    pub async fn tag_and_push_to(
        &self,
        record: &ImageRecord,
        target: &Target,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let name = Reference::parse(&target.name())?;
        self.tag(record.id.0.as_str(), &[&name]).await?;
        let pushing = async {
            let pushed = self.push_to(record, target, stop).await;
            pushed.and(self.release(&target.name()).await)
        };
        let (pushed, swept) = tokio::join!(pushing, self.sweep_holds());
        if let Err(e) = swept {
            tracing::debug!(error = %one_line(&e), "names of killed runs may be left");
        }
        pushed
    }

    /// Pushes one platform of an image to our registry, until `stop`: the one that has that name.
    ///
    /// # Errors
    /// Engine error, with what Docker said; none, if it was stopped.
    pub async fn push_to(
        &self,
        record: &ImageRecord,
        target: &Target,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        let version = self.api.client_version();
        let by_platform = (version.major_version, version.minor_version) >= PUSH_PLATFORM;
        let mut options = PushImageOptionsBuilder::default().tag(&target.tag);
        // Only the containerd store has images of several platforms, and there the ID is not the
        // config's.
        if by_platform && record.image_id.is_none() {
            let Platform {
                os,
                architecture,
                variant,
            } = &record.platform;
            let mut platform = serde_json::json!({"os": os, "architecture": architecture});
            if let Some(variant) = variant {
                platform["variant"] = variant.as_str().into();
            }
            options = options.platform(&platform.to_string());
        }
        let credentials = DockerCredentials {
            username: Some(push::USER.to_owned()),
            password: Some(target.password.clone()),
            serveraddress: Some(target.host()),
            ..DockerCredentials::default()
        };
        let mut progress = self
            .api
            .push_image(
                &target.repository(),
                Some(options.build()),
                Some(credentials),
            )
            .boxed();
        let pushing = async {
            while let Some(step) = progress.next().await {
                step?;
            }
            Ok(())
        };
        tokio::select! {
            pushed = pushing => pushed.map_err(|e: bollard::errors::Error| {
                let why = format!("{} does not push {} to us", self.describe(), record.id);
                Error::new(ErrorKind::Engine, why).because(e)
            }),
            // Docker gives a push up whose connection is closed.
            () = stop => Ok(()),
        }
    }

    /// Removes the holds of runs that were killed.
    ///
    /// # Errors
    /// Engine error.
    pub async fn sweep_holds(&self) -> Result<()> {
        let options = ListImagesOptions {
            filters: Some(by_reference(hold::repositories())),
            ..ListImagesOptions::default()
        };
        let images = self.api.list_images(Some(options)).await.map_err(|e| {
            let why = format!("{} does not list its images", self.describe());
            Error::new(ErrorKind::Engine, why).because(e)
        })?;
        let names = images.iter().flat_map(|image| &image.repo_tags);
        for name in hold::left(names.map(String::as_str)) {
            self.release(&name).await?;
        }
        Ok(())
    }

    /// Takes a hold's name from its image.
    ///
    /// # Errors
    /// Engine error; one that is not there is none.
    pub async fn release(&self, name: &str) -> Result<()> {
        self.untag(name).await.map_err(|e| {
            let why = format!("{} does not give up the name {name}", self.describe());
            Error::new(ErrorKind::Engine, why).because(e)
        })
    }

    async fn untag(&self, name: &str) -> Result<(), bollard::errors::Error> {
        let options = RemoveImageOptionsBuilder::default().noprune(true).build();
        match self.api.remove_image(name, Some(options), None).await {
            Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Saves one platform of an image into a file.
    ///
    /// # Errors
    /// Engine error, with what the docker command said.
    pub async fn save(
        &self,
        name: &str,
        platform: &Platform,
        file: &File,
        job: &Job,
    ) -> Result<()> {
        let version = self.api.client_version();
        let by_platform = (version.major_version, version.minor_version) >= EXPORT_PLATFORM;
        let text = platform.to_string();
        if by_platform {
            let command = self.command(&["image", "save", "--platform", &text, name], Orphan::Kill);
            match spool(command, file, job).await {
                // An older docker command before a newer engine.
                Err(e)
                    if e.causes()
                        .iter()
                        .any(|cause| cause.contains("unknown flag")) => {}
                other => return other,
            }
        }
        let command = self.command(&["image", "save", name], Orphan::Kill);
        spool(command, file, job).await
    }
}

/// Connects to the API at the endpoint that an environment names. None, if that is no local
/// socket.
///
/// # Errors
/// Engine error, naming the endpoint.
pub async fn local_api(env: &Env) -> Result<Option<bollard::Docker>> {
    let endpoint = context::resolve(env)?;
    let Some(socket) = endpoint.socket() else {
        return Ok(None);
    };
    let mute = |why: String| {
        Error::new(
            ErrorKind::Engine,
            format!("Docker does not answer at {endpoint}{why}"),
        )
    };
    let failed = |e: bollard::errors::Error| mute(String::new()).because(e);
    let unreachable = |e| explain(e, &|why| mute(format!(": {why}")));
    knock(&socket).await.map_err(unreachable)?;
    let api = at_socket(&socket).map_err(failed)?;
    api.negotiate_version().await.map(Some).map_err(failed)
}

/// Makes an API client for a local socket.
fn at_socket(socket: &std::path::Path) -> Result<bollard::Docker, bollard::errors::Error> {
    bollard::Docker::connect_with_unix(
        &socket.to_string_lossy(),
        DEADLINE.as_secs(),
        bollard::API_DEFAULT_VERSION,
    )
}

/// Connects to a socket only to learn what is wrong with it; bollard's errors do not tell.
async fn knock(socket: &std::path::Path) -> std::io::Result<()> {
    UnixStream::connect(socket).await.map(drop)
}

fn explain(error: std::io::Error, failed: &dyn Fn(String) -> Error) -> Error {
    match error.kind() {
        IoKind::NotFound => failed("the socket is not there".into())
            .hint("start Docker, or point DOCKER_HOST or a Docker context at it"),
        IoKind::PermissionDenied => failed("permission denied".into())
            .hint("add yourself to the group that owns the socket (usually `docker`), or use rootless Docker"),
        IoKind::ConnectionRefused => failed("nothing listens on the socket".into())
            .hint("start Docker"),
        _ => failed("it cannot be reached".into()).because(error),
    }
}

/// Names what a build without BuildKit cannot do.
fn needs_buildkit(spec: &BuildSpec) -> Option<&'static str> {
    if !spec.secrets.is_empty() {
        Some("--secret")
    } else if spec.builder.is_some() {
        Some("--builder")
    } else if !spec.ssh.is_empty() {
        Some("--ssh")
    } else if spec.push || spec.platforms.len() > 1 {
        Some("building for several platforms")
    } else {
        None
    }
}

/// Makes the filter for images that have a name, or a name in a repository.
fn by_reference(names: impl IntoIterator<Item = String>) -> HashMap<String, Vec<String>> {
    HashMap::from([("reference".to_owned(), names.into_iter().collect())])
}

/// Reads what `inspect` says. Pure.
fn record(inspected: &ImageInspect, found: SystemTime) -> Result<ImageRecord> {
    let lacks = |what: &str| {
        Error::new(
            ErrorKind::Engine,
            format!("Docker's description of the image has no {what}"),
        )
    };
    let id: Digest = inspected
        .id
        .as_deref()
        .ok_or_else(|| lacks("ID"))?
        .parse()?;
    let os = inspected.os.as_deref().unwrap_or("linux");
    let architecture = inspected
        .architecture
        .as_deref()
        .ok_or_else(|| lacks("architecture"))?;
    let diff_ids = inspected
        .root_fs
        .as_ref()
        .and_then(|root| root.layers.as_ref())
        .map(|layers| layers.iter().map(|l| l.parse().map(DiffId)).collect())
        .transpose()?
        .unwrap_or_default();
    let descriptor = inspected.descriptor.as_ref();
    let media_type = descriptor
        .and_then(|d| d.media_type.as_deref())
        .unwrap_or_default();
    let is_manifest = media_type.contains("image.manifest") || media_type.contains("manifest.v2");
    Ok(ImageRecord {
        platform: Platform::new(os, architecture, inspected.variant.as_deref()),
        diff_ids,
        // Only the containerd store has descriptors, and there the ID is theirs.
        image_id: descriptor.is_none().then(|| ImageId(id.clone())),
        manifest: is_manifest.then(|| id.clone()),
        oci: media_type.starts_with("application/vnd.oci."),
        id: EngineId(id),
        found,
        local: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspect(value: serde_json::Value) -> ImageRecord {
        record(&serde_json::from_value(value).unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn the_id_means_something_else_in_each_store() {
        let id = format!("sha256:{}", "1".repeat(64));
        let classic = inspect(serde_json::json!({
            "Id": id, "Os": "linux", "Architecture": "amd64",
            "RootFS": {"Type": "layers", "Layers": [format!("sha256:{}", "2".repeat(64))]},
        }));
        assert_eq!(classic.image_id.unwrap().to_string(), id);
        assert_eq!(classic.diff_ids.len(), 1);
        let containerd = inspect(serde_json::json!({
            "Id": id, "Os": "linux", "Architecture": "amd64",
            "Descriptor": {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": id, "size": 1},
        }));
        assert_eq!(containerd.image_id, None);
        assert_eq!(containerd.manifest.unwrap().as_str(), id);
        let index = inspect(serde_json::json!({
            "Id": id, "Os": "linux", "Architecture": "amd64",
            "Descriptor": {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": id, "size": 1},
        }));
        assert_eq!(index.manifest, None);
    }
}
