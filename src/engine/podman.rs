//! Podman, rootful or rootless, local or behind a connection, through its command line: the
//! `podman` command chooses where it talks to as it always does.
//!
//! Podman names what it builds `localhost/…` where the user wrote no registry, which no kubelet
//! asks for. Here images are built and looked up under the kubelet's reading of the name first.

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::process::Command;

use super::command::{run_visible, spool};
use super::{BuildSpec, EngineId, ImageRecord, Local, hold};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{DiffId, Digest, ImageId, Platform};
use crate::job::Job;
use crate::process::{self, Orphan};
use crate::push::{self, Target};
use crate::reference::Reference;

const DEADLINE: Duration = Duration::from_secs(60);

/// A Podman that answers.
pub struct Podman {
    pub(super) env: Env,
    /// A socket to talk to, instead of what the command would choose.
    pub(super) url: Option<String>,
    version: String,
    native: Option<Platform>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    client: Option<VersionOf>,
    server: Option<VersionOf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionOf {
    version: String,
    /// `linux/amd64`.
    #[serde(default)]
    os_arch: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    manifest_type: String,
    #[serde(rename = "RootFS")]
    root_fs: Option<RootFs>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Podman {
    /// Asks the `podman` command for its version; at a socket, if one is given.
    ///
    /// # Errors
    /// Engine error, with what podman said.
    pub async fn connect(env: &Env, url: Option<String>) -> Result<Self> {
        let mut podman = Self {
            env: env.clone(),
            url,
            version: String::new(),
            native: None,
        };
        let output = podman
            .output(&["version", "--format", "json"])
            .await
            .map_err(|e| e.within("Podman does not answer"))?;
        let version: Version = serde_json::from_slice(&output)
            .map_err(|e| Error::new(ErrorKind::Engine, "Podman gives no version").because(e))?;
        if let Some(of) = version.server.or(version.client) {
            podman.version = of.version;
            podman.native = of.os_arch.parse().ok();
        }
        Ok(podman)
    }

    /// Describes the engine for messages.
    pub fn describe(&self) -> String {
        match &self.url {
            Some(url) => format!("Podman {} at {url}", self.version),
            None => format!("Podman {}", self.version),
        }
    }

    /// Returns what it builds for by itself.
    pub fn native(&self) -> Option<&Platform> {
        self.native.as_ref()
    }

    fn command(&self, args: &[&str], orphan: Orphan) -> Command {
        let mut command = process::command("podman", &self.env, orphan);
        if let Some(url) = &self.url {
            command.args(["--url", url]);
        }
        command.args(args);
        command
    }

    pub(super) async fn output(&self, args: &[&str]) -> Result<Vec<u8>> {
        process::run(
            self.command(args, Orphan::Kill),
            ErrorKind::Engine,
            DEADLINE,
        )
        .await?
        .success(ErrorKind::Engine)
    }

    /// Builds an image.
    ///
    /// # Errors
    /// Build error.
    pub async fn build(&self, spec: &BuildSpec, job: &Job) -> Result<()> {
        if let Some(builder) = &spec.builder {
            return Err(Error::usage(format!(
                "{} cannot build with the buildx builder {builder}",
                self.describe()
            ))
            .hint("leave --builder out, or point DOCKER_HOST at Docker"));
        }
        let full = Reference::parse(&spec.name)?.to_string();
        if spec.push {
            // A build adds to a list of that name: what an earlier one put there would be pushed
            // too, and pulled first.
            let exists = self.command(&["manifest", "exists", &full], Orphan::Kill);
            let exists = process::run(exists, ErrorKind::Engine, DEADLINE).await?;
            if exists.status.success() {
                self.output(&["manifest", "rm", &full]).await?;
            }
        }
        let mut command = self.command(&["build"], Orphan::Terminate);
        let name = if spec.push { "--manifest" } else { "--tag" };
        command.args([name, &full]);
        if let Some(also) = &spec.also {
            command.args(["--tag", also]);
        }
        super::build_arguments(&mut command, spec);
        run_visible(command, job, ErrorKind::Build, "build").await?;
        if spec.push {
            let mut push = self.command(&["manifest", "push", "--all"], Orphan::Terminate);
            plain_http_on_loopback(&mut push, &full);
            push.args([&full, &format!("docker://{full}")]);
            run_visible(push, job, ErrorKind::Build, "push").await?;
        }
        Ok(())
    }

    /// Removes the holds of runs that were killed.
    ///
    /// # Errors
    /// Engine error.
    pub async fn sweep_holds(&self) -> Result<()> {
        let filter = format!("reference={}", hold::NOWHERE);
        let format = "{{.Repository}}:{{.Tag}}";
        let list = ["images", "--filter", &filter, "--format", format];
        let names = self.output(&list).await?;
        for name in hold::left(String::from_utf8_lossy(&names).lines()) {
            self.release(&name).await?;
        }
        Ok(())
    }

    /// Takes a hold's name from its image, which stays.
    ///
    /// # Errors
    /// Engine error; one that is not there is none.
    pub async fn release(&self, name: &str) -> Result<()> {
        let untag = self.command(&["untag", name, name], Orphan::Kill);
        let finished = process::run(untag, ErrorKind::Engine, DEADLINE).await?;
        if finished.stderr.contains("image not known") {
            return Ok(());
        }
        finished.success(ErrorKind::Engine).map(drop)
    }

    /// Pushes an image to its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn push(&self, name: &str, job: &Job) -> Result<()> {
        let full = Reference::parse(name)?.to_string();
        let mut command = self.command(&["push"], Orphan::Terminate);
        plain_http_on_loopback(&mut command, &full);
        command.arg(&full);
        run_visible(command, job, ErrorKind::Build, "push").await
    }

    /// Pulls an image from its registry.
    ///
    /// # Errors
    /// Build error.
    pub async fn pull(&self, name: &Reference, platform: &Platform, job: &Job) -> Result<()> {
        let full = name.to_string();
        let mut command =
            self.command(&["pull", "--platform", &platform.to_string()], Orphan::Kill);
        plain_http_on_loopback(&mut command, &full);
        command.arg(&full);
        run_visible(command, job, ErrorKind::Image, "pull").await
    }

    /// Looks an image up, under the kubelet's reading of its name, then under `localhost/`.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect(&self, name: &str) -> Result<Option<ImageRecord>> {
        let found = SystemTime::now();
        // An ID would parse as a name: repository `sha256`, the hex digits as its tag.
        if name.parse::<Digest>().is_ok() {
            return pick(self.inspect_all(&[name]).await?, None, found);
        }
        self.look(None, name, found).await.map(|(_, named)| named)
    }

