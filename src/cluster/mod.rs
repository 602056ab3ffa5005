//! Kind clusters and their nodes, under whichever provider runs them.
//!
//! Nodes are found by Kind's labels, never by parsing names. Which cluster is meant is decided
//! in [`choose`]; in a development loop that is never a guess.

pub mod api;
mod choose;
pub mod events;
mod exec;
pub mod kubeconfig;
mod provider;
pub mod registry;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

pub use choose::{Wanted, choose, node, pick, survey};
pub use exec::{End, Ended, Exec, Input, Output};
pub use provider::{Provider, ProviderKind};

use crate::error::{Error, ErrorKind, Result};

/// Label that names a node's cluster.
pub const CLUSTER_LABEL: &str = "io.x-k8s.kind.cluster";
/// Label that tells a node's role.
pub const ROLE_LABEL: &str = "io.x-k8s.kind.role";

/// Whether a node's container runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does.
    Running,
    /// It exists, but is stopped.
    Stopped,
    /// It is frozen.
    Paused,
}

/// A node that images go to: a control plane or a worker.
#[derive(Debug, Clone)]
pub struct Node {
    /// The container's name, which is the Kubernetes node's name.
    pub name: String,
    /// The container's ID.
    pub id: String,
    /// `control-plane` or `worker`.
    pub role: String,
    /// Whether it runs.
    pub state: State,
    provider: Arc<Provider>,
}

impl Node {
    /// Asks how many bytes are free where the node's containerd stores. None, if `df` does not
    /// tell.
    ///
    /// # Errors
    /// Cluster error, if the node does not answer.
    pub async fn free_space(&self) -> Result<Option<u64>> {
        let df = ["df", "-Pk", "/var/lib/containerd"];
        let output = self.run(&df, Duration::from_secs(30)).await?;
        let text = String::from_utf8_lossy(&output).into_owned();
        let row = text.lines().nth(1).unwrap_or_default();
        let kilobytes = row
            .split_whitespace()
            .nth(3)
            .and_then(|n| n.parse::<u64>().ok());
        Ok(kilobytes.map(|n| n * 1024))
    }

    /// Returns the command line with which a user does something to the node: `start`, `unpause`.
    pub fn provider_hint(&self, verb: &str) -> String {
        format!("{} {verb} {}", self.provider.kind.program(), self.name)
    }

    /// Returns the command line with which a user runs something in the node.
    pub fn exec_hint(&self, command: &str) -> String {
        format!(
            "{} exec {} {command}",
            self.provider.kind.program(),
            self.name
        )
    }
}

/// A Kind cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name, as `kind get clusters` prints it.
    pub name: String,
    /// Control planes and workers, sorted by name.
    pub nodes: Vec<Node>,
    /// Who runs the nodes.
    pub provider: Arc<Provider>,
    /// Where its API server answers, as `host:port`, as far as the containers tell.
    endpoints: Vec<(String, u16)>,
}

impl Cluster {
    /// Returns the nodes that take part: those that are asked for, else all.
    ///
    /// # Errors
    /// Cluster error, naming a node that is not there, stopped or paused.
    pub fn select(&self, only: &[String]) -> Result<Vec<Node>> {
        let names = || {
            self.nodes
                .iter()
                .map(|n| n.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        for name in only {
            if !self.nodes.iter().any(|node| node.name == *name) {
                return Err(Error::new(
                    ErrorKind::Cluster,
                    format!("cluster {} has no node {name}", self.name),
                )
                .hint(format!("its nodes are {}", names())));
            }
        }
        let chosen: Vec<Node> = self
            .nodes
            .iter()
            .filter(|node| only.is_empty() || only.contains(&node.name))
            .cloned()
            .collect();
        let down = chosen.iter().find(|node| node.state != State::Running);
        if let Some(node) = down {
            let (state, verb) = match node.state {
                State::Paused => ("paused", "unpause"),
                _ => ("stopped", "start"),
            };
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("node {} of cluster {} is {state}", node.name, self.name),
            )
            .hint(format!(
                "`{} {verb} {}`, or leave it out with --nodes",
                self.provider.kind.program(),
                node.name
            )));
        }
        if chosen.is_empty() {
            return Err(Error::new(
                ErrorKind::Cluster,
                format!("cluster {} has no nodes", self.name),
            ));
        }
        Ok(chosen)
    }
}

impl Cluster {
    fn same_nodes(&self, other: &Cluster) -> bool {
        self.nodes.len() == other.nodes.len()
            && self
                .nodes
                .iter()
                .zip(&other.nodes)
                .all(|(a, b)| a.id == b.id)
    }
}

/// Groups inspected containers into clusters. Pure: takes what the provider printed.
fn group(provider: &Arc<Provider>, containers: &[provider::Container]) -> Vec<Cluster> {
    let mut clusters: HashMap<&str, Cluster> = HashMap::new();
    for container in containers {
        let Some(name) = container.label(CLUSTER_LABEL) else {
            continue;
        };
        let role = container.label(ROLE_LABEL).unwrap_or_default();
        let cluster = clusters.entry(name).or_insert_with(|| Cluster {
            name: name.to_owned(),
            nodes: Vec::new(),
            provider: Arc::clone(provider),
            endpoints: Vec::new(),
        });
        if role == "control-plane" || role == "external-load-balancer" {
            cluster
                .endpoints
                .extend(container.endpoints.iter().cloned());
        }
        if role == "control-plane" || role == "worker" {
            cluster.nodes.push(Node {
                name: container.name.clone(),
                id: container.id.clone(),
                role: role.to_owned(),
                state: container.state,
                provider: Arc::clone(provider),
            });
        }
    }
    let mut clusters: Vec<Cluster> = clusters.into_values().collect();
    for cluster in &mut clusters {
        cluster.nodes.sort_by(|a, b| a.name.cmp(&b.name));
    }
    clusters.sort_by(|a, b| a.name.cmp(&b.name));
    clusters
}
