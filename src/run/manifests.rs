//! The images that Kubernetes manifests name, and where.
//!
//! Pods are found wherever a list of containers is, so that custom resources with a pod template
//! count. What is no string there, and templates that are not rendered, are not.

use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

use crate::error::{Error, Result};
use crate::reference::Reference;

/// The lists of containers in a pod's specification.
const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// Manifests nest far less.
const MAX_DEPTH: usize = 64;
/// What `kubectl apply -f FOLDER` reads.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A place in a manifest that names an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    /// The file as the user named it, or `-`.
    pub file: String,
    /// Which document of the file, from 1.
    pub document: usize,
    /// The object's kind; empty, if it has none.
    pub kind: String,
    /// The object's name; empty, if it has none.
    pub name: String,
    /// The object's namespace, if it says.
    pub namespace: Option<String>,
    /// The way to the container (or the volume) in the document: `spec.containers[0]`.
    pub path: String,
    /// The container's (or the volume's) name; empty, if it has none.
    pub container: String,
    /// The image as it is written.
    pub image: String,
    /// The pull policy as it is written.
    pub policy: Option<String>,
}

/// What the manifests hold.
#[derive(Debug, Default)]
pub(super) struct Manifests {
    /// How many documents were read; empty ones do not count.
    pub documents: usize,
    /// Where they name images, in order.
    pub uses: Vec<Use>,
}

/// Reads manifests from paths, or from stdin for `-`, and returns the images of all containers
/// in them, each once, in order.
///
/// # Errors
/// Usage error, naming the file and the document or the image that is wrong.
pub(super) fn images(paths: &[String]) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    for at in read(paths, false)?.uses {
        let image = Reference::parse(&at.image)
            .map_err(|e| e.within(format!("{} names an image that cannot be", at.file)))?;
        if !found.contains(&image) {
            found.push(image);
        }
    }
    Ok(found)
}

/// Returns the images that a text names.
///
/// # Errors
/// Usage error, naming the document and the line that is wrong.
pub(super) fn in_text(text: &str) -> Result<Vec<String>> {
    let mut manifests = Manifests::default();
    manifests.add("-", text)?;
    Ok(manifests.uses.into_iter().map(|at| at.image).collect())
}

/// Reads manifests from files, from the files of folders (their sub-folders too, if `recursive`)
/// and, for `-`, from stdin.
///
/// # Errors
/// Usage error, naming the file, the document and the line that is wrong.
pub(super) fn read(paths: &[String], recursive: bool) -> Result<Manifests> {
    let mut manifests = Manifests::default();
    for path in paths {
        if path == "-" {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|e| unreadable("stdin", e))?;
            manifests.add("-", &text)?;
            continue;
        }
        let files = if Path::new(path).is_dir() {
            let mut files = Vec::new();
            list(Path::new(path), recursive, &mut files).map_err(|e| unreadable(path, e))?;
            if files.is_empty() {
                return Err(Error::usage(format!("the folder {path} has no manifests"))
                    .hint("manifests end in .yaml, .yml or .json; -R looks into sub-folders too"));
            }
            files
        } else {
            vec![PathBuf::from(path)]
        };
        for file in files {
            let name = file.to_string_lossy();
            let text = std::fs::read_to_string(&file).map_err(|e| unreadable(&name, e))?;
            manifests.add(&name, &text)?;
        }
    }
    Ok(manifests)
}

fn unreadable(what: &str, e: std::io::Error) -> Error {
    Error::usage(format!("cannot read the manifests in {what}")).because(e)
}

/// Lists a folder's manifests in a fixed order. Links to folders are not followed: they may lead
/// back.
fn list(folder: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if recursive {
                list(&path, recursive, files)?;
            }
        } else if path.is_file()
            && path
                .extension()
                .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
        {
            files.push(path);
        }
    }
    Ok(())
}

impl Manifests {
    fn add(&mut self, file: &str, text: &str) -> Result<()> {
        for (i, document) in documents(text).into_iter().enumerate() {
            let mut value = document.map_err(|e| broken(file, i + 1, &e, text))?;
            // kubectl knows merge keys too.
            value
                .apply_merge()
                .map_err(|e| broken(file, i + 1, &e, text))?;
            if value.is_null() {
                continue;
            }
            self.documents += 1;
            let root = Object::default();
            let mut walk = Walk {
                file,
                document: i + 1,
                uses: &mut self.uses,
            };
            // `{{ .Values.image }}` is YAML too: a mapping whose key is a mapping.
            if !walk.value(&value, &root, "", 0) {
                let error = format!("{}: document {}: a key is no text", shown(file), i + 1);
                return Err(rendered_first(Error::usage(error)));
            }
        }
        Ok(())
    }
}