    /// Looks up what has the name `ours`, and what [`Podman::inspect`] finds by another.
    ///
    /// # Errors
    /// Engine error.
    pub async fn inspect_both(
        &self,
        ours: &str,
        name: &str,
    ) -> Result<(Option<ImageRecord>, Option<ImageRecord>)> {
        self.look(Some(ours), name, SystemTime::now()).await
    }

    /// Looks all up in one command, which takes longer to start than to look.
    async fn look(
        &self,
        ours: Option<&str>,
        name: &str,
        found: SystemTime,
    ) -> Result<(Option<ImageRecord>, Option<ImageRecord>)> {
        let reference = Reference::parse(name)?;
        let full = reference.to_string();
        let local = local_name(&reference);
        let names = [ours, Some(full.as_str()), local.as_deref()];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        let mut inspected = self.inspect_all(&names).await?;
        // They come in the order of the names.
        let is_ours = |first: &Inspected| ours.is_some_and(|ours| first.has(ours));
        let held = match inspected.first().is_some_and(is_ours) {
            true => Some(inspected.remove(0).record(found)?),
            false => None,
        };
        Ok((held, pick(inspected, local.as_deref(), found)?))
    }

    /// Looks images up, and leaves out what is not there.
    async fn inspect_all(&self, names: &[&str]) -> Result<Vec<Inspected>> {
        let mut inspect = self.command(&["image", "inspect"], Orphan::Kill);
        inspect.args(names);
        let finished = process::run(inspect, ErrorKind::Engine, DEADLINE).await?;
        // It prints what it has found even when it has not found all, and a line for each that is
        // not there.
        let inspected = serde_json::from_slice::<Vec<Inspected>>(&finished.stdout);
        let missing = finished.stderr.lines().filter(|line| is_missing(line));
        match inspected {
            Ok(inspected) if inspected.len() + missing.count() == names.len() => Ok(inspected),
            Err(e) if finished.status.success() => Err(unreadable().because(e)),
            _ => finished
                .success(ErrorKind::Engine)
                .and_then(|_| Err(unreadable())),
        }
    }

    /// Gives an image other names.
    ///
    /// # Errors
    /// Engine error.
    pub async fn tag(&self, name: &str, others: &[&Reference]) -> Result<()> {
        let others: Vec<String> = others.iter().map(ToString::to_string).collect();
        let mut args = vec!["tag", name];
        args.extend(others.iter().map(String::as_str));
        self.output(&args).await.map(drop)
    }

