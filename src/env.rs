//! The environment as a value. Only the binary reads the real one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// A snapshot of environment variables. Children are given exactly this one.
#[derive(Debug, Clone, Default)]
pub struct Env {
    vars: BTreeMap<OsString, OsString>,
}

impl Env {
    /// Makes an environment from pairs.
    pub fn new<K: Into<OsString>, V: Into<OsString>>(
        vars: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self {
            vars: vars
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        }
    }

    /// Returns a variable that is set, not empty and UTF-8.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars
            .get(std::ffi::OsStr::new(name))
            .and_then(|v| v.to_str())
            .filter(|v| !v.is_empty())
    }

    /// Returns a variable as a path, if it is set and not empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.vars
            .get(std::ffi::OsStr::new(name))
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    }

    /// Tells whether a variable is set, be it empty.
    pub fn has(&self, name: &str) -> bool {
        self.vars.contains_key(std::ffi::OsStr::new(name))
    }

    /// Returns the home folder.
    pub fn home(&self) -> Option<PathBuf> {
        self.path("HOME")
    }

    /// Returns a copy in which one variable has another value, or none.
    #[must_use]
    pub fn with(&self, name: &str, value: Option<&str>) -> Self {
        let mut vars = self.vars.clone();
        match value {
            Some(value) => vars.insert(name.into(), value.into()),
            None => vars.remove(std::ffi::OsStr::new(name)),
        };
        Self { vars }
    }

    /// Iterates over all variables.
    pub fn iter(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.vars.iter()
    }
}
