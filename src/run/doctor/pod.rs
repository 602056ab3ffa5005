//! `doctor --pod`: why a pod does not get its image.
//!
//! The kubelet's words say what it tried; what the nodes hold says why it had to.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use serde::Deserialize;

use super::api::{Api, segment};
use super::cause::{Case, Holding};
use super::{Check, DoctorRequest, silent, within};
use crate::cluster::{self, Cluster, Node, State};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::job::Job;
use crate::node::Session;
use crate::node::find::{self as on_node, Held};
use crate::reference::Reference;
use crate::run::wanted;

/// The most pods that one call explains.
const MANY: usize = 5;

#[derive(Debug, Deserialize)]
struct PodList {
    items: Vec<Pod>,
}

#[derive(Debug, Clone, Deserialize)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: String,
    init_containers: Vec<Container>,
    containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    pub name: String,
    pub image: String,
    pub image_pull_policy: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: String,
    conditions: Vec<Condition>,
    init_container_statuses: Vec<ContainerStatus>,
    container_statuses: Vec<ContainerStatus>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Condition {
    r#type: String,
    status: String,
    message: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    ready: bool,
    state: BTreeMap<String, StateOf>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct StateOf {
    reason: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct EventList {
    items: Vec<Event>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event {
    reason: String,
    message: String,
    r#type: String,
    involved_object: Involved,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Involved {
    name: String,
    field_path: String,
}

/// Explains a pod, or the pods of what it is the name of (a Deployment's, a Job's).
pub async fn explain(job: &Job, request: &DoctorRequest, name: &str) -> Vec<Check> {
    match try_explain(job, request, name).await {
        Ok(checks) => checks,
        Err(e) => vec![Check::error(format!("pod {name}"), &e)],
    }
}

async fn try_explain(job: &Job, request: &DoctorRequest, name: &str) -> Result<Vec<Check>> {
    let wanted = wanted(job, &request.place, false)?;
    let of_context = wanted.context.as_ref().and_then(|c| c.namespace.clone());
    let namespace = request.namespace.clone().or(of_context);
    let namespace = namespace.unwrap_or_else(|| "default".to_owned());
    segment("pod", name)?;
    segment("namespace", &namespace)?;
    let cluster = cluster::choose(&wanted, &job.env).await?;
    let api = Api::of(job, &cluster, wanted.context.as_ref())?.ok_or_else(|| {
        Error::new(
            ErrorKind::Cluster,
            format!(
                "no kube context leads to {}, so Kubernetes cannot be asked",
                cluster.name
            ),
        )
        .hint(format!("`kind export kubeconfig --name {}`", cluster.name))
    })?;
    let path = format!("/api/v1/namespaces/{namespace}");
    let (pods, events) = (format!("{path}/pods"), format!("{path}/events"));
    let (pods, events) =
        futures_util::try_join!(api.get::<PodList>(&pods), api.get::<EventList>(&events))?;
    let pods = pods.map(|list| list.items).unwrap_or_default();
    let events = events.map(|list| list.items).unwrap_or_default();
    let chosen = choose(&pods, name, &namespace)?;
    let engine = within(job.patience, Engine::find(request.engine, false, &job.env)).await;
    let engine = engine.and_then(Result::ok);
    let sessions = open(job, &cluster).await;
    let mut checks = Vec::new();
    for pod in chosen.iter().take(MANY) {
        checks.extend(judge_pod(pod, &events, &sessions, engine.as_ref()).await);
    }
    if chosen.len() > MANY {
        let more = format!(
            "{} more pods have this name before a dash",
            chosen.len() - MANY
        );
        checks.push(Check::skipped("pods", more));
    }
    Ok(checks)
}

/// Finds the pod of exactly this name, else those whose names go on with a dash.
fn choose<'a>(pods: &'a [Pod], name: &str, namespace: &str) -> Result<Vec<&'a Pod>> {
    if let Some(pod) = pods.iter().find(|pod| pod.metadata.name == name) {
        return Ok(vec![pod]);
    }
    let belongs = |pod: &&Pod| {
        let rest = pod.metadata.name.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('-'))
    };
    let those: Vec<&Pod> = pods.iter().filter(belongs).collect();
    if !those.is_empty() {
        return Ok(those);
    }
    let there: Vec<&str> = pods.iter().map(|pod| pod.metadata.name.as_str()).collect();
    let error = Error::new(
        ErrorKind::Cluster,
        format!("there is no pod {name} in namespace {namespace}"),
    );
    Err(error.hint(match there.as_slice() {
        [] => "there is no pod at all there; name another namespace with -n".to_owned(),
        _ => format!(
            "there is {}; or name another namespace with -n",
            there.join(", ")
        ),
    }))
}

/// Opens a session with each node that runs; what cannot be opened is known as such.
async fn open(job: &Job, cluster: &Cluster) -> Vec<(Node, Result<Arc<Session>>)> {
    let opening = cluster.nodes.iter().map(|node| async {
        let session = match node.state {
            State::Running => within(job.patience, Session::open(node, job))
                .await
                .unwrap_or_else(|| Err(Error::new(ErrorKind::Cluster, silent(job.patience)))),
            _ => Err(Error::new(ErrorKind::Cluster, "it does not run")),
        };
        (node.clone(), session.map(Arc::new))
    });
    join_all(opening).await
}

async fn judge_pod(
    pod: &Pod,
    events: &[Event],
    sessions: &[(Node, Result<Arc<Session>>)],
    engine: Option<&Engine>,
) -> Vec<Check> {
    let name = format!("pod {}", pod.metadata.name);
    if pod.spec.node_name.is_empty() {
        return vec![unscheduled(name, pod)];
    }
    let statuses = || {
        let status = &pod.status;
        status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
    };
    let mut checks = Vec::new();
    for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
        let status = statuses().find(|status| status.name == container.name);
        let Some(waiting) = status.and_then(|status| status.state.get("waiting")) else {
            continue;
        };
        if waiting.reason == "PodInitializing" {
            continue;
        }
        let (holdings, in_engine) = match Reference::parse(&container.image) {
            Ok(image) => futures_util::join!(
                join_all(sessions.iter().map(|(node, session)| async {
                    (node.name.clone(), holding(session.as_deref(), &image).await)
                })),
                async { Some(engine?.inspect(&image.to_string()).await.ok()?.is_some()) }
            ),
            Err(_) => (Vec::new(), None),
        };
        let case = Case {
            node: &pod.spec.node_name,
            container,
            reason: &waiting.reason,
            message: words(
                &pod.metadata.name,
                &container.name,
                &waiting.message,
                events,
            ),
            holdings,
            in_engine,
        };
        checks.extend(case.judge(&name));
    }
    if checks.is_empty() {
        let ready = statuses().filter(|status| status.ready).count();
        let of = pod.spec.containers.len();
        checks.push(Check::ok(
            name,
            format!(
                "{}, {ready} of {of} containers ready on {}: no container waits for its image",
                pod.status.phase, pod.spec.node_name
            ),
        ));
    }
    checks
}

