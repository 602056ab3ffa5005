//! `export`: one platform of an image into a file, a folder or a pipe, whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Seek;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use tempfile::{NamedTempFile, TempDir};

use super::deliver::not_there;
use super::fetch::{self, Fetched, Wanted};
use crate::engine::{Engine, EngineKind};
use crate::error::{Error, ErrorKind, Result};
use crate::image::pack::{self, Format, Output};
use crate::image::{ImageId, Platform};
use crate::job::Job;
use crate::reference::Reference;
use crate::source::spec::Spec;
use crate::source::spool::unlinked_file;

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct ExportRequest {
    /// A name or source (see [`crate::source::spec::Spec`]) as the user wrote it.
    pub source: String,
    /// The name to export under, instead of the image's own.
    pub rename: Option<String>,
    /// Which platform; this machine's, the node's or the engine's choice, if not given.
    pub platform: Option<Platform>,
    /// How to write it; by what the target is, if not given.
    pub format: Option<Format>,
    /// Where to.
    pub target: Target,
    /// Whether registries are read without TLS.
    pub plain_http: bool,
    /// `--engine`.
    pub engine: Option<EngineKind>,
}

/// Where an image goes.
#[derive(Debug, Clone)]
pub enum Target {
    /// A file or a folder.
    Path(PathBuf),
    /// Something that takes bytes in order.
    Stream(Arc<File>),
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Exported {
    /// The image's names in it.
    pub refs: Vec<Reference>,
    /// The digest of the config: crictl's image ID.
    pub config_digest: ImageId,
    /// The platform.
    pub platform: Platform,
    /// How it was written.
    pub format: Format,
    /// Where to; `-` for a stream.
    pub output: PathBuf,
    /// Bytes of all members.
    pub bytes: u64,
}

/// Writes an image into a file, a folder or a stream. Nothing is to be seen there before all of it
/// is written and checked.
///
/// # Errors
/// Image error, if the image is not there, broken, or for other platforms only; usage error, if
/// the target is none.
pub async fn export(job: &Job, request: &ExportRequest) -> Result<Exported> {
    let rename = request
        .rename
        .as_deref()
        .map(Reference::parse)
        .transpose()?;
    let spec = Spec::parse(&request.source)?;
    let place = Place::of(&request.target, request.format)?;
    let format = place.format(request.format);
    let within = |e: Error| e.within(format!("{} is refused", request.source));
    let found = find(job, request, spec).await?;
    let mut names = rename.map_or(found.names, |name| vec![name]);
    if names.is_empty() {
        return Err(within(fetch::nameless()));
    }
    // An archive names images by tags; a name with a digest would be none to its readers.
    names.retain(|name| name.digest().is_none());
    if names.is_empty() {
        return Err(Error::usage(format!(
            "{} is named by its digest, which is no name in an archive",
            request.source
        ))
        .hint("say what to call it: --as NAME:TAG"));
    }
    let mut draft = place.draft(job)?;
    let mut output = draft.output()?;
    let packing = pack::pack(
        &found.image,
        &names,
        found.source.as_ref(),
        format,
        &mut output,
    );
    let bytes = job.cancel.unless(packing).await.map_err(within)?;
    drop(output);
    draft.publish(job).await?;
    Ok(Exported {
        refs: names,
        config_digest: found.image.id(),
        platform: found.image.platform.clone(),
        format,
        output: match &request.target {
            Target::Path(path) => path.clone(),
            Target::Stream(_) => PathBuf::from("-"),
        },
        bytes,
    })
}

async fn find(job: &Job, request: &ExportRequest, spec: Spec) -> Result<Fetched> {
    if let Spec::Engine { engine, name } = spec {
        let kind = engine.or(request.engine);
        let finding = Engine::find(kind, false, &job.env);
        let engine = job.cancel.unless(finding).await?;
        let full = name.to_string();
        let Some(record) = job.cancel.unless(engine.inspect(&full)).await? else {
            return Err(not_there(&engine, &name));
        };
        super::refuse_shadow(job, &name, &record, &record.id, None)?;
        let platform = request.platform.as_ref().unwrap_or(&record.platform);
        job.step(|| format!("saving {} out of {}", record.id, engine.describe()));
        let exporting = engine.export(record.id.0.as_str(), platform, job);
        let (image, source) = job.cancel.unless(exporting).await?;
        return Ok(Fetched {
            image,
            source,
            names: vec![name],
        });
    }
    let wanted = Wanted {
        platform: request.platform.as_ref(),
        own: || Ok(host()),
        plain_http: request.plain_http,
        sessions: &[],
    };
    let found = fetch::fetch(job, spec, wanted).await;
    found.map_err(|e| {
        let chosen = request.platform.is_some() || !e.to_string().contains("no manifest for");
        let e = e.within(format!("{} is refused", request.source));
        match chosen {
            true => e,
            false => e.hint("say which with --platform"),
        }
    })
}

/// Returns this machine's platform.
fn host() -> Platform {
    let machine = rustix::system::uname();
    Platform::of_machine(&machine.machine().to_string_lossy())
}

/// Where an image goes, looked at before any work is done.
enum Place {
    /// A file that is not there, or will be replaced.
    File(PathBuf),
    /// A folder that is not there, is empty, or has an OCI layout that will be replaced.
    Folder(PathBuf),
    /// A pipe, a device.
    Stream(Arc<File>),
}

impl Place {
    fn of(target: &Target, format: Option<Format>) -> Result<Self> {
        let path = match target {
            Target::Stream(_) if format == Some(Format::Oci) => {
                return Err(Error::usage("a folder cannot be written to a pipe")
                    .hint("take --format oci-archive, or name a folder"));
            }
            Target::Stream(file) => return Ok(Self::Stream(Arc::clone(file))),
            Target::Path(path) => path,
        };
        let slash = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        let wants_folder = match format {
            Some(format) => format == Format::Oci,
            None => slash || path.is_dir(),
        };
        let shown = path.display();
        // What a link leads to is replaced, and not the link.
        let real = path.canonicalize().unwrap_or_else(|_| path.clone());
        match (std::fs::metadata(path), wants_folder) {
            (Err(_), true) => Ok(Self::Folder(real)),
            (Err(_), false) => Ok(Self::File(real)),
            (Ok(there), true) if there.is_dir() => {
                may_be_replaced(&real)?;
                Ok(Self::Folder(real))
            }
            (Ok(_), true) => Err(Error::usage(format!("{shown} is no folder"))
                .hint("take --format oci-archive, or name a folder")),
            (Ok(there), false) if there.is_dir() => {
                Err(Error::usage(format!("{shown} is a folder"))
                    .hint("take --format oci, or name a file in it"))
            }
            (Ok(there), false) if there.is_file() => Ok(Self::File(real)),
            (Ok(there), false) => {
                let kind = there.file_type();
                if !kind.is_fifo() && !kind.is_char_device() {
                    return Err(Error::usage(format!(
                        "{shown} is neither a file nor a pipe"
                    )));
                }
                let file = OpenOptions::new().write(true).open(path);
                let file = file.map_err(|e| unwritable(path).because(e))?;
                Ok(Self::Stream(Arc::new(file)))
            }
        }
    }

