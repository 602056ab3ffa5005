//! Which cluster is meant.
//!
//! In order: the name that was asked for; the Kind cluster of the kube context; the environment's
//! `KIND_CLUSTER_NAME` where no context speaks of Kind; and, by hand only, the one cluster there
//! is. A context and `KIND_CLUSTER_NAME` that disagree are an error.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio_util::sync::CancellationToken;

use super::kubeconfig::Context;
use super::{Cluster, Node, Provider, ProviderKind};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// What is known of the wanted cluster before looking.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `--cluster`.
    pub name: Option<String>,
    /// The kube context: `--kube-context`, Skaffold's, or the current one.
    pub context: Option<Context>,
    /// `KIND_CLUSTER_NAME`, or the project's cluster in its place.
    pub kind_env: Option<String>,
    /// Whether Skaffold or Tilt runs us: then nothing is guessed.
    pub in_loop: bool,
}

/// How long the others wait for the first place, where its answer may be all that is needed: it takes
/// milliseconds by an API, and to start their commands takes what the nodes' sessions need.
const LEAD: Duration = Duration::from_millis(50);
/// Who names a cluster without a flag.
const BY_NAME: &str = "KIND_CLUSTER_NAME or kindlift.toml";

fn no_cluster(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Cluster, why)
}

/// Looks for clusters and picks the wanted one.
///
/// The providers' answers count in Kind's own order (Docker first).
///
/// # Errors
/// Cluster error, telling what was looked for, where, and what is there.
pub async fn choose(wanted: &Wanted, env: &Env) -> Result<Cluster> {
    let places = places(env)?;
    // The address of a context's server confirms its cluster; a bare name may exist under two
    // providers, so that all must have answered.
    let confirmed = wanted.name.is_none() && wanted.context.is_some();
    let lead = if confirmed { LEAD } else { Duration::ZERO };
    let mut looks = looks(&places, lead);
    let mut found: Vec<Cluster> = Vec::new();
    let mut failures = Vec::new();
    while let Some((place, answer)) = looks.next().await {
        match answer {
            Ok(clusters) => add(&mut found, clusters),
            Err(e) => failures.push((place, e)),
        }
        if confirmed && let Ok(cluster) = pick(wanted, &found) {
            return Ok(cluster);
        }
    }
    pick(wanted, &found).map_err(|e| tell_failures(e, &failures))
}

/// Looks for all clusters, everywhere: those that are there, and the places that did not answer.
///
/// A program that is not installed is not such a place: it runs no nodes.
///
/// # Errors
/// Usage error, if the environment names no provider.
pub async fn survey(env: &Env) -> Result<(Vec<Cluster>, Vec<(String, Error)>)> {
    let places = places(env)?;
    let mut looks = looks(&places, Duration::ZERO);
    let (mut found, mut failures) = (Vec::new(), Vec::new());
    while let Some((place, answer)) = looks.next().await {
        match answer {
            Ok(clusters) => add(&mut found, clusters),
            Err(e) if is_not_installed(&e) => {}
            Err(e) => failures.push((place, e)),
        }
    }
    Ok((found, failures))
}

