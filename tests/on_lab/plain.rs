//! Nodes without perl: ctr and crictl instead of the tunnel, with the same promises. What is not
//! particular to them is in the other tests, which `KINDLIFT_TEST_SESSION=plain` takes this way.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;

use crate::engines::Engine;
use crate::lab::{self, App, Cluster, Node};
use crate::peers::{as_docker_25_wrote_it, run_on};
use crate::run::{self, Run};
use crate::trouble::{Before, Without};

const PERL: &str = "/usr/bin/perl";

fn without_perl(nodes: &[String]) -> Vec<Without<'_>> {
    nodes.iter().map(|node| Without::new(node, PERL)).collect()
}

/// Removes perl for good, so that a node can be restarted.
fn remove_perl(nodes: &[String]) {
    lab::on_each(nodes, |node| lab::exec(node, &["rm", PERL]).expect(0));
}

fn kindlift(args: &[&str], cluster: &Cluster) -> Run {
    run::run(
        lab::kindlift()
            .args(args)
            .args(["--cluster", &cluster.name]),
    )
}

/// Requires that nothing that was staged is left, by name or otherwise.
#[track_caller]
fn nothing_is_staged(cluster: &Cluster) {
    for (node, state) in cluster.nodes.iter().zip(cluster.state()) {
        let staged = state
            .images
            .iter()
            .find(|name| name.contains("kindlift.invalid"));
        assert_eq!(staged, None, "{node}");
        assert_eq!(lab::leases(node), BTreeSet::new(), "{node}");
        assert_eq!(state.ingests, BTreeSet::new(), "{node}");
        // Of imports; each sandbox has one of its own.
        let left = state.leases.iter().find(|id| id.len() < 20);
        assert_eq!(left, None, "{node}");
    }
}

fn says(app: &App, word: &str) {
    app.dockerfile(&format!(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY base.bin /\n\
         ENTRYPOINT [\"/bin/busybox\", \"echo\", \"{word}\"]\n"
    ));
}

fn course(suite: &str, containerd: &str, workers: usize) {
    let cluster = Cluster::of_suite(suite, workers);
    let worker = cluster.nodes.last().unwrap();
    let version = lab::exec(worker, &["containerd", "--version"]).expect(0);
    assert!(
        version.stdout.contains(&format!(" {containerd}.")),
        "{version}"
    );
    let before = Node::of(worker);
    let perl = without_perl(&cluster.nodes);
    let app = App::new("plain");
    let names = [app.on_node("dev")];

    says(&app, "first");
    let run = run::run(app.build("dev", &cluster.name).arg("--verbose")).expect(0);
    for node in &cluster.nodes {
        let told = format!(
            "node {node}: with ctr and crictl, slower: \
             cannot reach containerd on node {node}: it has no perl\n"
        );
        assert!(run.stderr.contains(&told), "{run}");
    }
    let first = lab::proven(&cluster.nodes, &names);
    assert_eq!(run_on(worker, &names[0]), "first\n");
    nothing_is_staged(&cluster);

    // Only what is new travels.
    says(&app, "second");
    let run = run::run(app.build("dev", &cluster.name).args(["--output", "json"])).expect(0);
    for node in run.json()["images"][0]["nodes"].as_array().unwrap() {
        assert_eq!(node["result"], "loaded");
        assert!(node["bytes_sent"].as_u64().unwrap() < 10_000, "{node}");
    }
    let second = lab::proven(&cluster.nodes, &names);
    assert_ne!(second, first);
    assert_eq!(run_on(worker, &names[0]), "second\n");
    nothing_is_staged(&cluster);

    // And nothing, if nothing is.
    let tag = app.tag("dev");
    let run = kindlift(&["load", &tag, "--output", "json"], &cluster).expect(0);
    for node in run.json()["images"][0]["nodes"].as_array().unwrap() {
        assert_eq!(node["result"], "present");
        assert_eq!(node["bytes_sent"], 0);
    }
    kindlift(&["verify", &tag], &cluster).expect(0);
    assert_eq!(lab::proven(&cluster.nodes, &names), second);

    // The node's own setting says whether layers stay as blobs.
    let prune = ["ctr", "-n", "k8s.io", "content", "prune", "references"];
    lab::exec(worker, &prune).expect(0);
    let content = Node::of(worker).content;
    // Manifest and config of either image.
    let new = content.difference(&before.content).count();
    assert_eq!(new, 4, "{content:?}");

    // Removed by hand on one node, it comes back there.
    lab::exec(worker, &["crictl", "rmi", &names[0]]).expect(0);
    kindlift(&["verify", &tag], &cluster)
        .expect(8)
        .says(&format!("{worker}: it does not have it"));
    kindlift(&["ensure", &tag], &cluster)
        .expect(0)
        .says("loaded");
    assert_eq!(lab::proven(&cluster.nodes, &names), second);
    nothing_is_staged(&cluster);

    // What was superseded is known as such.
    kindlift(&["prune", &app.name, "--keep", "1", "--yes"], &cluster).expect(0);
    for node in &cluster.nodes {
        assert_eq!(lab::crictl(node, &first), None, "{node}");
    }
    assert_eq!(lab::proven(&cluster.nodes, &names), second);

    // A tunnel, and back.
    drop(perl);
    says(&app, "third");
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    assert_eq!(run_on(worker, &names[0]), "third\n");
    let _perl = without_perl(&cluster.nodes);
    says(&app, "fourth");
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    assert_eq!(run_on(worker, &names[0]), "fourth\n");
    nothing_is_staged(&cluster);
}

#[test]
fn containerd_1_6() {
    course("bookworm", "1.6", 0);
}

#[test]
fn containerd_1_7() {
    course("trixie", "1.7", 0);
}

#[test]
fn containerd_2_1() {
    course("sid", "2.1", 1);
}

#[test]
fn one_node_without_perl_among_others() {
    let cluster = Cluster::new("mixed", 1, &[]);
    let app = App::new("mixed");
    let names = [app.on_node("dev")];
    let worker = cluster.worker();
    let _perl = Without::new(worker, PERL);
    says(&app, "first");
    let run = run::run(app.build("dev", &cluster.name).arg("--verbose")).expect(0);
    let run = run
        .says(&format!("node {worker}: with ctr and crictl, slower"))
        .says("saving, because uploads cannot go on");
    assert!(
        !run.stderr
            .contains(&format!("node {}: with ctr", cluster.nodes[0])),
        "{run}"
    );
    lab::proven(&cluster.nodes, &names);
    for node in &cluster.nodes {
        assert_eq!(run_on(node, &names[0]), "first\n");
    }
    nothing_is_staged(&cluster);
}

/// A crictl on a node that says no to what is asked as proof.
struct Doubting<'a> {
    _crictl: Without<'a>,
}

