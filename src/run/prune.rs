//! `prune`: removes what kindlift loaded and later loads have superseded.
//!
//! Kind's kubelets collect no images, so dev images pile up on the nodes. Only names with our own
//! label are touched, and no image that has a name somebody else gave, or that a container uses.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use containerd_client::services::v1::Image as Record;
use futures_util::future::try_join_all;
use serde::Serialize;

use super::{Where, find};
use crate::cluster::Cluster;
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;
use crate::load;
use crate::lock::ClusterLock;
use crate::node::lease::Lease;
use crate::node::{Session, find as on_node, images, name};
use crate::reference::Reference;

/// How long the CRI may take to follow containerd's events.
const SETTLE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);

/// What to prune.
#[derive(Debug, Clone)]
pub struct PruneRequest {
    /// Only images of these names, whatever their tag; all, if empty.
    pub images: Vec<String>,
    /// How many images of each name stay, the newest ones.
    pub keep: usize,
    /// Remove only what was loaded at least this long ago.
    pub older_than: Duration,
    /// Remove; if not, only tell what would be.
    pub yes: bool,
    /// Where.
    pub place: Where,
}

/// What was pruned, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct Pruning {
    /// The cluster.
    pub cluster: String,
    /// Whether images were removed; if not, this is what would be.
    pub done: bool,
    /// Everything that kindlift loaded, by name and age, newest first.
    pub images: Vec<Pruned>,
}

impl Pruning {
    /// Returns how many images go.
    pub fn gone(&self) -> usize {
        let verdicts = self.images.iter().map(|image| image.verdict);
        verdicts
            .filter(|verdict| *verdict == Verdict::Remove)
            .count()
    }
}

/// An image that kindlift loaded.
#[derive(Debug, Clone, Serialize)]
pub struct Pruned {
    /// The repositories that it was loaded as, as Docker writes them.
    pub repositories: BTreeSet<String>,
    /// The names that it has, in full form.
    pub names: BTreeSet<String>,
    /// The digest of its manifest.
    pub manifest_digest: String,
    /// When it was loaded last, RFC 3339.
    pub loaded: String,
    /// How long ago that was, in seconds.
    pub age_seconds: u64,
    /// Bytes of its blobs as stored; none, if its documents are gone.
    pub size: Option<u64>,
    /// The nodes that have it.
    pub nodes: BTreeSet<String>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// What becomes of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It goes: later ones came, and nothing uses it.
    Remove,
    /// It stays, as one of the newest of its name.
    Newest,
    /// It stays: a container was made of it.
    InUse,
    /// It stays: it has a name that kindlift did not give.
    NamedByOthers,
    /// It stays: it is too young.
    Young,
}

/// What one node has of an image that kindlift loaded.
#[derive(Debug, Default)]
struct OnNode {
    /// The records that kindlift made.
    ours: Vec<Record>,
    /// Whether anybody else named it.
    others: bool,
    used: bool,
}

/// One image over all nodes, as far as deciding needs it.
#[derive(Debug)]
struct Candidate {
    repositories: BTreeSet<String>,
    loaded: SystemTime,
    used: bool,
    others: bool,
}

/// Removes superseded images from all nodes, or tells which those are.
///
/// # Errors
/// Usage error for a bad name; cluster error, if a node does not answer; load error, if one does
/// not let go of an image.
pub async fn prune(job: &Job, request: &PruneRequest) -> Result<Pruning> {
    let (cluster, nodes) = find(job, &request.place, false).await?;
    let sessions = load::open(&nodes, None, job).await?;
    prune_nodes(job, request, &cluster, &sessions).await
}

/// Does that over open sessions.
///
/// # Errors
/// As [`prune`].
pub(super) async fn prune_nodes(
    job: &Job,
    request: &PruneRequest,
    cluster: &Cluster,
    sessions: &[Arc<Session>],
) -> Result<Pruning> {
    let wanted = request
        .images
        .iter()
        .map(|name| Ok(Reference::parse(name)?.repository()))
        .collect::<Result<BTreeSet<_>>>()?;
    // A load in between could give a name to what was just found to have none.
    let lock = match request.yes {
        true => {
            let lock = ClusterLock::acquire(cluster, job.patience * 8);
            Some(job.cancel.unless(lock).await?)
        }
        false => None,
    };
    let looking = sessions.iter().map(|session| look(session));
    let mut found = job.cancel.unless(try_join_all(looking)).await?;
    let mut candidates = gather(&found);
    candidates
        .retain(|_, candidate| wanted.is_empty() || !candidate.repositories.is_disjoint(&wanted));
    let now = SystemTime::now();
    let verdicts = decide(&candidates, request.keep, request.older_than, now);
    let mut images = Vec::new();
    for (digest, candidate) in candidates {
        let verdict = verdicts[&digest];
        let describing = describe(digest, &candidate, verdict, now, sessions, &found);
        images.push((candidate.loaded, job.cancel.unless(describing).await?));
    }
    images.sort_by(|(a, left), (b, right)| (&left.repositories, b).cmp(&(&right.repositories, a)));
    if request.yes {
        for on_node in &mut found {
            on_node.retain(|digest, _| verdicts.get(digest) == Some(&Verdict::Remove));
        }
        let removing = sessions
            .iter()
            .zip(&found)
            .map(|(session, on_node)| remove(session, on_node));
        try_join_all(removing).await?;
        drop(lock);
        let settling = sessions
            .iter()
            .zip(&found)
            .map(|(session, on_node)| settle(session, on_node));
        job.cancel.unless(try_join_all(settling)).await?;
    }
    Ok(Pruning {
        cluster: cluster.name.clone(),
        done: request.yes,
        images: images.into_iter().map(|(_, image)| image).collect(),
    })
}

