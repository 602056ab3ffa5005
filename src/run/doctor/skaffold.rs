//! Skaffold's settings in the folder at hand: who builds, who pushes, who loads.
//!
//! Three settings must agree, and each alone does harm: `kind-disable-load` without
//! `local.push: false` makes Skaffold push; without `kind-disable-load` it runs `kind load` on
//! top; and an artifact that kindlift does not build is then loaded by nobody.

use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde::Deserialize;

use super::Check;
use super::engine::Found;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

const FILES: [&str; 2] = ["skaffold.yaml", "skaffold.yml"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Document {
    build: Build,
    test: Vec<Test>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Build {
    local: Option<Local>,
    artifacts: Vec<Artifact>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Local {
    push: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Artifact {
    image: String,
    custom: Option<Custom>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Custom {
    build_command: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Test {
    image: String,
    custom: Vec<CustomTest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CustomTest {
    command: String,
}

/// Skaffold's own configuration, usually ~/.skaffold/config.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    global: Option<ContextConfig>,
    kube_contexts: Option<Vec<ContextConfig>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ContextConfig {
    kube_context: String,
    kind_disable_load: Option<bool>,
}

impl Config {
    /// Tells whether Skaffold's own loading is off for a context. As Skaffold reads it: the last
    /// entry whose pattern matches counts, and what is true globally stays true.
    fn disables_load(&self, context: &str) -> bool {
        let matches = |pattern: &str| {
            pattern == context || Regex::new(pattern).is_ok_and(|regex| regex.is_match(context))
        };
        let counts = |pattern: &str| match pattern.strip_prefix('!') {
            Some(pattern) => !matches(pattern),
            None => matches(pattern),
        };
        let mut own = self.kube_contexts.iter().flatten();
        let own = own.rfind(|entry| counts(&entry.kube_context));
        [own, self.global.as_ref()]
            .into_iter()
            .flatten()
            .any(|entry| entry.kind_disable_load == Some(true))
    }
}

/// Reads what is in a folder and in Skaffold's configuration, and judges it.
pub fn look(folder: &Path, env: &Env, context: Option<&str>, engine: &Found) -> Vec<Check> {
    let Some((file, text)) = FILES.iter().find_map(|name| {
        let text = std::fs::read_to_string(folder.join(name)).ok()?;
        Some((*name, text))
    }) else {
        return vec![Check::skipped(
            "skaffold",
            "no skaffold.yaml in this folder",
        )];
    };
    let documents = match documents(&text) {
        Ok(documents) => documents,
        Err(e) => {
            return vec![Check::error(
                "skaffold",
                &e.within(format!("{file} cannot be used")),
            )];
        }
    };
    let (path, config) = match config(env) {
        Ok(config) => config,
        Err(e) => return vec![Check::error("skaffold", &e)],
    };
    let mut checks = vec![builds(file, &documents)];
    if documents.iter().any(is_ours) {
        let disabled = context.map(|context| config.disables_load(context));
        checks.push(push(file, &documents, disabled));
        checks.push(load(context, disabled, path.as_deref()));
        if !engine.by_api {
            checks.push(Check::fail(
                "skaffold engine",
                ErrorKind::Engine,
                "Skaffold looks for the image through Docker's API, where this engine is not",
                "point DOCKER_HOST at the engine's socket (Podman: `systemctl --user start podman.socket`)",
            ));
        }
    }
    checks
}

fn documents(text: &str) -> Result<Vec<Document>> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| {
            let document = Option::<Document>::deserialize(document)
                .map_err(|e| Error::usage("it cannot be read").because(e))?;
            Ok(document.unwrap_or_default())
        })
        .collect()
}

fn config(env: &Env) -> Result<(Option<PathBuf>, Config)> {
    let path = env
        .path("SKAFFOLD_CONFIG")
        .or_else(|| Some(env.home()?.join(".skaffold/config")));
    let Some(text) = path
        .as_ref()
        .and_then(|path| std::fs::read_to_string(path).ok())
    else {
        return Ok((path, Config::default()));
    };
    let config = serde_yaml::from_str::<Option<Config>>(&text).map_err(|e| {
        let path = path.as_deref().unwrap_or(Path::new("")).display();
        Error::usage(format!("Skaffold's configuration {path} cannot be read")).because(e)
    })?;
    Ok((path, config.unwrap_or_default()))
}

fn command(artifact: &Artifact) -> Option<&str> {
    let custom = artifact.custom.as_ref()?;
    custom
        .build_command
        .contains("kindlift")
        .then_some(&custom.build_command)
}

fn is_ours(document: &Document) -> bool {
    document
        .build
        .artifacts
        .iter()
        .any(|a| command(a).is_some())
}

/// Who builds each artifact, and whether somebody looks after cache hits.
fn builds(file: &str, documents: &[Document]) -> Check {
    let name = "skaffold";
    let artifacts: Vec<&Artifact> = documents.iter().flat_map(|d| &d.build.artifacts).collect();
    let names = |these: &[&&Artifact]| {
        let names: Vec<&str> = these
            .iter()
            .map(|artifact| artifact.image.as_str())
            .collect();
        names.join(", ")
    };
    let (ours, others): (Vec<_>, Vec<_>) = artifacts.iter().partition(|a| command(a).is_some());
    if ours.is_empty() {
        return Check::warn(
            name,
            format!("{file}: no artifact is built with kindlift"),
            "`custom: {buildCommand: exec kindlift build}` as the README shows",
        );
    }
    if !others.is_empty() {
        return Check::warn(
            name,
            format!(
                "{file}: {} is not built with kindlift, nor loaded by it",
                names(&others)
            ),
            "build it with `custom: {buildCommand: exec kindlift build}`, or end its own build \
             command with `&& exec kindlift load`",
        );
    }
    let without_exec: Vec<_> = ours
        .iter()
        .copied()
        .filter(|a| command(a).is_some_and(|command| !command.contains("exec kindlift")))
        .collect();
    if !without_exec.is_empty() {
        return Check::warn(
            name,
            format!(
                "{file}: the command for {} is without exec",
                names(&without_exec)
            ),
            "write `exec kindlift …`: Skaffold's signals then reach kindlift, not a shell",
        );
    }
    let ensured = |artifact: &&&Artifact| {
        documents.iter().flat_map(|d| &d.test).any(|test| {
            test.image == artifact.image
                && test
                    .custom
                    .iter()
                    .any(|it| it.command.contains("kindlift ensure"))
        })
    };
    let unsure: Vec<_> = ours.iter().copied().filter(|a| !ensured(a)).collect();
    if !unsure.is_empty() {
        return Check::warn(
            name,
            format!(
                "{file}: when Skaffold's cache has {}, nobody looks whether the nodes do",
                names(&unsure)
            ),
            "add `test: [{image: …, custom: [{command: exec kindlift ensure}]}]`",
        );
    }
    Check::ok(
        name,
        format!("{file}: {} built and ensured with kindlift", names(&ours)),
    )
}

fn push(file: &str, documents: &[Document], disabled: Option<bool>) -> Check {
    let name = "skaffold push";
    let unset = documents
        .iter()
        .filter(|document| is_ours(document))
        .any(|document| document.build.local.as_ref().and_then(|local| local.push) != Some(false));
    let fix = format!("add `local: {{push: false}}` under `build:` in {file}");
    match (unset, disabled) {
        (false, _) => Check::ok(name, "local.push is false"),
        (true, Some(true)) => Check::fail(
            name,
            ErrorKind::Build,
            "kind-disable-load without `local.push: false` makes Skaffold push (PUSH_IMAGE=true), \
             and nothing is loaded",
            fix,
        ),
        (true, _) => Check::warn(
            name,
            "local.push is not false: with a local registry, or kind-disable-load, Skaffold pushes",
            fix,
        ),
    }
}

fn load(context: Option<&str>, disabled: Option<bool>, path: Option<&Path>) -> Check {
    let name = "skaffold load";
    match (context, disabled) {
        (Some(context), Some(true)) => Check::ok(name, format!("kind-disable-load for {context}")),
        (Some(context), _) => Check::warn(
            name,
            format!(
                "Skaffold runs its own `kind load` too: no kind-disable-load for {context}{}",
                path.map_or(String::new(), |path| format!(" in {}", path.display()))
            ),
            format!("skaffold config set --kube-context {context} kind-disable-load true"),
        ),
        (None, _) => Check::skipped(name, "there is no kube context"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::doctor::Verdict;

    const GOOD: &str = "
build:
  local: {push: false}
  artifacts:
  - image: demo/app
    custom: {buildCommand: exec kindlift build}
test:
- image: demo/app
  custom: [{command: exec kindlift ensure}]
";

    fn built(text: &str) -> Check {
        builds("skaffold.yaml", &documents(text).unwrap())
    }

    fn pushed(text: &str, disabled: Option<bool>) -> Verdict {
        push("skaffold.yaml", &documents(text).unwrap(), disabled).verdict
    }

    #[test]
    fn the_readme_is_good() {
        assert_eq!(built(GOOD).verdict, Verdict::Ok, "{:?}", built(GOOD));
        assert_eq!(pushed(GOOD, Some(true)), Verdict::Ok);
        assert_eq!(pushed(GOOD, Some(false)), Verdict::Ok);
    }

    #[test]
    fn each_trap_is_seen() {
        let says = |text: &str, finding: &str| {
            let check = built(text);
            assert_eq!(check.verdict, Verdict::Warn, "{check:?}");
            assert!(check.finding.contains(finding), "{check:?}");
        };
        says("build: {artifacts: [{image: a}]}", "no artifact");
        says(
            &GOOD.replace("exec kindlift build", "kindlift build"),
            "without exec",
        );
        says(&GOOD[..GOOD.find("test:").unwrap()], "cache");
        says(
            &GOOD.replace("artifacts:", "artifacts:\n  - image: other"),
            "other is not built",
        );
        let pushing = GOOD.replace("{push: false}", "{}");
        assert_eq!(pushed(&pushing, Some(true)), Verdict::Fail);
        assert_eq!(pushed(&pushing, Some(false)), Verdict::Warn);
        assert_eq!(pushed(&pushing, None), Verdict::Warn);
        assert!(documents("build: [").is_err());
    }

    #[test]
    fn contexts_are_patterns() {
        let config = |text: &str| serde_yaml::from_str::<Config>(text).unwrap();
        let one = config("kubeContexts: [{kube-context: 'kind-.*', kind-disable-load: true}]");
        assert!(one.disables_load("kind-dev"));
        assert!(!one.disables_load("work"));
        let last = config(
            "kubeContexts: [{kube-context: kind-a, kind-disable-load: true}, {kube-context: kind-a},\
             {kube-context: '!kind-a', kind-disable-load: true}]",
        );
        assert!(!last.disables_load("kind-a"));
        assert!(last.disables_load("kind-b"));
        let global =
            config("global: {kind-disable-load: true}\nkubeContexts: [{kube-context: kind-a}]");
        assert!(global.disables_load("kind-a"));
        assert!(global.disables_load("kind-b"));
        assert!(!Config::default().disables_load("kind-a"));
    }
}
