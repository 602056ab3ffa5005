//! Nodes, images and builds that are not as they should be: the message, the exit code, and
//! nothing left on any node.

use std::time::Duration;

use crate::lab::{self, App, Cluster, Node};
use crate::run;

/// The state of the nodes as the test found them. Taken before anything is asked of kindlift.
pub struct Before<'a> {
    cluster: &'a Cluster,
    nodes: Vec<Node>,
}

impl<'a> Before<'a> {
    pub fn of(cluster: &'a Cluster) -> Self {
        // What nothing holds any more may go at any time, a discarded layer for one: now.
        lab::on_each(&cluster.nodes, |node| {
            let collect = "ctr -n k8s.io leases create --id collect >/dev/null \
                && ctr -n k8s.io leases delete --sync collect";
            lab::exec(node, &["sh", "-c", collect]).expect(0);
        });
        let nodes = cluster.state();
        Self { cluster, nodes }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Requires that everything is as it was: names, content, snapshots, leases, ingests.
    #[track_caller]
    pub fn is_now(&self) {
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
    lab::pause(worker);
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
    lab::WAYS
        .into_iter()
        .for_each(a_node_that_is_paused_in_the_middle_by);
}

fn a_node_that_is_paused_in_the_middle_by(way: &str) {
    let cluster = Cluster::new("frozen", 1, &[]);
    let app = App::new("frozen");
    let names = [app.on_node("dev")];
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);

    let worker = cluster.worker();
    app.random("app.bin", 100_000_000);
    let mut kindlift = app.build_by(way, "dev", &cluster.name);
    let running = run::start(kindlift.args(["--stall-timeout", "2"]));
    lab::wait_for_transfer(worker);
    lab::pause(worker);
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
    lab::WAYS
        .into_iter()
        .for_each(too_little_disk_is_found_before_anything_is_sent_by);
}

fn too_little_disk_is_found_before_anything_is_sent_by(way: &str) {
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
    let run = run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(7);
    run.says(&format!("error: node {worker} has too little disk: "))
        .says(" MB free, the image needs at least ")
        .says(&format!(
            "  hint: make room on the node, e.g. `docker exec {worker} crictl rmi --prune`\n"
        ));
    before.is_now();
    app.is_nowhere(&cluster.nodes);

    lab::exec(worker, &["rm", "/var/lib/containerd/filler"]).expect(0);
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}

#[test]
fn a_disk_that_fills_up_while_unpacking() {
    lab::WAYS
        .into_iter()
        .for_each(a_disk_that_fills_up_while_unpacking_by);
}

fn a_disk_that_fills_up_while_unpacking_by(way: &str) {
    let cluster = Cluster::new("full", 1, &["--tmpfs=/var/lib/containerd:size=64m"]);
    let app = App::new("full");
    let names = [app.on_node("dev")];
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);

    // Nothing on the way, and more than the disk when it is unpacked.
    app.write("app.bin", &vec![0; 100_000_000]);
    let run = run::run(&mut app.build_by(way, "dev", &cluster.name));
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

/// Moves a program of a node away for as long as this lives.
pub struct Without<'a> {
    node: &'a str,
    program: &'a str,
}

impl<'a> Without<'a> {
    pub fn new(node: &'a str, program: &'a str) -> Self {
        lab::exec(node, &["mv", program, &format!("{program}.away")]).expect(0);
        Self { node, program }
    }
}

impl Drop for Without<'_> {
    fn drop(&mut self) {
        let away = format!("{}.away", self.program);
        lab::exec(self.node, &["mv", &away, self.program]);
    }
}

#[test]
fn a_node_whose_crictl_does_not_confirm() {
    let cluster = Cluster::new("unproven", 1, &[]);
    let app = App::new("unproven");
    let names = [app.on_node("dev")];
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    app.random("app.bin", 1_000);
    let worker = cluster.worker();

    let crictl = Without::new(worker, "/usr/local/bin/crictl");
    let run = run::run(&mut app.build("dev", &cluster.name)).expect(8);
    let error = run.stderr.split("error: ").nth(1).unwrap_or_default();
    assert!(error.contains(worker) && error.contains("crictl"), "{run}");
    drop(crictl);

    // What cannot be proven on one node is taken back on all.
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
    for node in &cluster.nodes {
        assert_eq!(lab::leases(node), [].into(), "{node}");
    }
    // A name that was not there before is not there after.
    let crictl = Without::new(worker, "/usr/local/bin/crictl");
    run::run(&mut app.build("new", &cluster.name)).expect(8);
    drop(crictl);
    for node in &cluster.nodes {
        assert_eq!(app.names_on(node), names.clone().into(), "{node}");
        assert_eq!(lab::crictl(node, &app.on_node("new")), None, "{node}");
    }
}

