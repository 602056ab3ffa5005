//! `kindlift load`, `ensure` and `verify`: images that are built already.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kindlift::error::Error;
use kindlift::image::Platform;
use kindlift::job::Job;
use kindlift::report::Outcome;
use kindlift::run::{self, LoadRequest};

use super::{EngineArg, Place};

/// Load images that an engine or an archive has into every node, and prove them with crictl
///
/// Without arguments, under Skaffold or Tilt: the image that the environment names, under every
/// name that `build` would give it. So any builder can be followed by `exec kindlift load`.
#[derive(Args)]
pub struct Load {
    /// The images: NAME, docker-daemon:NAME, containers-storage:NAME, docker://NAME (pulled where
    /// the engine does not have it), oci-archive:FILE[:NAME], docker-archive:FILE[:NAME],
    /// oci:FOLDER[:NAME], ./FILE.tar, or - for an archive on stdin
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Load the image under this name instead of its own
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    rename: Option<String>,
    /// Load this platform of an archive [default: the nodes']
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Load every image that these Kubernetes manifests name and the engine has (- for stdin)
    #[arg(long, value_name = "FILE|-")]
    from: Vec<String>,
    /// Pull what the engine does not have
    #[arg(long)]
    pull: bool,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
}

impl Load {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Vec<Outcome>, Error> {
        let request = LoadRequest {
            images: self.images.clone(),
            rename: self.rename.clone(),
            platform: self.platform.clone(),
            from: self.from.clone(),
            pull: self.pull,
            ref_files: Vec::new(),
            engine: self.engine.kind(),
            place: self.place.resolve(),
        };
        run::load(job, &request).await
    }
}

/// Make sure that every node has an image: verify it, and load what is missing
///
/// For Skaffold's `test.custom`, which runs on cache hits too: there the image is $IMAGE. With
/// --watch it goes on, and brings images back when nodes are made anew, until it is told to stop.
#[derive(Args)]
pub struct Ensure {
    /// The images
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// The image whose name is in this file, as `build --ref-file` writes it; may be repeated
    #[arg(long, value_name = "FILE")]
    ref_file: Vec<PathBuf>,
    /// Go on, for Tilt's serve_cmd: look again when a node starts
    #[arg(long)]
    pub watch: bool,
    /// Look at least this often, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "watch",
          value_parser = clap::value_parser!(u64).range(1..=86400))]
    every: u64,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
}

impl Ensure {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Vec<Outcome>, Error> {
        let request = LoadRequest {
            images: self.images.clone(),
            ref_files: self.ref_file.clone(),
            engine: self.engine.kind(),
            place: self.place.resolve(),
            ..LoadRequest::default()
        };
        if self.watch {
            let every = Duration::from_secs(self.every);
            return run::watch(job, &request, every).await.map(|()| Vec::new());
        }
        run::ensure(job, &request).await
    }
}

/// Prove with crictl that every node has the engine's image, complete and unpacked
#[derive(Args)]
pub struct Verify {
    /// The images
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
}

impl Verify {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Vec<Outcome>, Error> {
        let request = LoadRequest {
            images: self.images.clone(),
            engine: self.engine.kind(),
            place: self.place.resolve(),
            ..LoadRequest::default()
        };
        run::verify(job, &request).await
    }
}
