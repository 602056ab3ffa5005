//! Questions to Kubernetes, with what the kubeconfig has to prove who asks.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Check, silent, within};
use crate::cluster::kubeconfig::{self, Access, Context};
use crate::cluster::{self, Cluster, Wanted, registry};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::job::Job;

/// The API server of a Kind cluster.
pub struct Api {
    context: Context,
    access: Access,
    deadline: Duration,
}

impl Api {
    /// Finds the way to a cluster's API server: the context at hand where it leads there, else the
    /// one that kind makes. None, if neither does.
    ///
    /// # Errors
    /// Cluster error, if what the kubeconfig names cannot be read.
    pub fn of(job: &Job, cluster: &Cluster, at_hand: Option<&Context>) -> Result<Option<Self>> {
        let leads_there = |context: &Context| {
            let wanted = Wanted {
                context: Some(context.clone()),
                in_loop: true,
                ..Wanted::default()
            };
            cluster::pick(&wanted, std::slice::from_ref(cluster)).is_ok()
        };
        let made_by_kind = || {
            let name = format!("kind-{}", cluster.name);
            let context = kubeconfig::context(&job.env, Some(&name));
            context.ok().flatten().filter(leads_there)
        };
        let at_hand = at_hand.filter(|context| leads_there(context)).cloned();
        let Some(context) = at_hand.or_else(made_by_kind) else {
            return Ok(None);
        };
        let access = kubeconfig::access(&job.env, &context)?;
        Ok(Some(Self {
            context,
            access,
            deadline: job.patience,
        }))
    }

    /// Gets an object. None, if there is no such object.
    ///
    /// # Errors
    /// Cluster error, naming the server.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let asking = cluster::api::get(&self.context, &self.access, path, self.deadline);
        let body = asking.await.map_err(|e| {
            e.hint("does `kubectl get nodes` work? if not: `kind export kubeconfig`")
        })?;
        let Some(body) = body else { return Ok(None) };
        serde_json::from_slice(&body).map(Some).map_err(|e| {
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

/// Looks whether Kubernetes answers, and for a local registry.
pub async fn look(env: &Env, api: Option<&Result<Option<Api>>>) -> Vec<Check> {
    let (kubernetes, local) = ("kubernetes", "local registry");
    match api {
        None => Vec::new(),
        Some(Ok(Some(api))) => {
            let (version, registry) = futures_util::join!(version(api), hosting(env, api));
            vec![version, registry]
        }
        Some(Ok(None)) => vec![Check::skipped(
            kubernetes,
            "no kube context leads to the cluster",
        )],
        // An image can be loaded all the same.
        Some(Err(e)) => vec![
            Check::error(kubernetes, e).tolerable(),
            Check::skipped(local, "Kubernetes cannot be asked"),
        ],
    }
}

async fn version(api: &Api) -> Check {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        git_version: String,
    }
    let name = "kubernetes";
    match api.get::<Version>("/version").await {
        Ok(Some(version)) => Check::ok(name, version.git_version),
        Ok(None) => Check::skipped(name, "it tells no version"),
        Err(e) => Check::error(name, &e).tolerable(),
    }
}

/// Looks for a local registry where Skaffold and Tilt look.
async fn hosting(env: &Env, api: &Api) -> Check {
    let name = "local registry";
    match within(api.deadline, registry::find(env, &api.context)).await {
        Some(Ok(Some(registry))) => Check::ok(
            name,
            format!(
                "{} (ConfigMap kube-public/local-registry-hosting): Skaffold pushes there unless \
                 `local: {{push: false}}`, Tilt unless skips_local_docker or disable_push",
                registry.host
            ),
        ),
        Some(Ok(None)) => Check::ok(name, "none: nobody is told to push"),
        Some(Err(e)) if e.to_string().starts_with("the API server") => {
            Check::skipped(name, "Kubernetes does not answer")
        }
        Some(Err(e)) => Check::error(name, &e).tolerable(),
        None => Check::skipped(name, silent(api.deadline)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        assert_eq!(segment("pod", "app-5c9d.x1").unwrap(), "app-5c9d.x1");
        for bad in ["", "..", "../x", "a/b", "A", "a?b", "a%2fb", "-a", "a b"] {
            assert!(segment("pod", bad).is_err(), "{bad}");
        }
    }
}
