//! Settings that are the same for every command: flags, then the environment, then the project's
//! `kindlift.toml`, then defaults; and where each value came from.
//!
//! A value from the environment or the file works as its flag would. What says *which* image, or
//! what to do with it, is no setting: that is the command's, Skaffold's or Tilt's.

mod file;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::ser::SerializeMap;

use crate::env::Env;
use crate::error::{Error, Result};

/// The name of the project's file.
pub const FILE: &str = "kindlift.toml";

/// Something that can be set.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file; its flag is the same with two dashes.
    pub key: &'static str,
    /// The variables that set it, strongest first.
    pub variables: &'static [&'static str],
    /// What a value looks like.
    pub form: Form,
    /// What happens if it is not set.
    pub default: &'static str,
}

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One of these words.
    Word(&'static [&'static str]),
    /// A name.
    Name,
    /// Names: a list in the file, with commas between them elsewhere.
    Names,
    /// Whole seconds, from 1 to this many.
    Seconds(u64),
}

/// Everything that can be set.
pub const SETTINGS: [Setting; 6] = [
    Setting {
        key: "engine",
        variables: &["KINDLIFT_ENGINE"],
        form: Form::Word(&["docker", "podman"]),
        default: "what Skaffold or Tilt looks into, else what answers",
    },
    Setting {
        key: "cluster",
        variables: &[CLUSTER],
        form: Form::Name,
        default: "the kube context's",
    },
    Setting {
        key: "kube-context",
        // What Skaffold deploys to is stronger than what a project usually uses.
        variables: &["SKAFFOLD_KUBE_CONTEXT", "KINDLIFT_KUBE_CONTEXT"],
        form: Form::Name,
        default: "the current one",
    },
    Setting {
        key: "nodes",
        variables: &["KINDLIFT_NODES"],
        form: Form::Names,
        default: "all",
    },
    Setting {
        key: "stall-timeout",
        variables: &["KINDLIFT_STALL_TIMEOUT"],
        form: Form::Seconds(3600),
        default: "15",
    },
    Setting {
        key: "silence-timeout",
        variables: &["KINDLIFT_SILENCE_TIMEOUT"],
        form: Form::Seconds(86400),
        default: "1800",
    },
];

/// Kind's own variable, which names the cluster for `kind` as well.
const CLUSTER: &str = "KIND_CLUSTER_NAME";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag.
    Flag(String),
    /// A variable.
    Environment(String),
    /// The file and the line in it.
    File(String),
}

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The value's parts: one, but for names.
    pub parts: Vec<String>,
    /// Where it came from.
    pub source: Source,
}

/// What is set, for each of [`SETTINGS`].
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The file that was found.
    pub file: Option<PathBuf>,
    values: Vec<(&'static str, Value)>,
}

impl Config {
    /// Reads the environment and the file of the project that a folder is in.
    ///
    /// # Errors
    /// Usage error, naming the variable, or the file and its line.
    pub fn read(env: &Env, folder: &Path) -> Result<Self> {
        let path = file::find(folder, env.home().as_deref());
        let in_file = match &path {
            Some(path) => file::read(path)?,
            None => Vec::new(),
        };
        let mut config = Self {
            file: path,
            values: Vec::new(),
        };
        for setting in &SETTINGS {
            let value = match in_environment(setting, env)? {
                Some(value) => Some(value),
                None => in_file
                    .iter()
                    .find(|(key, _)| *key == setting.key)
                    .map(|(_, value)| value.clone()),
            };
            if let Some(value) = value {
                config.values.push((setting.key, value));
            }
        }
        config.settle();
        Ok(config)
    }