/// Finds what kindlift loaded into a node, by the digest that the names stand for.
async fn look(session: &Session) -> Result<HashMap<String, OnNode>> {
    let (records, used) = futures_util::try_join!(session.all_records(None), session.used())?;
    let mut found: HashMap<String, OnNode> = HashMap::new();
    for record in records {
        let Some(target) = &record.target else {
            continue;
        };
        let image = found.entry(target.digest.clone()).or_default();
        image.used |= used.contains(&record.name);
        if record.labels.contains_key(name::FOUND) {
            image.ours.push(record);
        } else {
            // The CRI's own record by ID goes with the last name.
            image.others |= !record.name.starts_with("sha256:");
        }
    }
    found.retain(|_, image| !image.ours.is_empty());
    Ok(found)
}

fn gather(found: &[HashMap<String, OnNode>]) -> BTreeMap<String, Candidate> {
    let mut candidates: BTreeMap<String, Candidate> = BTreeMap::new();
    for (digest, image) in found.iter().flatten() {
        let candidate = candidates.entry(digest.clone()).or_insert(Candidate {
            repositories: BTreeSet::new(),
            loaded: SystemTime::UNIX_EPOCH,
            used: false,
            others: false,
        });
        candidate.used |= image.used;
        candidate.others |= image.others;
        for record in &image.ours {
            let (loaded, asked) = loaded(record);
            candidate.loaded = candidate.loaded.max(loaded);
            let own = (!record.name.starts_with("sha256:")).then_some(record.name.as_str());
            candidate.repositories.extend(
                asked
                    .into_iter()
                    .chain(own)
                    .filter_map(|name| Reference::parse(name).ok())
                    .map(|name| name.repository()),
            );
        }
    }
    candidates
}

/// Reads when a name was given, and as what the image was asked for.
fn loaded(record: &Record) -> (SystemTime, Option<&str>) {
    let label = |key| record.labels.get(key).map(String::as_str);
    let time = label(name::FOUND)
        .and_then(|time| time.parse::<prost_types::Timestamp>().ok())
        .and_then(|time| SystemTime::try_from(time).ok());
    (time.unwrap_or(SystemTime::UNIX_EPOCH), label(name::ASKED))
}

/// Decides what goes: of each repository all but the newest ones, unless something needs them.
fn decide(
    candidates: &BTreeMap<String, Candidate>,
    keep: usize,
    older_than: Duration,
    now: SystemTime,
) -> HashMap<String, Verdict> {
    let mut by_repository: HashMap<&str, Vec<(SystemTime, &String)>> = HashMap::new();
    for (digest, candidate) in candidates {
        for repository in &candidate.repositories {
            let images = by_repository.entry(repository).or_default();
            images.push((candidate.loaded, digest));
        }
    }
    let mut newest: BTreeSet<&String> = BTreeSet::new();
    for images in by_repository.values_mut() {
        images.sort_by(|a, b| b.cmp(a));
        newest.extend(images.iter().take(keep).map(|(_, digest)| *digest));
    }
    let verdict = |digest: &String, candidate: &Candidate| {
        // A clock that was set back makes nothing old.
        let age = now.duration_since(candidate.loaded).unwrap_or_default();
        if candidate.used {
            Verdict::InUse
        } else if newest.contains(digest) {
            Verdict::Newest
        } else if candidate.others {
            Verdict::NamedByOthers
        } else if age < older_than {
            Verdict::Young
        } else {
            Verdict::Remove
        }
    };
    candidates
        .iter()
        .map(|(digest, candidate)| (digest.clone(), verdict(digest, candidate)))
        .collect()
}

