//! Who runs the nodes: docker, podman, nerdctl or finch, through its command line.
//!
//! The provider's endpoint is resolved apart from the engine's: `DOCKER_HOST` may be Podman's
//! socket, as Skaffold needs it for Podman, while the nodes run under Docker.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::ListContainersOptions;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{CLUSTER_LABEL, Cluster, State, group};
use crate::engine::{context, docker};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::process::{self, Finished, Orphan};

const DEADLINE: Duration = Duration::from_secs(30);

/// A program that runs Kind's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderKind {
    /// docker
    Docker,
    /// podman
    Podman,
    /// nerdctl
    Nerdctl,
    /// finch
    Finch,
}

impl ProviderKind {
    /// All of them, in the order in which Kind looks.
    pub const ALL: [Self; 4] = [Self::Docker, Self::Nerdctl, Self::Finch, Self::Podman];

    /// Returns the program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Nerdctl => "nerdctl",
            Self::Finch => "finch",
        }
    }

    /// Reads `KIND_EXPERIMENTAL_PROVIDER`.
    ///
    /// # Errors
    /// Usage error, if it names no provider.
    pub fn from_env(env: &Env) -> Result<Option<Self>> {
        let Some(name) = env.get("KIND_EXPERIMENTAL_PROVIDER") else {
            return Ok(None);
        };
        Self::ALL
            .into_iter()
            .find(|kind| kind.program() == name)
            .map(Some)
            .ok_or_else(|| {
                Error::usage(format!("KIND_EXPERIMENTAL_PROVIDER is {name:?}"))
                    .hint("set it to docker, podman, nerdctl or finch, or unset it")
            })
    }
}

/// A provider at one endpoint.
#[derive(Debug)]
pub struct Provider {
    /// Which program.
    pub kind: ProviderKind,
    env: Env,
    /// Docker's API, once it was asked for.
    api: OnceCell<Option<bollard::Docker>>,
}

impl Provider {
    /// Returns the places to look for nodes under one program, most likely first.
    ///
    /// Docker's nodes may be somewhere else than `DOCKER_HOST` says, because that names the
    /// engine: then the current context and the default socket are tried too.
    pub fn candidates(kind: ProviderKind, env: &Env) -> Vec<Arc<Self>> {
        let at = |env: Env| {
            Arc::new(Self {
                kind,
                env,
                api: OnceCell::new(),
            })
        };
        if kind != ProviderKind::Docker {
            return vec![at(env.clone())];
        }
        if let Some(host) = env.get("KINDLIFT_NODES_DOCKER_HOST") {
            return vec![at(env
                .with("DOCKER_HOST", Some(host))
                .with("DOCKER_CONTEXT", None))];
        }
        let mut places = vec![at(env.clone())];
        if env.get("DOCKER_HOST").is_some() {
            places.push(at(env.with("DOCKER_HOST", None)));
            if env.get("DOCKER_CONTEXT").is_some() {
                places.push(at(env
                    .with("DOCKER_HOST", None)
                    .with("DOCKER_CONTEXT", None)));
            }
        }
        places
    }

    /// Returns Docker's API, where this is Docker at a local socket.
    ///
    /// # Errors
    /// Cluster error, naming the endpoint.
    pub(super) async fn api(&self) -> Result<Option<&bollard::Docker>> {
        if self.kind != ProviderKind::Docker {
            return Ok(None);
        }
        let connect = || async {
            docker::local_api(&self.env)
                .await
                .map_err(|e| e.with_kind(ErrorKind::Cluster))
        };
        self.api.get_or_try_init(connect).await.map(Option::as_ref)
    }

    /// Makes a command of this provider.
    pub fn command(&self) -> Command {
        process::command(self.kind.program(), &self.env, Orphan::Kill)
    }

    /// Returns the host of the provider's API, for messages and for telling providers apart.
    pub fn endpoint(&self) -> String {
        match (self.kind, context::resolve(&self.env)) {
            (ProviderKind::Docker, Ok(at)) => format!("docker at {at}"),
            // What is wrong with the context, the docker command says.
            (kind, _) => kind.program().to_owned(),
        }
    }

    /// Lists the Kind clusters of this provider, stopped ones included.
    ///
    /// # Errors
    /// Cluster error, if the program is not there or does not answer.
    pub async fn clusters(self: &Arc<Self>) -> Result<Vec<Cluster>> {
        let containers = match self.api().await? {
            // One call in place of two commands.
            Some(api) => self.listed(api).await?,
            None => self.inspected().await?,
        };
        Ok(group(self, &containers))
    }

