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
    },
    /// In a registry.
    Registry(Reference),
    /// On a node.
    Node {
        /// The node's name.
        node: String,
        /// Its name there.
        name: Reference,
    },
    /// In an archive file.
    Archive {
        /// The file.
        path: PathBuf,
        /// Which of its images: a name or, in a layout, a tag.
        image: Option<String>,
    },
    /// In a folder with an OCI layout.
    Folder {
        /// The folder.
        path: PathBuf,
        /// Which of its images: a name or, in a layout, a tag.
        image: Option<String>,
    },
    /// In an archive that comes on stdin.
    Stdin,
}

/// The transports, for messages.
const KNOWN: &str = "docker-daemon:NAME, containers-storage:NAME, docker://NAME, \
    oci-archive:FILE[:NAME], docker-archive:FILE[:NAME], oci:FOLDER[:NAME], node:NODE/NAME, - \
    (stdin), or a bare name or path (./image.tar)";

impl Spec {
    /// Reads what a user wrote.
    ///
    /// # Errors
    /// Usage error, naming the transports.
    pub fn parse(text: &str) -> Result<Self> {
        let engine = |engine, name: &str| {
            let name = Reference::parse(name)?;
            Ok(Self::Engine { engine, name })
        };
        if text == "-" {
            return Ok(Self::Stdin);
        }
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(Reference::parse(name)?));
        }
        if let Some(name) = text.strip_prefix("docker-daemon:") {
            return engine(Some(EngineKind::Docker), name);
        }
        if let Some(name) = text.strip_prefix("containers-storage:") {
            return engine(Some(EngineKind::Podman), name);
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
        if let Some(rest) = text.strip_prefix("node:") {
            let (node, name) = rest
                .split_once('/')
                .filter(|(node, _)| !node.is_empty())
                .ok_or_else(|| {
                    Error::usage(format!("`{text}` names no node and image"))
                        .hint("write node:NODE/NAME, e.g. node:kind-worker/demo/app:dev")
                })?;
            let (node, name) = (node.to_owned(), Reference::parse(name)?);
            return Ok(Self::Node { node, name });
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
        engine(None, text)
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
fn path_and_image(text: &str) -> Result<(PathBuf, Option<String>)> {
    if text.is_empty() {
        return Err(Error::usage("the source names no file").hint(format!("write {KNOWN}")));
    }
    match text.split_once(':') {
        Some((path, name)) if !Path::new(text).exists() => {
            // A layout's tag may be what is no name; the archive knows.
            Ok((PathBuf::from(path), Some(name.to_owned())))
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
        let engine = |engine, text| Spec::Engine {
            engine,
            name: name(text),
        };
        let archive = |path: &str, image: Option<&str>| Spec::Archive {
            path: path.into(),
            image: image.map(str::to_owned),
        };
        for (text, expected) in [
            ("app:1", engine(None, "app:1")),
            ("docker://app:1", Spec::Registry(name("app:1"))),
            (
                "node:dev-worker/demo/app:1",
                Spec::Node {
                    node: "dev-worker".into(),
                    name: name("demo/app:1"),
                },
            ),
            (
                "docker-daemon:app:1",
                engine(Some(EngineKind::Docker), "app:1"),
            ),
            (
                "containers-storage:app:1",
                engine(Some(EngineKind::Podman), "app:1"),
            ),
            ("oci-archive:a.tar", archive("a.tar", None)),
            (
                "docker-archive:/x/a.tar:app:1",
                archive("/x/a.tar", Some("app:1")),
            ),
            (
                "oci:layout:v1",
                Spec::Folder {
                    path: "layout".into(),
                    image: Some("v1".into()),
                },
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
        assert!(Spec::parse("docker://").is_err());
        for text in ["node:", "node:worker", "node:/app:1", "node:worker/"] {
            assert!(Spec::parse(text).is_err(), "{text}");
        }
    }
}
