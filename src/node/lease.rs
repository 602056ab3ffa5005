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
use crate::error::{Result, one_line};
use crate::image::ChainId;
use crate::owner::Owner;

/// Label of what kindlift made; its value is the [`Owner`].
pub const OWNER: &str = "io.kindlift.owner";
/// Label of a lease that is only a note: its value is the lease that a `ctr images import` of ours
/// made for itself, and leaves for a day if it is killed.
pub const IMPORT: &str = "io.kindlift.import";
/// Label of a lease that is only a note, of an import that starts: the lease of its run, `@`, and the
/// second since which it may have made itself the lease that is noted next.
pub const STARTS: &str = "io.kindlift.starts";
/// How names begin that hold something while it is staged; the lease's name follows, and a tag.
pub const STAGING: &str = "kindlift.invalid/";
pub(super) const EXPIRE: &str = "containerd.io/gc.expire";
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long a ctr that was cut off may take to end.
const ENDING: Duration = Duration::from_secs(5);
/// How often to look meanwhile.
const LOOK: Duration = Duration::from_millis(50);

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
    /// When it was made, in seconds since 1970.
    pub created: i64,
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
        let mut notes = Vec::new();
        if !self.names.is_empty() {
            notes = session.leases(OWNER).await?;
            notes.retain(|note| note.id.starts_with(&self.id) && note.id != self.id);
            let until = Instant::now() + ENDING;
            for note in &notes {
                // A ctr that has just lost its input ends by itself, and its lease with it.
                while Instant::now() < until && is_import_there(session, note).await? {
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        end_all(session, &notes, &self.id, collect).await
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

/// Ends leases, doing what those among them say that are notes; `last` after them.
async fn end_all<'a>(
    session: &Session,
    leases: impl IntoIterator<Item = &'a Listed>,
    last: &str,
    collect: bool,
) -> Result<(), Failure> {
    let mut starts = Vec::new();
    // What an import may do is taken back when none can do it any more.
    let mut discards = Vec::new();
    for lease in leases {
        if let Some(import) = lease.labels.get(IMPORT) {
            session.end_lease(import, false).await?;
        }
        if lease.labels.contains_key(STARTS) {
            starts.push(lease);
        } else if lease.labels.contains_key(DISCARDS) {
            discards.push(lease);
        } else if lease.id != last {
            session.end_lease(&lease.id, false).await?;
        }
    }
    for note in discards {
        discard::act_for(session, &note.labels).await?;
        if note.id != last {
            session.end_lease(&note.id, false).await?;
        }
    }
    // A collection tells what nothing holds from what a ctr's lease does.
    let collect = collect || !starts.is_empty();
    session.end_lease(last, collect).await?;
    for note in starts {
        end_started(session, note).await?;
    }
    Ok(())
}

/// Ends the lease of an import that died before that was noted, and then this note of its start.
/// Without being sure which lease it is the note stays, for a later run.
async fn end_started(session: &Session, note: &Listed) -> Result<(), Failure> {
    let starts = note.labels.get(STARTS).and_then(|at| at.split_once('@'));
    if let Some((run, since)) = starts
        && session.is_receiving(&format!("tar-{run}/")).await?
    {
        let since = since.parse().unwrap_or(i64::MAX);
        let until = Instant::now() + ENDING;
        loop {
            let all = session.leases(EXPIRE).await?;
            let noted = |id: &str| {
                let mut imports = all.iter().filter_map(|lease| lease.labels.get(IMPORT));
                imports.any(|import| import == id)
            };
            let is_new = |lease: &&Listed| {
                lease.created >= since && is_of_client(&lease.id) && !noted(&lease.id)
            };
            let mut new = all.iter().filter(is_new);
            match (new.next(), new.next()) {
                (Some(only), None) => {
                    session.end_lease(&only.id, false).await?;
                    break;
                }
                // Those of living imports are noted soon, or end.
                _ if Instant::now() < until => tokio::time::sleep(LOOK).await,
                _ => return Ok(()),
            }
        }
    }
    session.end_lease(&note.id, true).await
}

/// Tells whether a lease's name is one that containerd's client makes up: part of the time, and
/// something random.
fn is_of_client(id: &str) -> bool {
    id.split_once('-').is_some_and(|(time, random)| {
        !time.is_empty() && time.bytes().all(|b| b.is_ascii_digit()) && random.len() == 4
    })
}

/// Returns the lease that a name belongs to.
fn lease_of(name: &str) -> Option<&str> {
    let (id, _) = name.strip_prefix(STAGING)?.split_once(':')?;
    Some(id)
}

/// Sweeps, unless that was done in this session.
pub async fn sweep_once(session: &Session) {
    let sweep = async {
        // Others' leftovers are no reason to fail; a node that is lost shows itself.
        if let Err(e) = sweep(session).await {
            tracing::warn!(node = %session.node().name, error = %one_line(&e), "sweep");
        }
    };
    session.swept().get_or_init(|| sweep).await;
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
    let is_start = |lease: &&&Listed| lease.labels.contains_key(STARTS);
    // One collection, with the last of them, is enough. A start's note stays as long as others do:
    // what it could not tell for certain may be plain to the next run.
    let last = dead.iter().rfind(|lease| !is_start(lease));
    if let Some(last) = last.or(dead.last()) {
        end_all(session, dead.iter().copied(), &last.id, true).await?;
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

    #[test]
    fn a_lease_of_containerds_client_has_such_a_name() {
        for (id, is) in [
            ("209141650-Yus3", true),
            ("5223465-_-a1", true),
            ("209141650-", false),
            ("-Yus3", false),
            ("kindlift-1-a", false),
            ("209141650", false),
        ] {
            assert_eq!(is_of_client(id), is, "{id}");
        }
    }
}