/// Finds a node by its container's name, in whatever cluster.
///
/// # Errors
/// Cluster error, if there is none, or it does not run; or there are two.
pub async fn node(name: &str, env: &Env) -> Result<Node> {
    let places = places(env)?;
    let mut looks = looks(&places, Duration::ZERO);
    let mut found: Vec<Cluster> = Vec::new();
    let mut failures = Vec::new();
    while let Some((place, answer)) = looks.next().await {
        match answer {
            Ok(clusters) => add(&mut found, clusters),
            Err(e) => failures.push((place, e)),
        }
    }
    let mut having = found
        .iter()
        .filter(|cluster| cluster.nodes.iter().any(|node| node.name == name));
    match (having.next(), having.next()) {
        (Some(cluster), None) => {
            let mut nodes = cluster.select(&[name.to_owned()])?;
            Ok(nodes.remove(0))
        }
        (Some(one), Some(other)) => Err(no_cluster(format!(
            "there are two nodes {name}: under {} and under {}",
            one.provider.endpoint(),
            other.provider.endpoint()
        ))
        .hint("say which with KIND_EXPERIMENTAL_PROVIDER or KINDLIFT_NODES_DOCKER_HOST")),
        (None, _) => {
            let nodes: Vec<&str> = found
                .iter()
                .flat_map(|cluster| &cluster.nodes)
                .map(|node| node.name.as_str())
                .collect();
            let hint = match nodes.is_empty() {
                true => "there is no Kind cluster".to_owned(),
                false => format!("there is {}", nodes.join(", ")),
            };
            let error = no_cluster(format!("no Kind cluster has a node {name}")).hint(hint);
            Err(tell_failures(error, &failures))
        }
    }
}

/// Returns the places where clusters may be, in Kind's own order.
///
/// # Errors
/// Usage error, if the environment names no provider.
pub(super) fn places(env: &Env) -> Result<Vec<Arc<Provider>>> {
    let fixed = ProviderKind::from_env(env)?;
    Ok(ProviderKind::ALL
        .into_iter()
        .filter(|kind| fixed.is_none_or(|fixed| fixed == *kind))
        .flat_map(|kind| Provider::candidates(kind, env))
        .collect())
}

/// Asks all places, in order: the first one, and the others once it has answered, or after `lead`.
fn looks(
    places: &[Arc<Provider>],
    lead: Duration,
) -> FuturesOrdered<impl Future<Output = (String, Result<Vec<Cluster>>)>> {
    let answered = CancellationToken::new();
    places
        .iter()
        .enumerate()
        .map(|(index, provider)| {
            let answered = answered.clone();
            async move {
                if index > 0 {
                    let _ = tokio::time::timeout(lead, answered.cancelled()).await;
                }
                let clusters = provider.clusters().await;
                answered.cancel();
                (provider.endpoint(), clusters)
            }
        })
        .collect()
}

/// One engine may answer at two places.
fn add(found: &mut Vec<Cluster>, clusters: Vec<Cluster>) {
    for cluster in clusters {
        if !found.iter().any(|other| other.same_nodes(&cluster)) {
            found.push(cluster);
        }
    }
}

fn is_not_installed(error: &Error) -> bool {
    error.to_string().starts_with("cannot start")
}

/// Adds what could not be looked into: a cluster may be missing because its engine is down.
fn tell_failures(error: Error, failures: &[(String, Error)]) -> Error {
    let failures = failures.iter().filter(|(_, e)| !is_not_installed(e)).fold(
        String::new(),
        |mut text, (place, e)| {
            let _ = write!(
                text,
                "{}{place}: {}",
                if text.is_empty() { "" } else { "; " },
                crate::error::one_line(e)
            );
            text
        },
    );
    if failures.is_empty() {
        error
    } else {
        error.because(failures)
    }
}

/// Picks the wanted one of the clusters that are there.
///
/// # Errors
/// As [`choose`].
pub fn pick(wanted: &Wanted, found: &[Cluster]) -> Result<Cluster> {
    if let Some(name) = &wanted.name {
        return named(name, "--cluster", found);
    }
    if let Some(context) = &wanted.context
        && let Some(cluster) = of_context(context, found)?
    {
        if let Some(name) = wanted
            .kind_env
            .as_ref()
            .filter(|name| **name != cluster.name)
        {
            return Err(no_cluster(format!(
                "kube context {} is the Kind cluster {}, but {BY_NAME} says {name}",
                context.name, cluster.name
            ))
            .hint(format!(
                "change that (`kindlift config show` tells where it is), switch the context, or \
                 say --cluster {}",
                cluster.name
            )));
        }
        return Ok(cluster);
    }
    if let Some(name) = &wanted.kind_env {
        return named(name, BY_NAME, found);
    }
    if wanted.in_loop {
        let error = match &wanted.context {
            Some(context) => no_cluster(format!(
                "kube context {} is not a Kind cluster",
                context.name
            )),
            None => no_cluster("there is no kube context, so the cluster is not known"),
        };
        return Err(error.hint(format!(
            "switch to a kind-… context, or name the cluster with --cluster or KIND_CLUSTER_NAME{}",
            listing(found)
        )));
    }
    match found {
        [only] => Ok(only.clone()),
        [] => {
            Err(no_cluster("there is no Kind cluster").hint("make one with `kind create cluster`"))
        }
        _ => Err(
            no_cluster("there are several Kind clusters and none was named")
                .hint(format!("name one with --cluster{}", listing(found))),
        ),
    }
}

