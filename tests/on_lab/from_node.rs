//! Images out of a node, onto others or into a file.

use crate::engines::Engine;
use crate::lab::{self, App, Cluster};
use crate::registry::Registry;
use crate::run::{self, Run};

const HOLDER: &str = "dev-worker";

fn load(args: &[&str]) -> Run {
    run::run(
        lab::kindlift()
            .arg("load")
            .args(args)
            .args(["--cluster", "dev"]),
    )
}

/// Has kind put the app's image on one node, which then has its blobs.
fn on_one_node(theme: &str) -> App {
    let app = App::new(theme);
    Engine::Overlay2.build(app.folder(), &app.tag("dev"));
    Engine::Overlay2.give_to_kind(&app, &["--name", "dev", "--nodes", HOLDER]);
    Engine::Overlay2.forget(&app.name);
    app
}

#[test]
fn from_one_node_onto_the_others_and_into_another_cluster() {
    let app = on_one_node("node");
    let source = format!("node:{HOLDER}/{}", app.tag("dev"));
    load(&[&source]).expect(0).says("loaded");
    let id = lab::proven(&lab::dev(), &[app.on_node("dev")]);

    let other = Cluster::new("copied", 0, &[]);
    let mut kindlift = lab::kindlift();
    kindlift.args(["load", &source, "--as", &app.tag("copied")]);
    kindlift.args(["--cluster", &other.name]);
    run::run(&mut kindlift).expect(0);
    assert_eq!(lab::proven(&other.nodes, &[app.on_node("copied")]), id);
}

#[test]
fn a_node_that_has_discarded_the_layers_says_which_setting_it_was() {
    let app = App::new("discarded");
    Engine::Containerd.build(app.folder(), &app.tag("dev"));
    load(&[&app.tag("dev"), "--nodes", HOLDER]).expect(0);
    // What nothing refers to goes now, and not at some time.
    let prune = ["ctr", "-n", "k8s.io", "content", "prune", "references"];
    lab::exec(HOLDER, &prune).expect(0);
    let source = format!("node:{HOLDER}/{}", app.tag("dev"));
    let before = lab::crictl("dev-worker2", &app.on_node("dev"));
    assert_eq!(before, None);
    load(&[&source])
        .expect(6)
        .says("discard_unpacked_layers")
        .says("hint: take the image from an engine, an archive or its registry");
    assert_eq!(lab::crictl("dev-worker2", &app.on_node("dev")), None);
    let out = app.path("out.tar");
    let mut export = lab::kindlift();
    export.args(["export", &source, "-o"]).arg(&out);
    run::run(&mut export)
        .expect(6)
        .says("discard_unpacked_layers");
    assert!(!out.exists());
    // Where every node has the layers unpacked, none is needed.
    load(&[&source, "--nodes", HOLDER, "--as", &app.tag("again")]).expect(0);
    assert!(app.names_on(HOLDER).contains(&app.on_node("again")));
}

#[test]
fn platforms_on_a_node() {
    let registry = Registry::start();
    let app = App::new("node-platforms");
    let theme = lab::unique("node-index");
    let amd = registry.image(
        &format!("{theme}:amd"),
        "linux/amd64",
        &registry.layer("amd"),
    );
    let arm = registry.image(
        &format!("{theme}:arm"),
        "linux/arm64",
        &registry.layer("arm"),
    );
    let index = registry.index(&format!("{theme}:all"), &[&amd, &arm]);
    let layout = app.path("layout.tar").to_string_lossy().into_owned();
    let copy = [
        "--insecure-policy",
        "copy",
        "--all",
        "--src-tls-verify=false",
    ];
    let from = format!("docker://{index}");
    let to = format!("oci-archive:{layout}:{}", app.on_node("dev"));
    run::run(lab::program("skopeo").args(copy).args([&from, &to])).expect(0);
    let import = format!(
        "exec {} exec -i {HOLDER} ctr -n k8s.io images import --all-platforms - <{layout}",
        lab::find_program("docker").display()
    );
    run::run(lab::program("sh").args(["-c", &import])).expect(0);

    let source = format!("node:{HOLDER}/{}", app.tag("dev"));
    load(&[&source, "--as", &app.tag("amd")]).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("amd")]);
    load(&[
        &source,
        "--platform",
        "linux/arm64",
        "--as",
        &app.tag("arm"),
    ])
    .expect(6)
    .says("the image is for linux/arm64");
    load(&[
        &source,
        "--platform",
        "linux/s390x",
        "--as",
        &app.tag("s390x"),
    ])
    .expect(6)
    .says("no manifest for linux/s390x (it has: linux/amd64, linux/arm64)");
    let out = app.path("arm.tar").to_string_lossy().into_owned();
    let mut export = lab::kindlift();
    export.args(["export", &source, "--platform", "linux/arm64", "-o", &out]);
    run::run(&mut export).expect(0).says("for linux/arm64");
}

#[test]
fn what_is_not_there() {
    for (source, code, says) in [
        (
            "node:no-such-node/app:1",
            5,
            "no Kind cluster has a node no-such-node",
        ),
        (
            "node:dev-worker/no/such:1",
            6,
            "node dev-worker has no image no/such:1",
        ),
        ("node:dev-worker", 2, "names no node and image"),
    ] {
        load(&[source]).expect(code).says(says);
    }
    load(&["node:no-such-node/app:1"])
        .expect(5)
        .says("dev-worker2");
}
