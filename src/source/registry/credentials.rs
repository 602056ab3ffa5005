//! Who we are to a registry: what `docker login` and `podman login` left, and credential helpers.
//!
//! Nothing is written, and no secret gets into a message or a log.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::process::{self, Orphan};

/// How long a helper may take: some ask a keychain, some a cloud.
const HELPER: Duration = Duration::from_secs(30);
/// The name that Docker's files and helpers have for Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";
/// What a helper says in place of a user name when its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// A secret that opens a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// A user's name and password.
    Password(String, String),
    /// What is exchanged for an access token.
    IdentityToken(String),
}

/// What was found, and where it was looked for.
pub(super) struct Search {
    pub(super) found: Option<Credentials>,
    /// The files and helpers, each with what it had; for messages.
    pub(super) looked: Vec<String>,
}

/// A `config.json` of Docker's or an `auth.json` of Podman's; the two are read alike.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AuthFile {
    auths: HashMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// Finds the credentials for a repository: `host/path`.
///
/// # Errors
/// Usage error, if a file that is there cannot be read: the user should know before a registry
/// that is asked without them says no.
pub(super) async fn find(repository: &str, env: &Env) -> Result<Search> {
    let mut search = Search {
        found: None,
        looked: Vec::new(),
    };
    for path in files(env) {
        let shown = path.display().to_string();
        let Some(file) = read(&path)? else {
            search.looked.push(format!("{shown} (not there)"));
            continue;
        };
        let (found, said) = file.ask(repository, env).await;
        let said = said.unwrap_or_else(|| match found {
            Some(_) => "used".to_owned(),
            None => "has none for it".to_owned(),
        });
        search.looked.push(format!("{shown} ({said})"));
        if found.is_some() {
            search.found = found;
            break;
        }
    }
    Ok(search)
}

/// Returns where credentials may lie, the most particular place first.
fn files(env: &Env) -> Vec<PathBuf> {
    let home = |below: &str| env.home().map(|home| home.join(below));
    let config = env.path("XDG_CONFIG_HOME").or_else(|| home(".config"));
    [
        env.path("REGISTRY_AUTH_FILE"),
        env.path("DOCKER_CONFIG")
            .or_else(|| home(".docker"))
            .map(|folder| folder.join("config.json")),
        env.path("XDG_RUNTIME_DIR")
            .map(|folder| folder.join("containers/auth.json")),
        config.map(|folder| folder.join("containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn read(path: &Path) -> Result<Option<AuthFile>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(path).because(e)),
    };
    // serde_json's message may quote a value; the place is enough.
    let file = serde_json::from_slice(&bytes).map_err(|e| {
        unreadable(path).because(format!(
            "line {}, column {} is no such JSON",
            e.line(),
            e.column()
        ))
    });
    file.map(Some)
}

fn unreadable(path: &Path) -> Error {
    Error::usage(format!("cannot read the credentials in {}", path.display()))
        .hint("mend the file, or name another one with REGISTRY_AUTH_FILE")
}

impl AuthFile {
    /// Returns what the file has for a repository, and what a helper said when it had nothing.
    async fn ask(&self, repository: &str, env: &Env) -> (Option<Credentials>, Option<String>) {
        let names = names(repository);
        let host = names.last().map_or(repository, String::as_str);
        let named = |key: &str| names.iter().position(|name| *name == plain(key));
        let helper = self
            .cred_helpers
            .iter()
            .filter_map(|(key, helper)| Some((named(key)?, helper)))
            .min();
        if let Some((_, helper)) = helper {
            return from_helper(helper, host, env).await;
        }
        // An entry that `docker login` left empty says that a store has the secret.
        let entry = self
            .auths
            .iter()
            .filter_map(|(key, auth)| Some((named(key)?, auth.credentials()?)))
            .min_by_key(|(place, _)| *place);
        if let Some((_, credentials)) = entry {
            return (Some(credentials), None);
        }
        match &self.creds_store {
            Some(store) => from_helper(store, host, env).await,
            None => (None, None),
        }
    }
}

impl Auth {
    fn credentials(&self) -> Option<Credentials> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credentials::IdentityToken(token));
        }
        if let Some(auth) = given(&self.auth) {
            let decoded = base64::engine::general_purpose::STANDARD
                .decode(auth.trim())
                .ok()?;
            let text = String::from_utf8(decoded).ok()?;
            let (user, password) = text.split_once(':')?;
            // Some versions of Docker's client padded with zeros.
            let password = password.trim_end_matches('\0');
            return Some(Credentials::Password(user.to_owned(), password.to_owned()));
        }
        Some(Credentials::Password(
            given(&self.username)?,
            given(&self.password)?,
        ))
    }
}

/// Returns the names under which a file may have the repository's secret: itself, the namespaces
/// above it (Podman's files have such), and last its host.
fn names(repository: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = repository;
    loop {
        names.push(rest.to_owned());
        match rest.rsplit_once('/') {
            Some((above, _)) => rest = above,
            None => return names,
        }
    }
}

/// Returns a key of a file as [`names`] writes it.
fn plain(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    }
}

/// Asks `docker-credential-HELPER`; where it has nothing, says what it said.
async fn from_helper(helper: &str, host: &str, env: &Env) -> (Option<Credentials>, Option<String>) {
    let program = format!("docker-credential-{helper}");
    match ask_helper(&program, host, env).await {
        Ok(Some(credentials)) => (Some(credentials), Some(format!("by {program}"))),
        Ok(None) => (None, Some(format!("{program} has none for it"))),
        // A store whose program is gone is left by many an uninstalled Docker Desktop, and most
        // images need no credentials: it is told when they turn out to be needed.
        Err(e) => (None, Some(one_line(&e).to_string())),
    }
}