    fn format(&self, asked: Option<Format>) -> Format {
        asked.unwrap_or(match self {
            Self::Folder(_) => Format::Oci,
            Self::File(_) | Self::Stream(_) => Format::OciArchive,
        })
    }

    /// Makes what is written to, beside what it will become.
    fn draft(self, job: &Job) -> Result<Draft> {
        let mut builder = tempfile::Builder::new();
        builder.prefix(".kindlift-");
        // Less what the umask takes away.
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        match self {
            Self::Stream(to) => {
                job.step(|| "spooling the archive to a temporary file, to write it whole".into());
                let spool = unlinked_file(&job.env)?;
                Ok(Draft::Stream { spool, to })
            }
            Self::File(path) => {
                let made = builder.permissions(mode(0o666)).tempfile_in(beside(&path));
                let file = made.map_err(|e| unwritable(&path).because(e))?;
                Ok(Draft::File { file, path })
            }
            Self::Folder(path) => {
                let made = builder.permissions(mode(0o777)).tempdir_in(beside(&path));
                let folder = made.map_err(|e| unwritable(&path).because(e))?;
                Ok(Draft::Folder { folder, path })
            }
        }
    }
}

/// What is written to. Dropped before it is published, it is gone.
enum Draft {
    File { file: NamedTempFile, path: PathBuf },
    Folder { folder: TempDir, path: PathBuf },
    Stream { spool: File, to: Arc<File> },
}

impl Draft {
    fn output(&mut self) -> Result<Output> {
        let file = match self {
            Self::Folder { folder, .. } => return Ok(Output::Folder(folder.path().to_owned())),
            Self::File { file, .. } => file.as_file().try_clone(),
            Self::Stream { spool, .. } => spool.try_clone(),
        };
        let failed = Error::new(ErrorKind::Internal, "cannot write the image");
        file.map(Output::tar).map_err(|e| failed.because(e))
    }

    /// Puts it in its place.
    async fn publish(self, job: &Job) -> Result<()> {
        match self {
            Self::File { file, path } => file
                .persist(&path)
                .map(drop)
                .map_err(|e| unwritable(&path).because(e.error)),
            Self::Folder { folder, path } => {
                replace(folder, &path).map_err(|e| unwritable(&path).because(e))
            }
            Self::Stream { mut spool, to } => {
                let copying = tokio::task::spawn_blocking(move || {
                    spool.rewind()?;
                    std::io::copy(&mut spool, &mut &*to).map(drop)
                });
                let copied = async {
                    copying
                        .await
                        .map_err(|e| {
                            Error::new(ErrorKind::Internal, "writing was cut off").because(e)
                        })?
                        .map_err(|e| {
                            Error::new(ErrorKind::Internal, "the pipe does not take the image")
                                .because(e)
                        })
                };
                job.cancel.unless(copied).await
            }
        }
    }
}

/// Puts a folder in the place of another, or of none.
fn replace(folder: TempDir, path: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    if path.exists() {
        // In one step; what was there goes with the temporary folder.
        renameat_with(CWD, folder.path(), CWD, path, RenameFlags::EXCHANGE)?;
    } else {
        std::fs::rename(folder.path(), path)?;
        let _ = folder.keep();
    }
    Ok(())
}

/// Refuses a folder whose content is not an OCI layout's: somebody would miss it.
fn may_be_replaced(folder: &Path) -> Result<()> {
    let read = || {
        let entries = std::fs::read_dir(folder)?;
        entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<std::io::Result<Vec<_>>>()
    };
    let names = read().map_err(|e| unwritable(folder).because(e))?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let layout = ["oci-layout", "index.json", "blobs"];
    let whole = has("oci-layout") && has("index.json");
    let stranger = names
        .iter()
        .find(|name| !whole || !layout.iter().any(|part| name == part));
    match stranger {
        None => Ok(()),
        Some(stranger) => Err(Error::usage(format!(
            "{} is a folder with other things in it than an OCI layout: {}",
            folder.display(),
            stranger.display()
        ))
        .hint("name a folder that is not there, or an empty one")),
    }
}

fn beside(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn unwritable(path: &Path) -> Error {
    Error::usage(format!("cannot write {}", path.display()))
        .hint("check that its folder is there, writable, and has room")
}
