//! `skaffold.yaml`. A new one has kindlift as the builder; an existing one keeps its builders, and
//! gets `kindlift ensure` behind them.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::folder::Folder;
use super::yaml::{Lines, scalar};
use super::{Artifact, InitRequest, Plan, manifests};
use crate::error::{Error, Result};

const FILE: &str = "skaffold.yaml";
const ENSURE: &str = "exec kindlift ensure";
const SECONDS: u64 = 300;

/// Plans `skaffold.yaml`, and manifests where there are none.
///
/// # Errors
/// Usage error, if what is there cannot be added to.
pub fn plan(plan: &mut Plan, folder: &Folder, request: &InitRequest) -> Result<()> {
    let exists = plan.folder.join(FILE).exists();
    let mut names = request.images.clone();
    if exists {
        plan.edit(FILE, |old| add(old.unwrap_or_default(), request.force))?;
        let text = &plan.files[0].new;
        names = documents(text)?.iter().flat_map(images).collect();
    } else {
        let artifacts = folder.artifacts(&request.images)?;
        let writes_manifests = !folder.deploys();
        plan.edit(FILE, |_| Ok(write(&artifacts, folder, writes_manifests)))?;
        if writes_manifests {
            plan.edit("k8s.yaml", |_| Ok(manifests(&artifacts, folder)))?;
        }
        for chart in &folder.charts {
            plan.notes.push(format!(
                "add the Helm chart in ./{} to manifests.helm.releases of {FILE}",
                chart.display()
            ));
        }
        names.extend(artifacts.into_iter().map(|artifact| artifact.image));
    }
    for manifest in &folder.manifests {
        if manifest.images.iter().any(|image| names.contains(image)) {
            plan.notes.extend(manifest.always.iter().map(|line| {
                let path = manifest.path.display();
                format!(
                    "take imagePullPolicy: Always out of {path}:{line}: the kubelet would pull \
                     what no registry has"
                )
            }));
        }
    }
    plan.notes.push(
        "once per cluster: skaffold config set --kube-context kind-kind kind-disable-load true"
            .to_owned(),
    );
    Ok(())
}

/// Writes a new file.
fn write(artifacts: &[Artifact], folder: &Folder, writes_manifests: bool) -> String {
    let mut text = String::from(
        "apiVersion: skaffold/v4beta13\nkind: Config\nbuild:\n  \
         # Without this line, kind-disable-load makes Skaffold push to a registry.\n  \
         local: {push: false}\n  artifacts:\n",
    );
    for artifact in artifacts {
        let _ = writeln!(text, "  - image: {}", scalar(&artifact.image));
        if artifact.context() != std::path::Path::new(".") {
            let context = artifact.context().to_string_lossy();
            let _ = writeln!(text, "    context: {}", scalar(&context));
        }
        let file = artifact.odd_name();
        let flag = file.map(|file| format!(" --file {}", quoted(file)));
        let command = format!("exec kindlift build{}", flag.unwrap_or_default());
        let command = match file {
            Some(_) => serde_json::Value::from(command).to_string(),
            None => command,
        };
        let _ = writeln!(
            text,
            "    custom:\n      # `exec`, so that Skaffold's signals reach kindlift and not a \
             shell.\n      buildCommand: {command}\n      dependencies:\n        dockerfile: \
             {{path: {}}}",
            scalar(file.unwrap_or("Dockerfile"))
        );
    }
    text +=
        "test:\n# Runs even if Skaffold's cache skips the build, as it does for a new cluster.\n";
    for artifact in artifacts {
        text += &test(&artifact.image, 0);
    }
    let mut lists = String::new();
    let raw: Vec<String> = match writes_manifests {
        true => vec!["k8s.yaml".to_owned()],
        false => folder
            .plain()
            .map(|manifest| manifest.path.display().to_string())
            .collect(),
    };
    let paths = folder
        .kustomizations
        .iter()
        .map(|path| format!("./{}", path.display()));
    for (head, indent, paths) in [
        ("  rawYaml:\n", "  ", raw),
        ("  kustomize:\n    paths:\n", "    ", paths.collect()),
    ] {
        if !paths.is_empty() {
            lists += head;
        }
        for path in paths {
            let _ = writeln!(lists, "{indent}- {}", scalar(&path));
        }
    }
    if lists.is_empty() {
        lists += "  rawYaml: []\n";
    }
    text + "manifests:\n" + &lists + "deploy:\n  kubectl: {}\n"
}

