//! What an engine says of itself: for people who wonder why it does what it does.

use std::time::Duration;

use bollard::models::SystemInfo;
use serde::Deserialize;

use super::{Docker, Engine, Podman};
use crate::error::{Error, ErrorKind, Result};
use crate::image::Platform;
use crate::process;

const DEADLINE: Duration = Duration::from_secs(30);

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its version, e.g. `28.5.2`.
    pub version: String,
    /// Where its images lie.
    pub store: Store,
    /// Whether it runs without root's rights.
    pub rootless: bool,
    /// What it builds for, unless told otherwise.
    pub platform: Platform,
    /// The runtime of its containers, where it matters: Podman's.
    pub runtime: Option<String>,
    /// Whether its host has version 1 of the control groups.
    pub cgroup_v1: bool,
    /// Its own proxies: variable and address.
    pub proxies: Vec<(String, String)>,
}

/// Where an engine's images lie, which decides what it calls an image's ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Store {
    /// Docker's containerd store, with its snapshotter: IDs are digests of manifests or indexes.
    Containerd(String),
    /// Docker's own store, with its driver: IDs are digests of configs.
    Classic(String),
    /// Podman's, with its driver: IDs are digests of configs.
    Podman(String),
}

impl Engine {
    /// Asks the engine about itself.
    ///
    /// # Errors
    /// Engine error.
    pub async fn about(&self) -> Result<About> {
        match self {
            Self::Docker(docker) => docker.info().await.map(of_docker),
            Self::Podman(podman) => {
                let info = podman.info().await?;
                of_podman(&info, podman.proxies())
            }
        }
    }

    /// Asks the `docker` command for the version of its buildx. None, if the engine needs none,
    /// or there is none.
    ///
    /// # Errors
    /// Engine error, if there is no `docker` command: kindlift builds and saves with it.
    pub async fn buildx(&self) -> Result<Option<String>> {
        let Self::Docker(docker) = self else {
            return Ok(None);
        };
        let command = docker.command(&["buildx", "version"], process::Orphan::Kill);
        let finished = process::run(command, ErrorKind::Engine, DEADLINE).await?;
        if !finished.status.success() {
            return Ok(None);
        }
        // github.com/docker/buildx v0.29.1 28f6246...
        let said = String::from_utf8_lossy(&finished.stdout);
        let version = said.split_whitespace().nth(1).unwrap_or("of some version");
        Ok(Some(version.trim_start_matches('v').to_owned()))
    }

    /// Returns Docker's API at a local socket or elsewhere, if that is how it is reached.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Docker(docker) => Some(docker.host()),
            Self::Podman(podman) => podman.url(),
        }
    }
}

impl Docker {
    async fn info(&self) -> Result<SystemInfo> {
        self.api.info().await.map_err(|e| {
            Error::new(
                ErrorKind::Engine,
                format!("{} tells nothing of itself", self.describe()),
            )
            .because(e)
        })
    }
}

fn of_docker(info: SystemInfo) -> About {
    let driver = info.driver.unwrap_or_default();
    // The one place where the API tells the stores apart.
    let containerd = info.driver_status.into_iter().flatten().any(|row| {
        row.iter()
            .any(|word| word.contains("containerd.snapshotter"))
    });
    let proxies = [
        ("HTTP_PROXY", info.http_proxy),
        ("HTTPS_PROXY", info.https_proxy),
        ("NO_PROXY", info.no_proxy),
    ];
    About {
        version: info.server_version.unwrap_or_default(),
        store: if containerd {
            Store::Containerd(driver)
        } else {
            Store::Classic(driver)
        },
        rootless: info
            .security_options
            .iter()
            .flatten()
            .any(|option| option == "name=rootless"),
        platform: Platform::of_machine(&info.architecture.unwrap_or_default()),
        runtime: None,
        cgroup_v1: info
            .cgroup_version
            .is_some_and(|version| version.to_string() == "1"),
        proxies: proxies
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .filter(|(_, value)| !value.is_empty())
            .collect(),
    }
}

#[derive(Deserialize)]
struct Info {
    host: Host,
    store: StoreInfo,
    version: VersionInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    #[serde(default)]
    arch: String,
    #[serde(default)]
    cgroup_version: String,
    #[serde(default)]
    oci_runtime: Runtime,
    #[serde(default)]
    security: Security,
}

#[derive(Deserialize, Default)]
struct Runtime {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize, Default)]
struct Security {
    #[serde(default)]
    rootless: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoreInfo {
    #[serde(default)]
    graph_driver_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionInfo {
    #[serde(default)]
    version: String,
}

/// Reads what `podman info --format json` prints. Pure.
fn of_podman(output: &[u8], proxies: Vec<(String, String)>) -> Result<About> {
    let info: Info = serde_json::from_slice(output).map_err(|e| {
        Error::new(ErrorKind::Engine, "what `podman info` says cannot be read").because(e)
    })?;
    Ok(About {
        version: info.version.version,
        store: Store::Podman(info.store.graph_driver_name),
        rootless: info.host.security.rootless,
        platform: Platform::new("linux", &info.host.arch, None),
        runtime: Some(info.host.oci_runtime.name).filter(|name| !name.is_empty()),
        cgroup_v1: info.host.cgroup_version == "v1",
        proxies,
    })
}

impl Podman {
    async fn info(&self) -> Result<Vec<u8>> {
        self.output(&["info", "--format", "json"]).await
    }

    /// Podman has no proxy of its own: its builds and pulls take the environment's.
    fn proxies(&self) -> Vec<(String, String)> {
        ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"]
            .into_iter()
            .filter_map(|name| {
                let value = self.env.get(&name.to_lowercase()).or(self.env.get(name))?;
                Some((name.to_owned(), value.to_owned()))
            })
            .collect()
    }

    fn url(&self) -> Option<&str> {
        self.url.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker(value: serde_json::Value) -> About {
        of_docker(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn tells_dockers_stores_apart() {
        let containerd = docker(serde_json::json!({
            "ServerVersion": "28.5.2", "Driver": "overlayfs", "Architecture": "x86_64",
            "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
            "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
            "HttpProxy": "http://proxy:3128", "HttpsProxy": "", "CgroupVersion": "1",
        }));
        assert_eq!(containerd.store, Store::Containerd("overlayfs".into()));
        assert_eq!(containerd.platform.to_string(), "linux/amd64");
        assert!(containerd.rootless && containerd.cgroup_v1);
        assert_eq!(
            containerd.proxies,
            [("HTTP_PROXY".to_owned(), "http://proxy:3128".to_owned())]
        );
        let classic = docker(serde_json::json!({
            "ServerVersion": "20.10.24", "Driver": "overlay2", "Architecture": "aarch64",
            "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
            "CgroupVersion": "2",
        }));
        assert_eq!(classic.store, Store::Classic("overlay2".into()));
        assert!(!classic.rootless && !classic.cgroup_v1);
    }

    #[test]
    fn reads_podman() {
        let about = of_podman(
            br#"{"host": {"arch": "arm64", "cgroupVersion": "v1", "ociRuntime": {"name": "crun"},
                          "security": {"rootless": true}},
                 "store": {"graphDriverName": "overlay"}, "version": {"Version": "5.8.6"}}"#,
            Vec::new(),
        )
        .unwrap();
        assert_eq!(about.version, "5.8.6");
        assert_eq!(about.store, Store::Podman("overlay".into()));
        assert_eq!(about.runtime.as_deref(), Some("crun"));
        assert!(about.rootless && about.cgroup_v1);
        assert!(of_podman(b"{}", Vec::new()).is_err());
    }
}
