//! `kindlift load`, `ensure` and `verify`: images that are built already.

use clap::Args;
use kindlift::error::Error;
use kindlift::image::Platform;
use kindlift::job::Job;
use kindlift::report::Outcome;
use kindlift::run::{self, LoadRequest};

use super::{EngineArg, Place, Registry};

/// What stands for an image on the command line.
pub(super) const SOURCES: &str = "NAME, docker-daemon:NAME, containers-storage:NAME, \
    docker://NAME (in its registry), oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], \
    oci:FOLDER[:NAME], node:NODE/NAME, ./FILE.tar, or - for an archive on stdin";

/// Load images that are built already into every node, and prove them with crictl
///
/// Without arguments, under Skaffold or Tilt: the image that the environment names, under every
/// name that `build` would give it. So any builder can be followed by `exec kindlift load`.
#[derive(Args)]
pub struct Load {
    #[arg(value_name = "IMAGE", help = format!("The images: {SOURCES}"))]
    images: Vec<String>,
    /// Load the image under this name instead of its own
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    rename: Option<String>,
    /// Load this platform of several [default: the nodes']
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Load every image that these Kubernetes manifests name and the engine has (- for stdin)
    #[arg(long, value_name = "FILE|-")]
    from: Vec<String>,
    /// Let the engine pull what it does not have
    #[arg(long)]
    pull: bool,
    #[command(flatten)]
    registry: Registry,
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
            plain_http: self.registry.plain_http,
            engine: self.engine.kind(),
            place: self.place.resolve(),
        };
        run::load(job, &request).await
    }
}

/// Make sure that every node has an image: verify it, and load what is missing
///
/// For Skaffold's `test.custom`, which runs on cache hits too: there the image is $IMAGE.
#[derive(Args)]
pub struct Ensure {
    /// The image
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
}

impl Ensure {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Vec<Outcome>, Error> {
        let request = LoadRequest {
            images: self.image.clone().into_iter().collect(),
            engine: self.engine.kind(),
            place: self.place.resolve(),
            ..LoadRequest::default()
        };
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