/// Splits a text into documents; nothing comes after one that cannot be read.
fn documents(text: &str) -> Vec<Result<Value, serde_yaml::Error>> {
    // JSON is almost YAML: not where it escapes characters in pairs.
    if text.trim_start().starts_with('{') {
        let read: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect();
        if let Ok(values) = read {
            return values.into_iter().map(Ok).collect();
        }
    }
    let mut documents = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = Value::deserialize(document);
        let last = value.is_err();
        documents.push(value);
        if last {
            break;
        }
    }
    documents
}

fn broken(file: &str, document: usize, e: &serde_yaml::Error, text: &str) -> Error {
    let line = match e.location() {
        Some(at) => format!(", line {}", at.line()),
        None => String::new(),
    };
    let file = shown(file);
    let error = Error::usage(format!(
        "{file}: document {document}{line}: this is no manifest"
    ))
    .because(e.to_string());
    if text.contains("{{") {
        rendered_first(error)
    } else {
        error.hint("it must be YAML or JSON, as `kubectl apply -f` takes it")
    }
}

fn rendered_first(error: Error) -> Error {
    error.hint("a template must be rendered first: `helm template … | kindlift lint -`")
}

fn shown(file: &str) -> &str {
    if file == "-" { "stdin" } else { file }
}

/// The object that a container belongs to.
#[derive(Debug, Clone, Default)]
struct Object {
    kind: String,
    name: String,
    namespace: Option<String>,
}

impl Object {
    /// Reads the head of an object. None, if the value is no object of its own: what lies within
    /// another is one if it could be applied alone; owner references have a kind too.
    fn read(value: &Value, depth: usize) -> Option<Self> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let kind = text(value.get("kind"))?;
        let metadata = value.get("metadata");
        let name = metadata.and_then(|m| m.get("name").or_else(|| m.get("generateName")));
        let own = depth == 0 || (value.get("apiVersion").is_some() && metadata.is_some());
        own.then(|| Self {
            kind,
            name: text(name).unwrap_or_default(),
            namespace: text(metadata.and_then(|m| m.get("namespace"))),
        })
    }
}

/// The walk through one document.
struct Walk<'a> {
    file: &'a str,
    document: usize,
    uses: &'a mut Vec<Use>,
}

impl Walk<'_> {
    /// Returns false where something is no manifest, YAML though it is.
    fn value(&mut self, value: &Value, object: &Object, path: &str, depth: usize) -> bool {
        if depth > MAX_DEPTH {
            return true;
        }
        match value {
            Value::Mapping(mapping) => {
                let own = Object::read(value, depth);
                let object = own.as_ref().unwrap_or(object);
                for (key, value) in mapping {
                    let Some(key) = key.as_str() else {
                        if key.is_mapping() || key.is_sequence() {
                            return false;
                        }
                        continue;
                    };
                    let path = join(path, key);
                    if let Value::Sequence(values) = value {
                        self.images(key, values, object, &path);
                    }
                    if !self.value(value, object, &path, depth + 1) {
                        return false;
                    }
                }
                true
            }
            Value::Sequence(values) => values
                .iter()
                .enumerate()
                .all(|(i, value)| self.value(value, object, &format!("{path}[{i}]"), depth + 1)),
            Value::Tagged(tagged) => self.value(&tagged.value, object, path, depth + 1),
            _ => true,
        }
    }

    /// Notes the images of a list of containers, or of volumes that are images.
    fn images(&mut self, key: &str, values: &[Value], object: &Object, path: &str) {
        for (i, value) in values.iter().enumerate() {
            let (image, policy) = match key {
                "volumes" => {
                    let image = value.get("image");
                    (
                        image.and_then(|image| image.get("reference")),
                        image.and_then(|image| image.get("pullPolicy")),
                    )
                }
                key if LISTS.contains(&key) => (value.get("image"), value.get("imagePullPolicy")),
                _ => return,
            };
            let text = |value: Option<&Value>| {
                let text = value.and_then(Value::as_str).unwrap_or_default();
                (!text.is_empty()).then(|| text.to_owned())
            };
            let Some(image) = text(image) else { continue };
            self.uses.push(Use {
                file: self.file.to_owned(),
                document: self.document,
                kind: object.kind.clone(),
                name: object.name.clone(),
                namespace: object.namespace.clone(),
                path: format!("{path}[{i}]"),
                container: text(value.get("name")).unwrap_or_default(),
                image,
                policy: text(policy),
            });
        }
    }
}

fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    match (path, key.chars().all(plain)) {
        ("", true) => key.to_owned(),
        (path, true) => format!("{path}.{key}"),
        (path, false) => format!("{path}[{key:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifests(text: &str) -> Manifests {
        let mut manifests = Manifests::default();
        manifests.add("k8s.yaml", text).unwrap();
        manifests
    }

    fn named(text: &str) -> Vec<String> {
        let uses = manifests(text).uses.into_iter();
        uses.map(|at| format!("{} {}/{} {}", at.image, at.kind, at.name, at.path))
            .collect()
    }

    #[test]
    fn finds_images_wherever_pods_are_described() {
        let text = "
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: p}
  spec: {containers: [{name: a, image: one:1}], initContainers: [{name: i, image: two:2}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {generateName: job-}
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: three:3}, {image: one:1}]}}}}}
---
kind: ConfigMap
data: {image: not-this}
---
";
        assert_eq!(
            named(text),
            [
                "one:1 Pod/p items[0].spec.containers[0]",
                "two:2 Pod/p items[0].spec.initContainers[0]",
                "three:3 CronJob/job- spec.jobTemplate.spec.template.spec.containers[0]",
                "one:1 CronJob/job- spec.jobTemplate.spec.template.spec.containers[1]",
            ]
        );
    }

    #[test]
    fn every_kind_that_makes_pods() {
        for kind in [
            "Deployment",
            "ReplicaSet",
            "StatefulSet",
            "DaemonSet",
            "Job",
            "ReplicationController",
            // Argo's and Knative's.
            "Rollout",
            "Service",
        ] {
            let text = format!(
                "{{apiVersion: v1, kind: {kind}, metadata: {{name: x}}, \
                 spec: {{template: {{spec: {{containers: [{{image: app}}]}}}}}}}}"
            );
            let expected = format!("app {kind}/x spec.template.spec.containers[0]");
            assert_eq!(named(&text), [expected]);
        }
        let template = "{apiVersion: v1, kind: PodTemplate, template: {spec: {ephemeralContainers: [{image: app}]}}}";
        assert_eq!(
            named(template),
            ["app PodTemplate/ template.spec.ephemeralContainers[0]"]
        );
    }

    #[test]
    fn images_that_are_volumes() {
        let text = "{kind: Pod, spec: {volumes: [{name: v, image: {reference: data, pullPolicy: Never}}, {name: w, emptyDir: {}}]}}";
        let uses = manifests(text).uses;
        assert_eq!(uses.len(), 1);
        assert_eq!(uses[0].policy.as_deref(), Some("Never"));
        assert_eq!(
            (uses[0].path.as_str(), uses[0].container.as_str()),
            ("spec.volumes[0]", "v")
        );
    }

    #[test]
    fn merge_keys_and_anchors() {
        let text = "x: &base {image: app:1, imagePullPolicy: Always}\n\
                    spec: {containers: [{<<: *base, name: a}]}\n";
        let uses = manifests(text).uses;
        assert_eq!(uses[0].image, "app:1");
        assert_eq!(uses[0].policy.as_deref(), Some("Always"));
    }

    #[test]
    fn json_as_programs_write_it() {
        let text = "{\n\t\"kind\": \"Pod\", \"metadata\": {\"name\": \"\\ud83d\\ude00\"},\n\
                    \t\"spec\": {\"containers\": [{\"image\": \"a\\/b\"}]}}\n{\"kind\": \"Pod\"}";
        let manifests = manifests(text);
        assert_eq!(manifests.documents, 2);
        assert_eq!(manifests.uses[0].image, "a/b");
    }

    #[test]
    fn tells_where_it_is_broken() {
        let mut manifests = Manifests::default();
        let error = manifests
            .add("k8s.yaml", "a: 1\n---\nb: 2\na: [")
            .unwrap_err();
        assert!(
            error.to_string().starts_with("k8s.yaml: document 2, line "),
            "{error}"
        );
        let error = manifests
            .add("-", "image: {{ .Values.image }}\n")
            .unwrap_err();
        assert!(
            error.to_string().starts_with("stdin: document 1"),
            "{error}"
        );
        assert!(error.next_step().unwrap().contains("helm template"));
    }

    /// Ten aliases of ten aliases and so on would be ten thousand million strings.
    #[test]
    fn aliases_do_not_grow_without_bound() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..10 {
            let inner = format!("*a{}, ", n - 1).repeat(10);
            text += &format!("a{n}: &a{n} [{}]\n", inner.trim_end_matches(", "));
        }
        let error = Manifests::default().add("bomb.yaml", &text).unwrap_err();
        assert!(error.causes()[0].contains("repetition limit"), "{error:?}");
    }

    #[test]
    fn deep_nesting_is_refused() {
        let error = Manifests::default()
            .add("deep.yaml", &"[".repeat(1_000))
            .unwrap_err();
        assert!(error.causes()[0].contains("recursion limit"), "{error:?}");
    }
}
