//! `kindlift lint`.

use clap::Args;
use kindlift::error::Error;
use kindlift::job::Job;
use kindlift::run::{self, Lint as Linted, LintRequest};

/// Find images in manifests that the kubelet will pull although only the nodes have them
///
/// Reads what is applied: YAML of several documents, JSON, Lists, every kind that has containers.
/// Asks no engine and no cluster. Exit code 10 if something must be fixed.
#[derive(Args)]
pub struct Lint {
    /// Manifests: files, folders, or - for stdin (`skaffold render | kindlift lint -`)
    #[arg(value_name = "FILE|-", required = true)]
    files: Vec<String>,
    /// Look into sub-folders too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// An image that only the nodes have, under this tag or, without one, under any; may be
    /// repeated [default: those that name no registry, or have a tag of Skaffold, Tilt or
    /// kindlift]
    #[arg(long, value_name = "NAME[:TAG]")]
    image: Vec<String>,
}

impl Lint {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Linted, Error> {
        let request = LintRequest {
            paths: self.files.clone(),
            recursive: self.recursive,
            images: self.image.clone(),
        };
        run::lint(job, &request).await
    }
}
