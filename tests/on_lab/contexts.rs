//! Docker behind a context: over TCP with TLS both ways, and over ssh.
//!
//! The engine is the lab's overlay2 dockerd as if it were on another machine; the nodes run under
//! the other one.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::engines::Engine;
use crate::lab::{self, App};
use crate::run;

/// A Docker configuration of a test's own.
struct Config {
    folder: TempDir,
}

impl Config {
    fn new() -> Self {
        let folder = TempDir::with_prefix("kindlift-test-").unwrap();
        // Without its plugin the docker command has no buildx.
        std::os::unix::fs::symlink(
            Path::new(lab::var("DOCKER_CONFIG")).join("cli-plugins"),
            folder.path().join("cli-plugins"),
        )
        .unwrap();
        Self { folder }
    }

    /// Points a command at this configuration, with no variable that says where Docker is.
    fn point<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let path = format!("{}:{}", lab::var("KINDLIFT_LAB_SSH_BIN"), lab::var("PATH"));
        command
            .env("DOCKER_CONFIG", self.folder.path())
            .env("PATH", path)
            .env_remove("DOCKER_HOST")
    }

    /// Points kindlift at it; the nodes are where they always are.
    fn kindlift<'a>(&self, kindlift: &'a mut Command) -> &'a mut Command {
        self.point(kindlift)
            .env("KINDLIFT_NODES_DOCKER_HOST", lab::var("DOCKER_HOST"))
    }

    fn docker(&self, args: &[&str]) {
        run::run(self.point(&mut lab::program("docker")).args(args)).expect(0);
    }

    fn create(&self, context: &str, endpoint: &str) {
        self.docker(&["context", "create", context, "--docker", endpoint]);
    }

    /// Makes it the current context.
    fn switch(&self, context: &str) {
        self.docker(&["context", "use", context]);
    }

    /// Requires that no process with this configuration lives on.
    fn is_unused(&self) {
        let folder = self.folder.path().to_str().unwrap();
        run::wait_until("no child lives on", Duration::from_secs(10), || {
            processes_with(folder).is_empty()
        });
    }
}

/// Returns the processes that have a text in their environment.
fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let folder = entry.unwrap().path();
        // Processes of other users, and those that end just now, cannot be read.
        let Ok(environment) = std::fs::read(folder.join("environ")) else {
            continue;
        };
        if String::from_utf8_lossy(&environment).contains(text) {
            found.push(folder.display().to_string());
        }
    }
    found
}

fn tls(certificates: &str) -> String {
    let folder = lab::var(certificates);
    format!(
        "host={},ca={folder}/ca.pem,cert={folder}/cert.pem,key={folder}/key.pem",
        lab::var("KINDLIFT_LAB_TLS_HOST")
    )
}

fn ssh() -> String {
    format!("host={}", lab::var("KINDLIFT_LAB_SSH_HOST"))
}

fn has(engine: Engine, image: &str) -> bool {
    let inspect = run::run(engine.command().args(["image", "inspect", image]));
    inspect.code == 0
}

/// Builds, loads and ensures through what `point` sets.
fn check(app: &App, by: &str, point: &dyn Fn(&mut Command)) {
    let dev = lab::dev();
    let run = |command: &mut Command| {
        point(command);
        run::run(command.args(["--cluster", "dev"])).expect(0)
    };

    app.random("app.bin", 10_000);
    let built = format!("built-{by}");
    run(lab::kindlift()
        .current_dir(app.folder())
        .args(["build", "-t", &app.tag(&built)]));
    lab::proven(&dev, &[app.on_node(&built)]);
    assert!(has(Engine::Overlay2, &app.tag(&built)));
    assert!(!has(Engine::Containerd, &app.tag(&built)));

    app.random("app.bin", 10_000);
    let loaded = format!("loaded-{by}");
    Engine::Overlay2.build(app.folder(), &app.tag(&loaded));
    run(lab::kindlift().args(["load", &app.tag(&loaded)]));
    let id = lab::proven(&dev, &[app.on_node(&loaded)]);
    assert_eq!(
        id,
        format!("sha256:{}", Engine::Overlay2.hex(&app.tag(&loaded)))
    );

    lab::exec(&dev[1], &["crictl", "rmi", &app.on_node(&loaded)]).expect(0);
    assert_eq!(lab::crictl(&dev[1], &app.on_node(&loaded)), None);
    run(lab::kindlift().args(["ensure", &app.tag(&loaded)]));
    lab::proven(&dev, &[app.on_node(&loaded)]);
}

