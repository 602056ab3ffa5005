//! Nodes, images and builds that are not as they should be: the message, the exit code, and
//! nothing left on any node.

use std::time::Duration;

use crate::lab::{self, App, Cluster, Node};
use crate::run;

/// The state of the nodes as the test found them. Taken before anything is asked of kindlift.
struct Before<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Node>,
}

impl<'a> Before<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let nodes = cluster.state();
        Self { cluster, nodes }
    }

    /// Requires that everything is as it was: names, content, snapshots, leases, ingests.
    #[track_caller]
    fn is_now(&self) {
        for ((node, before), after) in self
            .cluster
            .nodes
            .iter()
            .zip(&self.nodes)
            .zip(self.cluster.state())
        {
            assert_eq!(&after, before, "node {node} is not as before");
        }
    }
}

#[test]
fn a_stopped_node() {
    let cluster = Cluster::new("stopped", 1, &[]);
    let before = Before::of(&cluster);
    let app = App::new("stopped");
    let worker = cluster.worker();
    lab::docker(&["stop", "--time", "0", worker]);
    run::run(&mut app.build("dev", &cluster.name))
        .expect(5)
        .says(&format!(
            "error: node {worker} of cluster {} is stopped\n",
            cluster.name
        ))
        .says(&format!(
            "  hint: `docker start {worker}`, or leave it out with --nodes\n"
        ));

    // Leaving it out is allowed.
    let control_plane = &cluster.nodes[..1];
    let run = run::run(
        app.build("dev", &cluster.name)
            .args(["--nodes", &control_plane[0]]),
    );
    run.expect(0);
    lab::proven(control_plane, &[app.on_node("dev")]);

    lab::docker(&["start", worker]);
    lab::exec(worker, &["lab-node-ready"]).expect(0);
    assert_eq!(lab::crictl(worker, &app.on_node("dev")), None);
    assert_eq!(Node::of(worker), before.nodes[1]);
}

#[test]
fn a_paused_node() {
    let cluster = Cluster::new("paused", 1, &[]);
    let before = Before::of(&cluster);
    let app = App::new("paused");
    let worker = cluster.worker();
    lab::docker(&["pause", worker]);
    run::run(&mut app.build("dev", &cluster.name))
        .expect(5)
        .says(&format!(
            "error: node {worker} of cluster {} is paused\n",
            cluster.name
        ))
        .says(&format!(
            "  hint: `docker unpause {worker}`, or leave it out with --nodes\n"
        ));
    lab::docker(&["unpause", worker]);
    before.is_now();
    app.is_nowhere(&cluster.nodes);
}

#[test]
fn a_node_that_is_paused_in_the_middle() {
    let cluster = Cluster::new("frozen", 1, &[]);
    let app = App::new("frozen");
    let names = [app.on_node("dev")];
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);

    let worker = cluster.worker();
    app.random("app.bin", 120_000_000);
    let mut kindlift = app.build("dev", &cluster.name);
    let running = run::start(kindlift.args(["--stall-timeout", "2"]));
    lab::wait_for_transfer(worker);
    lab::docker(&["pause", worker]);
    let run = running.finish();
    assert!(run.code == 7, "{run}");
    let run = run
        .says(&format!("error: node {worker}: "))
        .says("it has not answered for ")
        .says("is it paused");
    // The one that answers is as before, at once.
    let control_plane = &cluster.nodes[0];
    assert_eq!(Node::of(control_plane), before.nodes[0], "{run}");
    assert_eq!(lab::crictl(control_plane, &names[0]).unwrap().id, old);

    // The other has its old image too, and what was staged goes with the next run.
    lab::docker(&["unpause", worker]);
    assert_eq!(lab::crictl(worker, &names[0]).unwrap().id, old);
    let other = App::new("after");
    run::run(&mut other.build("dev", &cluster.name)).expect(0);
    lab::proven(&cluster.nodes, &[other.on_node("dev")]);
    for node in &cluster.nodes {
        assert_eq!(lab::leases(node), [].into(), "{node}");
        assert_eq!(Node::of(node).ingests, [].into(), "{node}");
        lab::exec(node, &["crictl", "rmi", &other.on_node("dev")]).expect(0);
    }
    // What the removed image leaves is collected in its own time.
    run::wait_until("nothing staged is left", Duration::from_secs(20), || {
        cluster.state() == before.nodes
    });
    lab::proven(&cluster.nodes, &names);
}

