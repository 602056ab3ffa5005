//! `kindlift build`.

use std::path::PathBuf;

use clap::Args;
use kindlift::error::Error;
use kindlift::image::Platform;
use kindlift::job::Job;
use kindlift::report::Outcome;
use kindlift::run::{self, BuildRequest};

use super::{EngineArg, Place};

/// Build an image, load it into every node, and prove it with crictl
///
/// Under Skaffold (`exec kindlift build` as a custom builder's buildCommand) and Tilt
/// (custom_build) the name comes from the environment.
#[derive(Args)]
pub struct Build {
    /// The image's name
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<String>,
    /// The Dockerfile [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a build argument
    #[arg(long, value_name = "K=V")]
    build_arg: Vec<String>,
    /// Expose a secret to the build
    #[arg(long, value_name = "id=…,src=…")]
    secret: Vec<String>,
    /// Expose an SSH agent or key to the build
    #[arg(long, value_name = "default|ID=…")]
    ssh: Vec<String>,
    /// Build for this platform [default: the nodes']
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Build with this buildx builder; if it is no engine's own, the image passes through none
    #[arg(long, value_name = "NAME")]
    builder: Option<String>,
    /// Push instead of loading; a name without a registry goes to the cluster's local one, if it
    /// documents one
    #[arg(long)]
    push: bool,
    /// Write the name to deploy to this file, when every node has the image (Tilt's
    /// outputs_image_ref_to); its tag is made of the image's content
    #[arg(long, value_name = "FILE", conflicts_with = "push")]
    ref_file: Option<PathBuf>,
    /// Afterwards, remove superseded images of this name from the nodes, all but the newest N
    /// [default N: 3]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "3", conflicts_with = "push")]
    prune: Option<usize>,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
    /// The folder to build [default: Skaffold's, or the current one]
    context: Option<String>,
    /// Flags for the engine's build
    #[arg(last = true, value_name = "FLAG")]
    flags: Vec<String>,
}

impl Build {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Vec<Outcome>, Error> {
        let request = BuildRequest {
            tag: self.tag.clone(),
            context: self.context.clone(),
            dockerfile: self.file.clone(),
            target: self.target.clone(),
            build_args: self.build_arg.clone(),
            secrets: self.secret.clone(),
            ssh: self.ssh.clone(),
            platform: self.platform.clone(),
            builder: self.builder.clone(),
            engine: self.engine.kind(),
            push: self.push,
            ref_file: self.ref_file.clone(),
            prune: self.prune,
            place: self.place.resolve(),
            flags: self.flags.clone(),
        };
        run::build(job, &request)
            .await
            .map(|outcome| outcome.into_iter().collect())
    }
}
