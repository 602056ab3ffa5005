//! Podman builds, for Skaffold and Tilt, into nodes under Docker and under Podman; rootless too.

use rustix::process::Signal;

use crate::engines::{Api, Engine};
use crate::kube::{Kube, Namespace};
use crate::lab;
use crate::run;
use crate::tilt::built;
use crate::work::Work;

/// Runs both examples with an engine, in a cluster, to their ends, and asks the pods.
fn both_once(engine: Engine, kube: &Kube) {
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

/// `skaffold dev` and `tilt up`, with an edit each.
fn both_loops(engine: Engine, kube: &Kube) {
    let space = kube.namespace("podloop");
    let mark = lab::unique("podloop");
    let page = |n: usize| format!("<p>{mark} {n}</p>");
    let work = Work::example("skaffold");
    work.write("skaffold/index.html", &page(0));
    let mut dev = work.skaffold("skaffold", &space, &["dev", "--profile=podman"]);
    work.use_engine(&mut dev, engine, Api::Used);
    let mut dev = run::start(&mut dev);
    space.serves_under(&mut dev, "kindlift-demo", 2, &page(0));
    dev.wait_until("Skaffold watches", |dev| {
        dev.stdout().contains("Watching for changes")
    });
    work.write("skaffold/index.html", &page(1));
    space.serves_under(&mut dev, "kindlift-demo", 2, &page(1));
    dev.signal(Signal::INT);
    dev.finish();
    space.is_without("kindlift-demo");
    drop(work);

    let work = Work::example("tilt");
    work.write("tilt/index.html", &page(2));
    let mut up = work.tilt("tilt", &space, &["up", "--stream"]);
    work.use_engine(&mut up, engine, Api::Unused);
    let mut up = run::start(&mut up);
    space.serves_under(&mut up, "kindlift-demo-tilt", 1, &page(2));
    built(&mut up, 1);
    work.write("tilt/index.html", &page(3));
    space.serves_under(&mut up, "kindlift-demo-tilt", 1, &page(3));
    up.signal(Signal::TERM);
    up.finish();
}

/// The examples in which one image is built on another: Podman must find the base under the name
/// that the tool passes.
fn bases(engine: Engine, space: &Namespace) {
    let work = Work::example("skaffold-modules");
    let page = lab::unique("front");
    work.write("skaffold-modules/front/index.html", &page);
    let mut skaffold = work.skaffold("skaffold-modules", space, &["run", "--profile=podman"]);
    work.use_engine(&mut skaffold, engine, Api::Used);
    run::run(&mut skaffold).expect(0);
    space.serves("front", 1, &page);
    drop(work);

    let work = Work::example("tilt-extension");
    let page = lab::unique("web");
    work.write("tilt-extension/web/pages/index.html", &page);
    let mut tilt = work.tilt("tilt-extension", space, &["ci"]);
    work.use_engine(&mut tilt, engine, Api::Unused);
    run::run(&mut tilt).expect(0);
    space.serves("kindlift-demo-web", 1, &page);
}

#[test]
fn podman_into_nodes_under_docker() {
    both_loops(Engine::Podman, &Kube::shared());
}

#[test]
fn podman_into_nodes_under_podman() {
    let kube = Kube::new("podnodes", "podman");
    both_once(Engine::Podman, &kube);
    bases(Engine::Podman, &kube.namespace("bases"));
}

#[test]
fn rootless_podman_into_nodes_under_docker() {
    both_once(Engine::Rootless, &Kube::shared());
}