fn test(image: &str, indent: usize) -> String {
    let lines = [
        format!("- image: {}", scalar(image)),
        "  custom:".to_owned(),
        format!("  - command: {ENSURE}"),
        format!("    timeoutSeconds: {SECONDS}"),
    ];
    let indent = " ".repeat(indent);
    lines.map(|line| format!("{indent}{line}\n")).concat()
}

/// Quotes a word for `sh` and for Skaffold's templates.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''")).replace("{{", r#"{{"{{"}}"#)
    }
}

/// Adds what is missing to an existing file, and makes sure that this is all that has changed.
fn add(old: &str, force: bool) -> Result<String> {
    let mut expected = documents(old)?;
    if expected.iter().all(|document| images(document).is_empty()) {
        return Err(Error::usage(format!("{FILE} has no build.artifacts"))
            .hint("name an image there, or move the file away to have it written anew"));
    }
    let mut lines = Lines::new(old);
    let places = lines.documents();
    if places.len() != expected.len() {
        return Err(cannot_add());
    }
    for (document, place) in expected.iter_mut().zip(places) {
        if images(document).is_empty() {
            continue;
        }
        check(document)?;
        push(document, &mut lines, &place, force)?;
        tests(document, &mut lines, &place)?;
    }
    let new = lines.finish();
    if documents(&new).is_ok_and(|documents| documents == expected) {
        Ok(new)
    } else {
        Err(cannot_add())
    }
}

fn cannot_add() -> Error {
    Error::usage(format!(
        "{FILE} is written in a way that kindlift cannot add to"
    ))
    .hint("add build.local.push and test.custom by hand, as `kindlift help skaffold` shows them")
}

fn documents(text: &str) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document)
            .map_err(|e| Error::usage(format!("{FILE} is no YAML")).because(e))?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

fn images(document: &Value) -> Vec<String> {
    let artifacts = document
        .get("build")
        .and_then(|build| build.get("artifacts"));
    let artifacts = artifacts.and_then(Value::as_sequence).into_iter().flatten();
    artifacts
        .filter_map(|artifact| artifact.get("image")?.as_str())
        .map(str::to_owned)
        .collect()
}

/// Refuses what no `kindlift ensure` can help.
fn check(document: &Value) -> Result<()> {
    let version = document
        .get("apiVersion")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let version = version.strip_prefix("skaffold/").unwrap_or(version);
    // test.custom came with v2beta13.
    let is_old = match version.strip_prefix("v2beta") {
        Some(number) => number.parse().is_ok_and(|number: u32| number < 13),
        None => version.starts_with("v1") || version.starts_with("v2alpha"),
    };
    if is_old {
        return Err(Error::usage(format!(
            "{FILE} is of version {version}, which has no test.custom"
        ))
        .hint("run `skaffold fix --overwrite` first"));
    }
    for elsewhere in ["cluster", "googleCloudBuild"] {
        if document
            .get("build")
            .is_some_and(|build| build.get(elsewhere).is_some())
        {
            return Err(Error::usage(format!(
                "{FILE} builds with {elsewhere}, so the image is never on this host"
            ))
            .hint("build.local, or a profile with it, is what kindlift can load from"));
        }
    }
    Ok(())
}