fn unscheduled(name: String, pod: &Pod) -> Check {
    let why = pod
        .status
        .conditions
        .iter()
        .find(|c| c.r#type == "PodScheduled" && c.status == "False")
        .map_or("it is on no node yet", |condition| {
            condition.message.as_str()
        });
    Check::warn(
        name,
        format!("not scheduled: {why}"),
        "no image is missing: look with `kubectl describe pod`",
    )
}

/// Returns the kubelet's most telling words: the event that says why a pull failed, not the one
/// that says that it waits.
fn words(pod: &str, container: &str, waiting: &str, events: &[Event]) -> String {
    let about = |event: &&Event| {
        event.r#type == "Warning"
            && event.involved_object.name == pod
            && event
                .involved_object
                .field_path
                .contains(&format!("{{{container}}}"))
    };
    let telling = |event: &&Event| {
        event.reason == "Failed"
            && event.message.contains("image")
            && event.message.contains(": ")
            && !event.message.starts_with("Error: ")
    };
    let mut ours = events.iter().filter(about);
    let said = ours
        .rfind(telling)
        .map_or(waiting, |event| event.message.as_str());
    shorten(said)
}

/// Shortens words in the middle: they begin with what was tried and end with the cause.
fn shorten(text: &str) -> String {
    const HEAD: usize = 70;
    const TAIL: usize = 170;
    let text: Vec<char> = text
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .chars()
        .collect();
    if text.len() <= HEAD + TAIL {
        return text.into_iter().collect();
    }
    let head: String = text[..HEAD].iter().collect();
    let tail: String = text[text.len() - TAIL..].iter().collect();
    format!("{head} … {tail}")
}

/// Looks at what a node holds of an image.
async fn holding(session: Result<&Session, &Error>, image: &Reference) -> Holding {
    let session = match session {
        Ok(session) => session,
        Err(e) => return Holding::Unknown(one_line(e).to_string()),
    };
    let look = async {
        Ok::<_, Error>(match on_node::held(session, &image.to_string()).await? {
            Held::Whole(held) if session.facts().can_run(&held.platform) => Holding::Whole,
            Held::Whole(held) => Holding::Foreign(held.platform.to_string()),
            Held::Broken(why) => Holding::Broken(why),
            Held::Absent => {
                let names = session
                    .all_records(None)
                    .await?
                    .into_iter()
                    .map(|record| record.name);
                Holding::Absent(alike(image, names))
            }
        })
    };
    look.await
        .unwrap_or_else(|e| Holding::Unknown(one_line(&e).to_string()))
}

/// Picks the names that may have been meant: the same repository with another tag, and Podman's
/// name for it.
fn alike(image: &Reference, names: impl Iterator<Item = String>) -> Vec<String> {
    let repository = image.repository();
    let local = repository.strip_prefix("docker.io/").map(|rest| {
        let rest = rest.strip_prefix("library/").unwrap_or(rest);
        format!("localhost/{rest}")
    });
    let mut found: Vec<String> = names
        .filter(|name| !name.starts_with("sha256:"))
        .filter(|name| {
            Reference::parse(name).is_ok_and(|other| {
                let other = other.repository();
                other == repository || Some(other) == local
            })
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_keep_their_end() {
        assert_eq!(shorten("a\n  b"), "a b");
        let long = format!("Failed to pull {}: i/o timeout", "x".repeat(500));
        let short = shorten(&long);
        assert!(short.starts_with("Failed to pull x") && short.ends_with("x: i/o timeout"));
        assert!(short.chars().count() < 250, "{short}");
    }

    #[test]
    fn what_may_have_been_meant() {
        let names = [
            "docker.io/demo/app:1",
            "docker.io/demo/app2:1",
            "localhost/demo/app:dev",
            "sha256:1",
        ];
        let image = Reference::parse("demo/app:dev").unwrap();
        let found = alike(&image, names.into_iter().map(str::to_owned));
        assert_eq!(found, ["docker.io/demo/app:1", "localhost/demo/app:dev"]);
    }

    fn pod(name: &str) -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": name}, "spec": {"containers": []}
        }))
        .unwrap()
    }

    #[test]
    fn a_deployments_pods_are_found_by_its_name() {
        let pods = [pod("app-5c9d-x"), pod("app2"), pod("web")];
        let names = |name: &str| -> Vec<String> {
            let chosen = choose(&pods, name, "default").unwrap();
            chosen.iter().map(|pod| pod.metadata.name.clone()).collect()
        };
        assert_eq!(names("app"), ["app-5c9d-x"]);
        assert_eq!(names("app2"), ["app2"]);
        let error = choose(&pods, "gone", "default").unwrap_err();
        assert!(error.next_step().unwrap().contains("web"));
    }

    #[test]
    fn the_event_that_says_why_goes_before_the_one_that_waits() {
        let event = |reason: &str, container: &str, message: &str| Event {
            reason: reason.into(),
            message: message.into(),
            r#type: "Warning".into(),
            involved_object: Involved {
                name: "x".into(),
                field_path: format!("spec.containers{{{container}}}"),
            },
        };
        let events = [
            event("Failed", "app", "Failed to pull image \"a\": denied"),
            event("Failed", "app", "Error: ImagePullBackOff"),
            event("Failed", "other", "Failed to pull image \"b\": other"),
        ];
        assert_eq!(
            words("x", "app", "Back-off", &events),
            "Failed to pull image \"a\": denied"
        );
        assert_eq!(words("y", "app", "Back-off", &events), "Back-off");
    }
}