    /// Tells whether 127.0.0.1 may be the same for Podman as for us.
    pub fn is_local(&self) -> bool {
        let url = self.url.as_deref();
        url.is_none_or(|url| url.starts_with("unix:"))
    }

    /// Pushes an image to our registry, until `stop`.
    ///
    /// # Errors
    /// Engine error, with what podman said; none, if it was stopped.
    pub async fn push_to(
        &self,
        record: &ImageRecord,
        target: &Target,
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        tokio::pin!(stop);
        let mut flags = vec!["--retry=0"];
        // Packing is most of a push's work, and unpacking of a node's; gzip is slow at both. Whoever
        // has another packing already need not be sent this one. Docker's format knows no zstd: the
        // image would become another one.
        if record.oci {
            flags.extend([
                "--compression-format=zstd",
                "--compression-level=1",
                "--force-compression=false",
            ]);
        }
        let first = self.push_once(record, target, &flags, &mut stop);
        match first.await {
            // Podman 4 tries again, and packs, as it likes.
            Err(e)
                if e.causes()
                    .iter()
                    .any(|cause| cause.contains("unknown flag")) =>
            {
                self.push_once(record, target, &[], &mut stop).await
            }
            other => other,
        }
    }

    async fn push_once(
        &self,
        record: &ImageRecord,
        target: &Target,
        flags: &[&str],
        stop: impl Future<Output = ()>,
    ) -> Result<()> {
        // The password is in a file without a name, which podman may read as often as it likes:
        // arguments show in the process list, and a named file would be left by a kill.
        let push = [
            "push",
            "--quiet",
            "--authfile=/dev/stdin",
            "--tls-verify=false",
        ];
        let mut command = self.command(&push, Orphan::Terminate);
        command
            .args(flags)
            .arg(record.id.0.hex())
            .arg(format!("docker://{}", target.name()));
        command.stdin(auth_file(target).map_err(|e| {
            Error::new(ErrorKind::Engine, "cannot tell podman a password").because(e)
        })?);
        let shown = process::display(&command);
        let mut child = process::spawn(&mut command)?;
        let stderr = child.stderr.take().expect("stderr is piped");
        let pushing = async { tokio::join!(process::tail(stderr), child.wait()) };
        let ended = tokio::select! {
            ended = pushing => Some(ended),
            () = stop => None,
        };
        match ended {
            Some((said, status)) => {
                let status = status.map_err(|e| {
                    Error::new(ErrorKind::Engine, format!("lost track of `{shown}`")).because(e)
                })?;
                if status.success() {
                    return Ok(());
                }
                Err(process::failure(ErrorKind::Engine, &shown, status, &said))
            }
            None => {
                process::end_gently(&mut child).await;
                Ok(())
            }
        }
    }

    /// Saves an image into a file, its layers as they lie in the store: uncompressed.
    ///
    /// # Errors
    /// Engine error.
    pub async fn save(&self, name: &str, file: &File, job: &Job) -> Result<()> {
        let command = self.command(
            &["save", "--quiet", "--format", "docker-archive", name],
            Orphan::Kill,
        );
        spool(command, file, job).await
    }
}

/// Makes the file that tells podman our registry's password.
fn auth_file(target: &Target) -> std::io::Result<File> {
    let auth = STANDARD.encode(format!("{}:{}", push::USER, target.password));
    let auths = serde_json::json!({"auths": {target.host(): {"auth": auth}}});
    let mut file = tempfile::tempfile()?;
    file.write_all(auths.to_string().as_bytes())?;
    Ok(file)
}

/// Returns the name under which Podman keeps what was built without a registry.
fn local_name(name: &Reference) -> Option<String> {
    (name.registry() == "docker.io").then(|| format!("localhost/{}", name.familiar()))
}

/// Registries on this machine speak plain HTTP, as Docker takes for granted and Podman does not.
fn plain_http_on_loopback(command: &mut Command, name: &str) {
    let host = name.split('/').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    if host == "localhost" || host.starts_with("127.") {
        command.arg("--tls-verify=false");
    }
}

/// Tells whether a line on stderr is about an image that is not there.
fn is_missing(line: &str) -> bool {
    line.contains("image not known") || line.contains("no such image")
}

fn unreadable() -> Error {
    let why = "what `podman image inspect` says cannot be read";
    Error::new(ErrorKind::Engine, why)
}

