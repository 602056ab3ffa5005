//! A name of its own for what one run builds, in the engine, for as long as the run needs it.
//!
//! The name that was asked for is no way to find what was built: another build may take it at any
//! moment, and Docker's containerd store drops an image with its last name. Docker pushes names, so
//! this is also the one that it pushes to us. A killed run leaves its hold; the next run removes it.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::owner::Owner;
use crate::push::{REPOSITORY, Target};

/// The repository of holds that nobody pushes. Nothing can be pulled from or pushed to this domain
/// (RFC 6761).
pub(super) const NOWHERE: &str = "kindlift.invalid/build";
/// How long the hold of a process stays that cannot be judged from here: of before a reboot, or of
/// another host that uses the same engine. No build takes as long.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The name under which a run finds what it has built.
#[derive(Debug, Clone)]
pub struct Hold {
    name: String,
}

impl Hold {
    /// Makes a name that no other run has; where the engine is to push it, if it is.
    pub fn new(target: Option<&Target>) -> Self {
        let name = target.map_or_else(|| format!("{NOWHERE}:{}", tag()), Target::name);
        Self { name }
    }

    /// Returns the whole name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Makes a tag that tells whose it is, and that no other run has.
pub(crate) fn tag() -> String {
    let random = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    // The owner's label has none of these in its parts.
    let owner = Owner::this().label().replace('/', "_");
    let now = seconds(SystemTime::now());
    format!("{owner}_{now}_{random:016x}")
}

/// Returns patterns for the repositories of all holds.
pub(super) fn repositories() -> [String; 2] {
    [NOWHERE.to_owned(), format!("127.0.0.1:*/{REPOSITORY}")]
}

/// Picks, of names, the holds whose run has ended.
pub(super) fn left<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let here = Owner::this();
    let now = seconds(SystemTime::now());
    let is_left = |name: &&str| {
        let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
        let mut parts = tag.rsplitn(3, '_');
        let (_, made) = (parts.next(), parts.next());
        let owner = parts.next().map(|owner| owner.replace('_', "/"));
        let dead = owner
            .and_then(|owner| Owner::parse(&owner))
            .and_then(|owner| owner.is_dead(&here));
        let made = made.and_then(|made| made.parse::<u64>().ok());
        dead.unwrap_or_else(|| {
            made.is_some_and(|made| made.saturating_add(LIFETIME.as_secs()) < now)
        })
    };
    names.filter(is_left).map(str::to_owned).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    fn left_of(names: &[&str]) -> Vec<String> {
        left(names.iter().copied())
    }

    fn target() -> Target {
        Target {
            port: 20_000,
            password: String::new(),
            tag: tag(),
        }
    }

    #[test]
    fn a_hold_is_a_name_that_engines_take() {
        let target = target();
        for hold in [Hold::new(None), Hold::new(Some(&target))] {
            let name = Reference::parse(hold.name()).unwrap();
            assert_eq!(name.to_string(), hold.name());
            assert_ne!(Hold::new(None).name(), hold.name());
        }
    }

    #[test]
    fn a_living_run_keeps_its_hold() {
        let names = [Hold::new(None), Hold::new(Some(&target()))];
        assert_eq!(left(names.iter().map(Hold::name)), [""; 0]);
    }

    #[test]
    fn a_dead_run_does_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = std::process::id().to_string();
        let names = [Hold::new(None), Hold::new(Some(&target()))];
        let dead = names.each_ref().map(|hold| {
            hold.name()
                .replacen(&format!("_{pid}_"), &format!("_{}_", child.id()), 1)
        });
        child.wait().unwrap();
        for (hold, dead) in names.iter().zip(&dead) {
            assert_ne!(dead, hold.name());
            assert_eq!(left_of(&[hold.name(), dead]), [dead.as_str()]);
        }
    }

    #[test]
    fn elsewhere_only_age_counts() {
        let now = seconds(SystemTime::now());
        let fresh = format!("{NOWHERE}:elsewhere.1_1_1_{now}_00");
        let old = format!("{NOWHERE}:elsewhere.1_1_1_{}_00", now - 2 * 24 * 3600);
        let others = ["127.0.0.1:5000/kindlift/load:now", "127.0.0.1:5000/a", ""];
        let names = [[&*fresh, &*old].as_slice(), &others].concat();
        assert_eq!(left_of(&names), [old]);
    }
}
