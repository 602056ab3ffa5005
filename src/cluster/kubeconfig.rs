//! The kube context: which cluster `kubectl`, Skaffold and Tilt would talk to.
//!
//! Several files are merged as kubectl does: the first file
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
    #[serde(default)]
    users: Option<Vec<NamedUser>>,
    /// The folder that the file's own paths start from.
    #[serde(skip)]
    folder: PathBuf,
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
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: ClusterEntry,
}

#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case")]
struct ClusterEntry {
    #[serde(default)]
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: UserEntry,
}

/// How a user proves who it is. Commands that make credentials are not run.
#[derive(Deserialize, Clone, Default)]
#[serde(rename_all = "kebab-case")]
struct UserEntry {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
}

/// How to reach the API server of a context. Holds secrets: never shown.
pub struct Access {
    /// The server's URL.
    pub server: String,
    /// Whether its certificate is not looked at.
    pub insecure: bool,
    /// Who vouches for it, as PEM.
    pub authority: Option<Vec<u8>>,
    /// The name in its certificate, where it is not the URL's.
    pub server_name: Option<String>,
    /// The client's certificates and key, as PEM.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
    /// A bearer token.
    pub token: Option<String>,
}

/// Reads a context: the named one, else the current one. None, if there is no kubeconfig or it
/// has no current context.
///
/// # Errors
/// Cluster error, if a file cannot be read or the named context is not there.
pub fn context(env: &Env, wanted: Option<&str>) -> Result<Option<Context>> {
    find(&files(env)?, wanted)
}

/// Reads how to reach a context's API server.
///
/// # Errors
/// Cluster error, if a file cannot be read or the context is not there.
pub fn access(env: &Env, context: &Context) -> Result<Access> {
    let files = files(env)?;
    let missing = |what: &str| {
        Error::new(
            ErrorKind::Cluster,
            format!("the kubeconfig has no {what} for context {}", context.name),
        )
    };
    let user = files
        .iter()
        .flat_map(|file| file.contexts.iter().flatten())
        .find(|entry| entry.name == context.name)
        .map(|entry| entry.context.user.as_str())
        .unwrap_or_default();
    let (folder, cluster) = files
        .iter()
        .flat_map(|file| file.clusters.iter().flatten().map(|c| (&file.folder, c)))
        .find(|(_, entry)| entry.name == context.cluster)
        .map(|(folder, entry)| (folder, &entry.cluster))
        .ok_or_else(|| missing("cluster"))?;
    let authority = material(
        folder,
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
    )?;
    let mut access = Access {
        server: cluster.server.clone(),
        insecure: cluster.insecure_skip_tls_verify,
        authority,
        server_name: cluster.tls_server_name.clone(),
        client: None,
        token: None,
    };
    let entry = files
        .iter()
        .flat_map(|file| file.users.iter().flatten().map(|u| (&file.folder, u)))
        .find(|(_, entry)| entry.name == user);
    if let Some((folder, NamedUser { user, .. })) = entry {
        let certificate = material(
            folder,
            user.client_certificate_data.as_deref(),
            user.client_certificate.as_deref(),
        )?;
        let key = material(
            folder,
            user.client_key_data.as_deref(),
            user.client_key.as_deref(),
        )?;
        access.client = certificate.zip(key);
        access.token = match (&user.token_file, &user.token) {
            (Some(file), _) => {
                let token = read_beside(folder, file)?;
                Some(String::from_utf8_lossy(&token).trim().to_owned())
            }
            (None, token) => token.clone(),
        };
    }
    Ok(access)
}

/// Returns what is written in the file as base64, or what lies in a file beside it.
fn material(folder: &Path, data: Option<&str>, path: Option<&Path>) -> Result<Option<Vec<u8>>> {
    use base64::Engine as _;
    match (data, path) {
        (Some(data), _) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
            decoded.map(Some).map_err(|e| {
                Error::new(
                    ErrorKind::Cluster,
                    "a certificate or key in the kubeconfig is no base64",
                )
                .because(e)
            })
        }
        (None, Some(path)) => read_beside(folder, path).map(Some),
        (None, None) => Ok(None),
    }
}

fn read_beside(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    let path = folder.join(path);
    std::fs::read(&path).map_err(|e| {
        Error::new(
            ErrorKind::Cluster,
            format!("cannot read {}, which the kubeconfig names", path.display()),
        )
        .because(e)
    })
}

fn files(env: &Env) -> Result<Vec<File>> {
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
    Ok(files)
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
    let mut file: File = serde_yaml::from_slice(bytes).map_err(|e| {
        Error::new(
            ErrorKind::Cluster,
            format!("the kubeconfig {} cannot be read", path.display()),
        )
        .because(e)
    })?;
    file.folder = path.parent().unwrap_or(Path::new("")).to_owned();
    Ok(file)
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
  context: {cluster: gke_x, user: me}
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
        };
        assert_eq!(context.endpoint(), Some(("::1".into(), 6443)));
    }
}
