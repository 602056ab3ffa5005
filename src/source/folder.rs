//! Private folders for what is on its way: gone when they are dropped. One whose run was killed is
//! removed by the next run.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use super::spool;
use crate::env::Env;
use crate::error::Result;

/// What their names begin with.
const PREFIX: &str = "kindlift-build-";
/// How often a sweep may come between making a folder and locking it.
const TRIES: usize = 5;

/// A folder of this run alone.
#[derive(Debug)]
pub struct Folder {
    folder: TempDir,
    /// Tells sweeps that the run is alive; the kernel lets go of it when it is not.
    _lock: File,
}

impl Folder {
    /// Makes one where temporary files lie, and removes what killed runs left there.
    ///
    /// # Errors
    /// Internal error, naming where.
    pub fn make(env: &Env) -> Result<Self> {
        let parent = spool::temporary(env);
        sweep(&parent);
        let failed = |e| spool::no_room(&parent, "folder", e);
        for _ in 0..TRIES {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&parent);
            let folder = folder.map_err(failed)?;
            let Ok(lock) = File::open(folder.path()) else {
                continue;
            };
            if lock.try_lock().is_ok() && folder.path().is_dir() {
                return Ok(Self {
                    folder,
                    _lock: lock,
                });
            }
        }
        Err(failed(std::io::Error::other(
            "it is removed again and again",
        )))
    }

    /// Returns where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes folders of runs that are dead. What cannot be removed is left to the next sweep.
fn sweep(parent: &Path) {
    let user = rustix::process::getuid().as_raw();
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry
                .metadata()
                .is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == user);
        if !ours {
            continue;
        }
        if let Ok(lock) = File::open(&path)
            && lock.try_lock().is_ok()
            && let Err(e) = std::fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), error = %e, "sweep");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_what_is_dead_and_ours_alone() {
        let parent = tempfile::tempdir().unwrap();
        let env = Env::new([("TMPDIR", parent.path())]);
        let dead = parent.path().join("kindlift-build-dead");
        std::fs::create_dir_all(dead.join("blobs")).unwrap();
        let other = parent.path().join("other");
        std::fs::create_dir(&other).unwrap();
        let target = tempfile::tempdir().unwrap();
        let link = parent.path().join("kindlift-build-link");
        std::os::unix::fs::symlink(target.path(), &link).unwrap();
        let first = Folder::make(&env).unwrap();
        std::fs::write(first.path().join("x"), "x").unwrap();
        let second = Folder::make(&env).unwrap();
        assert!(!dead.exists());
        assert!(other.exists() && link.exists() && target.path().exists());
        assert!(first.path().join("x").exists() && second.path().exists());
        let (one, two) = (first.path().to_owned(), second.path().to_owned());
        drop((first, second));
        assert!(!one.exists() && !two.exists());
    }
}
