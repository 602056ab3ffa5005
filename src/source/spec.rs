//! What a user writes to say where an image is: skopeo's transports, or a bare name or path.

use std::path::{Path, PathBuf};

use crate::engine::EngineKind;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    /// In an engine's store.
    Engine {
        /// Which engine, if it was said.
        engine: Option<EngineKind>,
        /// Its name.
        name: Reference,
        /// Whether to pull it if the engine does not have it.
        pull: bool,
    },
    /// In an archive file.
    Archive {
        /// The file.
        path: PathBuf,
        /// Which of its images.
        image: Option<Reference>,
    },
    /// In a folder with an OCI layout.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Which of its images.
        image: Option<Reference>,
    },
    /// In an archive that comes on stdin.
    Stdin,
}

/// The transports, for messages.
const KNOWN: &str = "docker-daemon:NAME, containers-storage:NAME, docker://NAME, \
    oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], oci:FOLDER[:NAME], - (stdin), or a bare \
    name or path (./image.tar)";

impl Spec {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// Usage error, naming the transports.
    pub fn parse(text: &str) -> Result<Self> {
        let engine = |engine, name: &str, pull| {
            let name = Reference::parse(name)?;
            Ok(Self::Engine { engine, name, pull })
        };
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(name) = text.strip_prefix("docker://") {
            return engine(None, name, true);
        }
        if let Some(name) = text.strip_prefix("docker-daemon:") {
            return engine(Some(EngineKind::Docker), name, false);
        }
        if let Some(name) = text.strip_prefix("containers-storage:") {
            return engine(Some(EngineKind::Podman), name, false);
        }
        for transport in ["oci-archive:", "docker-archive:"] {
            if let Some(rest) = text.strip_prefix(transport) {
                let (path, image) = path_and_image(rest)?;
                return Ok(Self::Archive { path, image });
            }
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            let (path, image) = path_and_image(rest)?;
            return Ok(Self::Folder { path, image });
        }
        if let Some((transport, _)) = text.split_once("://") {
            return Err(
                Error::usage(format!("`{transport}://` is no source of images"))
                    .hint(format!("write {KNOWN}")),
            );
        }
        let path = Path::new(text);
        if looks_like_path(text) {
            return Ok(if path.is_dir() {
                Self::Folder {
                    path: path.to_owned(),
                    image: None,
                }
            } else {
                Self::Archive {
                    path: path.to_owned(),
                    image: None,
                }
            });
        }
        engine(None, text, false)
    }
}

/// An image name never begins with a dot or a slash, nor ends like an archive.
fn looks_like_path(text: &str) -> bool {
    text.starts_with('/')
        || text.starts_with("./")
        || text.starts_with("../")
        || (text.ends_with(".tar") && Path::new(text).exists())
}

/// Splits `PATH[:NAME]`. A path that exists with its colon is a path.
fn path_and_image(text: &str) -> Result<(PathBuf, Option<Reference>)> {
    if text.is_empty() {
        return Err(Error::usage("the source names no file").hint(format!("write {KNOWN}")));
    }
    match text.split_once(':') {
        Some((path, name)) if !Path::new(text).exists() => {
            Ok((PathBuf::from(path), Some(Reference::parse(name)?)))
        }
        _ => Ok((PathBuf::from(text), None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    #[test]
    fn knows_the_transports() {
        let engine = |engine, text, pull| Spec::Engine {
            engine,
            name: name(text),
            pull,
        };
        let archive = |path: &str, image: Option<&str>| Spec::Archive {
            path: path.into(),
            image: image.map(name),
        };
        for (text, expected) in [
            ("app:1", engine(None, "app:1", false)),
            ("docker://app:1", engine(None, "app:1", true)),
            (
                "docker-daemon:app:1",
                engine(Some(EngineKind::Docker), "app:1", false),
            ),
            (
                "containers-storage:app:1",
                engine(Some(EngineKind::Podman), "app:1", false),
            ),
            ("oci-archive:a.tar", archive("a.tar", None)),
            (
                "docker-archive:/x/a.tar:app:1",
                archive("/x/a.tar", Some("app:1")),
            ),
            ("./a.tar", archive("./a.tar", None)),
            ("-", Spec::Stdin),
        ] {
            assert_eq!(Spec::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn an_existing_folder_is_a_layout() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let expected = Spec::Folder {
            path: path.into(),
            image: None,
        };
        assert_eq!(Spec::parse(path).unwrap(), expected);
        assert_eq!(Spec::parse(&format!("oci:{path}")).unwrap(), expected);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let error = Spec::parse("ftp://x").unwrap_err();
        assert!(error.next_step().unwrap().contains("oci-archive:"));
        assert!(Spec::parse("oci-archive:").is_err());
        assert!(Spec::parse("docker-daemon:").is_err());
    }
}
