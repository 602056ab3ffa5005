//! The images that Kubernetes manifests name.

use std::io::Read;

use serde::Deserialize;
use serde_yaml::Value;

use crate::error::{Error, Result};
use crate::reference::Reference;

/// The lists of containers in a pod's specification.
const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];
/// Manifests nest far less.
const MAX_DEPTH: usize = 64;

/// Reads manifests from paths, or from stdin for `-`, and returns the images of all containers
/// in them, each once, in order.
///
/// # Errors
/// Usage error, naming the file and the document or the image that is wrong.
pub fn images(paths: &[String]) -> Result<Vec<Reference>> {
    let mut found = Vec::new();
    for path in paths {
        let text = read(path)?;
        for name in in_text(&text).map_err(|e| e.within(format!("{path} cannot be used")))? {
            let image = Reference::parse(&name)
                .map_err(|e| e.within(format!("{path} names an image that cannot be")))?;
            if !found.contains(&image) {
                found.push(image);
            }
        }
    }
    Ok(found)
}

fn read(path: &str) -> Result<String> {
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin().read_to_string(&mut text).map(drop),
        path => std::fs::read_to_string(path).map(|read| text = read),
    };
    read.map_err(|e| Error::usage(format!("cannot read the manifests in {path}")).because(e))?;
    Ok(text)
}

pub(super) fn in_text(text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (i, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let value = Value::deserialize(document)
            .map_err(|e| Error::usage(format!("document {} is no YAML", i + 1)).because(e))?;
        collect(&value, &mut found, 0);
    }
    Ok(found)
}

/// Looks for lists of containers at any depth, so that custom resources with pod templates count.
fn collect(value: &Value, found: &mut Vec<String>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    match value {
        Value::Mapping(mapping) => {
            for (key, value) in mapping {
                if key.as_str().is_some_and(|key| LISTS.contains(&key))
                    && let Value::Sequence(containers) = value
                {
                    let images = containers.iter().filter_map(|c| c.get("image")?.as_str());
                    found.extend(images.filter(|image| !image.is_empty()).map(str::to_owned));
                }
                collect(value, found, depth + 1);
            }
        }
        Value::Sequence(values) => values
            .iter()
            .for_each(|value| collect(value, found, depth + 1)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_images_wherever_pods_are_described() {
        let text = "
apiVersion: v1
kind: List
items:
- kind: Pod
  spec: {containers: [{name: a, image: one:1}], initContainers: [{name: i, image: two:2}]}
---
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: three:3}, {image: one:1}]}}}}}
---
kind: ConfigMap
data: {image: not-this}
---
";
        assert_eq!(
            in_text(text).unwrap(),
            ["one:1", "two:2", "three:3", "one:1"]
        );
    }

    #[test]
    fn tells_which_document_is_broken() {
        let error = in_text("a: 1\n---\na: [").unwrap_err();
        assert!(error.to_string().contains("document 2"), "{error}");
    }
}
