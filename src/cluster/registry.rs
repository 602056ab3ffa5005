//! The local registry that a cluster documents: the ConfigMap `local-registry-hosting` of
//! KEP-1755, which Skaffold and Tilt read too.
//!
//! Asked only where the answer changes something, and never of a cluster elsewhere: a build must
//! not reach out to whatever the current context happens to be.

use std::time::Duration;

use serde::Deserialize;

use super::kubeconfig::{self, Context};
use super::{api, choose};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::reference::Reference;

/// Where the ConfigMap is.
const PATH: &str = "/api/v1/namespaces/kube-public/configmaps/local-registry-hosting";
/// What it holds.
const KEY: &str = "localRegistryHosting.v1";
/// How long an answer is waited for: the API server is on this machine.
const DEADLINE: Duration = Duration::from_secs(3);

/// A registry beside a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalRegistry {
    /// Where to push, seen from outside the cluster: `localhost:5001`, perhaps with a path.
    pub host: String,
    /// What pods' images are called, if not by `host`.
    #[serde(default)]
    pub host_from_container_runtime: Option<String>,
    /// Where programs in pods find it.
    #[serde(default)]
    pub host_from_cluster_network: Option<String>,
    /// Where people can read about it.
    #[serde(default)]
    pub help: Option<String>,
}

impl LocalRegistry {
    /// Returns the name to push an image under, and the one for pods; None, if the user has said
    /// which registry the image belongs to.
    ///
    /// # Errors
    /// Cluster error, if the registry's host makes no name.
    pub fn names(&self, image: &Reference) -> Result<Option<(Reference, Reference)>> {
        if image.had_registry() {
            return Ok(None);
        }
        let runtime = self.host_from_container_runtime.as_deref();
        let runtime = runtime.filter(|host| !host.is_empty());
        let at = |host: &str| {
            let name = format!("{}/{}", host.trim_end_matches('/'), image.familiar());
            Reference::parse(&name).map_err(|e| {
                e.with_kind(ErrorKind::Cluster).within(format!(
                    "the cluster's local registry {host:?} cannot be used"
                ))
            })
        };
        Ok(Some((at(&self.host)?, at(runtime.unwrap_or(&self.host))?)))
    }
}

/// Looks for the local registry of a context's cluster. None, if it documents none, or is not on
/// this machine.
///
/// # Errors
/// Cluster error, if the API server does not answer, or with what nobody can read.
pub async fn find(env: &Env, context: &Context) -> Result<Option<LocalRegistry>> {
    let here = context.kind_name().is_some()
        || context
            .endpoint()
            .is_some_and(|(host, _)| choose::local(&host));
    if !here {
        return Ok(None);
    }
    let access = kubeconfig::access(env, context)?;
    match api::get(context, &access, PATH, DEADLINE).await? {
        Some(body) => read(&body).map(Some),
        None => Ok(None),
    }
}

/// Reads the ConfigMap. Pure.
fn read(body: &[u8]) -> Result<LocalRegistry> {
    #[derive(Deserialize)]
    struct ConfigMap {
        #[serde(default)]
        data: std::collections::BTreeMap<String, String>,
    }
    let unreadable = |why: String| {
        Error::new(
            ErrorKind::Cluster,
            "the ConfigMap kube-public/local-registry-hosting cannot be read",
        )
        .because(why)
        .hint("KEP-1755 says what it must hold")
    };
    let map: ConfigMap = serde_json::from_slice(body).map_err(|e| unreadable(e.to_string()))?;
    let text = map
        .data
        .get(KEY)
        .ok_or_else(|| unreadable(format!("it has no {KEY}")))?;
    let registry: LocalRegistry =
        serde_yaml::from_str(text).map_err(|e| unreadable(format!("{KEY}: {e}")))?;
    if registry.host.is_empty() {
        return Err(unreadable(format!("{KEY} has no host")));
    }
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(text: &str) -> Vec<u8> {
        serde_json::to_vec(&serde_json::json!({"kind": "ConfigMap", "data": {KEY: text}})).unwrap()
    }

    fn names(registry: &LocalRegistry, image: &str) -> Option<(String, String)> {
        let names = registry.names(&Reference::parse(image).unwrap()).unwrap();
        names.map(|(push, deploy)| (push.to_string(), deploy.to_string()))
    }

    #[test]
    fn reads_what_kinds_documentation_makes() {
        let text = "host: \"localhost:5001\"\nhelp: \"https://kind.sigs.k8s.io/docs/user/local-registry/\"\n";
        let registry = read(&body(text)).unwrap();
        let both = |name: &str| Some((name.to_owned(), name.to_owned()));
        assert_eq!(
            names(&registry, "demo/app:dev"),
            both("localhost:5001/demo/app:dev")
        );
        assert_eq!(names(&registry, "app"), both("localhost:5001/app:latest"));
        for elsewhere in [
            "docker.io/demo/app:dev",
            "ghcr.io/x/y:1",
            "localhost:5001/a:1",
        ] {
            assert_eq!(names(&registry, elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn pods_may_know_it_by_another_name() {
        let text = "host: localhost:5001\nhostFromContainerRuntime: registry:5000\nhostFromClusterNetwork: registry:5000\n";
        let registry = read(&body(text)).unwrap();
        let expected = (
            "localhost:5001/app:1".to_owned(),
            "registry:5000/app:1".to_owned(),
        );
        assert_eq!(names(&registry, "app:1"), Some(expected));
    }

    #[test]
    fn what_it_must_hold() {
        for (body, says) in [
            (body("help: x"), "missing field `host`"),
            (body("host: ''"), "no host"),
            (
                b"{\"data\": {}}".to_vec(),
                "it has no localRegistryHosting.v1",
            ),
            (b"{}".to_vec(), "it has no"),
            (b"<html>".to_vec(), "expected value"),
        ] {
            let error = read(&body).unwrap_err();
            assert!(error.causes()[0].contains(says), "{error:?}");
        }
    }
}