fn listing(found: &[Cluster]) -> String {
    if found.is_empty() {
        return " (there is no Kind cluster now)".to_owned();
    }
    let names: Vec<&str> = found.iter().map(|cluster| cluster.name.as_str()).collect();
    format!(" (there is {})", names.join(", "))
}

fn named(name: &str, by: &str, found: &[Cluster]) -> Result<Cluster> {
    let mut matching = found.iter().filter(|cluster| cluster.name == name);
    match (matching.next(), matching.next()) {
        (Some(cluster), None) => Ok(cluster.clone()),
        (Some(one), Some(other)) => Err(no_cluster(format!(
            "there are two Kind clusters {name}: under {} and under {}",
            one.provider.endpoint(),
            other.provider.endpoint()
        ))
        .hint("say which with KIND_EXPERIMENTAL_PROVIDER=docker|podman|nerdctl or KINDLIFT_NODES_DOCKER_HOST")),
        (None, _) => Err(no_cluster(format!("there is no Kind cluster {name} ({by})"))
            .hint(format!("look with `kind get clusters`{}", listing(found)))),
    }
}

/// Returns a context's Kind cluster: by the server's address first, because contexts can be
/// renamed; none, if the context is some other cluster.
fn of_context(context: &Context, found: &[Cluster]) -> Result<Option<Cluster>> {
    let endpoint = context.endpoint();
    if let Some((host, port)) = &endpoint {
        let serving = |cluster: &&Cluster| {
            cluster.endpoints.iter().any(|(own, at)| {
                // A published port is one port of the host, whatever name the host goes by.
                at == port && (own == host || (local(own) && local(host)))
            })
        };
        if let Some(cluster) = found.iter().find(serving) {
            return Ok(Some(cluster.clone()));
        }
    }
    let Some(name) = context.kind_name() else {
        return Ok(None);
    };
    let cluster = named(name, &format!("kube context {}", context.name), found)?;
    let published: Vec<&(String, u16)> = cluster
        .endpoints
        .iter()
        .filter(|(host, _)| local(host))
        .collect();
    match endpoint {
        // The names agree, but the address is that of no local cluster: loading into the one
        // that happens to have the same name would be a guess.
        // Another name for this host has the same published port.
        Some((host, port)) if !published.is_empty() && !published.iter().any(|(_, at)| *at == port) => Err(no_cluster(format!(
            "kube context {} points at {host}:{port}, but the Kind cluster {name} answers at {}",
            context.name,
            published
                .iter()
                .map(|(host, port)| format!("{host}:{port}"))
                .collect::<Vec<_>>()
                .join(", ")
        ))
        .hint(format!(
            "renew the context with `kind export kubeconfig --name {name}`, or say --cluster {name}"
        ))),
        _ => Ok(Some(cluster)),
    }
}

/// Tells whether a host is this machine.
pub(super) fn local(host: &str) -> bool {
    matches!(
        host,
        "localhost" | "0.0.0.0" | "::" | "::1" | "" | "kubernetes.docker.internal"
    ) || host.starts_with("127.")
}

#[cfg(test)]
mod tests {
    use super::super::group;
    use super::super::provider::tests::{inspected, provider};
    use super::*;