#[test]
fn a_node_whose_containerd_hangs_or_is_gone() {
    let cluster = Cluster::new("hangs", 1, &[]);
    let before = Before::of(&cluster);
    let app = App::new("hangs");
    let worker = cluster.worker();
    // The container runs, so that only asking it tells.
    lab::exec(worker, &["pkill", "-STOP", "-x", "containerd"]).expect(0);
    let began = std::time::Instant::now();
    let run = run::run(
        app.build("dev", &cluster.name)
            .args(["--stall-timeout", "2"]),
    );
    let took = began.elapsed();
    lab::exec(worker, &["pkill", "-CONT", "-x", "containerd"]).expect(0);
    assert!(run.code == 5 || run.code == 7, "{run}");
    let error = run.stderr.split("error: ").nth(1).unwrap_or_default();
    assert!(error.contains(worker), "{run}");
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    before.is_now();

    lab::exec(
        worker,
        &[
            "mv",
            "/run/containerd/containerd.sock",
            "/run/containerd/away",
        ],
    )
    .expect(0);
    let (how, why) = match lab::is_plain() {
        false => (": ", "cannot connect to /run/containerd/containerd.sock"),
        true => (
            " by ctr\n",
            "cannot access socket /run/containerd/containerd.sock",
        ),
    };
    run::run(&mut app.build("dev", &cluster.name))
        .expect(5)
        .says(&format!(
            "error: cannot reach containerd on node {worker}{how}"
        ))
        .says(why);
    lab::exec(
        worker,
        &[
            "mv",
            "/run/containerd/away",
            "/run/containerd/containerd.sock",
        ],
    )
    .expect(0);
    before.is_now();
    app.is_nowhere(&cluster.nodes);
}

#[test]
fn a_node_that_stops_in_the_middle() {
    lab::WAYS
        .into_iter()
        .for_each(a_node_that_stops_in_the_middle_by);
}

fn a_node_that_stops_in_the_middle_by(way: &str) {
    let cluster = Cluster::new("gone", 1, &[]);
    let app = App::new("gone");
    let names = [app.on_node("dev")];
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);
    let worker = cluster.worker();
    app.random("app.bin", 100_000_000);
    let running = run::start(&mut app.build_by(way, "dev", &cluster.name));
    lab::wait_for_transfer(worker);
    lab::docker(&["kill", worker]);
    running
        .finish()
        .expect(7)
        .says(&format!("error: node {worker}: "));
    assert_eq!(Node::of(&cluster.nodes[0]), before.nodes[0]);

    lab::docker(&["start", worker]);
    lab::exec(worker, &["lab-node-ready"]).expect(0);
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    assert_ne!(lab::proven(&cluster.nodes, &names), old);
    for node in &cluster.nodes {
        assert_eq!(lab::leases(node), [].into(), "{node}");
        assert_eq!(Node::of(node).ingests, [].into(), "{node}");
    }
}

#[test]
fn an_image_that_is_listed_but_not_whole() {
    let cluster = Cluster::new("torn", 1, &[]);
    let app = App::new("torn");
    let names = [app.on_node("dev")];
    let pause = Node::of(cluster.worker()).snapshots;
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let id = lab::proven(&cluster.nodes, &names);
    // As an import leaves it that was killed: crictl lists it, but its layers are gone.
    let worker = cluster.worker();
    let script = "ctr -n k8s.io snapshots ls | awk 'NR > 1 {print $1}'";
    run::wait_until("its snapshots are gone", Duration::from_secs(20), || {
        let snapshots = lab::exec(worker, &["sh", "-c", script]).expect(0).stdout;
        let ours: Vec<&str> = snapshots
            .lines()
            .filter(|key| !pause.contains(*key))
            .collect();
        for snapshot in &ours {
            // Those with children refuse until these are gone.
            lab::exec(
                worker,
                &["ctr", "-n", "k8s.io", "snapshots", "rm", snapshot],
            );
        }
        ours.is_empty()
    });
    assert_eq!(lab::crictl(worker, &names[0]).unwrap().id, id);

    let document = run::run(app.build("dev", &cluster.name).args(["--output", "json"])).expect(0);
    let document = document.json();
    let nodes = &document["images"][0]["nodes"];
    assert_eq!(nodes[0]["result"], "present", "{document:#}");
    assert_eq!(nodes[1]["result"], "loaded", "{document:#}");
    assert_eq!(lab::proven(&cluster.nodes, &names), id);
}

#[test]
fn what_makes_no_sense_reaches_no_node() {
    let cluster = Cluster::new("sense", 0, &[]);
    let before = Before::of(&cluster);
    let app = App::new("sense");
    let run_with = |args: &[&str], vars: &[(&str, &str)]| {
        let mut kindlift = app.skaffold("dev");
        kindlift
            .env("KIND_CLUSTER_NAME", &cluster.name)
            .args(args)
            .envs(vars.iter().copied());
        run::run(&mut kindlift).expect(2)
    };
    run_with(&[], &[("IMAGE", "")]).says("IMAGE is not");
    run_with(&[], &[("IMAGE", "mine:1")]).says("a variable exported in your shell shadows");
    run_with(&["--file", "none"], &[]).says("there is no Dockerfile");
    for name in ["my app:1", "'app':1", "-app:1"] {
        let vars = [("IMAGE", name), ("IMAGE_REPO", ""), ("IMAGE_TAG", "")];
        run_with(&[], &vars).says(&format!("`{name}` is not an image name: "));
    }
    before.is_now();
    app.is_nowhere(&cluster.nodes);
}