/// `DOCKER_CONTEXT` and the current context, each alone saying where Docker is.
fn check_context(theme: &str, endpoint: &str) {
    let config = Config::new();
    config.create("there", endpoint);
    config.create("nowhere", "host=unix:///nowhere/docker.sock");
    let app = App::new(theme);

    config.switch("nowhere");
    check(&app, "variable", &|kindlift| {
        config.kindlift(kindlift).env("DOCKER_CONTEXT", "there");
    });
    config.switch("there");
    check(&app, "current", &|kindlift| {
        config.kindlift(kindlift);
    });
    config.is_unused();
    Engine::Overlay2.forget(&app.name);
}

#[test]
fn tcp_with_tls() {
    check_context("tls", &tls("KINDLIFT_LAB_TLS_CERTS"));
}

#[test]
fn over_ssh() {
    check_context("ssh", &ssh());
}

#[test]
fn docker_host_needs_no_context() {
    let config = Config::new();
    let app = App::new("host");
    check(&app, "tls", &|kindlift| {
        config
            .kindlift(kindlift)
            .env("DOCKER_HOST", lab::var("KINDLIFT_LAB_TLS_HOST"))
            .env("DOCKER_TLS_VERIFY", "1")
            .env("DOCKER_CERT_PATH", lab::var("KINDLIFT_LAB_TLS_CERTS"));
    });
    check(&app, "ssh", &|kindlift| {
        config
            .kindlift(kindlift)
            .env("DOCKER_HOST", lab::var("KINDLIFT_LAB_SSH_HOST"));
    });
    Engine::Overlay2.forget(&app.name);
}

/// Runs a build that must fail for want of an engine, and returns what it said.
fn refused(config: &Config, context: &str) -> run::Run {
    let app = App::new("refused");
    let mut kindlift = app.build("dev", "dev");
    let run = run::run(
        config
            .kindlift(&mut kindlift)
            .env("DOCKER_CONTEXT", context),
    )
    .expect(4);
    app.is_nowhere(&lab::dev());
    config.is_unused();
    run
}

#[test]
fn a_certificate_that_the_engine_refuses() {
    let config = Config::new();
    config.create("stranger", &tls("KINDLIFT_LAB_TLS_STRANGER"));
    refused(&config, "stranger")
        .says(&format!(
            "error: Docker does not answer at {} (context stranger)",
            lab::var("KINDLIFT_LAB_TLS_HOST")
        ))
        .says("remote error: tls: ");
}

#[test]
fn an_engine_whose_certificate_is_not_the_expected_one() {
    let config = Config::new();
    let stranger = lab::var("KINDLIFT_LAB_TLS_STRANGER");
    let wrong_authority = format!(
        "host={},ca={stranger}/cert.pem,cert={stranger}/cert.pem,key={stranger}/key.pem",
        lab::var("KINDLIFT_LAB_TLS_HOST")
    );
    config.create("impostor", &wrong_authority);
    refused(&config, "impostor").says("certificate signed by unknown authority");
}

#[test]
fn a_user_whom_ssh_refuses() {
    let config = Config::new();
    let nobody = lab::var("KINDLIFT_LAB_SSH_HOST").replace("root@", "nobody@");
    config.create("nobody", &format!("host={nobody}"));
    refused(&config, "nobody")
        .says(&format!(
            "error: Docker does not answer at {nobody} (context nobody)"
        ))
        .says("Permission denied (publickey)");
}

