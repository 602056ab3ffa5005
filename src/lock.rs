//! One lock per user and cluster on this host: naming and proof are done one run at a time,
//! so that of two loads of one tag the later wins on every node.

use std::fs::{File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind, Result};

/// A lock that is held until it is dropped, or until the process dies.
#[derive(Debug)]
pub struct ClusterLock {
    _file: File,
}

impl ClusterLock {
    /// Waits for the cluster's lock, but not longer than `patience`.
    ///
    /// # Errors
    /// Load error, if the lock file cannot be made or somebody holds it for too long.
    pub async fn acquire(cluster: &Cluster, patience: Duration) -> Result<Self> {
        let path = path(cluster).map_err(|e| {
            Error::new(
                ErrorKind::Load,
                format!("cannot make a lock for cluster {}", cluster.name),
            )
            .because(e)
        })?;
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Load, format!("cannot lock {}", path.display())).because(e)
        };
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
                Err(TryLockError::WouldBlock) if start.elapsed() > patience => {
                    return Err(Error::new(
                        ErrorKind::Load,
                        format!(
                            "another kindlift has been naming images in cluster {} for {} s",
                            cluster.name,
                            patience.as_secs()
                        ),
                    )
                    .hint(format!("see who holds {}", path.display())));
                }
                // Waiting in the kernel could not be given up at the deadline.
                Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
}

/// Returns the lock's path. It depends on the user and the cluster, not on the environment: runs
/// by Skaffold, by Tilt and by hand must meet.
fn path(cluster: &Cluster) -> std::io::Result<PathBuf> {
    let user = rustix::process::getuid().as_raw();
    let runtime = PathBuf::from(format!("/run/user/{user}/kindlift"));
    let folder = match own(&runtime, user) {
        Ok(()) => runtime,
        // Without a login session, or in a sandbox.
        Err(_) => {
            let folder = PathBuf::from(format!("/tmp/kindlift-{user}"));
            own(&folder, user)?;
            folder
        }
    };
    // The control plane's container ID tells clusters of the same name apart.
    let id = cluster.nodes.first().map_or("none", |node| &node.id);
    Ok(folder.join(format!("{}-{id:.12}.lock", cluster.name)))
}

/// Makes a folder that nobody else can write to; refuses one that somebody else has planted.
fn own(folder: &Path, user: u32) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let metadata = std::fs::symlink_metadata(folder)?;
    if metadata.is_dir() && metadata.uid() == user {
        return Ok(());
    }
    Err(std::io::Error::other(format!(
        "{} is not a folder of yours",
        folder.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_folder_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let user = rustix::process::getuid().as_raw();
        let link = base.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(own(&link, user).is_err());
        let fresh = base.path().join("fresh");
        own(&fresh, user).unwrap();
        own(&fresh, user).unwrap();
        assert!(own(&fresh, user.wrapping_add(1)).is_err());
    }
}