async fn ask_helper(program: &str, host: &str, env: &Env) -> Result<Option<Credentials>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    if program.contains('/') {
        return Err(Error::usage(format!("{program:?} is no helper's name")));
    }
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Internal, format!("cannot talk to {program}")).because(e)
    };
    let (question, mut asker) = std::io::pipe().map_err(failed)?;
    // The name of a host always fits into a pipe that nobody reads yet.
    let server = if host == "docker.io" { HUB } else { host };
    asker.write_all(server.as_bytes()).map_err(failed)?;
    drop(asker);
    let mut command = process::command(program, env, Orphan::Kill);
    command.arg("get").stdin(question);
    let finished = process::run(command, ErrorKind::Image, HELPER).await?;
    if !finished.status.success() {
        // Helpers write their errors to stdout.
        let said = String::from_utf8_lossy(&finished.stdout);
        if said.contains("not found") {
            return Ok(None);
        }
        let said = format!("{said} {}", finished.stderr);
        let said: String = said.trim().chars().take(300).collect();
        return Err(Error::new(
            ErrorKind::Image,
            format!("{program} failed: {said}"),
        ));
    }
    let answer: Answer = serde_json::from_slice(&finished.stdout)
        .map_err(|_| Error::new(ErrorKind::Image, format!("{program} gave no credentials")))?;
    Ok(match answer.username.as_str() {
        "" => None,
        TOKEN_USER => Some(Credentials::IdentityToken(answer.secret)),
        _ => Some(Credentials::Password(answer.username, answer.secret)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password(user.into(), password.into())
    }

    impl std::fmt::Debug for Credentials {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            match self {
                Self::Password(user, password) => write!(f, "{user}:{password}"),
                Self::IdentityToken(token) => write!(f, "token {token}"),
            }
        }
    }

    fn ask(file: &str, repository: &str) -> Option<Credentials> {
        let file: AuthFile = serde_json::from_str(file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(file.ask(repository, &Env::default())).0
    }

    #[test]
    fn the_most_particular_entry_counts() {
        // base64 of u:host, u:team and u:repo.
        let file = r#"{"auths": {
            "https://reg.example": {"auth": "dTpob3N0"},
            "reg.example/team": {"auth": "dTp0ZWFt"},
            "reg.example/team/app": {"auth": "dTpyZXBv"}
        }}"#;
        for (repository, expected) in [
            ("reg.example/team/app", Some(password("u", "repo"))),
            ("reg.example/team/other", Some(password("u", "team"))),
            ("reg.example/x/y", Some(password("u", "host"))),
            ("reg.example:5000/x", None),
            ("other.example/team/app", None),
        ] {
            assert_eq!(ask(file, repository), expected, "{repository}");
        }
    }

    #[test]
    fn docker_hub_has_many_names() {
        for key in [
            "https://index.docker.io/v1/",
            "index.docker.io",
            "docker.io",
            "https://registry-1.docker.io/v2/",
        ] {
            let file = format!(r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}}}"#);
            let found = ask(&file, "docker.io/library/app");
            assert_eq!(found, Some(password("u", "p")), "{key}");
        }
    }

    #[test]
    fn passwords_may_have_colons_and_tokens_go_first() {
        let file = |entry: &str| format!(r#"{{"auths": {{"r.example": {entry}}}}}"#);
        for (entry, expected) in [
            // u:p:q
            (r#"{"auth": "dTpwOnE="}"#, Some(password("u", "p:q"))),
            (
                r#"{"auth": "dTpw", "identitytoken": "t"}"#,
                Some(Credentials::IdentityToken("t".into())),
            ),
            (
                r#"{"username": "u", "password": "p"}"#,
                Some(password("u", "p")),
            ),
            ("{}", None),
            (r#"{"auth": "not base64"}"#, None),
        ] {
            assert_eq!(ask(&file(entry), "r.example/app"), expected, "{entry}");
        }
    }

    #[test]
    fn places_are_docker_s_and_podman_s() {
        let env = Env::new([
            ("HOME", "/h"),
            ("XDG_RUNTIME_DIR", "/run/user/1"),
            ("REGISTRY_AUTH_FILE", "/a.json"),
        ]);
        let paths = |env: &Env| -> Vec<String> {
            let files = files(env);
            files.iter().map(|p| p.display().to_string()).collect()
        };
        assert_eq!(
            paths(&env),
            [
                "/a.json",
                "/h/.docker/config.json",
                "/run/user/1/containers/auth.json",
                "/h/.config/containers/auth.json"
            ]
        );
        let env = Env::new([("DOCKER_CONFIG", "/d"), ("HOME", "/h")]);
        assert_eq!(
            paths(&env),
            ["/d/config.json", "/h/.config/containers/auth.json"]
        );
    }

    #[test]
    fn a_broken_file_is_told_without_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(
            &path,
            r#"{"auths": {"r": {"auth": 5, "password": "hunter2"}}}"#,
        )
        .unwrap();
        let error = read(&path).err().unwrap();
        assert!(error.to_string().contains("config.json"), "{error}");
        let told = format!("{}", one_line(&error));
        assert!(!told.contains("hunter2"), "{told}");
    }
}