#[test]
fn a_port_where_nothing_listens() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = format!("tcp://{}", free.local_addr().unwrap());
    drop(free);
    let config = Config::new();
    config.create("closed", &format!("host={host}"));
    refused(&config, "closed")
        .says(&host)
        .says("connection refused");
}

#[test]
fn an_engine_that_takes_the_connection_and_says_nothing() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let config = Config::new();
    config.create(
        "mute",
        &format!("host=tcp://{}", mute.local_addr().unwrap()),
    );
    refused(&config, "mute").says("(context mute): no answer within 30 s");
}

#[test]
fn a_context_that_does_not_exist() {
    let config = Config::new();
    refused(&config, "gone")
        .says("error: the Docker context \"gone\" does not exist\n")
        .says("  hint: look with `docker context ls`, or unset DOCKER_CONTEXT\n");

    config.create("gone", &ssh());
    config.switch("gone");
    std::fs::remove_dir_all(config.folder.path().join("contexts")).unwrap();
    let app = App::new("gone");
    let mut kindlift = app.build("dev", "dev");
    run::run(config.kindlift(&mut kindlift))
        .expect(4)
        .says("error: the Docker context \"gone\" does not exist\n")
        .says("  hint: look with `docker context ls`, and choose one with `docker context use`\n");
    app.is_nowhere(&lab::dev());
}

#[test]
fn docker_host_goes_before_a_context() {
    let config = Config::new();
    config.create("there", &tls("KINDLIFT_LAB_TLS_CERTS"));
    config.switch("there");
    for context in ["there", "gone"] {
        let app = App::new("precedence");
        let mut kindlift = app.build("dev", "dev");
        config
            .kindlift(&mut kindlift)
            .env("DOCKER_HOST", lab::var("KINDLIFT_LAB_DOCKER_CONTAINERD"))
            .env("DOCKER_CONTEXT", context);
        run::run(&mut kindlift).expect(0);
        lab::proven(&lab::dev(), &[app.on_node("dev")]);
        assert!(has(Engine::Containerd, &app.tag("dev")));
        assert!(!has(Engine::Overlay2, &app.tag("dev")));
    }
}

/// As Skaffold needs it for Podman: `DOCKER_HOST` is Podman's socket, and the nodes run under the
/// Docker of a context.
#[test]
fn nodes_in_a_context_and_images_in_podman() {
    let config = Config::new();
    let nodes = format!("host={}", lab::var("KINDLIFT_LAB_DOCKER_CONTAINERD"));
    config.create("nodes", &nodes);
    config.create("nowhere", "host=unix:///nowhere/docker.sock");
    for (current, variable) in [("nodes", None), ("nowhere", Some("nodes"))] {
        config.switch(current);
        let app = App::new("apart");
        let mut kindlift = app.build("dev", "dev");
        config
            .point(&mut kindlift)
            .env("DOCKER_HOST", lab::var("KINDLIFT_LAB_PODMAN_SOCKET"));
        if let Some(context) = variable {
            kindlift.env("DOCKER_CONTEXT", context);
        }
        run::run(kindlift.arg("--verbose")).expect(0).says(&format!(
            "cluster dev under docker at {} (context nodes)",
            lab::var("KINDLIFT_LAB_DOCKER_CONTAINERD")
        ));
        lab::proven(&lab::dev(), &[app.on_node("dev")]);
        Engine::Podman.forget(&format!("docker.io/{}", app.name));
    }
}

/// As most users have it: one context, and no variable that speaks of Docker.
#[test]
fn nodes_and_images_in_one_context() {
    let config = Config::new();
    let docker = format!("host={}", lab::var("KINDLIFT_LAB_DOCKER_CONTAINERD"));
    config.create("both", &docker);
    config.switch("both");
    let app = App::new("together");
    let mut kindlift = app.build("dev", "dev");
    run::run(config.point(&mut kindlift)).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}