impl<'a> Doubting<'a> {
    const CRICTL: &'static str = "/usr/local/bin/crictl";

    fn new(node: &'a str) -> Self {
        let crictl = Without::new(node, Self::CRICTL);
        let script = format!(
            "printf '%s\\n' '#!/bin/sh' 'case $3 in inspecti) echo doubt >&2; exit 1;; esac' \
             'exec {0}.away \"$@\"' > {0}; chmod +x {0}",
            Self::CRICTL
        );
        lab::exec(node, &["sh", "-c", &script]).expect(0);
        Self { _crictl: crictl }
    }
}

fn is_taken_back(suite: &str) {
    let cluster = Cluster::of_suite(suite, 1);
    let app = App::new("doubt");
    let names = [app.on_node("dev")];
    remove_perl(&cluster.nodes);
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);
    app.random("app.bin", 1_000);
    let worker = cluster.worker();
    let doubting = Doubting::new(worker);
    let run = run::run(&mut app.build("dev", &cluster.name)).expect(8);
    run.says(worker).says("doubt");
    // And a name that was not there.
    run::run(&mut app.build("new", &cluster.name)).expect(8);
    drop(doubting);
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
    before.is_now();
}

#[test]
fn what_one_node_does_not_show_is_taken_back_on_all() {
    is_taken_back("sid");
}

#[test]
fn what_one_node_does_not_show_is_taken_back_on_all_with_containerd_1_6() {
    is_taken_back("bookworm");
}

#[test]
fn an_archive_whose_layers_are_not_those_of_its_config() {
    let cluster = Cluster::new("broken", 0, &[]);
    let app = App::new("broken");
    remove_perl(&cluster.nodes);
    Engine::Containerd.build(app.folder(), &app.tag("dev"));
    // Compressed, so that only looking into the layers tells.
    let mut export = lab::kindlift();
    export
        .args(["export", &app.tag("dev"), "-o"])
        .arg(app.path("image.tar"));
    run::run(&mut export).expect(0);
    let mixed = as_docker_25_wrote_it(&app, "mixed", |layers: &mut Vec<Value>| layers.reverse());
    let before = Before::of(&cluster);
    kindlift(&["load", &mixed], &cluster)
        .expect(6)
        .says("does not match the image's rootfs")
        .says("Docker 25.0.0 writes such ");
    before.is_now();
    app.is_nowhere(&cluster.nodes);
}

