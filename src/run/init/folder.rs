//! What lies in a project's folder: Dockerfiles, manifests, and which of them belong together.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

use super::Artifact;
use crate::error::{Error, Result};
use crate::reference::Reference;
use crate::run::manifests;

/// How deep to look.
const DEPTH: usize = 3;
/// More files than this are no project that a look can understand.
const MOST: usize = 20_000;
/// Folders that hold other people's files.
const FOREIGN: [&str; 5] = ["node_modules", "vendor", "target", "testdata", "dist"];

/// What was found; paths are below the folder, in order.
#[derive(Debug, Default)]
pub struct Folder {
    root: PathBuf,
    pub dockerfiles: Vec<PathBuf>,
    pub manifests: Vec<Manifest>,
    /// Folders with a kustomization.
    pub kustomizations: Vec<PathBuf>,
    /// Folders with a Helm chart.
    pub charts: Vec<PathBuf>,
}

/// A file with Kubernetes manifests.
#[derive(Debug)]
pub struct Manifest {
    pub path: PathBuf,
    /// Whether it is deployed as it is, and not through a kustomization or a chart.
    pub plain: bool,
    pub images: Vec<String>,
    /// The lines that say `imagePullPolicy: Always`.
    pub always: Vec<usize>,
}

/// Looks at a folder.
///
/// # Errors
/// Usage error, if it cannot be read.
pub fn look(root: &Path) -> Result<Folder> {
    let mut found = Folder {
        root: root.to_owned(),
        ..Folder::default()
    };
    let mut seen = 0;
    found.walk(Path::new(""), DEPTH, &mut seen)?;
    found.dockerfiles.sort();
    found
        .manifests
        .sort_by(|one, other| one.path.cmp(&other.path));
    found.kustomizations.sort();
    found.charts.sort();
    // What a kustomization or a chart has is deployed through it.
    let through: Vec<PathBuf> = found
        .kustomizations
        .iter()
        .chain(&found.charts)
        .cloned()
        .collect();
    for manifest in &mut found.manifests {
        manifest.plain = !through
            .iter()
            .any(|folder| manifest.path.starts_with(folder));
    }
    Ok(found)
}

