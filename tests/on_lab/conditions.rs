//! Nodes that are set up otherwise, that collect while they are loaded, and an engine that ends in
//! the middle.

use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use crate::lab::{self, App, Cluster, Node};
use crate::pair::{Colour, Pair, Source};
use crate::run;

/// Something that goes on in a node until it is dropped.
struct Loop<'a> {
    node: &'a str,
    child: Child,
}

impl<'a> Loop<'a> {
    fn start(node: &'a str, command: &str) -> Self {
        let script =
            format!("while [ ! -e /run/loop-ends ]; do {command}; done; rm /run/loop-ends");
        let child = lab::program("docker")
            .args(["exec", node, "sh", "-c", &script])
            .spawn()
            .unwrap();
        Self { node, child }
    }
}

impl Drop for Loop<'_> {
    fn drop(&mut self) {
        lab::exec(self.node, &["touch", "/run/loop-ends"]);
        let _ = self.child.wait();
    }
}

#[test]
fn nodes_that_collect_all_the_while() {
    let pair = Pair::new("collect");
    let cluster = Cluster::new("collect", 1, &[]);
    let prune = "ctr -n k8s.io content prune references >/dev/null 2>&1";
    let loops: Vec<_> = cluster
        .nodes
        .iter()
        .map(|node| Loop::start(node, prune))
        .collect();
    for (n, source) in [Source::Archive, Source::Engine, Source::Folder]
        .into_iter()
        .cycle()
        .take(4)
        .enumerate()
    {
        let colour = Colour::BOTH[n % 2];
        run::run(&mut pair.load(colour, source, &cluster.name)).expect(0);
        let holds = pair.holds(&cluster.nodes);
        assert!(
            holds.iter().all(|holds| *holds == Some(colour)),
            "{holds:?}"
        );
        // Without its former image each load stages everything, while the collector runs.
        pair.forget(&cluster.nodes, &[colour.other()]);
    }
    drop(loops);
    lab::proven(&cluster.nodes, &[pair.app.on_node("dev")]);
}

/// Changes a node's containerd settings, and has it started again by what keeps it running.
fn configure(node: &str, script: &str) {
    let script =
        format!("cd /etc/containerd && {script} && pkill -KILL -x containerd; lab-node-ready");
    lab::exec(node, &["sh", "-c", &script]).expect(0);
}

/// Loads both images in turn, and both again; each container has to run.
fn takes_turns(pair: &Pair, cluster: &Cluster, snapshotter: &str) {
    for colour in [Colour::Red, Colour::Blue, Colour::Red, Colour::Blue] {
        run::run(&mut pair.load(colour, Source::Archive, &cluster.name)).expect(0);
        let holds = pair.holds_in(&cluster.nodes, snapshotter);
        assert!(
            holds.iter().all(|holds| *holds == Some(colour)),
            "{holds:?}"
        );
    }
    let verify = |code| {
        let mut verify = lab::kindlift();
        verify.args(["verify", &pair.app.tag("dev"), "--cluster", &cluster.name]);
        run::run(&mut verify).expect(code)
    };
    verify(0);
    // What one image shares with another is not sent again, whoever holds it.
    let mut second = pair.load(Colour::Blue, Source::Archive, &cluster.name);
    second.args(["--as", &pair.app.tag("second"), "--output", "json"]);
    let document = run::run(&mut second).expect(0).json();
    for node in document["images"][0]["nodes"].as_array().unwrap() {
        assert_eq!(node["bytes_sent"], 0, "{document:#}");
    }
    for node in &cluster.nodes {
        assert_eq!(lab::leases(node), [].into(), "{node}");
    }
}

fn blobs(node: &str) -> usize {
    Node::of(node).content.len()
}

#[test]
fn nodes_that_keep_or_discard_layers() {
    let pair = Pair::new("discard");
    // As kind sets it: layers go once they are unpacked.
    let cluster = Cluster::new("discard", 0, &[]);
    let node = &cluster.nodes[0];
    let before = blobs(node);
    takes_turns(&pair, &cluster, "overlayfs");
    run::wait_until("the layers are discarded", Duration::from_secs(20), || {
        // A manifest and a config of each.
        blobs(node) == before + 4
    });

    configure(
        node,
        "sed -i 's/discard_unpacked_layers = true/discard_unpacked_layers = false/' config.toml",
    );
    pair.forget(&cluster.nodes, &Colour::BOTH);
    run::wait_until("the images are gone", Duration::from_secs(20), || {
        blobs(node) == before
    });
    takes_turns(&pair, &cluster, "overlayfs");
    // `content prune references` would take the layers away, whatever the images say.
    let collect = "ctr -n k8s.io leases create --id t && ctr -n k8s.io leases rm --sync t";
    lab::exec(node, &["sh", "-c", collect]).expect(0);
    // Four layers of each more.
    assert_eq!(blobs(node), before + 4 + 8);
    let filter = format!("name=={}", pair.app.on_node("dev"));
    let check = lab::exec(node, &["ctr", "-n", "k8s.io", "images", "check", &filter]);
    assert!(check.stdout.contains("complete (5/5)"), "{check}");
}