#[test]
fn a_half_imported_image_is_mended() {
    let cluster = Cluster::new("half", 1, &[]);
    let app = App::new("half");
    let names = [app.on_node("dev")];
    remove_perl(&cluster.nodes);
    Engine::Containerd.build(app.folder(), &app.tag("dev"));
    let archive = app.path("image.tar");
    lab::docker(&[
        "save",
        "--output",
        archive.to_str().unwrap(),
        &app.tag("dev"),
    ]);
    // Listed, but never unpacked.
    let worker = cluster.worker();
    let image = std::fs::File::open(&archive).unwrap();
    let mut import = lab::program("docker");
    import
        .args(["exec", "-i", worker, "ctr", "-n", "k8s.io"])
        .args(["images", "import", "--no-unpack", "-"])
        .stdin(image);
    run::run(&mut import).expect(0);
    assert!(lab::crictl(worker, &names[0]).is_some());
    kindlift(&["verify", &app.tag("dev"), "--nodes", worker], &cluster)
        .expect(8)
        .says("it is not complete");
    kindlift(&["ensure", &app.tag("dev")], &cluster)
        .expect(0)
        .says("loaded");
    lab::proven(&cluster.nodes, &names);
    nothing_is_staged(&cluster);
}

/// Does something on a node while a large layer is on its way there: the imports before that are
/// small.
#[track_caller]
fn in_the_layer(node: &str, act: &str) {
    let script = format!(
        "for i in $(seq 2000); do ctr -n k8s.io content active | grep -q 'kindlift-.*[0-9]MB' \
         && exec {act}; done; exit 1"
    );
    lab::exec(node, &["sh", "-c", &script]).expect(0);
}

/// `next` is the way of the run that has to sweep.
fn killed_in_the_middle(suite: &str, next: &str) {
    let cluster = Cluster::of_suite(suite, 1);
    let app = App::new("killed");
    let names = [app.on_node("dev")];
    let build = |way: &str| {
        let mut build = app.build("dev", &cluster.name);
        build.env("KINDLIFT_SESSION", way);
        build
    };
    run::run(&mut build("plain")).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);
    app.random("app.bin", 60_000_000);
    let running = run::start(&mut build("plain"));
    in_the_layer(cluster.worker(), "true");
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code, 137);
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
    let staged = Node::of(cluster.worker()).images;
    assert!(
        staged.iter().any(|name| name.contains("kindlift.invalid")),
        "{staged:?}"
    );

    let other = App::new("after");
    let mut after = other.build("dev", &cluster.name);
    run::run(after.env("KINDLIFT_SESSION", next)).expect(0);
    nothing_is_staged(&cluster);
    other.forget_on(&cluster.nodes);
    run::wait_until("all is as before", run::DEADLINE, || {
        cluster.state() == before.nodes()
    });
}

