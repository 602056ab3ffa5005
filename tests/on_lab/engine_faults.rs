//! Faults of the engine itself, on demand: a `docker` in front of the real one that fails first.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::{self, App};
use crate::run;

/// What Docker's containerd store says when its own collection was quicker than its build.
const LOST: &str = "ERROR: failed to build: failed to solve: failed to prepare extraction snapshot \
    \"extract-1-x sha256:d5fe\": parent snapshot sha256:09e4 does not exist: not found";

/// Puts a fake `docker` in front: so many builds fail with these words, then the real one is run.
/// Returns the command; each build leaves a line in the app's file `builds`.
fn failing(app: &App, times: u32, words: &str) -> Command {
    let real = lab::find_program("docker");
    let builds = app.path("builds");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n*'buildx build'*)\n  echo build >>'{0}'\n  \
         if [ \"$(wc -l <'{0}')\" -le {times} ]; then echo '{words}' >&2; exit 1; fi ;;\nesac\n\
         exec '{1}' \"$@\"\n",
        builds.display(),
        real.display()
    );
    std::fs::create_dir(app.path("bin")).unwrap();
    app.write("bin/docker", script.as_bytes());
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(app.path("bin/docker"), executable).unwrap();
    let mut build = app.build("dev", "dev");
    let path = format!("{}:{}", app.path("bin").display(), lab::var("PATH"));
    build.env("PATH", path);
    build
}

fn builds(app: &App) -> usize {
    let log = std::fs::read_to_string(app.path("builds")).unwrap();
    log.lines().count()
}

#[test]
fn a_layer_that_the_engine_collects_is_built_again() {
    let app = App::new("collected");
    run::run(&mut failing(&app, 1, LOST))
        .expect(0)
        .says("the engine lost a layer to its own collection: building again");
    assert_eq!(builds(&app), 2);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn an_engine_that_goes_on_losing_layers_fails_the_build() {
    let app = App::new("collected");
    run::run(&mut failing(&app, 9, LOST))
        .expect(3)
        .says("the build failed");
    assert_eq!(builds(&app), 3);
    app.is_nowhere(&lab::dev());
}

#[test]
fn another_failure_is_not_tried_again() {
    let app = App::new("collected");
    run::run(&mut failing(&app, 1, "ERROR: no such file"))
        .expect(3)
        .says("the build failed");
    assert_eq!(builds(&app), 1);
}
