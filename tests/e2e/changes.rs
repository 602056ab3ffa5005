//! What changes in a cluster of our own under the loops' feet: a node is made anew, and a local
//! registry is documented. One cluster serves for both.

use rustix::process::Signal;

use crate::kube::Kube;
use crate::lab;
use crate::push::open_to_nodes;
use crate::registry::{self, Registry};
use crate::run;
use crate::tilt::built;
use crate::work::Work;

const APP: &str = "kindlift-demo-tilt";

/// The line that docs/tilt.md tells people to put into their Tiltfile.
fn documented() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tilt.md");
    let page = std::fs::read_to_string(page).unwrap();
    let line = page
        .lines()
        .find(|line| line.contains("--watch --ref-file"));
    line.expect("the watch in docs/tilt.md").to_owned()
}

#[test]
fn a_new_worker_and_a_documented_registry() {
    let kube = Kube::new("changes", "docker");
    the_watch_brings_the_image_back(&kube);
    skaffold_pushes_or_loads_as_it_is_told(&kube);
}

/// Tilt does not notice that a node is another; the watch beside it does.
fn the_watch_brings_the_image_back(kube: &Kube) {
    let nodes = kube.nodes();
    let worker = &nodes[1];
    // Pods go to the worker, which is the one that goes.
    run::run(kube.kubectl().args(["cordon", &nodes[0]])).expect(0);
    let space = kube.namespace("tiltwatch");
    let work = Work::example("tilt");
    let mark = lab::unique("tiltwatch");
    let page = |n: usize| work.write("tilt/index.html", &format!("<p>{mark} {n}</p>"));
    page(0);
    let tiltfile = std::fs::read_to_string(work.path("tilt/Tiltfile")).unwrap();
    work.write("tilt/Tiltfile", &format!("{tiltfile}\n{}\n", documented()));
    let mut up = run::start(&mut work.tilt("tilt", &space, &["up", "--stream"]));
    let before = space.serves_under(&mut up, APP, 1, &format!("{mark} 0<"));
    built(&mut up, 1);
    assert_eq!(before[0].node, *worker);
    let image = before[0].image.clone();
    up.wait_until("the watch looks after the image", |up| {
        up.stdout().contains(&format!("already there: {image}"))
    });

    kube.replace_worker();
    up.wait_until("the image is back", |_| kube.has(worker, &image));
    let mut delete = space.kubectl();
    run::run(delete.args(["delete", "pod", "--force", &before[0].name])).expect(0);
    let after = space.serves_under(&mut up, APP, 1, &format!("{mark} 0<"));
    assert_eq!((&after[0].image, &after[0].node), (&image, worker));
    assert_ne!(after[0].uid, before[0].uid);
    let builds = up.stdout().matches("DONE IN: ").count();
    assert_eq!(builds, 1, "it was not a build that brought it back");

    // And the loop goes on.
    page(1);
    space.serves_under(&mut up, APP, 1, &format!("{mark} 1<"));
    up.signal(Signal::TERM);
    up.finish();
    run::run(kube.kubectl().args(["uncordon", &nodes[0]])).expect(0);
    run::wait_until("the watch has ended", crate::kube::PATIENCE, || {
        work.processes().is_empty()
    });
}

/// Skaffold pushes to a registry that it finds documented, unless it is told not to.
fn skaffold_pushes_or_loads_as_it_is_told(kube: &Kube) {
    let registry = Registry::start();
    open_to_nodes(kube, &registry);
    let text = format!(
        "--from-literal=localRegistryHosting.v1=host: \"{}\"",
        registry.host
    );
    let name = ["configmap", "local-registry-hosting"];
    let mut create = kube.kubectl();
    create
        .args(["--namespace=kube-public", "create"])
        .args(name);
    run::run(create.arg(text)).expect(0);
    let space = kube.namespace("documented");
    let work = Work::example("skaffold");
    let page = lab::unique("documented");
    work.write("skaffold/index.html", &page);

    // The example says push: false.
    let run = work.run_skaffold("skaffold", &space, &["run"]);
    assert!(run.to_string().contains(" into 2 nodes of "), "{run}");
    let pods = space.serves("kindlift-demo", 2, &page);
    lab::docker(&["image", "rm", "--force", &pods[0].image]);

    let page = lab::unique("documented");
    work.write("skaffold/index.html", &page);
    work.change("skaffold/skaffold.yaml", "  local: {push: false}\n", "");
    let run = work.run_skaffold("skaffold", &space, &["run"]);
    let why = format!("documents the local registry {}", registry.host);
    assert!(run.to_string().contains(&why), "{run}");
    let pods = space.serves("kindlift-demo", 2, &page);
    let (name, digest) = pods[0].image.split_once('@').expect(&pods[0].image);
    assert!(name.starts_with(&registry.host), "{name}");
    assert_eq!(registry::crane(&["digest", name]).trim(), digest, "{run}");
    lab::docker(&["image", "rm", "--force", name]);
}
