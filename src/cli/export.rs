//! `kindlift export`.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use kindlift::error::{Error, ErrorKind};
use kindlift::image::Platform;
use kindlift::image::pack::Format;
use kindlift::job::Job;
use kindlift::run::{self, ExportRequest, Exported, Target};

use super::images::SOURCES;
use super::{EngineArg, Registry};

/// Write one platform of an image into an archive or a folder, checked and always the same bytes
///
/// What is written is what `kind load image-archive`, `docker load`, `podman load`, skopeo, crane
/// and ctr read; as a folder, umoci too. There is nothing to be seen before it is whole.
#[derive(Args)]
pub struct Export {
    #[arg(value_name = "IMAGE", help = format!("The image: {SOURCES}"))]
    source: String,
    /// Where to: a file, a folder, or - for stdout. Replaces a file, and a folder that is empty or
    /// an OCI layout
    #[arg(short = 'o', value_name = "FILE|FOLDER|-")]
    out: PathBuf,
    /// How to write it [default: oci into a folder, else oci-archive]
    #[arg(long, value_enum)]
    format: Option<FormatName>,
    /// Write this platform [default: this machine's; the node's for node:, the engine's for its
    /// own images]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = super::platform)]
    platform: Option<Platform>,
    /// Write the image under this name instead of its own
    #[arg(long = "as", value_name = "NAME[:TAG]")]
    rename: Option<String>,
    #[command(flatten)]
    registry: Registry,
    #[command(flatten)]
    engine: EngineArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatName {
    /// A tar with an OCI layout that Docker reads too
    OciArchive,
    /// A tar as Docker wrote before 25, its layers uncompressed
    DockerArchive,
    /// A folder with an OCI layout
    Oci,
}

impl Export {
    /// Tells whether the image goes to stdout, where nothing else may be.
    pub fn to_stdout(&self) -> bool {
        self.out == Path::new("-")
    }

    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Exported, Error> {
        let request = ExportRequest {
            source: self.source.clone(),
            rename: self.rename.clone(),
            platform: self.platform.clone(),
            format: self.format.map(|format| match format {
                FormatName::OciArchive => Format::OciArchive,
                FormatName::DockerArchive => Format::DockerArchive,
                FormatName::Oci => Format::Oci,
            }),
            target: match self.to_stdout() {
                true => stdout()?,
                false => Target::Path(self.out.clone()),
            },
            plain_http: self.registry.plain_http,
            engine: self.engine.kind(),
        };
        run::export(job, &request).await
    }
}

fn stdout() -> Result<Target, Error> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Error::usage("an archive is nothing for a terminal")
            .hint("name a file with -o, or pipe it on, e.g. into `docker load`"));
    }
    let own = stdout.as_fd().try_clone_to_owned();
    let own = own.map_err(|e| Error::new(ErrorKind::Internal, "there is no stdout").because(e))?;
    Ok(Target::Stream(Arc::new(own.into())))
}
