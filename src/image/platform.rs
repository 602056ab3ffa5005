//! Platforms, and which of them a node can run.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// An operating system, an architecture and perhaps a variant, in Go's names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// `v7`, `v8`, …
    pub variant: Option<String>,
}

impl Platform {
    /// Makes a Linux platform.
    pub fn linux(architecture: &str, variant: Option<&str>) -> Self {
        Self::new("linux", architecture, variant)
    }

    /// Makes a platform, with the default variants (arm64/v8, arm/v7, amd64/v1) folded the way
    /// containerd's platforms package does.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let architecture = match architecture {
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            "i386" | "i686" => "386",
            "armhf" | "armv7l" => "arm",
            other => other,
        };
        let variant = variant.filter(|v| !v.is_empty());
        let variant = match (architecture, variant) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
            ("arm", None) => Some("v7"),
            (_, variant) => variant,
        };
        Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Makes the platform of a node from `uname -m`.
    pub fn of_machine(machine: &str) -> Self {
        match machine {
            "armv6l" => Self::linux("arm", Some("v6")),
            "armv7l" | "armv8l" => Self::linux("arm", Some("v7")),
            "mips64" => Self::linux("mips64le", None),
            "loongarch64" => Self::linux("loong64", None),
            other => Self::linux(other, None),
        }
    }

    /// Tells whether a machine of this platform runs images of another without emulation:
    /// same system and architecture, and a variant that is no newer (arm/v7 runs arm/v6).
    pub fn runs(&self, image: &Platform) -> bool {
        // Every amd64 kernel of a distribution runs 32-bit programs; containerd takes that for
        // granted too.
        let same = self.architecture == image.architecture
            || (self.architecture == "amd64" && image.architecture == "386");
        self.os == image.os && same && image.level() <= self.level()
    }

    /// Orders images that [`Platform::runs`] accepts: the closest variant is best.
    pub fn level(&self) -> u32 {
        let digits = |v: &str| v.trim_start_matches('v').parse().unwrap_or(0);
        match (self.architecture.as_str(), self.variant.as_deref()) {
            ("arm64", None) => 8,
            ("amd64", None) => 1,
            (_, None) => 0,
            // arm64/v8.1, v9: the part before the dot orders well enough.
            (_, Some(v)) => digits(v.split('.').next().unwrap_or(v)),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl serde::Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |p: &&str| {
            !p.is_empty()
                && p.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        match parts.as_slice() {
            [os, arch] if parts.iter().all(&word) => Ok(Self::new(os, arch, None)),
            [os, arch, variant] if parts.iter().all(word) => Ok(Self::new(os, arch, Some(variant))),
            _ => Err(Error::usage(format!("`{text}` is not a platform"))
                .hint("write it as os/architecture[/variant], e.g. linux/arm64")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn folds_default_variants() {
        assert_eq!(platform("linux/arm64/v8"), platform("linux/arm64"));
        assert_eq!(platform("linux/x86_64"), platform("linux/amd64"));
        assert_eq!(platform("linux/arm").to_string(), "linux/arm/v7");
        assert_eq!(Platform::of_machine("aarch64"), platform("linux/arm64"));
    }

    #[test]
    fn newer_variants_run_older_ones() {
        assert!(platform("linux/arm/v7").runs(&platform("linux/arm/v6")));
        assert!(!platform("linux/arm/v6").runs(&platform("linux/arm/v7")));
        assert!(platform("linux/amd64").runs(&platform("linux/386")));
        assert!(!platform("linux/386").runs(&platform("linux/amd64")));
        assert!(!platform("linux/amd64").runs(&platform("linux/arm64")));
        assert!(!platform("linux/amd64").runs(&platform("linux/amd64/v3")));
        assert!(!platform("linux/amd64").runs(&platform("windows/amd64")));
    }

    #[test]
    fn refuses_what_is_no_platform() {
        for text in ["", "linux", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