#[test]
fn too_little_disk_is_found_before_anything_is_sent() {
    let cluster = Cluster::new("small", 1, &["--tmpfs=/var/lib/containerd:size=64m"]);
    let before = Before::of(&cluster);
    let app = App::new("small");
    app.random("base.bin", 20_000_000);
    let worker = cluster.worker();
    // Only one of the two is full.
    lab::exec(
        worker,
        &["fallocate", "-l", "50M", "/var/lib/containerd/filler"],
    )
    .expect(0);
    let run = run::run(&mut app.build("dev", &cluster.name)).expect(7);
    run.says(&format!("error: node {worker} has too little disk: "))
        .says(" MB free, the image needs at least ")
        .says(&format!(
            "  hint: make room on the node, e.g. `docker exec {worker} crictl rmi --prune`\n"
        ));
    before.is_now();
    app.is_nowhere(&cluster.nodes);

    lab::exec(worker, &["rm", "/var/lib/containerd/filler"]).expect(0);
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}

#[test]
fn a_disk_that_fills_up_while_unpacking() {
    let cluster = Cluster::new("full", 1, &["--tmpfs=/var/lib/containerd:size=64m"]);
    let app = App::new("full");
    let names = [app.on_node("dev")];
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);

    // Nothing on the way, and more than the disk when it is unpacked.
    app.write("app.bin", &vec![0; 100_000_000]);
    let run = run::run(&mut app.build("dev", &cluster.name));
    assert!(run.code == 7, "{run}");
    run.says(&format!("error: node {}", cluster.name))
        .says("no space left on device")
        .says("  hint: make room on the node: ");
    before.is_now();
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
}

#[test]
fn a_build_that_fails() {
    let app = App::new("fails");
    app.dockerfile(
        "FROM scratch\nCOPY busybox /bin/sh\nRUN [\"/bin/sh\", \"-c\", \"echo the reason; exit 42\"]\n",
    );
    run::run(&mut app.build("dev", "dev"))
        .expect(3)
        .says("the reason")
        .says("exit code: 42")
        .says("error: the build failed (exit status: 1)\n  caused by: `docker ")
        .says("nothing was loaded");
    app.is_nowhere(&lab::dev());

    let run = run::run(app.build("dev", "dev").args(["--output", "json"])).expect(3);
    let document = run.json();
    assert_eq!(document["ok"], false);
    assert_eq!(document["error"]["kind"], "build");
    assert_eq!(document["error"]["exit_code"], 3);
    app.is_nowhere(&lab::dev());
}

#[test]
fn a_stage_that_is_not_there() {
    let app = App::new("stage");
    run::run(app.build("dev", "dev").args(["--target", "nope"]))
        .expect(3)
        .says("nope");
    app.is_nowhere(&lab::dev());
}

/// An architecture that this machine's kernel cannot run.
fn foreign() -> &'static str {
    let native = lab::docker(&["version", "--format", "{{.Server.Arch}}"]);
    let handlers = lab::exec("dev-worker", &["ls", "/proc/sys/fs/binfmt_misc"]).stdout;
    [
        ("arm64", "aarch64"),
        ("s390x", "s390x"),
        ("riscv64", "riscv64"),
        ("ppc64le", "ppc64le"),
    ]
    .into_iter()
    .find(|(go, qemu)| *go != native.trim() && !handlers.contains(&format!("qemu-{qemu}")))
    .expect("some architecture has no binfmt handler here")
    .0
}

#[test]
fn a_foreign_architecture_is_refused_unless_allowed() {
    let app = App::new("foreign");
    let platform = format!("linux/{}", foreign());
    run::run(app.build("dev", "dev").args(["--platform", &platform]))
        .expect(6)
        .says(&format!(
            "error: the image is for {platform}, but node dev-"
        ))
        .says("--allow-foreign-platform");
    app.is_nowhere(&lab::dev());

    let mut kindlift = app.build("dev", "dev");
    kindlift.args(["--platform", &platform, "--allow-foreign-platform"]);
    run::run(&mut kindlift).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    let shown = lab::crictl("dev-worker", &app.on_node("dev")).unwrap();
    assert_eq!(shown.architecture, foreign());
}
