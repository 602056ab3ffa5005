//! `init`: makes a folder work with Skaffold or Tilt. Plans first: what is there is only added to,
//! unless something stands in the way and may be replaced (`force`).

mod folder;
mod skaffold;
mod starlark;
mod tilt;
mod yaml;

use std::fs::Permissions;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use similar::TextDiff;

use crate::error::{Error, Result};

/// Who is to run kindlift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Skaffold.
    Skaffold,
    /// Tilt.
    Tilt,
}

/// A folder to set up.
#[derive(Debug, Clone)]
pub struct InitRequest {
    /// For whom.
    pub tool: Tool,
    /// The folder of the project.
    pub folder: PathBuf,
    /// `NAME` or `NAME=DOCKERFILE`, where names and Dockerfiles do not speak for themselves.
    pub images: Vec<String>,
    /// Whether what stands in the way may be replaced.
    pub force: bool,
}

/// An image to build.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Artifact {
    image: String,
    /// Below the project's folder.
    dockerfile: PathBuf,
}

impl Artifact {
    /// Returns the context, `.` for the project's own folder.
    fn context(&self) -> &Path {
        match self.dockerfile.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }

    /// Returns the Dockerfile's name in its context; none, if it is the usual one.
    fn odd_name(&self) -> Option<&str> {
        let name = self.dockerfile.file_name()?.to_str()?;
        (name != "Dockerfile").then_some(name)
    }
}

/// What will be written.
#[derive(Debug, Default)]
pub struct Plan {
    files: Vec<Edit>,
    notes: Vec<String>,
    folder: PathBuf,
}

/// A file before and after.
#[derive(Debug)]
struct Edit {
    /// Below the project's folder.
    path: PathBuf,
    old: Option<String>,
    new: String,
}

/// What was written, and what is left to do.
#[derive(Debug, Serialize)]
pub struct Initiated {
    /// Each file.
    pub files: Vec<Written>,
    /// What the user has to do besides.
    pub notes: Vec<String>,
}

/// A file that is as it should be now.
#[derive(Debug, Serialize)]
pub struct Written {
    /// Where it is.
    pub path: PathBuf,
    /// What was done with it.
    pub change: Change,
}

/// What was done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was not there.
    Created,
    /// Something was put into it.
    Patched,
    /// It had everything.
    Unchanged,
}

/// Looks at a folder and plans what to write. Changes nothing.
///
/// # Errors
/// Usage error, if the folder cannot be read, does not say which image is which, or a file in it
/// is written in a way that cannot be added to.
pub fn plan(request: &InitRequest) -> Result<Plan> {
    let folder = folder::look(&request.folder)?;
    let mut plan = Plan {
        folder: request.folder.clone(),
        ..Plan::default()
    };
    match request.tool {
        Tool::Skaffold => skaffold::plan(&mut plan, &folder, request)?,
        Tool::Tilt => tilt::plan(&mut plan, &folder, request)?,
    }
    Ok(plan)
}

impl Plan {
    /// Tells whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.changes().is_empty()
    }

    /// Returns the files that would change.
    pub fn changes(&self) -> Vec<String> {
        let changed = self
            .files
            .iter()
            .filter(|edit| edit.change() != Change::Unchanged);
        changed
            .map(|edit| edit.path.display().to_string())
            .collect()
    }

    /// Returns what would change, as a unified diff.
    pub fn diff(&self) -> String {
        let changed = self
            .files
            .iter()
            .filter(|edit| edit.change() != Change::Unchanged);
        changed
            .map(|edit| {
                let path = edit.path.display();
                let from = match edit.old {
                    Some(_) => format!("a/{path}"),
                    None => "/dev/null".to_owned(),
                };
                TextDiff::from_lines(edit.old.as_deref().unwrap_or_default(), &edit.new)
                    .unified_diff()
                    .header(&from, &format!("b/{path}"))
                    .to_string()
            })
            .collect()
    }

    /// Writes it, each file whole or not at all.
    ///
    /// # Errors
    /// Usage error, naming the file that cannot be written or has changed since it was read.
    pub fn write(self) -> Result<Initiated> {
        let mut files = Vec::new();
        for edit in self.files {
            let path = self.folder.join(&edit.path);
            let change = edit.change();
            if change != Change::Unchanged {
                edit.write(&path).map_err(|e| {
                    Error::usage(format!("cannot write {}", path.display())).because(e)
                })?;
            }
            let shown = path.strip_prefix(".").unwrap_or(&path).to_owned();
            files.push(Written {
                path: shown,
                change,
            });
        }
        Ok(Initiated {
            files,
            notes: self.notes,
        })
    }

    /// Notes an edit of a file that may be there.
    fn edit(
        &mut self,
        path: impl Into<PathBuf>,
        edit: impl FnOnce(Option<&str>) -> Result<String>,
    ) -> Result<()> {
        let path = path.into();
        let old = match std::fs::read_to_string(self.folder.join(&path)) {
            Ok(text) => Some(text),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                return Err(Error::usage(format!("cannot read {}", path.display())).because(e));
            }
        };
        let new = edit(old.as_deref())?;
        self.files.push(Edit { path, old, new });
        Ok(())
    }
}

impl Edit {
    fn change(&self) -> Change {
        match &self.old {
            None => Change::Created,
            Some(old) if *old == self.new => Change::Unchanged,
            Some(_) => Change::Patched,
        }
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        // A link stays one: its target is written.
        let (path, permissions) = match path.canonicalize() {
            Ok(path) => {
                if self.old.as_deref() != Some(std::fs::read_to_string(&path)?.as_str()) {
                    return Err(std::io::Error::other("it has changed meanwhile"));
                }
                let permissions = path.metadata()?.permissions();
                (path, permissions)
            }
            Err(_) => {
                use std::os::unix::fs::PermissionsExt;
                (path.to_owned(), Permissions::from_mode(0o644))
            }
        };
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(self.new.as_bytes())?;
        file.as_file().set_permissions(permissions)?;
        if self.old.is_some() {
            file.persist(path)?;
        } else {
            file.persist_noclobber(path)?;
        }
        Ok(())
    }
}

/// Manifests for images that no manifest names, so that there is something to deploy.
fn manifests(artifacts: &[Artifact], folder: &folder::Folder) -> String {
    let mut text = String::from("# Written by `kindlift init`: a start, to be changed.\n");
    for (i, artifact) in artifacts.iter().enumerate() {
        let name = folder::last_part(&artifact.image).replace(['_', '.'], "-");
        if i > 0 {
            text += "---\n";
        }
        text += &format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {name}\nspec:\n  \
             replicas: 1\n  selector:\n    matchLabels: {{app: {name}}}\n  template:\n    \
             metadata:\n      labels: {{app: {name}}}\n    spec:\n      containers:\n      \
             - name: {name}\n        image: {}\n",
            yaml::scalar(&artifact.image)
        );
        let ports = folder.ports(&artifact.dockerfile);
        if !ports.is_empty() {
            text += "        ports:\n";
        }
        for port in ports {
            text += &format!("        - containerPort: {port}\n");
        }
    }
    text
}