    async fn listed(&self, api: &bollard::Docker) -> Result<Vec<Container>> {
        let filters = HashMap::from([("label".to_owned(), vec![CLUSTER_LABEL.to_owned()])]);
        let options = ListContainersOptions {
            all: true,
            filters: Some(filters),
            ..ListContainersOptions::default()
        };
        let listed = api.list_containers(Some(options)).await.map_err(|e| {
            Error::new(
                ErrorKind::Cluster,
                format!("{} does not list containers", self.endpoint()),
            )
            .because(e)
        })?;
        Ok(listed.into_iter().map(Container::from).collect())
    }

    /// Asks the program's command line.
    async fn inspected(&self) -> Result<Vec<Container>> {
        let filter = format!("label={CLUSTER_LABEL}");
        let mut list = self.command();
        list.args(["ps", "-a", "-q", "--no-trunc", "--filter", &filter]);
        let ids = self.output(list).await?;
        let ids = String::from_utf8_lossy(&ids);
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut inspect = self.command();
        inspect.args(["inspect", "--type", "container"]).args(&ids);
        let finished = self.run(inspect).await?;
        // Some node of some cluster may be removed between the list and the look. Then the
        // command fails, but still prints the others.
        let vanished = finished.stderr.to_lowercase().contains("no such");
        let output = if vanished && finished.stdout.starts_with(b"[") {
            finished.stdout
        } else {
            finished.success(ErrorKind::Cluster)?
        };
        let inspected: Vec<Inspected> = serde_json::from_slice(&output).map_err(|e| {
            Error::new(
                ErrorKind::Cluster,
                format!("what `{} inspect` says cannot be read", self.kind.program()),
            )
            .because(e)
        })?;
        Ok(inspected.into_iter().map(Container::from).collect())
    }

    async fn output(&self, command: Command) -> Result<Vec<u8>> {
        self.run(command).await?.success(ErrorKind::Cluster)
    }

    async fn run(&self, command: Command) -> Result<Finished> {
        process::run(command, ErrorKind::Cluster, DEADLINE)
            .await
            .map_err(|e| e.with_kind(ErrorKind::Cluster))
    }
}