async fn describe(
    digest: String,
    candidate: &Candidate,
    verdict: Verdict,
    now: SystemTime,
    sessions: &[Arc<Session>],
    found: &[HashMap<String, OnNode>],
) -> Result<Pruned> {
    let mut pruned = Pruned {
        repositories: candidate
            .repositories
            .iter()
            .filter_map(|name| Reference::parse(name).ok())
            .map(|name| name.familiar().trim_end_matches(":latest").to_owned())
            .collect(),
        names: BTreeSet::new(),
        manifest_digest: digest,
        loaded: prost_types::Timestamp::from(candidate.loaded).to_string(),
        age_seconds: now
            .duration_since(candidate.loaded)
            .unwrap_or_default()
            .as_secs(),
        size: None,
        nodes: BTreeSet::new(),
        verdict,
    };
    for (session, images) in sessions.iter().zip(found) {
        let Some(image) = images.get(&pruned.manifest_digest) else {
            continue;
        };
        pruned.nodes.insert(session.node().name.clone());
        let names = image.ours.iter().map(|record| record.name.clone());
        pruned
            .names
            .extend(names.filter(|name| !name.starts_with("sha256:")));
        if pruned.size.is_none()
            && let Some(target) = image.ours.first().and_then(|record| record.target.as_ref())
        {
            let read = on_node::read(session, &target.digest, &target.media_type).await?;
            pruned.size = read.ok().map(|image| image.size());
        }
    }
    Ok(pruned)
}

/// Removes names; the record by ID last, so that the CRI knows the image as long as it has any.
async fn remove(session: &Session, images: &HashMap<String, OnNode>) -> Result<()> {
    for image in images.values() {
        let (by_id, by_name): (Vec<_>, Vec<_>) = image
            .ours
            .iter()
            .partition(|record| record.name.starts_with("sha256:"));
        for record in by_name.into_iter().chain(by_id) {
            images::remove(session, record).await?;
        }
    }
    Ok(())
}

/// Waits until the node's disk is free and the CRI has noticed.
async fn settle(session: &Session, images: &HashMap<String, OnNode>) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    // Ending a lease is the one call that waits for a collection.
    let lease = Lease::create(session).await?;
    lease.end(session, true).await?;
    let until = Instant::now() + SETTLE;
    let ids = images
        .values()
        .flat_map(|image| &image.ours)
        .map(|record| record.name.as_str())
        .filter(|name| name.starts_with("sha256:"));
    for id in ids {
        loop {
            if session.shown(id).await?.is_none() {
                break;
            }
            if Instant::now() > until {
                return Err(Error::new(
                    ErrorKind::Verify,
                    format!(
                        "node {}: the CRI still shows {id}, which was removed",
                        session.node().name
                    ),
                )
                .hint(session.node().exec_hint("crictl images")));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn candidate(repositories: &[&str], hours: u32) -> Candidate {
        Candidate {
            repositories: repositories.iter().map(|r| (*r).to_owned()).collect(),
            loaded: SystemTime::UNIX_EPOCH + HOUR * hours,
            used: false,
            others: false,
        }
    }

    fn verdicts(
        candidates: Vec<(&str, Candidate)>,
        keep: usize,
        older_than: Duration,
    ) -> Vec<Verdict> {
        let order: Vec<String> = candidates.iter().map(|(d, _)| (*d).to_owned()).collect();
        let candidates = candidates
            .into_iter()
            .map(|(digest, candidate)| (digest.to_owned(), candidate))
            .collect();
        let now = SystemTime::UNIX_EPOCH + HOUR * 10;
        let decided = decide(&candidates, keep, older_than, now);
        order.iter().map(|digest| decided[digest]).collect()
    }

    #[test]
    fn the_newest_of_each_name_stay() {
        let candidates = vec![
            ("a3", candidate(&["a"], 3)),
            ("a1", candidate(&["a"], 1)),
            ("a2", candidate(&["a"], 2)),
            ("b0", candidate(&["b"], 0)),
            ("both", candidate(&["a", "c"], 0)),
        ];
        use Verdict::{Newest, Remove};
        assert_eq!(
            verdicts(candidates, 2, Duration::ZERO),
            [Newest, Remove, Newest, Newest, Newest]
        );
    }

    #[test]
    fn what_is_used_or_named_by_others_or_young_stays() {
        let mut used = candidate(&["a"], 1);
        used.used = true;
        let mut others = candidate(&["a"], 1);
        others.others = true;
        let candidates = vec![
            ("new", candidate(&["a"], 9)),
            ("used", used),
            ("others", others),
            ("young", candidate(&["a"], 8)),
            ("old", candidate(&["a"], 5)),
        ];
        use Verdict::{InUse, NamedByOthers, Newest, Remove, Young};
        assert_eq!(
            verdicts(candidates, 1, HOUR * 3),
            [Newest, InUse, NamedByOthers, Young, Remove]
        );
    }

    #[test]
    fn nothing_is_old_when_the_clock_was_set_back() {
        let candidates = vec![
            ("new", candidate(&["a"], 99)),
            ("old", candidate(&["a"], 98)),
        ];
        assert_eq!(
            verdicts(candidates, 1, Duration::from_secs(1)),
            [Verdict::Newest, Verdict::Young]
        );
    }
}
