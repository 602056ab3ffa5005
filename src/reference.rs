//! Image names as the kubelet and the CRI read them.
//!
//! `app` is `docker.io/library/app:latest` to a kubelet, and only that full form finds the image
//! on a node. Parsing is oci-spec's; this module adds what a loader needs on top: the short form
//! that engines print, and derived names.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference as Parsed;

use crate::error::{Error, Result};

/// A fully qualified image reference: registry, repository, and a tag, a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    parsed: Parsed,
    had_tag: bool,
}

impl Reference {
    /// Parses a name as a user writes it.
    ///
    /// # Errors
    /// Usage error, naming the name and what is wrong with it.
    pub fn parse(name: &str) -> Result<Self> {
        let invalid = |why: String| {
            Error::usage(format!("`{name}` is not an image name: {why}")).hint(
                "write it as [registry/]repository[:tag], the repository in lower case, \
                 e.g. demo/app:dev",
            )
        };
        if name.starts_with('-') {
            return Err(invalid("it begins with a dash".into()));
        }
        if let Some(c) = name
            .chars()
            .find(|c| c.is_whitespace() || "'\"`".contains(*c))
        {
            return Err(invalid(format!("it contains {c:?}")));
        }
        let parsed = Parsed::from_str(name).map_err(|e| {
            let repository = name.split(['@']).next().unwrap_or(name);
            let repository = repository.rsplit_once(':').map_or(repository, |(r, _)| r);
            if repository.chars().any(char::is_uppercase) {
                invalid("the repository must be lower case".into())
            } else {
                invalid(e.to_string())
            }
        })?;
        // With a digest the tag says nothing: the CRI drops it, and so must the name on the node.
        let parsed = match parsed.digest() {
            Some(digest) => parsed.clone_with_digest(digest.to_owned()),
            None => parsed,
        };
        let had_tag = parsed.digest().is_some() || parsed.tag() != Some("latest") || {
            let last = name.rsplit('/').next().unwrap_or(name);
            last.contains(':')
        };
        Ok(Self { parsed, had_tag })
    }

    /// Tells whether a kubelet pulls this name whenever a pod starts: no tag, or `:latest`, makes
    /// the default pull policy Always.
    pub fn is_latest(&self) -> bool {
        self.parsed.digest().is_none() && self.parsed.tag() == Some("latest")
    }

    /// Tells whether the user wrote a tag or a digest.
    pub fn had_tag(&self) -> bool {
        self.had_tag
    }

    /// Returns the tag.
    pub fn tag(&self) -> Option<&str> {
        self.parsed.tag()
    }

    /// Returns the digest part, `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.parsed.digest()
    }

    /// Returns the registry's host, `docker.io` where none was written.
    pub fn registry(&self) -> &str {
        self.parsed.registry()
    }

    /// Returns the same repository under another tag.
    ///
    /// # Errors
    /// Usage error, if the tag is not one.
    pub fn with_tag(&self, tag: &str) -> Result<Self> {
        Self::parse(&format!("{}:{tag}", self.repository()))
    }

    /// Returns registry and repository, without tag and digest.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.parsed.registry(), self.parsed.repository())
    }

    /// Returns the short form that Docker prints: `docker.io/library/app:v1` is `app:v1`.
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        let short = whole.strip_prefix("docker.io/").unwrap_or(&whole);
        match short.strip_prefix("library/") {
            Some(rest) if !rest.contains('/') && whole.starts_with("docker.io/") => rest.to_owned(),
            _ => short.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    /// Writes the full form, the only one that a node's CRI finds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parsed.fmt(f)
    }
}

impl serde::Serialize for Reference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_names_as_the_kubelet_does() {
        for (written, full, short) in [
            ("app", "docker.io/library/app:latest", "app:latest"),
            ("app:dev", "docker.io/library/app:dev", "app:dev"),
            ("demo/app:dev", "docker.io/demo/app:dev", "demo/app:dev"),
            ("localhost/x:1", "localhost/x:1", "localhost/x:1"),
            ("reg:5000/x", "reg:5000/x:latest", "reg:5000/x:latest"),
            ("reg.io/a/b/c:t", "reg.io/a/b/c:t", "reg.io/a/b/c:t"),
            (
                "index.docker.io/library/app:1",
                "docker.io/library/app:1",
                "app:1",
            ),
        ] {
            let reference = Reference::parse(written).unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), short);
        }
    }

    #[test]
    fn keeps_a_digest() {
        let hex = "a".repeat(64);
        let reference = Reference::parse(&format!("app@sha256:{hex}")).unwrap();
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/app@sha256:{hex}")
        );
        assert_eq!(reference.tag(), None);
        assert!(!reference.is_latest());
    }

    #[test]
    fn a_digest_makes_the_tag_meaningless() {
        let hex = "a".repeat(64);
        let reference = Reference::parse(&format!("app:v1@sha256:{hex}")).unwrap();
        assert_eq!(
            reference.to_string(),
            format!("docker.io/library/app@sha256:{hex}")
        );
    }

    #[test]
    fn tells_latest_and_missing_tags() {
        assert!(Reference::parse("reg:5000/app").unwrap().is_latest());
        assert!(!Reference::parse("reg:5000/app").unwrap().had_tag());
        assert!(Reference::parse("app:latest").unwrap().had_tag());
        assert!(!Reference::parse("app:v1").unwrap().is_latest());
    }

    #[test]
    fn refuses_what_is_no_name_and_says_why() {
        for (name, why) in [
            ("", "at least one component"),
            ("-rf:x", "dash"),
            ("my app:dev", "' '"),
            ("app:de'v", "'\\''"),
            ("App:dev", "lower case"),
            ("app:dev:x", "invalid reference format"),
            ("app@sha256:12", "invalid reference format"),
            ("$(reboot)", "invalid reference format"),
        ] {
            let error = Reference::parse(name).unwrap_err();
            assert!(error.to_string().contains(why), "{name}: {error}");
        }
    }
}