/// Sets build.local.push to false.
fn push(
    document: &mut Value,
    lines: &mut Lines<'_>,
    place: &std::ops::Range<usize>,
    force: bool,
) -> Result<()> {
    let build = document.get_mut("build").and_then(Value::as_mapping_mut);
    let build = build.ok_or_else(cannot_add)?;
    let local = build.entry("local".into()).or_insert(Value::Null);
    if local.is_null() {
        *local = Value::Mapping(Mapping::new());
    }
    let local = local.as_mapping_mut().ok_or_else(cannot_add)?;
    let was = local.insert("push".into(), Value::Bool(false));
    let build = lines
        .find(place.clone(), 0, "build")
        .ok_or_else(cannot_add)?;
    let at = lines.find(build.below.clone(), build.indent, "local");
    match (was, at) {
        (Some(Value::Bool(false)), _) => {}
        (Some(_), Some(local)) => {
            let place = local.line..local.below.end;
            let line = lines
                .line_with(place, "push: true")
                .ok_or_else(cannot_add)?;
            if !force {
                return Err(Error::usage(format!("{FILE}:{}: push is true", line + 1))
                    .hint("kindlift loads what was not pushed: --force makes it false"));
            }
            lines.replace(line, "push: true", "push: false");
        }
        (None, None) => {
            let indent = " ".repeat(build.indent);
            lines.insert(
                build.line + 1,
                format!(
                    "{indent}# Without this line, kind-disable-load makes Skaffold push to a \
                     registry.\n{indent}local: {{push: false}}\n"
                ),
            );
        }
        (None, Some(local)) if local.rest.is_empty() => {
            let indent = match local.below.is_empty() {
                true => build.indent + 2,
                false => local.indent,
            };
            lines.insert(
                local.line + 1,
                format!("{}push: false\n", " ".repeat(indent)),
            );
        }
        (None, Some(local)) if local.rest == "{}" => {
            lines.replace(local.line, "{}", "{push: false}");
        }
        (None, Some(local)) => lines.replace(local.line, "{", "{push: false, "),
        (Some(_), None) => return Err(cannot_add()),
    }
    Ok(())
}

/// Adds `kindlift ensure` to the tests of each image that does not have it.
fn tests(
    document: &mut Value,
    lines: &mut Lines<'_>,
    place: &std::ops::Range<usize>,
) -> Result<()> {
    let images = images(document);
    let document = document.as_mapping_mut().ok_or_else(cannot_add)?;
    let there = document.get("test").cloned().unwrap_or(Value::Null);
    let there = match there {
        Value::Null => Vec::new(),
        Value::Sequence(tests) => tests,
        _ => return Err(cannot_add()),
    };
    let has = |image: &String| {
        there.iter().any(|test| {
            let of_image = test.get("image").and_then(Value::as_str) == Some(image);
            let commands = test
                .get("custom")
                .and_then(Value::as_sequence)
                .into_iter()
                .flatten();
            let mut commands = commands.filter_map(|custom| custom.get("command")?.as_str());
            of_image && commands.any(|command| command.contains("kindlift ensure"))
        })
    };
    let missing: Vec<String> = images.into_iter().filter(|image| !has(image)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let added = |indent| {
        missing
            .iter()
            .map(|image| test(image, indent))
            .collect::<String>()
    };
    match lines.find(place.clone(), 0, "test") {
        Some(tests) if tests.rest.is_empty() && !tests.below.is_empty() => {
            lines.insert(tests.line + 1, added(tests.indent));
        }
        Some(tests) if tests.rest.is_empty() => lines.insert(tests.line + 1, added(0)),
        Some(tests) if tests.rest == "[]" => {
            lines.replace(tests.line, " []", "");
            lines.insert(tests.line + 1, added(0));
        }
        Some(_) => return Err(cannot_add()),
        None => {
            let build = lines
                .find(place.clone(), 0, "build")
                .ok_or_else(cannot_add)?;
            lines.insert(build.below.end, format!("test:\n{}", added(0)));
        }
    }
    let text: String = missing.iter().map(|image| test(image, 0)).collect();
    let entries: Vec<Value> = serde_yaml::from_str(&text).map_err(|_| cannot_add())?;
    let all = entries.into_iter().chain(there).collect();
    document.insert("test".into(), Value::Sequence(all));
    Ok(())
}
