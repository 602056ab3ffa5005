//! A name of its own for what one run builds, in the engine, for as long as the run needs it.
//!
//! The name that was asked for is no way to find what was built: another build may take it at any
//! moment, and Docker's containerd store drops an image with its last name. A killed run leaves its
//! hold; the next run removes it.

use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::owner::Owner;

/// The repository of all holds. Nothing can be pulled from or pushed to this domain (RFC 6761).
pub(super) const REPOSITORY: &str = "kindlift.invalid/build";
/// How long the hold of a process stays that cannot be judged from here: of before a reboot, or of
/// another host that uses the same engine. No build takes as long.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The name under which a run finds what it has built.
#[derive(Debug, Clone)]
pub struct Hold {
    tag: String,
}

impl Hold {
    /// Makes a name that no other run has.
    #[expect(clippy::new_without_default, reason = "each one is another")]
    pub fn new() -> Self {
        let random = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        // The owner's label has none of these in its parts.
        let owner = Owner::this().label().replace('/', "_");
        let now = seconds(SystemTime::now());
        Self {
            tag: format!("{owner}_{now}_{random:016x}"),
        }
    }

    /// Returns the whole name.
    pub fn name(&self) -> String {
        name(&self.tag)
    }
}

/// Returns the name of the hold with a tag.
pub(super) fn name(tag: &str) -> String {
    format!("{REPOSITORY}:{tag}")
}

/// Picks, of holds' tags, those whose run has ended.
pub(super) fn left<'a>(tags: impl Iterator<Item = &'a str>) -> Vec<String> {
    let here = Owner::this();
    let now = seconds(SystemTime::now());
    let is_left = |tag: &&str| {
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
    tags.filter(is_left).map(str::to_owned).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;

    fn left_of(tags: &[&str]) -> Vec<String> {
        left(tags.iter().copied())
    }

    #[test]
    fn a_hold_is_a_name_that_engines_take() {
        let hold = Hold::new();
        let name = Reference::parse(&hold.name()).unwrap();
        assert_eq!(name.to_string(), hold.name());
        assert_ne!(Hold::new().name(), hold.name());
    }

    #[test]
    fn a_living_run_keeps_its_hold() {
        assert_eq!(left_of(&[&Hold::new().tag]), [""; 0]);
    }

    #[test]
    fn a_dead_run_does_not() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = std::process::id().to_string();
        let tag = Hold::new().tag;
        let dead = tag.replacen(&format!("_{pid}_"), &format!("_{}_", child.id()), 1);
        child.wait().unwrap();
        assert_ne!(dead, tag);
        assert_eq!(left_of(&[&tag, &dead]), [dead]);
    }

    #[test]
    fn elsewhere_only_age_counts() {
        let now = seconds(SystemTime::now());
        let fresh = format!("elsewhere.1_1_1_{now}_00");
        let old = format!("elsewhere.1_1_1_{}_00", now - 2 * 24 * 3600);
        assert_eq!(left_of(&[&fresh, &old, "not-ours", ""]), [old]);
    }
}