    fn clusters(names: &[(&str, u16)]) -> Vec<Cluster> {
        let inspected: Vec<_> = names
            .iter()
            .map(|(name, port)| {
                inspected(
                    name,
                    &format!("{name}-control-plane"),
                    "control-plane",
                    *port,
                )
            })
            .collect();
        group(&provider(), &inspected)
    }

    fn context(name: &str, server: &str) -> Option<Context> {
        Some(Context {
            name: name.into(),
            cluster: name.into(),
            server: server.into(),
            namespace: None,
        })
    }

    #[test]
    fn the_server_decides_where_a_context_was_renamed() {
        let wanted = Wanted {
            context: context("my-laptop", "https://127.0.0.1:4002"),
            in_loop: true,
            ..Wanted::default()
        };
        let cluster = pick(&wanted, &clusters(&[("a", 4001), ("b", 4002)])).unwrap();
        assert_eq!(cluster.name, "b");
    }

    #[test]
    fn a_container_address_counts_too() {
        let wanted = Wanted {
            context: context("kind-a", "https://172.18.0.2:6443"),
            ..Wanted::default()
        };
        assert_eq!(pick(&wanted, &clusters(&[("a", 4001)])).unwrap().name, "a");
    }

    #[test]
    fn a_stale_port_is_an_error() {
        let wanted = Wanted {
            context: context("kind-a", "https://127.0.0.1:5555"),
            ..Wanted::default()
        };
        let error = pick(&wanted, &clusters(&[("a", 4001)])).unwrap_err();
        assert!(error.to_string().contains("127.0.0.1:4001"), "{error}");
    }

    #[test]
    fn a_context_of_another_machine_is_not_the_local_cluster_of_that_name() {
        let wanted = Wanted {
            context: context("kind-a", "https://10.1.2.3:6443"),
            in_loop: true,
            ..Wanted::default()
        };
        assert!(pick(&wanted, &clusters(&[("a", 4001)])).is_err());
        // Another name for this host, with the port that the cluster publishes.
        let wanted = Wanted {
            context: context("kind-a", "https://docker:4001"),
            ..wanted
        };
        assert_eq!(pick(&wanted, &clusters(&[("a", 4001)])).unwrap().name, "a");
    }

    #[test]
    fn disagreement_is_an_error() {
        let wanted = Wanted {
            context: context("kind-a", "https://127.0.0.1:4001"),
            kind_env: Some("b".into()),
            ..Wanted::default()
        };
        let error = pick(&wanted, &clusters(&[("a", 4001), ("b", 4002)])).unwrap_err();
        assert!(
            error.to_string().contains("kindlift.toml says b"),
            "{error}"
        );
    }

    #[test]
    fn the_environment_counts_where_no_context_speaks_of_kind() {
        let wanted = Wanted {
            context: context("gke", "https://1.2.3.4"),
            kind_env: Some("b".into()),
            in_loop: true,
            ..Wanted::default()
        };
        assert_eq!(
            pick(&wanted, &clusters(&[("a", 4001), ("b", 4002)]))
                .unwrap()
                .name,
            "b"
        );
    }

    #[test]
    fn a_loop_never_guesses() {
        for context in [None, context("gke", "https://1.2.3.4")] {
            let wanted = Wanted {
                context,
                in_loop: true,
                ..Wanted::default()
            };
            assert!(pick(&wanted, &clusters(&[("a", 4001)])).is_err());
            let by_hand = Wanted {
                in_loop: false,
                ..wanted
            };
            assert_eq!(pick(&by_hand, &clusters(&[("a", 4001)])).unwrap().name, "a");
        }
    }

    #[test]
    fn two_clusters_and_none_named() {
        let error = pick(&Wanted::default(), &clusters(&[("a", 1), ("b", 2)])).unwrap_err();
        assert!(error.to_string().contains("several"), "{error}");
        assert!(error.next_step().unwrap().contains("a, b"));
    }
}
