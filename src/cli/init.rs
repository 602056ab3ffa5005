//! `kindlift init`.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kindlift::error::{Error, ErrorKind};
use kindlift::job::Job;
use kindlift::report;
use kindlift::run::init::{self, InitRequest, Initiated, Plan, Tool};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Set a folder up for Skaffold or Tilt
///
/// Looks at Dockerfiles, manifests and what Skaffold or Tilt have there, shows what would be
/// written as a diff, and asks. A file that is there is added to; nothing in it is replaced
/// without --force.
#[derive(Args)]
pub struct Init {
    /// Who is to run kindlift
    #[arg(value_enum, value_name = "skaffold|tilt")]
    tool: ToolName,
    /// The folder of the project
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// An image, and the Dockerfile that makes it, where the folder does not tell
    #[arg(long, value_name = "NAME[=FILE]")]
    image: Vec<String>,
    /// Replace what stands in the way (push: true, docker_build)
    #[arg(long)]
    force: bool,
    /// Write without asking; needed where there is no terminal to ask on
    #[arg(short, long)]
    yes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ToolName {
    Skaffold,
    Tilt,
}

impl Init {
    /// Plans, shows, asks, writes. `silent` leaves the diff out, for JSON.
    pub async fn run(&self, job: &Job, silent: bool) -> Result<Initiated, Error> {
        let plan = init::plan(&InitRequest {
            tool: match self.tool {
                ToolName::Skaffold => Tool::Skaffold,
                ToolName::Tilt => Tool::Tilt,
            },
            folder: self.folder.clone(),
            images: self.image.clone(),
            force: self.force,
        })?;
        if !plan.is_empty() {
            if !silent {
                report::page(&plan.diff());
            }
            if !self.yes {
                ask(job, &plan, silent).await?;
            }
        }
        plan.write()
    }
}

/// Asks whether to write.
async fn ask(job: &Job, plan: &Plan, silent: bool) -> Result<(), Error> {
    if silent || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(
            Error::usage("nothing was written: there is no terminal to ask on")
                .hint("say --yes to write this"),
        );
    }
    let files = plan.changes();
    let _ = write!(std::io::stderr(), "write {}? [y/N] ", files.join(", "));
    let mut answer = String::new();
    let read = async {
        let mut input = BufReader::new(tokio::io::stdin());
        input
            .read_line(&mut answer)
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot read the answer").because(e))
    };
    job.cancel.unless(read).await?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Error::usage("nothing was written: the answer was not yes")),
    }
}
