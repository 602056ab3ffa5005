//! Large layers, which go into the files of containerd's ingests past gRPC: all of them, unharmed or
//! not at all, on every containerd. Only a tunnel has that way, whatever the other tests take.

use std::process::Command;

use crate::engines::{Api, Engine};
use crate::lab::{self, App, Cluster};
use crate::peers::run_on;
use crate::run::{self, Run};
use crate::trouble::Before;

/// What the log says of a layer that goes past gRPC, and of one that cannot.
const PAST: &str = "appending to the ingest's file";
const NOT_PAST: &str = "the ingest's file is out of reach";

/// An image whose container tells the checksum of a large file.
fn large(theme: &str) -> App {
    let app = App::new(theme);
    app.dockerfile(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY large.bin /\n\
         ENTRYPOINT [\"/bin/busybox\", \"sha256sum\", \"/large.bin\"]\n",
    );
    app.random("large.bin", 12_000_000);
    app
}

/// What the container of that image must say.
fn checksum(app: &App) -> String {
    let file = app.path("large.bin");
    let said = run::run(run::command("sha256sum").arg(&file))
        .expect(0)
        .stdout;
    said.replace(&file.display().to_string(), "/large.bin")
}

/// Makes it tell which way layers go.
fn logging(command: &mut Command) -> &mut Command {
    command
        .env("KINDLIFT_SESSION", "tunnel")
        .env("KINDLIFT_LOG", "kindlift=debug")
}

/// Builds and loads it; by the log the large layer went, or did not go, past gRPC to each node.
#[track_caller]
fn build(app: &App, way: &str, cluster: &Cluster, log: &str) -> Run {
    let mut build = app.build_by(way, "dev", &cluster.name);
    let run = run::run(logging(&mut build)).expect(0);
    let told = run.stderr.lines().filter(|line| line.contains(log));
    assert_eq!(told.count(), cluster.nodes.len(), "{run}");
    run
}

#[track_caller]
fn is_there(app: &App, cluster: &Cluster) {
    let name = app.on_node("dev");
    lab::proven(&cluster.nodes, std::slice::from_ref(&name));
    let expected = checksum(app);
    for node in &cluster.nodes {
        assert_eq!(run_on(node, &name), expected, "{node}");
        assert!(lab::leases(node).is_empty(), "{node} keeps a lease");
    }
}

fn on_suite(suite: &str) {
    let cluster = Cluster::of_suite(suite, 1);
    for way in lab::WAYS {
        let app = large("bulk");
        build(&app, way, &cluster, PAST);
        is_there(&app, &cluster);
        app.forget_on(&cluster.nodes);
    }
}

#[test]
fn containerd_1_6() {
    on_suite("bookworm");
}

#[test]
fn containerd_1_7() {
    on_suite("trixie");
}

#[test]
fn containerd_2_1() {
    on_suite("sid");
}

/// Engines that pack while they push say neither size nor digest before the end.
#[test]
fn pushed_by_an_engine_that_tells_nothing_before() {
    let app = large("bulk");
    let cluster = Cluster::new("bulk", 1, &[]);
    for engine in [Engine::Overlay2, Engine::Podman] {
        // No engine has pushed this one before.
        app.random("large.bin", 12_000_000);
        engine.build(app.folder(), &app.tag("dev"));
        let mut load = lab::kindlift();
        load.args(["load", &app.tag("dev"), "--cluster", &cluster.name])
            .env("KINDLIFT_EXPORT", "push");
        engine.point(&mut load, Api::Unused);
        let run = run::run(logging(&mut load)).expect(0);
        assert!(run.stderr.matches(PAST).count() >= 2, "{engine:?}: {run}");
        is_there(&app, &cluster);
        engine.forget(&app.name);
    }
}

/// A node whose containerd keeps its content where the relay does not find it. A fake: the folder is
/// hidden from the relay alone.
#[test]
fn a_file_out_of_reach() {
    let cluster = Cluster::new("hidden", 0, &[]);
    let node = &cluster.nodes[0];
    let hide = "mv /usr/bin/perl /usr/bin/perl.real && printf '%s\\n' '#!/bin/sh' \
        'exec unshare --mount sh -c \"mount -t tmpfs none \
        /var/lib/containerd/io.containerd.content.v1.content && exec perl.real \\\"\\$@\\\"\" sh \"$@\"' \
        >/usr/bin/perl && chmod +x /usr/bin/perl";
    lab::exec(node, &["sh", "-c", hide]).expect(0);
    for way in lab::WAYS {
        let app = large("hidden");
        build(&app, way, &cluster, NOT_PAST);
        is_there(&app, &cluster);
        app.forget_on(&cluster.nodes);
    }
}

/// A fake that cannot be had otherwise: a `df` that promises more room than there is.
#[test]
fn a_disk_that_fills_up() {
    for way in lab::WAYS {
        let cluster = Cluster::new("filling", 1, &["--tmpfs=/var/lib/containerd:size=64m"]);
        let app = large("filling");
        let names = [app.on_node("dev")];
        run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
        let old = lab::proven(&cluster.nodes, &names);
        let worker = cluster.worker();
        let lie = "printf '%s\\n' '#!/bin/sh' 'echo; echo - - - 9000000000 - -' >/usr/local/bin/df \
            && chmod +x /usr/local/bin/df";
        lab::exec(worker, &["sh", "-c", lie]).expect(0);
        lab::exec(&cluster.nodes[0], &["sh", "-c", lie]).expect(0);
        let before = Before::of(&cluster);

        app.random("large.bin", 80_000_000);
        let mut build = app.build_by(way, "dev", &cluster.name);
        run::run(logging(&mut build))
            .expect(7)
            .says(PAST)
            .says(&format!("error: node {}", cluster.name))
            .says("no space left on device")
            .says("  hint: make room on the node: ");
        before.is_now();
        assert_eq!(lab::proven(&cluster.nodes, &names), old);
    }
}

#[test]
fn a_large_layer_that_is_not_what_it_says_reaches_no_name() {
    let app = large("damaged");
    Engine::Overlay2.build(app.folder(), &app.tag("dev"));
    let path = app.path("image.tar").display().to_string();
    let mut save = Engine::Overlay2.command();
    run::run(save.args(["save", "--output", &path, &app.tag("dev")])).expect(0);
    // A byte near the end of the file, which is in a layer that is stored as it is.
    let needle = std::fs::read(app.path("large.bin")).unwrap();
    let mut archive = std::fs::read(&path).unwrap();
    let at = archive
        .windows(64)
        .position(|window| window == &needle[..64])
        .expect("the layer is stored uncompressed");
    archive[at + needle.len() - 1] ^= 1;
    std::fs::write(&path, archive).unwrap();
    let cluster = Cluster::new("damaged", 1, &[]);
    let before = Before::of(&cluster);
    let mut load = lab::kindlift();
    load.args(["load", &path, "--cluster", &cluster.name]);
    run::run(logging(&mut load))
        .expect(6)
        .says(PAST)
        .says("is not what its digest says");
    before.is_now();
    Engine::Overlay2.forget(&app.name);
}
