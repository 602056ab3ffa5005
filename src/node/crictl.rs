//! The proof: crictl on the node shows exactly the image, under every name.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use serde::Deserialize;

use super::name::{self, Claim};
use super::session::Session;
use super::stage;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, Platform};
use crate::reference::Reference;

/// How long the CRI may take to follow containerd's events; seen: 142 ms at most.
const SETTLE: Duration = Duration::from_secs(15);
/// How often an earlier load may take a name while it is proven.
const TRIES: usize = 5;

/// What crictl says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The image ID: the config's digest.
    pub id: String,
    /// Names with tags, in full form.
    pub repo_tags: Vec<String>,
    /// Names with digests.
    pub repo_digests: Vec<String>,
    /// The config's architecture.
    pub architecture: String,
}

#[derive(Deserialize)]
struct Inspected {
    status: InspectedStatus,
    #[serde(default)]
    info: InspectedInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InspectedStatus {
    id: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    repo_digests: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct InspectedInfo {
    #[serde(default)]
    image_spec: ImageSpec,
}

#[derive(Deserialize, Default)]
struct ImageSpec {
    #[serde(default)]
    architecture: String,
}

/// Reads the output of `crictl inspecti -o json`.
///
/// # Errors
/// Verify error, if it is something else.
pub fn parse(output: &[u8]) -> Result<Shown> {
    let read: Inspected = serde_json::from_slice(output)
        .map_err(|e| Error::new(ErrorKind::Verify, "crictl's answer cannot be read").because(e))?;
    Ok(Shown {
        id: read.status.id,
        repo_tags: read.status.repo_tags.unwrap_or_default(),
        repo_digests: read.status.repo_digests.unwrap_or_default(),
        architecture: read.info.image_spec.architecture,
    })
}

/// What a `crictl inspecti -o json` left.
#[derive(Debug, Default)]
pub struct Ran {
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: String,
    /// Whether it succeeded.
    pub success: bool,
    /// How it ended, e.g. `exit status: 1`.
    pub status: String,
}

/// Lets crictl inspect an image. None, if the node has no such image.
///
/// # Errors
/// Verify error, with crictl's words.
async fn inspect(session: &Session, name: &str) -> Result<Option<Shown>> {
    let ran = session
        .inspecti(name)
        .await
        .map_err(|failure| failure.of_kind(ErrorKind::Verify))?;
    if ran.success {
        return parse(&ran.stdout).map(Some);
    }
    if ran.stderr.contains("no such image") {
        return Ok(None);
    }
    let command = format!("crictl inspecti (on node {})", session.node().name);
    // What Docker cannot start, it says on stdout.
    let said = format!("{}\n{}", ran.stderr, String::from_utf8_lossy(&ran.stdout));
    Err(Error::new(
        ErrorKind::Verify,
        format!("`{command}` failed ({})", ran.status),
    )
    .because(said.trim().to_owned()))
}

/// Proves that a node shows exactly this image under every name, unpacked, and that the names
/// are still ours afterwards.
///
/// # Errors
/// Verify error, naming node, name and what crictl shows instead; superseded, if somebody else
/// has moved a name meanwhile.
pub async fn prove(session: &Session, claim: &Claim<'_>) -> Result<Shown> {
    for _ in 0..TRIES {
        let names = claim.names.iter();
        try_join_all(names.map(|name| settle(session, claim, name))).await?;
        let shown = confirm(session, claim.image, claim.names).await;
        match keep(session, claim).await {
            Ok(true) => return shown,
            Ok(false) => {}
            Err(e) if shown.is_ok() || e.kind() == ErrorKind::Superseded => return Err(e),
            Err(_) => return shown,
        }
    }
    Err(Error::new(
        ErrorKind::Verify,
        format!(
            "node {}: other loads take the image's names all the time",
            session.node().name
        ),
    ))
}

/// Lets crictl confirm an image under every name, now: nothing is waited for.
///
/// # Errors
/// Verify error, naming node, name and what crictl shows instead.
pub async fn confirm(session: &Session, image: &Image, names: &[Reference]) -> Result<Shown> {
    let unproven = |why: String| {
        Error::new(
            ErrorKind::Verify,
            format!(
                "node {} does not show the image: {why}",
                session.node().name
            ),
        )
    };
    let Some(first) = names.first() else {
        return Err(unproven("it was given no name".into()));
    };
    let name = first.to_string();
    // crictl lists images whose layers are gone.
    let (shown, there) = tokio::join!(inspect(session, &name), stage::check(session, image));
    let shown = shown?.ok_or_else(|| unproven(format!("crictl finds no {first}")))?;
    let id = image.id().to_string();
    if shown.id != id {
        return Err(unproven(format!(
            "crictl says {first} is {}, not {id}",
            shown.id
        )));
    }
    for name in names {
        let full = name.to_string();
        if !shown.repo_tags.contains(&full) && !shown.repo_digests.contains(&full) {
            return Err(unproven(format!("crictl does not list {full}")));
        }
    }
    // The config's own word for it, e.g. x86_64.
    let architecture = Platform::new(&image.platform.os, &shown.architecture, None).architecture;
    if architecture != image.platform.architecture {
        return Err(unproven(format!(
            "crictl says its architecture is {}, not {}",
            shown.architecture, image.platform.architecture
        )));
    }
    there.map_err(|e| e.with_kind(ErrorKind::Verify))?;
    Ok(shown)
}

/// Looks whether the names are ours; a node that cannot tell has not proven it.
async fn keep(session: &Session, claim: &Claim<'_>) -> Result<bool> {
    name::keep(session, claim)
        .await
        .map_err(|e| match e.kind() {
            ErrorKind::Superseded => e,
            _ => e.with_kind(ErrorKind::Verify),
        })
}

/// Waits until the CRI has followed containerd: a name that moved shows its old image at first.
async fn settle(session: &Session, claim: &Claim<'_>, name: &Reference) -> Result<()> {
    let id = claim.image.id().to_string();
    let full = name.to_string();
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let now = session
            .shown(&full)
            .await
            .map_err(|failure| failure.of_kind(ErrorKind::Verify))?;
        if now.as_deref() == Some(id.as_str()) {
            return Ok(());
        }
        keep(session, claim).await?;
        if start.elapsed() > SETTLE {
            let now = now.unwrap_or_else(|| "nothing".to_owned());
            return Err(Error::new(
                ErrorKind::Verify,
                format!(
                    "node {}: the CRI shows {now} under {name}, not {id}",
                    session.node().name
                ),
            ));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_crictl() {
        let shown = parse(
            br#"{"status": {"id": "sha256:1", "repoTags": ["a:1"], "repoDigests": null, "size": "5"},
                 "info": {"chainID": "sha256:2", "imageSpec": {"architecture": "amd64", "os": "linux"}}}"#,
        )
        .unwrap();
        assert_eq!(shown.id, "sha256:1");
        assert_eq!(shown.repo_tags, ["a:1"]);
        assert_eq!(shown.architecture, "amd64");
        assert!(parse(b"FATA no").is_err());
    }
}
