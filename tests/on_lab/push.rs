//! Pushing: the engine's work alone. Nothing is loaded, and the exit code tells the truth.

use crate::engines::Engine;
use crate::lab::{self, App};
use crate::registry::{self, Registry, platforms};
use crate::run;

#[test]
fn skaffold_asks_for_a_push() {
    let registry = Registry::start();
    let app = App::new("push");
    let repository = format!("{}/{}", registry.host, app.name);
    let image = format!("{repository}:dev");
    let mut kindlift = app.skaffold("dev");
    kindlift
        .env("IMAGE", &image)
        .env("IMAGE_REPO", &repository)
        .env("PUSH_IMAGE", "true");
    // No cluster is looked for: there is no kubeconfig, and none is named.
    run::run(&mut kindlift)
        .expect(0)
        .says(&format!("pushed {image}; nothing was loaded\n"));
    assert!(registry::crane(&["digest", &image]).starts_with("sha256:"));
    for node in lab::dev() {
        assert_eq!(lab::crictl(&node, &image), None, "{node}");
    }
    lab::docker(&["image", "rm", "--force", &image]);
}

#[test]
fn several_platforms_are_pushed_as_one_index() {
    let registry = Registry::start();
    let app = App::new("push-index");
    let repository = format!("{}/{}", registry.host, app.name);
    let image = format!("{repository}:dev");
    let mut kindlift = app.skaffold("dev");
    kindlift
        .env("IMAGE", &image)
        .env("IMAGE_REPO", &repository)
        .env("PUSH_IMAGE", "true")
        .env("PLATFORMS", "linux/amd64,linux/arm64");
    run::run(&mut kindlift).expect(0);
    let mut pushed = platforms(&image);
    pushed.sort();
    // No attestation among them.
    assert_eq!(pushed, ["linux/amd64", "linux/arm64"]);
    for node in lab::dev() {
        assert_eq!(lab::crictl(&node, &image), None, "{node}");
    }
    let _ = run::run(lab::program("docker").args(["image", "rm", "--force", &image]));
}

#[test]
fn a_push_that_fails_is_an_error() {
    let app = App::new("push-fails");
    // Nothing listens there: a registry that has just gone.
    let host = Registry::start().host;
    let image = format!("{host}/{}:dev", app.name);
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["build", "--push", "--tag", &image]);
    run::run(&mut kindlift)
        .expect(3)
        .says("error: the push failed (")
        .says("refused")
        .never_says("pushed ");
    for node in lab::dev() {
        assert_eq!(lab::crictl(&node, &image), None, "{node}");
    }
    lab::docker(&["image", "rm", "--force", &image]);
}

#[test]
fn all_platforms_cannot_be_pushed() {
    let app = App::new("push-all");
    let mut kindlift = app.skaffold("dev");
    kindlift.env("PUSH_IMAGE", "true").env("PLATFORMS", "all");
    run::run(&mut kindlift)
        .expect(2)
        .says("error: PLATFORMS=all cannot be pushed\n")
        .says("  hint: list the platforms");
    app.is_nowhere(&lab::dev());
}

#[test]
fn podman_pushes_an_index_that_holds_this_build_only() {
    let registry = Registry::start();
    let app = App::new("push-podman");
    let image = format!("{}/{}:dev", registry.host, app.name);
    let mut digests = Vec::new();
    for _ in 0..2 {
        app.random("app.bin", 1_000);
        let mut skaffold = lab::kindlift();
        skaffold
            .current_dir(app.folder())
            .args(["build", "--engine", "podman"])
            .env("IMAGE", &image)
            .env("PUSH_IMAGE", "true")
            .env("BUILD_CONTEXT", app.folder())
            .env("PLATFORMS", "linux/amd64,linux/arm64");
        run::run(&mut skaffold).expect(0);
        let mut pushed = platforms(&image);
        pushed.sort();
        assert_eq!(pushed, ["linux/amd64", "linux/arm64"]);
        digests.push(registry::crane(&["digest", &image]));
    }
    assert_ne!(digests[0], digests[1]);
    run::run(Engine::Podman.command().args(["manifest", "rm", &image])).expect(0);
}
