//! The engine: which one answers, what kind of store it has, and which faults it is known for.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{Check, Verdict, is_on_loopback, silent, within, without_password};
use crate::engine::about::{About, Store};
use crate::engine::{Engine, EngineKind, context};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::job::Job;

/// What was found.
pub struct Found {
    pub checks: Vec<Check>,
    /// The engine that a build would use, and why, in words.
    pub chosen: Option<String>,
    pub about: Option<About>,
    /// Where Skaffold and Tilt would find the same engine; none, if they would not.
    pub by_api: bool,
}

/// Looks.
pub async fn look(job: &Job, kind: Option<EngineKind>) -> Found {
    let (patience, env) = (job.patience, &job.env);
    let name = "engine";
    let engine = match within(patience, Engine::find(kind, false, env)).await {
        Some(Ok(engine)) => engine,
        failed => {
            let check = match failed {
                Some(Err(e)) => Check::error(name, &e),
                _ => Check::fail(
                    name,
                    ErrorKind::Engine,
                    silent(patience),
                    "is it still starting? restart Docker or Podman",
                ),
            };
            return Found {
                checks: vec![check, socket(env, None)],
                chosen: None,
                about: None,
                by_api: false,
            };
        }
    };
    let why = why(&engine, kind, env);
    let about = async {
        let told = within(patience, engine.about()).await;
        told.unwrap_or_else(|| Err(crate::Error::new(ErrorKind::Engine, silent(patience))))
    };
    let (about, buildx, by_api) = futures_util::join!(
        about,
        within(patience, engine.buildx()),
        within(patience, Engine::find(kind, true, env)),
    );
    let mut checks = vec![Check::ok(name, format!("{} ({why})", engine.describe()))];
    let about = match about {
        Ok(about) => {
            if about.rootless {
                checks[0].finding += ", rootless";
            }
            checks.extend(fault(&engine, &about.version));
            checks.push(store(&about));
            checks.extend(runtime(&about));
            checks.push(proxies(&about));
            Some(about)
        }
        Err(e) => {
            checks.push(Check::error("image store", &e));
            None
        }
    };
    if matches!(engine, Engine::Docker(_)) {
        checks.push(match buildx {
            Some(Ok(Some(version))) => Check::ok("buildx", version),
            Some(Ok(None)) => Check::warn(
                "buildx",
                "the docker command has none: no --secret, no --ssh, one platform",
                "install the docker-buildx plugin",
            ),
            Some(Err(e)) => Check::error("buildx", &e),
            None => Check::warn("buildx", silent(patience), "try `docker buildx version`"),
        });
    }
    checks.push(socket(env, Some(&engine)));
    Found {
        checks,
        chosen: Some(format!("{} ({why})", kind_and_version(&engine))),
        about,
        by_api: matches!(by_api, Some(Ok(_))),
    }
}

/// Returns the engine's name without its address.
fn kind_and_version(engine: &Engine) -> String {
    let described = engine.describe();
    let name = described.split(" at ").next();
    name.unwrap_or_default().to_owned()
}

/// Says why it is this engine.
fn why(engine: &Engine, kind: Option<EngineKind>, env: &Env) -> String {
    if kind.is_some() {
        return "--engine".to_owned();
    }
    if env.get("KINDLIFT_ENGINE").is_some() {
        return "KINDLIFT_ENGINE".to_owned();
    }
    match (engine.host(), context::resolve(env)) {
        (None, _) => "no Docker answers".to_owned(),
        (Some(_), Ok(endpoint)) if endpoint.chosen_by != "default" => endpoint.chosen_by,
        _ => "Docker's default".to_owned(),
    }
}

/// Reads `28.5.2+dfsg4` and the like; what is not there counts as 0.
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.trim_start_matches('v').split(['.', '+', '-', '~']);
    let mut next = || parts.next().and_then(|part| part.parse().ok());
    Some((next()?, next().unwrap_or(0), next().unwrap_or(0)))
}

/// What is known against a version.
fn fault(engine: &Engine, version: &str) -> Option<Check> {
    match engine {
        Engine::Docker(_) => docker_fault(version),
        Engine::Podman(_) => podman_fault(version),
    }
}

