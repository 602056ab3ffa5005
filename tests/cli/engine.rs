//! No engine: each place that was tried is named, and why it was not the one.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;

use crate::{Sandbox, run};

const BUILD: &[&str] = &["build", "--tag", "app:1"];

/// Skaffold will look into Docker's API, so only Docker is tried.
fn by_skaffold(sandbox: &Sandbox) -> [(&'static str, String); 3] {
    [
        ("IMAGE", "app:1".to_owned()),
        ("PUSH_IMAGE", "false".to_owned()),
        ("BUILD_CONTEXT", sandbox.path().to_owned()),
    ]
}

#[test]
fn the_socket_is_not_there() {
    let sandbox = Sandbox::new();
    sandbox
        .run(BUILD)
        .expect(4)
        .says("error: Docker does not answer at unix://[here]/none.sock (DOCKER_HOST): the socket is not there\n")
        .says("  hint: start Docker, or point DOCKER_HOST or a Docker context at it\n")
        // Podman was not asked for.
        .never_says("Podman");
    let vars = by_skaffold(&sandbox);
    let vars = vars.each_ref().map(|(name, value)| (*name, value.as_str()));
    sandbox.run_with(&["build"], &vars).is(
        4,
        "error: Docker does not answer at unix://[here]/none.sock (DOCKER_HOST): the socket is \
         not there\n  hint: start Docker, or point DOCKER_HOST or a Docker context at it\n",
    );
}

#[test]
fn nothing_listens_on_the_socket() {
    let sandbox = Sandbox::new();
    let path = format!("{}/dead.sock", sandbox.path());
    drop(UnixListener::bind(&path).unwrap());
    sandbox
        .run_with(BUILD, &[("DOCKER_HOST", &format!("unix://{path}"))])
        .expect(4)
        .says("unix://[here]/dead.sock (DOCKER_HOST): nothing listens on the socket")
        .says("  hint: start Docker");
}

#[test]
fn a_socket_without_permission() {
    let sandbox = Sandbox::new();
    let path = format!("{}/theirs.sock", sandbox.path());
    let _listener = UnixListener::bind(&path).unwrap();
    let forbid = |path: &str, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    forbid(&path, 0o600);
    let mut kindlift = sandbox.kindlift(BUILD);
    if rustix::process::getuid().is_root() {
        // Root may do anything: become nobody, with a kindlift that nobody can reach.
        let program = format!("{}/kindlift", sandbox.path());
        std::fs::copy(env!("CARGO_BIN_EXE_kindlift"), &program).unwrap();
        forbid(sandbox.path(), 0o755);
        kindlift = run::command(program);
        kindlift
            .current_dir(sandbox.path())
            .env("HOME", sandbox.path())
            .env("PATH", sandbox.path())
            .args(BUILD)
            .uid(65534)
            .gid(65534);
    } else {
        forbid(&path, 0o000);
    }
    let mut run = run::run(kindlift.env("DOCKER_HOST", format!("unix://{path}")));
    run.stderr = run.stderr.replace(sandbox.path(), "[here]");
    run.expect(4)
        .says("unix://[here]/theirs.sock (DOCKER_HOST): permission denied")
        .says("  hint: add yourself to the group that owns the socket")
        .never_says("not there");
}

#[test]
fn tcp_without_a_docker_command() {
    let sandbox = Sandbox::new();
    let host = "tcp://127.0.0.1:1";
    sandbox
        .run_with(BUILD, &[("DOCKER_HOST", host)])
        .expect(4)
        .says(&format!(
            "error: Docker does not answer at {host} (DOCKER_HOST): it gives no version\n"
        ))
        .says("cannot start `docker`")
        .says("No such file or directory (os error 2)");
}

#[test]
fn the_docker_context_counts() {
    let sandbox = Sandbox::new();
    sandbox
        .run_with(BUILD, &[("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "gone")])
        .expect(4)
        .says("the Docker context \"gone\" does not exist")
        .says("  hint: look with `docker context ls`, or unset DOCKER_CONTEXT\n");

    sandbox.write(".docker/config.json", r#"{"currentContext": "colima"}"#);
    // sha256 of the name, as the docker command stores it.
    sandbox.write(
        ".docker/contexts/meta/f24fd3749c1368328e2b149bec149cb6795619f244c5b584e844961215dadd16/meta.json",
        r#"{"Name": "colima", "Endpoints": {"docker": {"Host": "unix:///no/colima.sock"}}}"#,
    );
    sandbox
        .run_with(BUILD, &[("DOCKER_HOST", "")])
        .expect(4)
        .says("Docker does not answer at unix:///no/colima.sock (context colima): the socket is not there");

    sandbox.write(".docker/config.json", "{");
    sandbox
        .run_with(BUILD, &[("DOCKER_HOST", "")])
        .expect(4)
        .says("cannot read [here]/.docker/config.json");
}

#[test]
fn an_unknown_engine() {
    let sandbox = Sandbox::new();
    sandbox.run_with(BUILD, &[("KINDLIFT_ENGINE", "lxc")]).is(
        2,
        "error: KINDLIFT_ENGINE is \"lxc\"\n  hint: set it to docker or podman, or unset it\n",
    );
    sandbox
        .run(&["build", "--tag", "app:1", "--engine", "lxc"])
        .expect(2)
        .says("error: invalid value 'lxc' for '--engine");
}

#[test]
fn no_engine_as_a_document() {
    let run = Sandbox::new()
        .run(&["build", "--tag", "app:1", "--output", "json"])
        .expect(4);
    let document = run.json();
    assert_eq!(document["ok"], false);
    assert_eq!(document["error"]["kind"], "engine");
    assert_eq!(document["error"]["exit_code"], 4);
    assert!(
        run.stderr.starts_with("error: Docker does not answer"),
        "{run}"
    );
}