impl Folder {
    fn walk(&mut self, below: &Path, depth: usize, seen: &mut usize) -> Result<()> {
        let folder = self.root.join(below);
        let failed =
            |e| Error::usage(format!("cannot read the folder {}", folder.display())).because(e);
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            *seen += 1;
            if *seen > MOST {
                return Err(Error::usage(format!(
                    "{} has more than {MOST} files",
                    self.root.display()
                ))
                .hint("run this in the folder of one project"));
            }
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let path = below.join(&name);
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            if is_folder && depth > 0 && !name.starts_with('.') && !FOREIGN.contains(&&*name) {
                folders.push(path);
            } else if !is_folder {
                self.note(path, &name);
            }
        }
        folders
            .into_iter()
            .try_for_each(|path| self.walk(&path, depth - 1, seen))
    }

    fn note(&mut self, path: PathBuf, name: &str) {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        match name {
            "Chart.yaml" => self.charts.push(folder),
            "kustomization.yaml" | "kustomization.yml" | "Kustomization" => {
                self.kustomizations.push(folder);
            }
            _ if is_dockerfile(name) => self.dockerfiles.push(path),
            _ if name.ends_with(".yaml") || name.ends_with(".yml") => {
                let text = std::fs::read_to_string(self.root.join(&path)).unwrap_or_default();
                if is_manifest(&text) {
                    let lines = text.lines().enumerate();
                    let always = lines
                        .filter(|(_, line)| {
                            let line = line.trim_start_matches([' ', '-']);
                            line.strip_prefix("imagePullPolicy:")
                                .is_some_and(|value| value.trim_start().starts_with("Always"))
                        })
                        .map(|(i, _)| i + 1)
                        .collect();
                    let images = manifests::in_text(&text).unwrap_or_default();
                    self.manifests.push(Manifest {
                        path,
                        plain: true,
                        images: images.iter().map(|image| untagged(image)).collect(),
                        always,
                    });
                }
            }
            _ => {}
        }
    }

    /// Returns the manifests that are deployed as they are.
    pub fn plain(&self) -> impl Iterator<Item = &Manifest> {
        self.manifests.iter().filter(|manifest| manifest.plain)
    }

    /// Tells whether there is something to deploy.
    pub fn deploys(&self) -> bool {
        !(self.manifests.is_empty() && self.kustomizations.is_empty() && self.charts.is_empty())
    }

    /// Returns what a Dockerfile exposes.
    pub fn ports(&self, dockerfile: &Path) -> Vec<u16> {
        let text = std::fs::read_to_string(self.root.join(dockerfile)).unwrap_or_default();
        let exposed = text.lines().filter_map(|line| {
            let (word, rest) = line.trim().split_once(' ')?;
            word.eq_ignore_ascii_case("EXPOSE").then_some(rest)
        });
        exposed
            .flat_map(str::split_whitespace)
            .filter_map(|port| port.trim_end_matches("/tcp").parse().ok())
            .collect()
    }

    /// Finds out which image each Dockerfile makes.
    ///
    /// # Errors
    /// Usage error, if that is not clear.
    pub fn artifacts(&self, wanted: &[String]) -> Result<Vec<Artifact>> {
        if self.dockerfiles.is_empty() {
            return Err(
                Error::usage(format!("there is no Dockerfile in {}", self.root.display()))
                    .hint("write one, or run this in the folder of the project"),
            );
        }
        if !wanted.is_empty() {
            return wanted.iter().map(|wanted| self.named(wanted)).collect();
        }
        let mut images: Vec<&String> = Vec::new();
        for image in self.manifests.iter().flat_map(|manifest| &manifest.images) {
            if !images.contains(&image) {
                images.push(image);
            }
        }
        let mut artifacts = Vec::new();
        let mut open = Vec::new();
        for dockerfile in &self.dockerfiles {
            let key = self.key(dockerfile);
            match images.iter().position(|image| last_part(image) == key) {
                Some(at) => artifacts.push(Artifact {
                    image: images.remove(at).clone(),
                    dockerfile: dockerfile.clone(),
                }),
                None => open.push(dockerfile),
            }
        }
        match (open.as_slice(), images.as_slice()) {
            ([], _) => {}
            ([one], [image]) => artifacts.push(Artifact {
                image: (*image).clone(),
                dockerfile: (*one).clone(),
            }),
            (open, []) if artifacts.is_empty() && !self.deploys() => {
                for dockerfile in open {
                    artifacts.push(Artifact {
                        image: self.key(dockerfile),
                        dockerfile: (*dockerfile).clone(),
                    });
                }
            }
            ([one, ..], images) => {
                let images: Vec<&str> = images.iter().map(|image| image.as_str()).collect();
                let named = match images.as_slice() {
                    [] => "no image that is left".to_owned(),
                    images => images.join(", "),
                };
                return Err(Error::usage(format!(
                    "which image {} makes is not clear: the manifests name {named}",
                    one.display()
                ))
                .hint(format!("say --image NAME={}", one.display())));
            }
        }
        for artifact in &artifacts {
            Reference::parse(&artifact.image)?;
        }
        Ok(artifacts)
    }

    /// Reads `NAME` or `NAME=DOCKERFILE`.
    fn named(&self, wanted: &str) -> Result<Artifact> {
        let (image, dockerfile) = match wanted.split_once('=') {
            Some((image, path)) => (image, Path::new(path).components().collect::<PathBuf>()),
            None => match self.dockerfiles.as_slice() {
                [one] => (wanted, one.clone()),
                several => {
                    let all: Vec<String> = several
                        .iter()
                        .map(|path| path.display().to_string())
                        .collect();
                    return Err(Error::usage(format!(
                        "there are several Dockerfiles: {}",
                        all.join(", ")
                    ))
                    .hint(format!("say which: --image {wanted}={}", all[0])));
                }
            },
        };
        let dockerfile = dockerfile
            .strip_prefix(".")
            .map(Path::to_owned)
            .unwrap_or(dockerfile);
        if dockerfile.is_absolute() || !self.root.join(&dockerfile).is_file() {
            return Err(Error::usage(format!(
                "there is no {} in {}",
                dockerfile.display(),
                self.root.display()
            ))
            .hint("name the Dockerfile as it is seen from the project's folder"));
        }
        Reference::parse(image)?;
        Ok(Artifact {
            image: untagged(image),
            dockerfile,
        })
    }

    /// Returns what a Dockerfile is about: `api` for `api/Dockerfile`, `Dockerfile.api` and
    /// `api.Dockerfile`, the project's folder for one at the top.
    fn key(&self, dockerfile: &Path) -> String {
        let file = dockerfile
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let of_name = file
            .strip_prefix("Dockerfile.")
            .or_else(|| file.strip_suffix(".Dockerfile"));
        let of_folder = dockerfile.parent().and_then(Path::file_name);
        let root = self
            .root
            .canonicalize()
            .unwrap_or_else(|_| self.root.clone());
        let word = of_name
            .map(str::to_owned)
            .or_else(|| of_folder.map(|name| name.to_string_lossy().into_owned()))
            .or_else(|| {
                root.file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })
            .unwrap_or_default();
        let allowed = |c: char| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        };
        let word: String = word.chars().map(allowed).collect();
        let parts: Vec<&str> = word.split('-').filter(|part| !part.is_empty()).collect();
        if parts.is_empty() {
            "app".to_owned()
        } else {
            parts.join("-")
        }
    }
}

/// Returns the last part of an image's name.
pub fn last_part(image: &str) -> &str {
    image.rsplit('/').next().unwrap_or(image)
}

/// Cuts tag and digest off a name, and leaves the rest as it was written.
fn untagged(image: &str) -> String {
    let name = image.split('@').next().unwrap_or(image);
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => name.to_owned(),
    }
}

fn is_dockerfile(name: &str) -> bool {
    name == "Dockerfile"
        || (name.starts_with("Dockerfile.") && !name.ends_with(".dockerignore"))
        || name.ends_with(".Dockerfile")
}

/// Tells whether a text holds something for a cluster, and not for a tool around it.
fn is_manifest(text: &str) -> bool {
    let tools = [
        "skaffold/",
        "kind.x-k8s.io/",
        "ctlptl.dev/",
        "kustomize.config.k8s.io/",
    ];
    let documents = serde_yaml::Deserializer::from_str(text).map(Value::deserialize);
    let mut any = false;
    for document in documents {
        // A chart's template is no YAML.
        let Ok(document) = document else { return false };
        let word = |key| document.get(key).and_then(Value::as_str);
        match (word("apiVersion"), word("kind")) {
            (Some(version), Some(_)) => {
                any |= !tools.iter().any(|tool| version.starts_with(tool));
            }
            _ if document.is_null() => {}
            _ => return false,
        }
    }
    any
}
