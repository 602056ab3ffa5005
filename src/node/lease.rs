//! Leases: what holds everything that is staged on a node until it has a name, and lets go of it
//! when a run fails or dies.
//!
//! A lease's expiry alone collects nothing on an idle node, so each run sweeps the leases that
//! dead runs left (see `sweep`). Only leases with our own label are touched, and those that such a
//! label names: containerd keeps one for every pod sandbox.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, Instant, SystemTime};

use super::Failure;
use super::discard::{self, DISCARDS};
use super::session::{Labels, Session};
use crate::error::Result;
use crate::image::ChainId;
use crate::owner::Owner;

/// Label of what kindlift made; its value is the [`Owner`].
pub const OWNER: &str = "io.kindlift.owner";
/// Label of a lease that is only a note: its value is the lease that a `ctr images import` of ours
/// made for itself, and leaves for a day if it is killed.
pub const IMPORT: &str = "io.kindlift.import";
/// How names begin that hold something while it is staged; the lease's name follows, and a tag.
pub const STAGING: &str = "kindlift.invalid/";
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a ctr that was cut off may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// A lease that this run made on one node.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its name on the node.
    pub id: String,
    /// Image names that belong to it, where it takes names to hold something.
    names: Vec<String>,
}

/// Something for a lease to hold.
#[derive(Debug, Clone, Copy)]
pub enum Held<'a> {
    /// A blob, by its digest, and what its labels refer to.
    Blob(&'a str),
    /// An unpacked layer, and those below it.
    Snapshot(&'a ChainId),
}

/// A lease as a node lists it.
#[derive(Debug)]
pub struct Listed {
    /// Its name on the node.
    pub id: String,
    /// Its labels.
    pub labels: Labels,
}

impl Lease {
    /// Makes a lease.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn create(session: &Session) -> Result<Self, Failure> {
        let id = unique();
        let expire = prost_types::Timestamp::from(SystemTime::now() + LIFETIME);
        let labels = HashMap::from([
            (OWNER.to_owned(), Owner::this().label()),
            (EXPIRE.to_owned(), expire.to_string()),
        ]);
        let names = session.create_lease(&id, &labels).await?;
        Ok(Self { id, names })
    }

    /// Ends the lease. With `collect`, returns when what only it held is gone.
    ///
    /// # Errors
    /// The call's failure; a lease that is gone already is none.
    pub async fn end(&self, session: &Session, collect: bool) -> Result<(), Failure> {
        for name in &self.names {
            session.remove(name, None).await?;
        }
        if !self.names.is_empty() {
            let mut notes = session.leases(OWNER).await?;
            notes.retain(|note| note.id.starts_with(&self.id) && note.id != self.id);
            // What imports may still do is taken back after they have ended.
            notes.sort_by_key(|note| note.labels.contains_key(DISCARDS));
            let until = Instant::now() + ENDING;
            for note in &notes {
                // A ctr that has just lost its input ends by itself, and its lease with it.
                while Instant::now() < until && is_import_there(session, note).await? {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                end_noted(session, note).await?;
                discard::act_for(session, &note.labels).await?;
                session.end_lease(&note.id, false).await?;
            }
        }
        session.end_lease(&self.id, collect).await
    }
}

/// Makes a name that nothing else has.
pub(super) fn unique() -> String {
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    format!("kindlift-{}-{random:016x}", std::process::id())
}

async fn is_import_there(session: &Session, note: &Listed) -> Result<bool, Failure> {
    let Some(import) = note.labels.get(IMPORT) else {
        return Ok(false);
    };
    let all = session.leases(EXPIRE).await?;
    Ok(all.iter().any(|lease| lease.id == *import))
}

/// Ends the lease that an import made for itself, if this is a note of one.
async fn end_noted(session: &Session, note: &Listed) -> Result<(), Failure> {
    match note.labels.get(IMPORT) {
        Some(import) => session.end_lease(import, false).await,
        None => Ok(()),
    }
}

/// Returns the lease that a name belongs to.
fn lease_of(name: &str) -> Option<&str> {
    let (id, _) = name.strip_prefix(STAGING)?.split_once(':')?;
    Some(id)
}

/// Ends the leases of runs that died, and with them what those runs had staged. Returns how many.
///
/// # Errors
/// A call's failure.
pub async fn sweep(session: &Session) -> Result<usize> {
    // The names first: whose lease is not among those listed later is surely without one.
    let names = session.all_records(Some(STAGING)).await?;
    let leases = session.leases(OWNER).await?;
    let here = Owner::this();
    let now = prost_types::Timestamp::from(SystemTime::now());
    let (dead, alive): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| {
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
    });
    for record in &names {
        let is_held = |id| alive.iter().any(|lease| lease.id == id);
        if !lease_of(&record.name).is_some_and(is_held) {
            session.remove(&record.name, None).await?;
        }
    }
    for (i, lease) in dead.iter().enumerate() {
        end_noted(session, lease).await?;
        discard::act_for(session, &lease.labels).await?;
        // One collection, with the last of them, is enough.
        let last = i + 1 == dead.len();
        session.end_lease(&lease.id, last).await?;
    }
    if !dead.is_empty() {
        let count = dead.len();
        tracing::info!(node = %session.node().name, count, "swept what killed runs left");
    }
    Ok(dead.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_lease() {
        assert_eq!(
            lease_of("kindlift.invalid/kindlift-1-a:held"),
            Some("kindlift-1-a")
        );
        assert_eq!(lease_of("docker.io/library/a:1"), None);
    }
}