/// Makes a record of the first of up to two images: that of the name that was asked for, and that of
/// `local`, which may be the same. Pure.
fn pick(
    inspected: Vec<Inspected>,
    local: Option<&str>,
    found: SystemTime,
) -> Result<Option<ImageRecord>> {
    let mut inspected = inspected.into_iter();
    let Some(first) = inspected.next() else {
        return Ok(None);
    };
    let id = match (local, inspected.next()) {
        (Some(_), Some(second)) => Some(second.id()?),
        // Then that is the one that was found.
        (Some(local), None) if first.has(local) => Some(first.id()?),
        _ => None,
    };
    let mut record = first.record(found)?;
    record.local = local.zip(id).map(|(name, id)| Local {
        name: name.to_owned(),
        id,
    });
    Ok(Some(record))
}

impl Inspected {
    fn id(&self) -> Result<EngineId> {
        // The command prints IDs without the algorithm, the API with it.
        let hex = self.id.strip_prefix("sha256:").unwrap_or(&self.id);
        format!("sha256:{hex}").parse().map(EngineId)
    }

    /// Tells whether the image has a name.
    fn has(&self, name: &str) -> bool {
        let names = [&self.repo_tags, &self.repo_digests];
        names.into_iter().flatten().flatten().any(|own| own == name)
    }

    fn record(self, found: SystemTime) -> Result<ImageRecord> {
        let id = self.id()?;
        let layers = self.root_fs.and_then(|root| root.layers);
        Ok(ImageRecord {
            platform: Platform::new(&self.os, &self.architecture, self.variant.as_deref()),
            diff_ids: layers
                .iter()
                .flatten()
                .map(|l| l.parse().map(DiffId))
                .collect::<Result<_>>()?,
            image_id: Some(ImageId(id.0.clone())),
            manifest: None,
            oci: self.manifest_type == "application/vnd.oci.image.manifest.v1+json",
            id,
            found,
            local: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(hex: &str, names: &[&str]) -> Inspected {
        let value = serde_json::json!({
            "Id": hex.repeat(64), "Os": "linux", "Architecture": "arm", "Variant": "v7",
            "RootFS": {"Type": "layers", "Layers": [format!("sha256:{}", "4".repeat(64))]},
            "RepoTags": names,
        });
        serde_json::from_value(value).unwrap()
    }

    fn picked(inspected: Vec<Inspected>) -> Option<ImageRecord> {
        pick(inspected, Some("localhost/app:1"), SystemTime::now()).unwrap()
    }

    #[test]
    fn the_id_is_the_config_digest() {
        let record = picked(vec![inspected("3", &[])]).unwrap();
        assert_eq!(record.image_id.unwrap().0.hex(), "3".repeat(64));
        assert_eq!(record.platform.to_string(), "linux/arm/v7");
        assert_eq!(record.local, None);
    }

    #[test]
    fn a_name_on_localhost_hides_another_image() {
        assert_eq!(picked(vec![]).map(|record| record.id), None);
        let asked = || inspected("1", &["docker.io/library/app:1"]);
        let local = || inspected("2", &["localhost/app:1"]);
        let both = || inspected("3", &["localhost/app:1", "docker.io/library/app:1"]);
        let hides = |found: Vec<Inspected>, id: &str| {
            let id = EngineId(format!("sha256:{}", id.repeat(64)).parse().unwrap());
            picked(found).unwrap().hides(&id).map(str::to_owned)
        };
        let name = Some("localhost/app:1".to_owned());
        assert_eq!(hides(vec![asked()], "1"), None);
        assert_eq!(hides(vec![asked(), local()], "1"), name);
        assert_eq!(hides(vec![both(), both()], "3"), None);
        assert_eq!(hides(vec![local()], "2"), None);
        // What was built has another name.
        assert_eq!(hides(vec![local()], "9"), name);
    }

    #[test]
    fn only_docker_hub_names_can_be_shadowed() {
        let local = |name| local_name(&Reference::parse(name).unwrap());
        assert_eq!(local("app:1").as_deref(), Some("localhost/app:1"));
        assert_eq!(local("demo/app:1").as_deref(), Some("localhost/demo/app:1"));
        assert_eq!(local("reg.io/app:1"), None);
    }

    #[test]
    fn plain_http_only_on_loopback() {
        let plain = |name: &str| {
            let mut command = Command::new("podman");
            plain_http_on_loopback(&mut command, name);
            command.as_std().get_args().count() == 1
        };
        assert!(plain("localhost:5000/x:1"));
        assert!(plain("127.0.0.1:5000/x:1"));
        assert!(!plain("docker.io/library/x:1"));
        assert!(!plain("localhost.example.com/x:1"));
    }
}
