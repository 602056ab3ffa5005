//! The kube context, the Kind clusters that are there, and which of them is meant.

use super::api::Api;
use super::{Check, Verdict, silent, within};
use crate::cluster::kubeconfig::Context;
use crate::cluster::{self, Cluster, Node, State, Wanted};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::job::Job;
use crate::run::{Where, wanted};

/// What was found.
pub struct Found {
    pub checks: Vec<Check>,
    /// The cluster's name, and why it is that one.
    pub chosen: Option<(String, String)>,
    /// The nodes that take part; those of all clusters, if none was chosen.
    pub nodes: Vec<Node>,
    /// The kube context.
    pub context: Option<Context>,
    /// The way to the cluster's API server; none, if it is not known which cluster is meant.
    pub api: Option<Result<Option<Api>>>,
}

impl Found {
    pub fn context_name(&self) -> Option<&str> {
        self.context.as_ref().map(|context| context.name.as_str())
    }
}

/// Looks.
pub async fn look(job: &Job, place: &Where) -> Found {
    let by_hand = wanted(job, place, false);
    let mut checks = vec![context_check(&by_hand, place)];
    // What a broken kubeconfig would have said must not hide the nodes.
    let readable = by_hand.as_ref().ok().cloned();
    let is_readable = readable.is_some();
    let by_hand = readable.unwrap_or_else(|| Wanted {
        name: place.cluster.clone(),
        kind_env: job.env.get("KIND_CLUSTER_NAME").map(str::to_owned),
        ..Wanted::default()
    });
    let (clusters, failures) = match within(job.patience, cluster::survey(&job.env)).await {
        Some(Ok(found)) => found,
        failed => {
            let check = match failed {
                Some(Err(e)) => Check::error("clusters", &e),
                _ => Check::fail(
                    "clusters",
                    ErrorKind::Cluster,
                    silent(job.patience),
                    "look at the engine with `docker ps`",
                ),
            };
            checks.push(check);
            return Found {
                checks,
                chosen: None,
                nodes: Vec::new(),
                context: by_hand.context,
                api: None,
            };
        }
    };
    checks.push(listing(&clusters, &failures));
    let picked = cluster::pick(&by_hand, &clusters);
    if is_readable && !clusters.is_empty() {
        checks.push(choice(&by_hand, &picked, &clusters));
    }
    let (nodes, check) = match &picked {
        Ok(cluster) => match only(cluster, &place.nodes) {
            Ok(nodes) => (nodes, None),
            Err(e) => (cluster.nodes.clone(), Some(Check::error("nodes", &e))),
        },
        Err(_) => (
            clusters.iter().flat_map(|c| c.nodes.clone()).collect(),
            None,
        ),
    };
    let to_api = |cluster| Api::of(job, cluster, by_hand.context.as_ref());
    let api = picked.as_ref().ok().map(to_api);
    let stays = check.unwrap_or_else(|| states(&nodes));
    let usable = stays.verdict != Verdict::Fail && is_readable;
    if !clusters.is_empty() {
        checks.push(stays);
    }
    let chosen = picked.ok().filter(|_| usable).map(|cluster| {
        let why = why(&by_hand, &clusters);
        (cluster.name, why)
    });
    Found {
        checks,
        chosen,
        nodes,
        context: by_hand.context,
        api,
    }
}

/// Returns the nodes that are asked for, running or not.
fn only(cluster: &Cluster, names: &[String]) -> Result<Vec<Node>> {
    let stranger = |name: &&String| !cluster.nodes.iter().any(|node| node.name == **name);
    if names.iter().any(|name| stranger(&name)) {
        return cluster.select(names);
    }
    let asked = |node: &&Node| names.is_empty() || names.contains(&node.name);
    Ok(cluster.nodes.iter().filter(asked).cloned().collect())
}

fn context_check(wanted: &Result<Wanted>, place: &Where) -> Check {
    let name = "kube context";
    if let Some(cluster) = &place.cluster {
        return Check::skipped(name, format!("--cluster {cluster} was said"));
    }
    match wanted.as_ref().map(|wanted| &wanted.context) {
        Err(e) => Check::error(name, e),
        Ok(None) => Check::warn(
            name,
            "there is none: Skaffold, Tilt and kubectl do not know the cluster",
            "`kind export kubeconfig --name CLUSTER`, or look at KUBECONFIG",
        ),
        Ok(Some(context)) if context.server.is_empty() => Check::warn(
            name,
            format!("{}: it names no server", context.name),
            "renew it with `kind export kubeconfig --name CLUSTER`",
        ),
        Ok(Some(context)) => Check::ok(name, format!("{} ({})", context.name, context.server)),
    }
}

