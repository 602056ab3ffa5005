//! Leases: what holds everything that is staged on a node until it has a name, and lets go of it
//! when a run fails or dies.
//!
//! A lease's expiry alone collects nothing on an idle node, so each run sweeps the leases that
//! dead runs left (see `sweep`). Only leases with our own label are touched: containerd keeps
//! one for every pod sandbox.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};

use super::session::{Failure, Session};
use crate::error::Result;

/// Label of what kindlift made; its value is the [`Owner`].
pub const OWNER: &str = "io.kindlift.owner";
const EXPIRE: &str = "containerd.io/gc.expire";
const LIFETIME: Duration = Duration::from_secs(3600);

/// Which process on which machine made a lease, so that another run can tell whether it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Boot and process namespace: where the pid below means something.
    machine: String,
    pid: u32,
    /// Start time of the process, in clock ticks since boot, against recycled pids.
    started: u64,
}

impl Owner {
    /// Returns this process.
    pub fn this() -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let namespace = std::fs::read_link("/proc/self/ns/pid")
            .map(|link| {
                link.to_string_lossy()
                    .replace(|c: char| !c.is_ascii_digit(), "")
            })
            .unwrap_or_default();
        let pid = std::process::id();
        Self {
            machine: format!("{}.{namespace}", boot.trim()),
            pid,
            started: started(pid).unwrap_or(0),
        }
    }

    fn label(&self) -> String {
        format!("{}/{}/{}", self.machine, self.pid, self.started)
    }

    fn parse(label: &str) -> Option<Self> {
        let mut parts = label.split('/');
        Some(Self {
            machine: parts.next()?.to_owned(),
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
        })
    }

    /// Tells whether that process is surely gone; none, if this machine cannot know.
    fn is_dead(&self, here: &Owner) -> Option<bool> {
        if self.machine != here.machine || here.started == 0 {
            return None;
        }
        if started(self.pid).is_none() && is_hidden(self.pid) {
            return None;
        }
        Some(started(self.pid) != Some(self.started))
    }
}

/// Reads when a process started: field 22 of /proc/PID/stat, counted after the name, which may
/// hold spaces.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie has ended, whether anybody has taken note or not.
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Tells whether a process lives that /proc hides from us, because it is another user's.
fn is_hidden(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::PERM))
}

/// A lease that this run made on one node.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its name on the node.
    pub id: String,
}

impl Lease {
    /// Makes a lease.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn create(session: &Session) -> Result<Self, Failure> {
        let random = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        let id = format!("kindlift-{}-{random:016x}", std::process::id());
        let expire = prost_types::Timestamp::from(SystemTime::now() + LIFETIME);
        let labels = HashMap::from([
            (OWNER.to_owned(), Owner::this().label()),
            (EXPIRE.to_owned(), expire.to_string()),
        ]);
        let request = session.request(
            CreateRequest {
                id: id.clone(),
                labels,
            },
            None,
        );
        let mut client = LeasesClient::new(session.channel());
        session
            .call("creating a lease", client.create(request))
            .await?;
        Ok(Self { id })
    }

    /// Makes the lease hold something that is there already. Adding what does not exist
    /// succeeds too: look again afterwards.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn hold(&self, session: &Session, kind: &str, id: &str) -> Result<(), Failure> {
        let request = session.request(
            AddResourceRequest {
                id: self.id.clone(),
                resource: Some(Resource {
                    id: id.to_owned(),
                    r#type: kind.to_owned(),
                }),
            },
            None,
        );
        let mut client = LeasesClient::new(session.channel());
        match session
            .call("holding content", client.add_resource(request))
            .await
        {
            Err(failure) if failure.already_exists() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Ends the lease. With `collect`, returns when what only it held is gone.
    ///
    /// # Errors
    /// The call's failure; a lease that is gone already is none.
    pub async fn end(&self, session: &Session, collect: bool) -> Result<(), Failure> {
        end(session, &self.id, collect).await
    }
}

async fn end(session: &Session, id: &str, collect: bool) -> Result<(), Failure> {
    let request = session.request(
        DeleteRequest {
            id: id.to_owned(),
            sync: collect,
        },
        None,
    );
    let mut client = LeasesClient::new(session.channel());
    match session.call("ending a lease", client.delete(request)).await {
        Err(failure) if failure.not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Ends the leases of runs that died, and with them what those runs had staged. Returns how many.
///
/// # Errors
/// A call's failure.
pub async fn sweep(session: &Session) -> Result<usize> {
    let filter = format!("labels.\"{OWNER}\"");
    let request = session.request(
        ListRequest {
            filters: vec![filter],
        },
        None,
    );
    let mut client = LeasesClient::new(session.channel());
    let leases = session
        .call("listing leases", client.list(request))
        .await?
        .leases;
    let here = Owner::this();
    let now = prost_types::Timestamp::from(SystemTime::now());
    let mut dead = leases
        .iter()
        .filter(|lease| {
            let owner = lease
                .labels
                .get(OWNER)
                .and_then(|label| Owner::parse(label));
            let expired = lease
                .labels
                .get(EXPIRE)
                .and_then(|at| at.parse::<prost_types::Timestamp>().ok())
                .is_some_and(|at| at.seconds < now.seconds);
            owner
                .and_then(|owner| owner.is_dead(&here))
                .unwrap_or(expired)
        })
        .map(|lease| lease.id.as_str())
        .peekable();
    let mut count = 0;
    while let Some(id) = dead.next() {
        // One collection, with the last of them, is enough.
        end(session, id, dead.peek().is_none()).await?;
        count += 1;
    }
    if count > 0 {
        tracing::info!(node = %session.node().name, count, "swept what killed runs left");
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_survives_its_label() {
        let here = Owner::this();
        assert_eq!(Owner::parse(&here.label()), Some(here.clone()));
        assert_eq!(here.is_dead(&here), Some(false));
    }

    #[test]
    fn a_recycled_pid_is_another_process() {
        let here = Owner::this();
        let older = Owner {
            started: here.started - 1,
            ..here.clone()
        };
        assert_eq!(older.is_dead(&here), Some(true));
    }

    #[test]
    fn a_zombie_is_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let ended = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(')')
                .unwrap()
                .1
                .trim_start()
                .starts_with('Z')
        };
        while !ended() {
            std::thread::yield_now();
        }
        assert_eq!(started(pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn processes_of_other_machines_are_not_judged() {
        let here = Owner::this();
        let other = Owner {
            machine: "elsewhere.1".into(),
            ..here.clone()
        };
        assert_eq!(other.is_dead(&here), None);
    }
}
