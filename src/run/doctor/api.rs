//! Questions to Kubernetes, through the kubectl and the kubeconfig that every Kind control plane
//! has: the host needs no kubectl, and no credential leaves the node.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Check;
use crate::cluster::{Node, State};
use crate::error::{Error, ErrorKind, Result};

const KUBECONFIG: &str = "/etc/kubernetes/admin.conf";
const SCRIPT: &str = r#"exec kubectl --kubeconfig "$1" get --raw "$2""#;
const DEADLINE: Duration = Duration::from_secs(30);

/// The API server, as a control plane's own kubectl reaches it.
pub struct Api {
    node: Node,
}

impl Api {
    /// Takes the first control plane that runs. None, if none does.
    pub fn of(nodes: &[Node]) -> Option<Self> {
        let mut running = nodes
            .iter()
            .filter(|node| node.role == "control-plane" && node.state == State::Running);
        running.next().cloned().map(|node| Self { node })
    }

    /// Gets an object. None, if there is no such object.
    ///
    /// # Errors
    /// Cluster error with kubectl's words, or that there is no kubectl.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        // A shell says the same everywhere where a program is not there.
        let kubectl = ["sh", "-c", SCRIPT, "sh", KUBECONFIG, path];
        let output = match self.node.run(&kubectl, DEADLINE).await {
            Ok(output) => output,
            Err(e) if e.causes().iter().any(|said| said.contains("(NotFound)")) => {
                return Ok(None);
            }
            Err(e) => {
                let name = &self.node.name;
                let hint = self.node.exec_hint("crictl ps");
                return Err(e
                    .within(format!("Kubernetes does not answer in {name}"))
                    .hint(format!("is kube-apiserver up? `{hint}`")));
            }
        };
        serde_json::from_slice(&output).map(Some).map_err(|e| {
            Error::new(
                ErrorKind::Cluster,
                format!("what Kubernetes says of {path} cannot be read"),
            )
            .because(e)
        })
    }
}

/// Makes one segment of a path of a name that a user wrote.
///
/// # Errors
/// Usage error, if Kubernetes has no such names.
pub fn segment(what: &str, name: &str) -> Result<String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if name.len() <= 253 && name.chars().all(good) && name.starts_with(ends) && name.ends_with(ends)
    {
        return Ok(name.to_owned());
    }
    Err(
        Error::usage(format!("{name:?} is not the name of a {what}"))
            .hint("look with `kubectl get pods --all-namespaces`"),
    )
}

/// Asks for the version.
pub async fn version(api: &Api) -> Check {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let name = "kubernetes";
    match api.get::<Version>("/version").await {
        Ok(Some(version)) => Check::ok(name, version.git_version),
        Ok(None) => Check::skipped(name, "it tells no version"),
        Err(e) if has_no_kubectl(&e) => skipped(name, api),
        // An image can be loaded all the same.
        Err(e) => Check::error(name, &e).tolerable(),
    }
}

fn has_no_kubectl(error: &Error) -> bool {
    let causes = error.causes();
    causes
        .iter()
        .any(|said| said.contains("kubectl: not found"))
}

fn skipped(name: &str, api: &Api) -> Check {
    Check::skipped(
        name,
        format!("{} has no kubectl to ask with", api.node.name),
    )
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Hosting {
    host: String,
}

const HOSTING: &str = "/api/v1/namespaces/kube-public/configmaps/local-registry-hosting";

/// Looks for a local registry where Skaffold and Tilt look (KEP-1755).
pub async fn registry(api: &Api) -> Check {
    let name = "local registry";
    match api.get::<ConfigMap>(HOSTING).await {
        Ok(Some(map)) => hosting(&map),
        Ok(None) => Check::ok(name, "none: nobody is told to push"),
        Err(e) if has_no_kubectl(&e) => skipped(name, api),
        Err(_) => Check::skipped(name, "Kubernetes does not answer"),
    }
}

fn hosting(map: &ConfigMap) -> Check {
    let name = "local registry";
    let hosting = map.data.get("localRegistryHosting.v1");
    match hosting.map(|text| serde_yaml::from_str::<Hosting>(text)) {
        Some(Ok(Hosting { host })) => Check::ok(
            name,
            format!(
                "{host} (ConfigMap kube-public/local-registry-hosting): Skaffold pushes there \
                 unless `local: {{push: false}}`, Tilt unless skips_local_docker or disable_push"
            ),
        ),
        _ => Check::warn(
            name,
            "ConfigMap kube-public/local-registry-hosting names no host",
            "write it as in https://kind.sigs.k8s.io/docs/user/local-registry/, or delete it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::doctor::Verdict;

    #[test]
    fn names_cannot_lead_elsewhere() {
        assert_eq!(segment("pod", "app-5c9d.x1").unwrap(), "app-5c9d.x1");
        for bad in ["", "..", "../x", "a/b", "A", "a?b", "a%2fb", "-a", "a b"] {
            assert!(segment("pod", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_registry_is_told_by_its_host() {
        let map = |text: &str| ConfigMap {
            data: [("localRegistryHosting.v1".to_owned(), text.to_owned())].into(),
        };
        let check = hosting(&map("host: \"localhost:5001\"\nhelp: \"x\"\n"));
        assert!(check.finding.starts_with("localhost:5001 "), "{check:?}");
        for bad in ["", "help: x", "["] {
            assert_eq!(hosting(&map(bad)).verdict, Verdict::Warn, "{bad}");
        }
    }
}