fn docker_fault(version: &str) -> Option<Check> {
    let name = "engine version";
    match numbers(version)? {
        (25, 0, 0) => Some(Check::fail(
            name,
            ErrorKind::Image,
            "Docker 25.0.0 saves images whose layers do not match their config (moby #47065, #47150)",
            "upgrade to 25.0.1 or later, and build again",
        )),
        (major, ..) if major < 25 => Some(Check::warn(
            name,
            format!("Docker {version} is older than what kindlift expects to work with (25.0.1)"),
            "upgrade Docker if a build or a save fails",
        )),
        (29, minor, _) if minor < 3 => Some(Check::warn(
            name,
            format!(
                "Docker {version} refuses clients older than API 1.44: kind, Skaffold or Tilt may be"
            ),
            "upgrade to 29.3 or later, or upgrade the client that says `client version … is too old`",
        )),
        _ => None,
    }
}

fn podman_fault(version: &str) -> Option<Check> {
    ((4, 3, 0) > numbers(version)?).then(|| {
        Check::warn(
            "engine version",
            format!("Podman {version} is older than what kindlift expects to work with (4.3)"),
            "upgrade Podman if a build or a save fails",
        )
    })
}

fn store(about: &About) -> Check {
    let finding = match &about.store {
        Store::Containerd(driver) => format!(
            "containerd's ({driver}), the default of new installs since Docker 29: `kind load` \
             fails on its multi-platform images, kindlift loads one platform"
        ),
        Store::Classic(driver) => format!("Docker's own ({driver})"),
        Store::Podman(driver) => format!("Podman's ({driver})"),
    };
    let native = matches!(
        &about.store,
        Store::Classic(driver) | Store::Podman(driver) | Store::Containerd(driver)
            if driver == "vfs" || driver == "native"
    );
    if native {
        return Check::warn(
            "image store",
            format!("{finding}; it copies all layers for each image and container"),
            "use overlay (rootless: fuse-overlayfs, or a kernel from 5.13 on)",
        );
    }
    Check::ok("image store", finding)
}

/// Podman's runtime on hybrid cgroups, which version 1 as the kernel's answer means here.
fn runtime(about: &About) -> Option<Check> {
    if !about.cgroup_v1 || about.runtime.as_deref() != Some("crun") {
        return None;
    }
    Some(Check::warn(
        "cgroups",
        "version 1 or hybrid, where crun may refuse to run (`cgroups in hybrid mode not supported`)",
        "if a build stops there, set `runtime = \"runc\"` in containers.conf under [engine]",
    ))
}

fn proxies(about: &About) -> Check {
    let name = "engine proxy";
    if about.proxies.is_empty() {
        return Check::ok(name, "none");
    }
    let shown: Vec<String> = about
        .proxies
        .iter()
        .map(|(name, value)| format!("{name}={}", without_password(value)))
        .collect();
    let shown = shown.join(" ");
    let local = |(name, value): &&(String, String)| name != "NO_PROXY" && is_on_loopback(value);
    if about.proxies.iter().any(|proxy| local(&proxy)) {
        return Check::warn(
            name,
            format!("{shown}: on loopback, which is another place inside a build's container"),
            "use an address that containers reach, if a build downloads something",
        );
    }
    Check::ok(name, shown)
}

/// Looks at the socket of Docker's API: who may use it.
fn socket(env: &Env, engine: Option<&Engine>) -> Check {
    let name = "socket";
    let host = match engine.map(Engine::host) {
        Some(None) => return Check::skipped(name, "podman is asked by its command"),
        Some(Some(host)) => Some(host.to_owned()),
        None => context::resolve(env).ok().map(|endpoint| endpoint.host),
    };
    let Some(path) = host
        .as_deref()
        .and_then(|host| host.strip_prefix("unix://"))
    else {
        return Check::skipped(name, "the engine is not reached through a local socket");
    };
    judge(Path::new(path), engine.is_some())
}