/// The part of `inspect` that matters; docker, podman and nerdctl agree on it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    id: String,
    name: String,
    state: InspectedState,
    config: InspectedConfig,
    #[serde(default)]
    network_settings: NetworkSettings,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedState {
    #[serde(default)]
    status: String,
    #[serde(default)]
    running: bool,
    #[serde(default)]
    paused: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedConfig {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(default)]
    ports: Option<HashMap<String, Option<Vec<Binding>>>>,
    #[serde(default)]
    networks: Option<HashMap<String, Network>>,
    #[serde(default, rename = "IPAddress")]
    address: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Binding {
    #[serde(default)]
    host_ip: String,
    #[serde(default)]
    host_port: String,
}

#[derive(Debug, Deserialize)]
struct Network {
    #[serde(default, rename = "IPAddress")]
    ipv4: String,
    #[serde(default, rename = "GlobalIPv6Address")]
    ipv6: String,
}

/// The port that kube-apiserver has in every Kind node.
const API_PORT: u16 = 6443;

/// A container with Kind's label, whoever told of it.
#[derive(Debug)]
pub(super) struct Container {
    pub id: String,
    pub name: String,
    pub state: State,
    pub labels: HashMap<String, String>,
    /// Where an API server in it can be reached: published ports, its own addresses, its name.
    pub endpoints: Vec<(String, u16)>,
}

impl Container {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    fn new(
        id: String,
        name: &str,
        state: State,
        labels: HashMap<String, String>,
        published: Vec<(String, u16)>,
        own: Vec<String>,
    ) -> Self {
        let name = name.trim_start_matches('/').to_owned();
        let own = own.into_iter().filter(|address| !address.is_empty());
        let endpoints = published
            .into_iter()
            .chain(own.map(|address| (address, API_PORT)))
            .chain([(name.clone(), API_PORT)])
            .collect();
        Self {
            id,
            name,
            state,
            labels,
            endpoints,
        }
    }
}

impl From<Inspected> for Container {
    fn from(inspected: Inspected) -> Self {
        let state = &inspected.state;
        let state = if state.paused || state.status == "paused" {
            State::Paused
        } else if state.running || state.status == "running" {
            State::Running
        } else {
            State::Stopped
        };
        let settings = inspected.network_settings;
        let published = settings
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter(|(port, _)| port.split('/').next() == Some("6443"))
            .filter_map(|(_, bindings)| bindings)
            .flatten()
            .filter_map(|b| Some((b.host_ip, b.host_port.parse().ok()?)))
            .collect();
        let own = settings
            .networks
            .unwrap_or_default()
            .into_values()
            .flat_map(|network| [network.ipv4, network.ipv6])
            .chain([settings.address])
            .collect();
        let labels = inspected.config.labels.unwrap_or_default();
        Self::new(inspected.id, &inspected.name, state, labels, published, own)
    }
}

impl From<ContainerSummary> for Container {
    fn from(summary: ContainerSummary) -> Self {
        let state = match summary.state {
            Some(ContainerSummaryStateEnum::RUNNING) => State::Running,
            Some(ContainerSummaryStateEnum::PAUSED) => State::Paused,
            _ => State::Stopped,
        };
        let published = summary
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter(|port| port.private_port == API_PORT)
            .filter_map(|port| Some((port.ip.unwrap_or_default(), port.public_port?)))
            .collect();
        let own = summary
            .network_settings
            .and_then(|settings| settings.networks)
            .unwrap_or_default()
            .into_values()
            .flat_map(|network| [network.ip_address, network.global_ipv6_address])
            .flatten()
            .collect();
        let name = summary
            .names
            .and_then(|names| names.into_iter().next())
            .unwrap_or_default();
        let labels = summary.labels.unwrap_or_default();
        let id = summary.id.unwrap_or_default();
        Self::new(id, &name, state, labels, published, own)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cluster) fn provider() -> Arc<Provider> {
        Arc::new(Provider {
            kind: ProviderKind::Docker,
            env: Env::default(),
            api: OnceCell::new(),
        })
    }

    /// What `docker inspect` prints for a node, with only what is read.
    pub(in crate::cluster) fn inspected(
        cluster: &str,
        node: &str,
        role: &str,
        port: u16,
    ) -> Container {
        let inspected: Inspected = serde_json::from_value(serde_json::json!({
            "Id": format!("id-{node}"), "Name": format!("/{node}"),
            "State": {"Status": "running", "Running": true, "Paused": false},
            "Config": {"Labels": {CLUSTER_LABEL: cluster, super::super::ROLE_LABEL: role}},
            "NetworkSettings": {
                "Ports": {"6443/tcp": [{"HostIp": "127.0.0.1", "HostPort": port.to_string()}], "80/tcp": null},
                "Networks": {"kind": {"IPAddress": "172.18.0.2", "GlobalIPv6Address": ""}},
            },
        }))
        .unwrap();
        inspected.into()
    }

    #[test]
    fn groups_nodes_and_leaves_load_balancers_out() {
        let clusters = group(
            &provider(),
            &[
                inspected("b", "b-worker", "worker", 1),
                inspected("a", "a-lb", "external-load-balancer", 4000),
                inspected("a", "a-worker", "worker", 1),
                inspected("a", "a-control-plane", "control-plane", 4001),
            ],
        );
        let names: Vec<_> = clusters.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let nodes: Vec<_> = clusters[0].nodes.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(nodes, ["a-control-plane", "a-worker"]);
        assert!(clusters[0].endpoints.contains(&("127.0.0.1".into(), 4000)));
        assert!(clusters[0].endpoints.contains(&("172.18.0.2".into(), 6443)));
    }

    #[test]
    fn nodes_may_run_elsewhere_than_docker_host() {
        let env = Env::new([
            ("DOCKER_HOST", "unix:///podman.sock"),
            ("DOCKER_CONTEXT", "x"),
        ]);
        let hosts: Vec<_> = Provider::candidates(ProviderKind::Docker, &env)
            .iter()
            .map(|p| {
                (
                    p.env.get("DOCKER_HOST").map(str::to_owned),
                    p.env.has("DOCKER_CONTEXT"),
                )
            })
            .collect();
        assert_eq!(
            hosts,
            [
                (Some("unix:///podman.sock".into()), true),
                (None, true),
                (None, false)
            ]
        );
    }

    #[test]
    fn refuses_an_unknown_provider() {
        let error =
            ProviderKind::from_env(&Env::new([("KIND_EXPERIMENTAL_PROVIDER", "lxc")])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains("lxc"));
    }
}