fn listing(clusters: &[Cluster], failures: &[(String, Error)]) -> Check {
    let name = "clusters";
    let mut places: Vec<(String, Vec<String>)> = Vec::new();
    for cluster in clusters {
        let count = cluster.nodes.len();
        let plural = if count == 1 { "" } else { "s" };
        let shown = format!("{} ({count} node{plural})", cluster.name);
        let place = cluster.provider.endpoint();
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, clusters)) => clusters.push(shown),
            None => places.push((place, vec![shown])),
        }
    }
    let there: Vec<String> = places
        .iter()
        .map(|(place, clusters)| format!("{} under {place}", clusters.join(", ")))
        .collect();
    let silent: Vec<String> = failures
        .iter()
        // An engine that is not there is no loss to who has nodes elsewhere.
        .filter(|(_, e)| there.is_empty() || !e.to_string().contains("is not there"))
        .map(|(_, e)| one_line(e).to_string())
        .collect();
    let fix = failures.first().and_then(|(_, e)| e.next_step());
    match (there.is_empty(), silent.is_empty()) {
        (true, true) => Check::fail(
            name,
            ErrorKind::Cluster,
            "there is no Kind cluster",
            "make one with `kind create cluster`",
        ),
        (true, false) => Check::fail(
            name,
            ErrorKind::Cluster,
            format!("none was found: {}", silent.join("; ")),
            fix.unwrap_or("start the engine that runs the nodes, or make a cluster with `kind create cluster`"),
        ),
        // Nobody has to use every engine that is installed.
        (false, false) => Check::ok(
            name,
            format!("{}; {}", there.join("; "), silent.join("; ")),
        ),
        (false, true) => Check::ok(name, there.join("; ")),
    }
}

/// Says which cluster is meant, by hand and in a loop.
fn choice(by_hand: &Wanted, picked: &Result<Cluster>, clusters: &[Cluster]) -> Check {
    let name = "cluster";
    let cluster = match picked {
        Ok(cluster) => cluster,
        Err(e) => return Check::error(name, e),
    };
    let in_loop = Wanted {
        in_loop: true,
        ..by_hand.clone()
    };
    let why = why(by_hand, clusters);
    match cluster::pick(&in_loop, clusters) {
        Ok(_) => Check::ok(name, format!("{} ({why})", cluster.name)),
        Err(e) => {
            let check = Check::warn(
                name,
                format!(
                    "{} ({why}), but only by hand; under Skaffold and Tilt: {e}",
                    cluster.name
                ),
                e.next_step().unwrap_or_default(),
            );
            Check {
                fix: e.next_step().map(str::to_owned),
                ..check
            }
        }
    }
}

/// Says why it is this cluster.
fn why(wanted: &Wanted, clusters: &[Cluster]) -> String {
    if wanted.name.is_some() {
        return "--cluster".to_owned();
    }
    let by_context = Wanted {
        context: wanted.context.clone(),
        in_loop: true,
        ..Wanted::default()
    };
    match (&wanted.context, &wanted.kind_env) {
        (Some(context), _) if cluster::pick(&by_context, clusters).is_ok() => {
            format!("kube context {}", context.name)
        }
        (_, Some(_)) => "KIND_CLUSTER_NAME".to_owned(),
        _ => "the only one there is".to_owned(),
    }
}

/// Tells which nodes run.
fn states(nodes: &[Node]) -> Check {
    let name = "nodes";
    let mut down = nodes.iter().filter(|node| node.state != State::Running);
    let states: Vec<String> = nodes
        .iter()
        .map(|node| match node.state {
            State::Running => node.name.clone(),
            State::Paused => format!("{} (paused)", node.name),
            State::Stopped => format!("{} (stopped)", node.name),
        })
        .collect();
    let finding = states.join(", ");
    match down.next() {
        None if nodes.is_empty() => Check::fail(
            name,
            ErrorKind::Cluster,
            "the cluster has none",
            "make it anew: `kind delete cluster`, `kind create cluster`",
        ),
        None => Check::ok(name, finding),
        Some(node) => {
            let verb = match node.state {
                State::Paused => "unpause",
                _ => "start",
            };
            Check::fail(
                name,
                ErrorKind::Cluster,
                finding,
                format!(
                    "`{}`, or leave it out with --nodes",
                    node.provider_hint(verb)
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kube_context_is_told_with_the_way_to_get_one() {
        let check = context_check(&Ok(Wanted::default()), &Where::default());
        assert_eq!(check.verdict, Verdict::Warn);
        assert!(check.fix.unwrap().contains("kind export kubeconfig"));
        let said = Where {
            cluster: Some("dev".into()),
            ..Where::default()
        };
        let check = context_check(&Ok(Wanted::default()), &said);
        assert_eq!(check.verdict, Verdict::Skipped);
    }

    #[test]
    fn an_engine_that_does_not_answer_may_have_the_cluster() {
        assert!(listing(&[], &[]).fix.unwrap().contains("kind create"));
        let down = Error::new(ErrorKind::Cluster, "permission denied").hint("join the group");
        let check = listing(&[], &[("docker at unix:///x".to_owned(), down)]);
        assert_eq!(check.error, Some(ErrorKind::Cluster));
        assert!(check.finding.contains("permission denied"), "{check:?}");
        assert_eq!(check.fix.as_deref(), Some("join the group"));
    }
}
