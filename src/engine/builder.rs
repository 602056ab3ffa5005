//! buildx builders that are no engine: the drivers `docker-container`, `kubernetes` and `remote`.
//!
//! What they build is taken from them directly, or pushed by them; it passes through no engine's
//! image store. No engine has to be there, only the docker command with buildx.

use std::sync::Arc;
use std::time::Duration;

use tokio::process::Command;

use super::BuildSpec;
use super::command::run_visible;
use super::outlet::{Outlet, Sent};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Blobs, Digest, Image, Platform};
use crate::job::Job;
use crate::process::{self, Orphan};

/// How long buildx may take to look a builder up; it asks the builder, which may be far away.
const DEADLINE: Duration = Duration::from_secs(60);

/// A builder that buildx knows.
#[derive(Debug)]
pub struct Builder {
    name: String,
    driver: String,
    env: Env,
}

impl Builder {
    /// Looks a builder up by the name that `docker buildx ls` prints.
    ///
    /// # Errors
    /// Engine error, with what buildx said.
    pub async fn find(name: &str, env: &Env) -> Result<Self> {
        let mut command = process::command("docker", env, Orphan::Kill);
        command.args(["buildx", "inspect", "--", name]);
        let finished = process::run(command, ErrorKind::Engine, DEADLINE).await?;
        let output = finished.success(ErrorKind::Engine).map_err(|e| {
            e.within(format!("there is no builder {name}"))
                .hint("look with `docker buildx ls`, make one with `docker buildx create`")
        })?;
        let driver = driver(&String::from_utf8_lossy(&output)).ok_or_else(|| {
            Error::new(
                ErrorKind::Engine,
                format!("buildx does not say which driver the builder {name} has"),
            )
        })?;
        Ok(Self {
            name: name.to_owned(),
            driver,
            env: env.clone(),
        })
    }

    /// Tells whether the builder is an engine's own: what it builds is in that engine.
    pub fn is_engine(&self) -> bool {
        self.driver == "docker"
    }

    /// Describes the builder for messages.
    pub fn describe(&self) -> String {
        format!("builder {} ({})", self.name, self.driver)
    }

    /// Builds for the spec's one platform, and reads the image out of what the builder sends: all
    /// but the blobs that are held where it is going.
    ///
    /// # Errors
    /// Build error; image error, if what was sent does not agree with itself.
    pub async fn build(
        &self,
        spec: &BuildSpec,
        platform: &Platform,
        held: Blobs,
        job: &Job,
    ) -> Result<(Arc<Image>, Arc<Sent>)> {
        let outlet = Outlet::make(&job.env, held)?;
        let mut command = self.command(spec);
        command.args(["--output", &outlet.output()]);
        super::build_arguments(&mut command, spec);
        run_visible(command, job, ErrorKind::Build, "build").await?;
        let (image, sent) = outlet.read(platform).map_err(|e| {
            let who = self.describe();
            e.within(format!("what {who} built as {} is refused", spec.name))
        })?;
        Ok((Arc::new(image), Arc::new(sent)))
    }

    /// Builds and pushes; returns the digest that the registry has it under.
    ///
    /// # Errors
    /// Build error.
    pub async fn push(&self, spec: &BuildSpec, job: &Job) -> Result<Digest> {
        let failed = |what: &str| Error::new(ErrorKind::Internal, what.to_owned());
        let folder =
            tempfile::tempdir().map_err(|e| failed("cannot make a temporary folder").because(e))?;
        let metadata = folder.path().join("metadata.json");
        let mut command = self.command(spec);
        command.arg("--push").arg("--metadata-file");
        command.arg(&metadata);
        super::build_arguments(&mut command, spec);
        run_visible(command, job, ErrorKind::Build, "build").await?;
        let text = std::fs::read_to_string(&metadata)
            .map_err(|e| failed("cannot read what buildx says of the build").because(e))?;
        digest(&text)
    }

    fn command(&self, spec: &BuildSpec) -> Command {
        let mut command = process::command("docker", &self.env, Orphan::Terminate);
        command.args(["buildx", "build", &format!("--builder={}", self.name)]);
        // As for an engine: an attestation's time would make each build another.
        command.args(["--provenance=false", "--sbom=false", "--tag", &spec.name]);
        command
    }
}

/// Reads the driver out of what `docker buildx inspect` prints. Pure.
fn driver(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("Driver:"))?;
    Some(line.trim().to_owned())
}

/// Reads the digest out of buildx's metadata. Pure.
fn digest(metadata: &str) -> Result<Digest> {
    let unreadable = || {
        Error::new(
            ErrorKind::Build,
            "buildx does not say under which digest it has pushed",
        )
    };
    let metadata: serde_json::Value =
        serde_json::from_str(metadata).map_err(|e| unreadable().because(e))?;
    let digest = metadata["containerimage.digest"].as_str();
    digest.ok_or_else(unreadable)?.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_buildx_prints() {
        let text =
            "Name:          lab\nDriver:        remote\nLast Activity: x\n\nNodes:\nName: lab0\n";
        assert_eq!(driver(text).as_deref(), Some("remote"));
        assert_eq!(driver("Name: x\n"), None);
        let hex = "a".repeat(64);
        let text =
            format!("{{\"buildx.build.ref\": \"x\", \"containerimage.digest\": \"sha256:{hex}\"}}");
        assert_eq!(digest(&text).unwrap().hex(), hex);
        assert!(digest("{}").is_err());
        assert!(digest("").is_err());
    }
}
