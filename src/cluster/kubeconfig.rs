//! The kube context: which cluster `kubectl`, Skaffold and Tilt would talk to.
//!
//! Owns the only YAML that is read. Several files are merged as kubectl does: the first file
//! that sets a value wins.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// A kube context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Its name.
    pub name: String,
    /// The name of its cluster entry.
    pub cluster: String,
    /// The API server's URL.
    pub server: String,
    /// The namespace that it chooses.
    pub namespace: Option<String>,
}

impl Context {
    /// Returns the Kind cluster that the names speak of: `kind-NAME` as context or cluster entry.
    pub fn kind_name(&self) -> Option<&str> {
        // Tilt hands over a frozen file whose context keeps the cluster entry's name.
        self.cluster
            .strip_prefix("kind-")
            .or_else(|| self.name.strip_prefix("kind-"))
    }

    /// Returns host and port of the server.
    pub fn endpoint(&self) -> Option<(String, u16)> {
        let (scheme, rest) = self.server.split_once("://")?;
        let authority = rest.split('/').next()?;
        let default = if scheme == "http" { 80 } else { 443 };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (authority, default),
        };
        Some((host.trim_matches(['[', ']']).to_owned(), port))
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: Option<String>,
    #[serde(default)]
    contexts: Option<Vec<NamedContext>>,
    #[serde(default)]
    clusters: Option<Vec<NamedCluster>>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct ContextEntry {
    #[serde(default)]
    cluster: String,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize)]
struct ClusterEntry {
    #[serde(default)]
    server: String,
}

/// Reads a context: the named one, else the current one. None, if there is no kubeconfig or it
/// has no current context.
///
/// # Errors
/// Cluster error, if a file cannot be read or the named context is not there.
pub fn context(env: &Env, wanted: Option<&str>) -> Result<Option<Context>> {
    let mut files = Vec::new();
    for path in paths(env) {
        match std::fs::read(&path) {
            Ok(bytes) => files.push(parse(&path, &bytes)?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Error::new(
                    ErrorKind::Cluster,
                    format!("cannot read the kubeconfig {}", path.display()),
                )
                .because(e));
            }
        }
    }
    find(&files, wanted)
}

fn paths(env: &Env) -> Vec<PathBuf> {
    match env.path("KUBECONFIG") {
        Some(list) => std::env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        None => env
            .home()
            .map(|home| home.join(".kube/config"))
            .into_iter()
            .collect(),
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<File> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(File::default());
    }
    serde_yaml::from_slice(bytes).map_err(|e| {
        Error::new(
            ErrorKind::Cluster,
            format!("the kubeconfig {} cannot be read", path.display()),
        )
        .because(e)
    })
}

fn find(files: &[File], wanted: Option<&str>) -> Result<Option<Context>> {
    let current = || {
        files
            .iter()
            .filter_map(|file| file.current_context.as_deref())
            .find(|name| !name.is_empty())
    };
    let Some(name) = wanted.or_else(current) else {
        return Ok(None);
    };
    let contexts = || {
        files
            .iter()
            .filter_map(|file| file.contexts.as_ref())
            .flatten()
    };
    let Some(context) = contexts().find(|context| context.name == name) else {
        let known: Vec<&str> = contexts().map(|context| context.name.as_str()).collect();
        return Err(Error::new(
            ErrorKind::Cluster,
            format!("the kubeconfig has no context {name:?}"),
        )
        .hint(if known.is_empty() {
            "it has no contexts at all; look at KUBECONFIG".to_owned()
        } else {
            format!("its contexts are {}", known.join(", "))
        }));
    };
    let server = files
        .iter()
        .filter_map(|file| file.clusters.as_ref())
        .flatten()
        .find(|cluster| cluster.name == context.context.cluster)
        .map(|cluster| cluster.cluster.server.clone())
        .unwrap_or_default();
    Ok(Some(Context {
        name: name.to_owned(),
        cluster: context.context.cluster.clone(),
        server,
        namespace: context
            .context
            .namespace
            .clone()
            .filter(|name| !name.is_empty()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "
apiVersion: v1
kind: Config
current-context: kind-dev
contexts:
- name: kind-dev
  context: {cluster: kind-dev, user: kind-dev}
- name: work
  context: {cluster: gke_x, user: me, namespace: team}
clusters:
- name: kind-dev
  cluster: {server: 'https://127.0.0.1:41234', certificate-authority-data: aGk=}
- name: gke_x
  cluster: {server: 'https://1.2.3.4'}
";

    fn files(texts: &[&str]) -> Vec<File> {
        texts
            .iter()
            .map(|text| parse(Path::new("config"), text.as_bytes()).unwrap())
            .collect()
    }

    #[test]
    fn finds_the_current_and_the_named_context() {
        let files = files(&[KIND]);
        let current = find(&files, None).unwrap().unwrap();
        assert_eq!(current.kind_name(), Some("dev"));
        assert_eq!(current.endpoint(), Some(("127.0.0.1".into(), 41234)));
        let work = find(&files, Some("work")).unwrap().unwrap();
        assert_eq!(work.kind_name(), None);
        assert_eq!(work.namespace.as_deref(), Some("team"));
        assert_eq!(current.namespace, None);
        assert_eq!(work.endpoint(), Some(("1.2.3.4".into(), 443)));
    }

    #[test]
    fn the_first_file_wins() {
        let files = files(&["current-context: work\n", KIND]);
        assert_eq!(find(&files, None).unwrap().unwrap().name, "work");
    }

    #[test]
    fn a_missing_context_names_the_others() {
        let error = find(&files(&[KIND]), Some("nope")).unwrap_err();
        assert!(error.to_string().contains("nope"));
        assert!(error.next_step().unwrap().contains("kind-dev, work"));
    }

    #[test]
    fn nothing_is_no_error() {
        assert_eq!(find(&files(&["", "{}"]), None).unwrap(), None);
    }

    #[test]
    fn reads_ipv6_servers() {
        let context = Context {
            name: "x".into(),
            cluster: "x".into(),
            server: "https://[::1]:6443/".into(),
            namespace: None,
        };
        assert_eq!(context.endpoint(), Some(("::1".into(), 6443)));
    }
}