    /// Returns what is set for a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let found = self.values.iter().find(|(other, _)| *other == key);
        found.map(|(_, value)| value)
    }

    /// Puts a flag's value over what is set.
    pub fn flag(&mut self, key: &'static str, parts: Vec<String>) {
        self.values.retain(|(other, _)| *other != key);
        let source = Source::Flag(format!("--{key}"));
        self.values.push((key, Value { parts, source }));
        self.settle();
    }

    /// Drops what a stronger source makes void: cluster and context say the same thing. What
    /// Skaffold deploys to does not: that it is the file's cluster is to be checked.
    fn settle(&mut self) {
        let source = |key| self.get(key).map(|value| &value.source);
        let skaffolds = Source::Environment("SKAFFOLD_KUBE_CONTEXT".to_owned());
        match (source("cluster"), source("kube-context")) {
            (Some(Source::File(_)), Some(context)) if *context != skaffolds => self.drop("cluster"),
            (Some(Source::Flag(_)), Some(_)) => self.drop("kube-context"),
            _ => {}
        }
    }

    fn drop(&mut self, key: &str) {
        self.values.retain(|(other, _)| *other != key);
    }

    /// Returns the environment to work in: a file's cluster stands where `KIND_CLUSTER_NAME` does,
    /// so that a kube context which is another cluster is an error and no guess.
    #[must_use]
    pub fn env(&self, env: &Env) -> Env {
        match self.get("cluster") {
            Some(value) if matches!(value.source, Source::File(_)) => {
                env.with(CLUSTER, Some(&value.parts.join(",")))
            }
            _ => env.clone(),
        }
    }

    /// Returns the values to take where a flag is not given.
    pub fn defaults(&self) -> impl Iterator<Item = (&'static str, &[String])> {
        let as_flags = self.values.iter().filter(|(key, _)| *key != "cluster");
        as_flags.map(|(key, value)| (*key, value.parts.as_slice()))
    }

    /// Tells whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// `{"file": PATH or null, "settings": {KEY: {"value": a text, a list of names or a number of
/// seconds, null if nothing is set, "source": "flag", "environment", "file" or "default", "at": the
/// flag, the variable, or the file and its line, "default": what happens if nothing is set}}}`.
impl Serialize for Config {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            value: Option<serde_json::Value>,
            source: &'a str,
            at: Option<&'a str>,
            default: &'a str,
        }
        let settings: std::collections::BTreeMap<_, _> = SETTINGS
            .iter()
            .map(|setting| {
                let value = self.get(setting.key);
                let (source, at) = match value.map(|value| &value.source) {
                    Some(Source::Flag(at)) => ("flag", Some(at.as_str())),
                    Some(Source::Environment(at)) => ("environment", Some(at.as_str())),
                    Some(Source::File(at)) => ("file", Some(at.as_str())),
                    None => ("default", None),
                };
                let shown = Shown {
                    value: value.map(|value| setting.form.json(&value.parts)),
                    source,
                    at,
                    default: setting.default,
                };
                (setting.key, shown)
            })
            .collect();
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("file", &self.file)?;
        map.serialize_entry("settings", &settings)?;
        map.end()
    }
}

fn in_environment(setting: &Setting, env: &Env) -> Result<Option<Value>> {
    let Some((variable, text)) = setting
        .variables
        .iter()
        .find_map(|name| env.get(name).map(|text| (*name, text)))
    else {
        return Ok(None);
    };
    let parts = match setting.form {
        Form::Names => text.split(',').map(str::to_owned).collect(),
        _ => vec![text.to_owned()],
    };
    if !parts.iter().all(|part| setting.form.allows(part)) {
        return Err(
            Error::usage(format!("{variable} is {text:?}")).hint(format!(
                "set it to {}, or unset it",
                setting.form.describe()
            )),
        );
    }
    Ok(Some(Value {
        parts,
        source: Source::Environment(variable.to_owned()),
    }))
}

impl Form {
    /// Returns a value as the file would have it.
    fn json(self, parts: &[String]) -> serde_json::Value {
        let text = parts.join(",");
        match self {
            Self::Names => parts.into(),
            Self::Seconds(_) => text.parse::<u64>().map_or(text.into(), Into::into),
            Self::Word(_) | Self::Name => text.into(),
        }
    }

    fn allows(self, text: &str) -> bool {
        match self {
            Self::Word(words) => words.contains(&text),
            Self::Name | Self::Names => !text.is_empty() && text.trim() == text,
            Self::Seconds(most) => text.parse().is_ok_and(|n: u64| (1..=most).contains(&n)),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::Word(words) => words.join(" or "),
            Self::Name => "a name".to_owned(),
            Self::Names => "names with commas between them".to_owned(),
            Self::Seconds(most) => format!("a number of seconds from 1 to {most}"),
        }
    }
}

#[cfg(test)]
mod tests;