#[test]
fn what_a_killed_run_left_goes_with_the_next() {
    killed_in_the_middle("sid", "plain");
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_with_containerd_1_6() {
    killed_in_the_middle("bookworm", "plain");
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_that_has_a_tunnel() {
    killed_in_the_middle("sid", "tunnel");
}

/// A ctr that is killed leaves the lease that it made for itself; the run takes it away.
fn ctr_is_killed(suite: &str) {
    let cluster = Cluster::of_suite(suite, 1);
    let app = App::new("ctr");
    let names = [app.on_node("dev")];
    remove_perl(&cluster.nodes);
    run::run(&mut app.build("dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);
    let worker = cluster.worker();
    app.random("app.bin", 60_000_000);
    let running = run::start(&mut app.build("dev", &cluster.name));
    in_the_layer(worker, "pkill -KILL -x ctr");
    let run = running.finish().expect(7);
    run.says(&format!("error: node {worker}: importing the image failed"));
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
    before.is_now();
}

#[test]
fn a_ctr_that_is_killed() {
    ctr_is_killed("sid");
}

#[test]
fn a_ctr_that_is_killed_with_containerd_1_6() {
    ctr_is_killed("bookworm");
}

/// A ctr on a node that hangs at one of its commands.
struct Stuck<'a> {
    node: &'a str,
    _ctr: Without<'a>,
}

impl<'a> Stuck<'a> {
    const CTR: &'static str = "/usr/bin/ctr";

    /// Hangs where the command line matches a shell's `pattern`, if then a `condition` holds.
    fn at(node: &'a str, pattern: &str, condition: &str) -> Self {
        let ctr = Without::new(node, Self::CTR);
        let script = format!(
            "cat > {0} <<'END'\n#!/bin/sh\ncase \"$*\" in *{pattern}\n\
             {condition} && exec sleep 9999;; esac\nexec {0}.away \"$@\"\nEND\nchmod +x {0}",
            Self::CTR
        );
        lab::exec(node, &["sh", "-c", &script]).expect(0);
        Self { node, _ctr: ctr }
    }

    fn wait(&self) {
        run::wait_until("ctr is stuck", run::DEADLINE, || {
            lab::exec(self.node, &["pgrep", "-fx", "sleep 9999"]).code == 0
        });
    }
}

impl Drop for Stuck<'_> {
    fn drop(&mut self) {
        lab::exec(self.node, &["pkill", "-fx", "sleep 9999"]);
    }
}

fn killed_while_naming(next: &str) {
    let cluster = Cluster::new("naming", 0, &[]);
    let app = App::new("naming");
    let names = [app.on_node("dev")];
    let node = &cluster.nodes[0];
    let load = |way: &str| {
        let mut load = app.build("dev", &cluster.name);
        load.env("KINDLIFT_SESSION", way);
        load
    };
    run::run(&mut load("plain")).expect(0);
    let before = Before::of(&cluster);
    app.random("app.bin", 1_000);
    // Where the name is given already, and the manifest is still to let go of its layers' blobs.
    let is_given = format!(
        "/usr/bin/ctr.away -n k8s.io images ls name=={} | grep -qF \"$5\"",
        names[0]
    );
    let stuck = Stuck::at(node, "' content label '*gc.ref.content.l.*)", &is_given);
    let running = run::start(&mut load("plain"));
    stuck.wait();
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code, 137);
    drop(stuck);
    lab::proven(&cluster.nodes, &names);

    run::run(&mut load(next)).expect(0);
    lab::proven(&cluster.nodes, &names);
    nothing_is_staged(&cluster);
    let after = Before::of(&cluster);
    let [old, new] = [&before, &after].map(|at| &at.nodes()[0].content);
    // Manifest and config, and no layers: the node discards them.
    let more: Vec<_> = new.difference(old).collect();
    assert_eq!(more.len(), 2, "{more:?}");
}

#[test]
fn a_kill_between_a_name_and_what_it_lets_go_of() {
    killed_while_naming("plain");
}

#[test]
fn a_kill_between_a_name_and_what_it_lets_go_of_and_then_a_tunnel() {
    killed_while_naming("tunnel");
}

/// The next run cannot ask whoever was killed which lease ctr had made.
fn killed_before_it_is_noted(next: &str) {
    let cluster = Cluster::new("noting", 0, &[]);
    let app = App::new("noting");
    let node = &cluster.nodes[0];
    let before = Before::of(&cluster);
    let load = |way: &str| {
        let mut load = app.build("dev", &cluster.name);
        load.env("KINDLIFT_SESSION", way);
        load
    };
    // It hangs where it is asked what is on its way: then ctr has its lease.
    let stuck = Stuck::at(node, "'--namespace k8s.io content active')", "true");
    let running = run::start(&mut load("plain"));
    stuck.wait();
    run::wait_until("the import has begun", run::DEADLINE, || {
        let ingests = Node::of(node).ingests;
        ingests.iter().any(|name| name.starts_with("tar-kindlift-"))
    });
    // All at once, as if the machine had been switched off: else ctr sees that no more comes.
    running.signal(Signal::STOP);
    let import = "^(sh -c|/usr/bin/ctr.away) ";
    lab::exec(node, &["pkill", "-KILL", "-f", import]);
    running.signal(Signal::KILL);
    assert_eq!(running.finish().code, 137);
    drop(stuck);
    assert_ne!(Node::of(node).ingests, [].into());

    run::run(&mut load(next)).expect(0);
    nothing_is_staged(&cluster);
    app.forget_on(&cluster.nodes);
    run::wait_until("all is as before", run::DEADLINE, || {
        cluster.state() == before.nodes()
    });
}

#[test]
fn a_kill_before_the_lease_of_ctr_is_noted() {
    killed_before_it_is_noted("plain");
}

#[test]
fn a_kill_before_the_lease_of_ctr_is_noted_and_then_a_tunnel() {
    killed_before_it_is_noted("tunnel");
}
