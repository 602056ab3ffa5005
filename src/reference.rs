//! Image names as the kubelet and the CRI read them.
//!
//! `app` is `docker.io/library/app:latest` to a kubelet, and only that full form finds the image
//! on a node. The grammar is that of github.com/distribution/reference. It is read by hand here:
//! the regular expression of the crate that has it takes 40 ms to compile, at every start.

use std::fmt;
use std::hash::{Hash, Hasher};

use crate::error::{Error, Result};
use crate::image::Digest;

/// The longest repository, in bytes.
const MAX_REPOSITORY: usize = 255;
/// The longest tag, in bytes.
const MAX_TAG: usize = 128;

/// A fully qualified image reference: registry, repository, and a tag or a digest.
#[derive(Debug, Clone)]
pub struct Reference {
    registry: String,
    repository: String,
    /// None only where there is a digest: with one, the CRI drops the tag.
    tag: Option<String>,
    digest: Option<String>,
    had_tag: bool,
    had_registry: bool,
}

/// Two names are the same if a kubelet reads them as the same, however they were written.
impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for Reference {}

impl Hash for Reference {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl Reference {
    fn parts(&self) -> (&str, &str, Option<&str>, Option<&str>) {
        let (tag, digest) = (self.tag.as_deref(), self.digest.as_deref());
        (&self.registry, &self.repository, tag, digest)
    }

    /// Parses a name as a user writes it.
    ///
    /// # Errors
    /// Usage error, naming the name and what is wrong with it.
    pub fn parse(name: &str) -> Result<Self> {
        read(name).map_err(|why| {
            Error::usage(format!("`{name}` is not an image name: {why}")).hint(
                "write it as [registry/]repository[:tag], the repository in lower case, \
                 e.g. demo/app:dev",
            )
        })
    }

    /// Tells whether a kubelet pulls this name whenever a pod starts: no tag, or `:latest`, makes
    /// the default pull policy Always.
    pub fn is_latest(&self) -> bool {
        self.tag.as_deref() == Some("latest")
    }

    /// Tells whether the user wrote a tag or a digest.
    pub fn had_tag(&self) -> bool {
        self.had_tag
    }

    /// Tells whether the user wrote a registry.
    pub fn had_registry(&self) -> bool {
        self.had_registry
    }

    /// Returns the tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest part, `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns the registry's host, `docker.io` where none was written.
    pub fn registry(&self) -> &str {
        &self.registry
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
        format!("{}/{}", self.registry, self.repository)
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

/// Reads a reference; the error says what is wrong.
fn read(name: &str) -> Result<Reference, String> {
    if name.is_empty() {
        return Err("it is empty".into());
    }
    if name.starts_with('-') {
        return Err("it begins with a dash".into());
    }
    if let Some(c) = name
        .chars()
        .find(|c| c.is_whitespace() || "'\"`".contains(*c))
    {
        return Err(format!("it contains {c:?}"));
    }
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    // A colon before the last slash belongs to a port.
    let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match rest[after_slash..].find(':') {
        Some(at) => (
            &rest[..after_slash + at],
            Some(&rest[after_slash + at + 1..]),
        ),
        None => (rest, None),
    };
    if let Some(digest) = digest {
        digest.parse::<Digest>().map_err(|e| e.to_string())?;
    }
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(format!("{tag:?} is no tag"));
    }
    let (registry, repository) = split_registry(path);
    if !is_registry(registry) {
        return Err(format!("{registry:?} is no registry"));
    }
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Err("the repository must be lower case".into());
    }
    if repository.len() > MAX_REPOSITORY {
        return Err(format!(
            "the repository is longer than {MAX_REPOSITORY} characters"
        ));
    }
    if !repository.split('/').all(is_component) {
        return Err(format!("{repository:?} is no repository"));
    }
    let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    if path.len() == 64 && path.chars().all(is_hex) {
        return Err("it looks like an image ID".into());
    }
    let official = registry == "docker.io" && !repository.contains('/');
    Ok(Reference {
        registry: registry.to_owned(),
        repository: if official {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        },
        tag: digest.is_none().then(|| tag.unwrap_or("latest").to_owned()),
        digest: digest.map(str::to_owned),
        had_tag: tag.is_some() || digest.is_some(),
        had_registry: path.len() > repository.len(),
    })
}

/// Splits a name into registry and repository: the first part is a registry if it looks like a
/// host, as Docker has it.
fn split_registry(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some(("index.docker.io", rest)) => ("docker.io", rest),
        Some((first, rest))
            if first == "localhost"
                || first.contains(['.', ':'])
                || first.chars().any(|c| c.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => ("docker.io", path),
    }
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let address = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    (address || host.split('.').all(label))
        && port.is_none_or(|port| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()))
}

/// Lower-case letters and digits, with one dot, one or two underscores, or dashes between them.
fn is_component(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|c| word(*c)) && bytes.last().is_some_and(|c| word(*c));
    ends && bytes
        .split(|c| word(*c))
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, b"." | b"_" | b"__") || between.iter().all(|c| *c == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= MAX_TAG
        && text.starts_with(word)
        && text.chars().all(|c| word(c) || c == '.' || c == '-')
}

impl fmt::Display for Reference {
    /// Writes the full form, the only one that a node's CRI finds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
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
                "ns/a.b_c__d---e:T.a-g_",
                "docker.io/ns/a.b_c__d---e:T.a-g_",
                "ns/a.b_c__d---e:T.a-g_",
            ),
            ("[::1]:5000/x:1", "[::1]:5000/x:1", "[::1]:5000/x:1"),
            ("Upper/x:1", "Upper/x:1", "Upper/x:1"),
            (
                "test.com:5000",
                "docker.io/library/test.com:5000",
                "test.com:5000",
            ),
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
    fn names_are_the_same_however_they_are_written() {
        let same = |one: &str, other: &str| {
            Reference::parse(one).unwrap() == Reference::parse(other).unwrap()
        };
        assert!(same("app", "docker.io/library/app:latest"));
        assert!(same("demo/app:1", "index.docker.io/demo/app:1"));
        assert!(!same("app:1", "app:2"));
        assert!(!same("app:1", "localhost/app:1"));
    }

    #[test]
    fn tells_whether_a_registry_was_written() {
        for (name, had) in [
            ("app", false),
            ("demo/app:1", false),
            ("docker.io/app", true),
            ("index.docker.io/library/app", true),
            ("localhost/app", true),
            ("reg:5000/app", true),
        ] {
            assert_eq!(
                Reference::parse(name).unwrap().had_registry(),
                had,
                "{name}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_name_and_says_why() {
        for (name, why) in [
            ("", "empty"),
            ("-rf:x", "dash"),
            ("my app:dev", "' '"),
            ("app:de'v", "'\\''"),
            ("App:dev", "lower case"),
            ("app:dev:x", "no tag"),
            ("app:", "no tag"),
            ("app:.x", "no tag"),
            ("app@sha256:12", "not a sha256 digest"),
            ("$(reboot)", "no repository"),
            ("a//b", "no repository"),
            ("a/", "no repository"),
            ("a..b", "no repository"),
            ("a_-b", "no repository"),
            ("reg.io:port/x", "no registry"),
            ("-reg.io/x", "dash"),
            ("../x", "no registry"),
            (&"a".repeat(64), "image ID"),
            (&"a/".repeat(200), "longer than"),
        ] {
            let error = Reference::parse(name).unwrap_err();
            assert!(error.to_string().contains(why), "{name}: {error}");
        }
    }
}
