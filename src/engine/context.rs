//! The Docker endpoint that the `docker` command would use: `DOCKER_HOST`, `DOCKER_CONTEXT`, the
//! current context of the configuration, the default socket. bollard does not read contexts.
//!
//! Source: docker/cli `cli/command/cli.go` (resolveContextName) and `cli/context/store`.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Digest;

/// Where Docker answers when nothing says otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// What chooses it: Docker's own name for the context that is always there.
const DEFAULT: &str = "default";

/// A Docker endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `unix:///…`, `tcp://…`, `ssh://…`.
    pub host: String,
    /// What chose it, for messages: `DOCKER_HOST`, `context NAME` or `default`.
    pub chosen_by: String,
}

impl Endpoint {
    /// Returns the path of a unix socket.
    pub fn socket(&self) -> Option<PathBuf> {
        self.host.strip_prefix("unix://").map(PathBuf::from)
    }
}

/// The address, with the context that named it.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chosen_by.as_str() {
            by if by.starts_with("context ") => write!(f, "{} ({by})", self.host),
            _ => f.write_str(&self.host),
        }
    }
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(default, rename = "currentContext")]
    current_context: String,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "Endpoints")]
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Option<DockerEndpoint>,
}

#[derive(Deserialize)]
struct DockerEndpoint {
    #[serde(default, rename = "Host")]
    host: String,
}

fn config_folder(env: &Env) -> Option<PathBuf> {
    env.path("DOCKER_CONFIG")
        .or_else(|| env.home().map(|home| home.join(".docker")))
}

/// Finds the endpoint.
///
/// # Errors
/// Engine error, if a context is named that is not there or cannot be read.
pub fn resolve(env: &Env) -> Result<Endpoint> {
    if let Some(host) = env.get("DOCKER_HOST") {
        return Ok(Endpoint {
            host: normalise(host),
            chosen_by: "DOCKER_HOST".to_owned(),
        });
    }
    let folder = config_folder(env);
    let name = match env.get("DOCKER_CONTEXT") {
        Some(name) => name.to_owned(),
        None => current(folder.as_ref())?,
    };
    if name.is_empty() || name == DEFAULT {
        return Ok(Endpoint {
            host: format!("unix://{DEFAULT_SOCKET}"),
            chosen_by: DEFAULT.to_owned(),
        });
    }
    let failed = |why: &str| {
        Error::new(
            ErrorKind::Engine,
            format!("the Docker context {name:?} {why}"),
        )
        .hint(if env.get("DOCKER_CONTEXT").is_some() {
            "look with `docker context ls`, or unset DOCKER_CONTEXT"
        } else {
            "look with `docker context ls`, and choose one with `docker context use`"
        })
    };
    let id = Digest::of(name.as_bytes());
    let path = folder
        .ok_or_else(|| failed("cannot be looked up: HOME is not set"))?
        .join("contexts/meta")
        .join(id.hex())
        .join("meta.json");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(failed("does not exist")),
        Err(e) => return Err(failed("cannot be read").because(e)),
    };
    let meta: Meta =
        serde_json::from_slice(&bytes).map_err(|e| failed("cannot be read").because(e))?;
    let host = meta
        .endpoints
        .docker
        .map(|docker| docker.host)
        .unwrap_or_default();
    Ok(Endpoint {
        host: if host.is_empty() {
            format!("unix://{DEFAULT_SOCKET}")
        } else {
            normalise(&host)
        },
        chosen_by: format!("context {name}"),
    })
}

/// Tells whether the user has said where Docker is, be it wrongly.
pub fn is_named(env: &Env) -> bool {
    resolve(env).map_or(true, |endpoint| endpoint.chosen_by != DEFAULT)
}

fn current(folder: Option<&PathBuf>) -> Result<String> {
    let Some(path) = folder.map(|folder| folder.join("config.json")) else {
        return Ok(String::new());
    };
    let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::new(ErrorKind::Engine, format!("cannot read {}", path.display())).because(e)
    };
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice::<Config>(&bytes)
            .map(|config| config.current_context)
            .map_err(|e| unreadable(e.into())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(unreadable(e.into())),
    }
}

/// A bare `host:port` means TCP, as for the docker command.
fn normalise(host: &str) -> String {
    if host.contains("://") {
        host.to_owned()
    } else {
        format!("tcp://{host}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(current: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("config.json"),
            format!(r#"{{"currentContext": "{current}", "auths": {{}}}}"#),
        )
        .unwrap();
        let meta = folder
            .path()
            .join("contexts/meta")
            .join(Digest::of(b"colima").hex());
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(
            meta.join("meta.json"),
            r#"{"Name":"colima","Metadata":{},"Endpoints":{"docker":{"Host":"unix:///colima.sock","SkipTLSVerify":false}}}"#,
        )
        .unwrap();
        folder
    }

    #[test]
    fn follows_the_docker_commands_order() {
        let config = folder("colima");
        let config = config.path().to_str().unwrap();
        let host = |vars: &[(&str, &str)]| {
            let all = vars.iter().copied().chain([("DOCKER_CONFIG", config)]);
            resolve(&Env::new(all)).unwrap().host
        };
        assert_eq!(host(&[]), "unix:///colima.sock");
        assert_eq!(
            host(&[("DOCKER_CONTEXT", "default")]),
            "unix:///var/run/docker.sock"
        );
        assert_eq!(
            host(&[("DOCKER_HOST", "unix:///x"), ("DOCKER_CONTEXT", "colima")]),
            "unix:///x"
        );
        assert_eq!(host(&[("DOCKER_HOST", "box:2375")]), "tcp://box:2375");
    }

    #[test]
    fn tells_what_was_named_from_what_was_not() {
        let (colima, none) = (folder("colima"), folder(""));
        let named = |folder: &tempfile::TempDir, vars: &[(&str, &str)]| {
            let config = ("DOCKER_CONFIG", folder.path().to_str().unwrap());
            is_named(&Env::new(vars.iter().copied().chain([config])))
        };
        assert!(!named(&none, &[]));
        assert!(!named(&colima, &[("DOCKER_CONTEXT", "default")]));
        assert!(named(&none, &[("DOCKER_HOST", "unix:///x")]));
        assert!(named(&none, &[("DOCKER_CONTEXT", "gone")]));
        assert!(named(&colima, &[]));
    }

    #[test]
    fn a_context_that_is_not_there_is_an_error() {
        let config = folder("");
        let env = Env::new([
            ("DOCKER_CONFIG", config.path().to_str().unwrap()),
            ("DOCKER_CONTEXT", "gone"),
        ]);
        let error = resolve(&env).unwrap_err();
        assert!(
            error.to_string().contains("\"gone\" does not exist"),
            "{error}"
        );
    }
}
