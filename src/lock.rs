//! One lock per provider and cluster on this host: naming and proof are done one run at a time,
//! so that of two loads of one tag the later wins on every node.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::env::Env;
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
    pub async fn acquire(cluster: &Cluster, env: &Env, patience: Duration) -> Result<Self> {
        let path = path(cluster, env);
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Load, format!("cannot lock {}", path.display())).because(e)
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
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

/// The folder is the user's own, so that nobody else can hold or plant the file.
fn path(cluster: &Cluster, env: &Env) -> PathBuf {
    let folder = env
        .path("XDG_RUNTIME_DIR")
        .filter(|folder| folder.is_dir())
        .map(|folder| folder.join("kindlift"))
        .or_else(|| {
            env.path("XDG_CACHE_HOME")
                .map(|folder| folder.join("kindlift"))
        })
        .or_else(|| env.home().map(|home| home.join(".cache/kindlift")))
        .unwrap_or_else(|| std::env::temp_dir().join("kindlift"));
    // The control plane's container ID tells clusters of the same name apart.
    let id = cluster.nodes.first().map_or("none", |node| &node.id);
    folder.join(format!("{}-{id:.12}.lock", cluster.name))
}