#[test]
fn nodes_with_another_snapshotter() {
    let pair = Pair::new("snapshotter");
    let cluster = Cluster::new("snapshotter", 0, &[]);
    let node = &cluster.nodes[0];
    let choose = |from: &str, to: &str| {
        format!("sed -i 's/snapshotter = \"{from}\"/snapshotter = \"{to}\"/' config.toml")
    };
    configure(node, &choose("overlayfs", "native"));
    takes_turns(&pair, &cluster, "native");

    // As kind's nodes in rootless engines have it: a process beside containerd.
    let program = format!("{node}:/usr/local/bin/containerd-fuse-overlayfs-grpc");
    lab::docker(&[
        "cp",
        "--quiet",
        lab::var("KINDLIFT_LAB_FUSE_SNAPSHOTTER"),
        &program,
    ]);
    lab::docker(&[
        "exec",
        "--detach",
        node,
        "containerd-fuse-overlayfs-grpc",
        "/run/fuse-overlayfs.sock",
        "/var/lib/containerd-fuse-overlayfs",
    ]);
    let plugin = "printf '\\n[proxy_plugins.fuse-overlayfs]\\n  type = \"snapshot\"\\n  \
        address = \"/run/fuse-overlayfs.sock\"\\n' >> config.toml";
    configure(
        node,
        &format!("{} && {plugin}", choose("native", "fuse-overlayfs")),
    );
    // The documents are there, and say that it is unpacked; for another snapshotter.
    takes_turns(&pair, &cluster, "fuse-overlayfs");
}

/// An engine of the test's own, in a lab of its own, which can end.
struct OwnEngine {
    name: String,
}

impl OwnEngine {
    fn start() -> Self {
        // Beside the lab of these tests, and of no other.
        let lab = PathBuf::from(lab::var("KINDLIFT_LAB_DIR"));
        let lab = lab.file_name().unwrap().to_str().unwrap();
        let engine = Self {
            name: format!("{lab}-engine"),
        };
        engine.up();
        engine
    }

    fn lab(&self, args: &[&str]) -> run::Run {
        let mut command = lab::lab_tool();
        command.env("KINDLIFT_LAB_NAME", &self.name).args(args);
        run::run(&mut command)
    }

    fn up(&self) {
        self.lab(&["up", "overlay2"]).expect(0);
    }

    fn host(&self) -> String {
        let env = self.lab(&["env"]).expect(0).stdout;
        let host = env
            .lines()
            .find_map(|line| line.strip_prefix("export DOCKER_HOST="));
        host.unwrap().to_owned()
    }

    /// Kills it with all that it runs.
    fn kill(&self) {
        let state = PathBuf::from(lab::var("KINDLIFT_LAB_DIR")).with_file_name(&self.name);
        let record = std::fs::read_to_string(state.join("process/overlay2")).unwrap();
        let pid = record.split(' ').next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        self.lab(&["down"]);
    }
}

#[test]
fn an_engine_that_restarts_in_the_middle_of_a_load() {
    let app = App::new("restart");
    let cluster = Cluster::new("restart", 1, &[]);
    let names = [app.on_node("dev")];
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = cluster.state();

    let engine = OwnEngine::start();
    let with_engine = |command: &mut Command| {
        command
            .env("DOCKER_HOST", engine.host())
            .env("KINDLIFT_NODES_DOCKER_HOST", lab::var("DOCKER_HOST"));
    };
    let build = || {
        let mut build = lab::program("docker");
        with_engine(&mut build);
        build
            .args(["build", "--tag", &app.tag("dev")])
            .arg(app.folder());
        run::run(&mut build).expect(0);
    };
    app.random("app.bin", 150_000_000);
    build();
    let mut load = lab::kindlift();
    load.args([
        "load",
        "--verbose",
        &app.tag("dev"),
        "--cluster",
        &cluster.name,
    ]);
    with_engine(&mut load);
    let mut running = run::start(&mut load);
    running.wait_until("the image leaves the engine", |running| {
        let said = running.stderr();
        said.contains(" push sha256:") || said.contains("saving sha256:")
    });
    engine.kill();
    let failed = running.finish();
    assert!(matches!(failed.code, 4 | 6), "{failed}");
    failed.says("error: ").never_says("panicked");
    for (after, before) in cluster.state().into_iter().zip(before) {
        // Blobs of layers that are unpacked may go: these nodes discard them.
        assert!(after.content.is_subset(&before.content), "{after:?}");
        let content = before.content.clone();
        assert_eq!(lab::Node { content, ..after }, before);
    }
    assert_eq!(lab::proven(&cluster.nodes, &names), old);

    engine.up();
    app.random("app.bin", 1_000);
    build();
    run::run(&mut load).expect(0);
    assert_ne!(lab::proven(&cluster.nodes, &names), old);
    // Once staging has begun the engine is not needed any more.
    app.random("app.bin", 1_000);
    build();
    let mut running = run::start(&mut load);
    running.wait_until("the nodes are asked what they have", |running| {
        running.stderr().contains(" layers unpacked, ")
    });
    engine.kill();
    running.finish().expect(0);
    lab::proven(&cluster.nodes, &names);
}