fn judge(path: &Path, answered: bool) -> Check {
    let name = "socket";
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Check::skipped(name, format!("{shown} is not there"));
        }
        Err(e) => {
            return Check::fail(
                name,
                ErrorKind::Engine,
                format!("{shown} cannot be looked at: {e}"),
                "look at the rights of the folders above it",
            );
        }
    };
    let mode = metadata.mode() & 0o777;
    let (user, group) = (
        called("/etc/passwd", metadata.uid()),
        called("/etc/group", metadata.gid()),
    );
    let rights = format!("{shown} is {user}:{group} {mode:04o}");
    let mine = rustix::fs::access(
        path,
        rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK,
    );
    if mine.is_err() {
        let check = Check::fail(
            name,
            ErrorKind::Engine,
            format!(
                "{rights}; user {} may not use it",
                rustix::process::getuid().as_raw()
            ),
            format!(
                "`sudo usermod -aG {group} $USER` and log in again, if that group is meant for it; \
                 or use rootless Docker or Podman"
            ),
        );
        return if answered { check.tolerable() } else { check };
    }
    if mode & 0o002 != 0 {
        return Check::warn(
            name,
            format!("{rights}: every user of this machine is root through it"),
            format!("`sudo chmod o-rw {shown}`"),
        );
    }
    Check::new(name, Verdict::Ok, rights)
}

/// Looks up what a number is called in /etc/passwd or /etc/group.
fn called(file: &str, id: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let number = id.to_string();
    text.lines()
        .find(|line| line.split(':').nth(2) == Some(&number))
        .and_then(|line| line.split(':').next())
        .map_or(number.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn known_faults() {
        let docker = |version| docker_fault(version).map(|check| check.verdict);
        assert_eq!(docker("25.0.0"), Some(Verdict::Fail));
        assert_eq!(docker("25.0.0-rc.1"), Some(Verdict::Fail));
        assert_eq!(docker("25.0.1"), None);
        assert_eq!(docker("20.10.24+dfsg1"), Some(Verdict::Warn));
        assert_eq!(docker("28.5.2+dfsg4"), None);
        assert_eq!(docker("29.1.0"), Some(Verdict::Warn));
        assert_eq!(docker("29.3.0"), None);
        assert_eq!(docker("dev"), None);
        let podman = |version| podman_fault(version).map(|check| check.verdict);
        assert_eq!(podman("3.4.4"), Some(Verdict::Warn));
        assert_eq!(podman("4.3.1"), None);
        assert_eq!(podman("5.8.6"), None);
    }

    fn about(store: Store) -> About {
        About {
            version: String::new(),
            store,
            rootless: false,
            platform: "linux/amd64".parse().unwrap(),
            runtime: Some("crun".into()),
            cgroup_v1: true,
            proxies: Vec::new(),
        }
    }

    #[test]
    fn crun_on_hybrid_cgroups() {
        let podman = about(Store::Podman("overlay".into()));
        assert_eq!(runtime(&podman).unwrap().verdict, Verdict::Warn);
        let unified = About {
            cgroup_v1: false,
            ..podman.clone()
        };
        assert!(runtime(&unified).is_none());
        let runc = About {
            runtime: Some("runc".into()),
            ..podman
        };
        assert!(runtime(&runc).is_none());
    }

    #[test]
    fn stores() {
        let verdict = |it| store(&about(it)).verdict;
        assert_eq!(verdict(Store::Classic("overlay2".into())), Verdict::Ok);
        assert_eq!(verdict(Store::Podman("vfs".into())), Verdict::Warn);
        let containerd = store(&about(Store::Containerd("overlayfs".into())));
        assert!(containerd.finding.contains("`kind load`"), "{containerd:?}");
    }

    #[test]
    fn proxies_are_shown_without_their_passwords() {
        let with = |value: &str| About {
            proxies: vec![
                ("HTTP_PROXY".into(), value.into()),
                ("NO_PROXY".into(), "127.0.0.1".into()),
            ],
            ..about(Store::Podman("overlay".into()))
        };
        let far = proxies(&with("http://me:secret@proxy:3128"));
        assert_eq!(far.verdict, Verdict::Ok);
        assert_eq!(
            far.finding,
            "HTTP_PROXY=http://***@proxy:3128 NO_PROXY=127.0.0.1"
        );
        assert_eq!(
            proxies(&with("http://localhost:3128")).verdict,
            Verdict::Warn
        );
    }

    #[test]
    fn a_socket_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("docker.sock");
        assert_eq!(judge(&path, false).verdict, Verdict::Skipped);
        let _listener = UnixListener::bind(&path).unwrap();
        for (mode, verdict) in [(0o660, Verdict::Ok), (0o666, Verdict::Warn)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(judge(&path, true).verdict, verdict, "{mode:o}");
        }
    }
}
