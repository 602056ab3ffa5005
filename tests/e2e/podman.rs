//! Podman builds, for Skaffold and Tilt, into nodes under Docker and under Podman; rootless too.

use crate::engines::{Api, Engine};
use crate::kube::Kube;
use crate::lab;
use crate::run;
use crate::work::Work;

/// Runs both examples with an engine, in a cluster, and asks the pods.
fn both_loops(engine: Engine, kube: &Kube) {
    let space = kube.namespace("podman");
    let page = lab::unique("podman");
    let work = Work::example("skaffold");
    work.write("skaffold/index.html", &page);
    let mut skaffold = work.skaffold("skaffold", &space, &["run", "--profile=podman"]);
    work.use_engine(&mut skaffold, engine, Api::Used);
    run::run(&mut skaffold).expect(0);
    let pods = space.serves("kindlift-demo", 2, &page);
    // Not what Podman calls it, but what the manifest does.
    assert!(
        pods[0].image.starts_with("kindlift-demo/app:"),
        "{}",
        pods[0].image
    );
    drop(work);

    let work = Work::example("tilt");
    let page = lab::unique("podman");
    work.write("tilt/index.html", &page);
    let mut tilt = work.tilt("tilt", &space, &["ci"]);
    work.use_engine(&mut tilt, engine, Api::Unused);
    run::run(&mut tilt).expect(0);
    space.serves("kindlift-demo-tilt", 1, &page);
}

#[test]
fn podman_into_nodes_under_docker() {
    both_loops(Engine::Podman, &Kube::shared());
}

#[test]
fn podman_into_nodes_under_podman() {
    both_loops(Engine::Podman, &Kube::new("podnodes", "podman"));
}

#[test]
fn rootless_podman_into_nodes_under_docker() {
    both_loops(Engine::Rootless, &Kube::shared());
}
