//! Where an archive's files lie: in a tar, or in a folder.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::members::Members;
use super::mistaken;
use crate::error::Result;
use crate::image::{AGAIN, refused};
use crate::source::spool::Extent;

/// Where the files are.
pub(super) enum Store {
    /// The members of a tar, by path.
    Tar(Members),
    /// A folder.
    Folder(PathBuf),
}

impl Store {
    pub(super) fn index(file: &Arc<File>) -> Result<Self> {
        let length = mistaken::length(file)?;
        match Members::of(file, length) {
            Ok(members) => Ok(Self::Tar(members)),
            Err(why) => Err(mistaken::told_by_engine(file, length).unwrap_or(why)),
        }
    }

    pub(super) fn has(&self, path: &str) -> bool {
        match self {
            Self::Tar(members) => members.files.contains_key(path),
            Self::Folder(folder) => folder.join(path).is_file(),
        }
    }

    /// Tells whether there is nothing at a path: no file, and nothing else either.
    pub(super) fn lacks(&self, path: &str) -> bool {
        match self {
            Self::Tar(members) => {
                !members.files.contains_key(path) && !members.links.contains_key(path)
            }
            Self::Folder(folder) => !folder.join(path).exists(),
        }
    }

    /// Tells whether there is anything below a folder, or at a path.
    pub(super) fn has_any_of(&self, paths: &[&str]) -> bool {
        match self {
            Self::Tar(members) => members
                .files
                .keys()
                .any(|file| paths.iter().any(|path| file.starts_with(path))),
            Self::Folder(folder) => paths.iter().any(|path| folder.join(path).exists()),
        }
    }

    /// Finds a file, where Docker's links lead too.
    pub(super) fn follow(&self, path: &str) -> Result<Extent> {
        if let Self::Tar(members) = self
            && let Some(found) = members.behind_link(path)
        {
            return Ok(found.clone());
        }
        self.find(path)
    }

    /// Finds a file.
    pub(super) fn find(&self, path: &str) -> Result<Extent> {
        let missing = || {
            refused(format!("{path} is missing")).hint("it is incomplete: save or copy it again")
        };
        match self {
            Self::Tar(members) => {
                if members.links.contains_key(path) {
                    return Err(
                        refused(format!("{path} in the archive is a link, not a file")).hint(
                            "pack the files themselves: `tar --dereference --hard-dereference …`",
                        ),
                    );
                }
                members.files.get(path).cloned().ok_or_else(missing)
            }
            Self::Folder(folder) => {
                // It may come from somewhere in the folder, and must not lead out of it.
                let path = folder.join(clean(path.as_bytes())?);
                // Before it is opened: opening a pipe waits for somebody to write.
                let metadata = path.metadata().map_err(|e| missing().because(e))?;
                if !metadata.is_file() {
                    return Err(refused(format!("{} is no file", path.display())).hint(AGAIN));
                }
                let file = File::open(&path).map_err(|e| missing().because(e))?;
                Ok(Extent {
                    file: Arc::new(file),
                    offset: 0,
                    len: metadata.len(),
                })
            }
        }
    }

    pub(super) fn small(&self, path: &str, limit: u64) -> Result<Vec<u8>> {
        let extent = self.find(path)?;
        if extent.len > limit {
            return Err(refused(format!(
                "{path} has {} bytes, more than {limit}",
                extent.len
            ))
            .hint(AGAIN));
        }
        let len = usize::try_from(extent.len).expect("the limit fits in memory");
        let mut bytes = vec![0; len];
        extent
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| refused(format!("cannot read {path}")).because(e))?;
        Ok(bytes)
    }
}

/// Refuses absolute paths, `..` and what a terminal would not show; drops `./` and the final
/// slash.
pub(super) fn clean(path: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(path).map_err(|_| {
        let path = String::from_utf8_lossy(path);
        refused(format!("the path {path:?} in the archive is not UTF-8")).hint(NO_TOOL)
    })?;
    let text = text.trim_start_matches("./").trim_end_matches('/');
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(refused(format!("the path {text:?} leads out of the archive")).hint(NO_TOOL));
    }
    if text.chars().any(char::is_control) {
        return Err(refused(format!("the path {text:?} has control characters")).hint(NO_TOOL));
    }
    Ok(text.to_owned())
}

/// What to do about paths that nobody needs.
pub(super) const NO_TOOL: &str =
    "no tool that saves images writes that: do not trust where it came from";
