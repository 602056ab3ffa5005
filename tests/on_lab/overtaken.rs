//! Loads that meet: two of one tag at the same time, and names that somebody else moves.

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::builder::Builder;
use crate::lab::{self, App, Cluster, Node};
use crate::pair::{Colour, Pair, Source};
use crate::run::{self, Run, Running};
use crate::trouble::Before;

/// The lock that naming and proof hold, held by the test instead.
struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Finds the lock of a cluster into which something was loaded before.
    fn path_of(cluster: &Cluster) -> PathBuf {
        let user = rustix::process::getuid().as_raw();
        let folders = [
            PathBuf::from(format!("/run/user/{user}/kindlift")),
            PathBuf::from(format!("/tmp/kindlift-{user}")),
        ];
        let prefix = format!("{}-", cluster.name);
        folders
            .iter()
            .filter_map(|folder| folder.read_dir().ok())
            .flatten()
            .map(|entry| entry.unwrap().path())
            .find(|path| {
                let name = path.file_name().unwrap().to_string_lossy();
                name.starts_with(&prefix) && name.ends_with(".lock")
            })
            .expect("the first load has left its lock file")
    }

    fn take(cluster: &Cluster) -> Self {
        let path = Self::path_of(cluster);
        let file = File::options().write(true).open(&path).unwrap();
        match file.try_lock() {
            Ok(()) => Self { file, path },
            Err(TryLockError::WouldBlock) => panic!("{} is held", path.display()),
            Err(TryLockError::Error(e)) => panic!("{}: {e}", path.display()),
        }
    }

    fn release(self) {
        self.file.unlock().unwrap();
    }
}

/// A fake crictl on a node, which answers `--timeout T inspecti` only when it is let go: for a pause between
/// naming and proof that lasts as long as a test needs. Like the real one, it reads its configuration
/// first, and is not asked before that has ended.
struct SlowCrictl<'a> {
    node: &'a str,
}

impl<'a> SlowCrictl<'a> {
    const SCRIPT: &'static str = "#!/bin/sh\n\
        if [ \"$3\" = inspecti ] && [ -e /run/crictl-waits ]; then\n\
        [ -z \"$CRI_CONFIG_FILE\" ] || config=$(cat \"$CRI_CONFIG_FILE\")\n\
        : > /run/crictl-is-asked\n\
        while [ -e /run/crictl-waits ]; do sleep 0.02; done\n\
        if [ -n \"$CRI_CONFIG_FILE\" ]; then\n\
        printf '%s\\n' \"$config\" | /usr/local/bin/crictl.real \"$@\"\n\
        exit\n\
        fi\n\
        fi\n\
        exec /usr/local/bin/crictl.real \"$@\"\n";

    fn new(node: &'a str) -> Self {
        let script = "cd /usr/local/bin && : > /run/crictl-waits && cp crictl crictl.real \
            && printf %s \"$1\" > crictl.fake && chmod 755 crictl.fake && mv crictl.fake crictl";
        lab::exec(node, &["sh", "-c", script, "sh", Self::SCRIPT]).expect(0);
        Self { node }
    }

    /// Waits until the proof is under way: the names have moved, on all nodes.
    fn wait_for_the_question(&self, load: &mut Running) {
        load.wait_until("crictl is asked", |_| {
            lab::exec(self.node, &["test", "-e", "/run/crictl-is-asked"]).code == 0
        });
    }

    fn let_go(&self) {
        lab::exec(
            self.node,
            &["rm", "-f", "/run/crictl-waits", "/run/crictl-is-asked"],
        )
        .expect(0);
    }
}

impl Drop for SlowCrictl<'_> {
    fn drop(&mut self) {
        // The node may be gone, if the test failed.
        let script = "rm -f /run/crictl-waits; mv /usr/local/bin/crictl.real /usr/local/bin/crictl";
        let _ = lab::exec(self.node, &["sh", "-c", script]);
    }
}

fn cluster_with(pair: &Pair, theme: &str, colour: Colour) -> Cluster {
    let cluster = Cluster::new(theme, 1, &[]);
    run::run(&mut pair.load(colour, Source::Archive, &cluster.name)).expect(0);
    all_hold(pair, &cluster, colour);
    cluster
}

#[track_caller]
fn all_hold(pair: &Pair, cluster: &Cluster, colour: Colour) {
    let holds = pair.holds(&cluster.nodes);
    assert!(
        holds.iter().all(|holds| *holds == Some(colour)),
        "{holds:?}"
    );
    lab::proven(&cluster.nodes, &[pair.app.on_node("dev")]);
}

#[track_caller]
fn no_leases(cluster: &Cluster) {
    for node in &cluster.nodes {
        assert_eq!(lab::leases(node), [].into(), "{node}");
    }
}

/// Starts a load and waits until it has staged everything.
fn staged(pair: &Pair, cluster: &Cluster, colour: Colour) -> Running {
    let mut running = run::start(&mut pair.load(colour, Source::Archive, &cluster.name));
    running.wait_until("everything is staged", |running| {
        running.stderr().contains("staged on every node\n")
    });
    running
}

#[track_caller]
fn is_superseded(run: Run, name: &str, by: &str) -> Run {
    let run = run.expect(9);
    let error = format!("error: {name} was superseded: {by} gave the name to sha256:");
    run.says(&error)
        .says("  hint: if this image is the one you want, load it again\n")
        .never_says("does not show")
        .never_says("former names")
}

/// Builds, and once more with something new, which a node loses when everything is staged.
#[track_caller]
fn loses_what_was_staged(cluster: &Cluster, app: &App, load: impl Fn() -> Command) -> Run {
    run::run(&mut load()).expect(0);
    let worker = cluster.worker();
    let before = Node::of(worker).snapshots;
    app.random("app.bin", 1_000_000);
    let lock = Lock::take(cluster);
    let mut running = run::start(&mut load());
    running.wait_until("everything is staged", |running| {
        running.stderr().contains("staged on every node\n")
    });
    for snapshot in Node::of(worker).snapshots.difference(&before) {
        let remove = ["ctr", "-n", "k8s.io", "snapshots", "rm", snapshot];
        lab::exec(worker, &remove).expect(0);
    }
    lock.release();
    let run = running.finish().expect(0);
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    no_leases(cluster);
    run
}

#[test]
fn what_a_node_loses_before_the_names_move_comes_again() {
    let cluster = Cluster::new("loses", 1, &[]);
    let app = App::new("loses");
    let args = ["--verbose", "--cluster", &cluster.name, "--tag"];
    loses_what_was_staged(&cluster, &app, || {
        let mut kindlift = lab::kindlift();
        kindlift.arg("build").args(args).arg(app.tag("dev"));
        kindlift.arg(app.folder());
        kindlift
    })
    .says("trying again: node ")
    .never_says("saving");
    // And from a builder that is no engine.
    let (app, builder) = (App::new("loses-built"), Builder::new());
    let tag = app.tag("dev");
    let args = [&args[..], &[&tag, "."]].concat();
    loses_what_was_staged(&cluster, &app, || builder.build(&app, &args))
        .says("trying again with everything: node ");
}

#[test]
fn a_load_that_was_overtaken_while_it_staged_changes_nothing() {
    let pair = Pair::new("overtaken");
    let cluster = cluster_with(&pair, "overtaken", Colour::Red);
    let lock = Lock::take(&cluster);
    let slow = staged(&pair, &cluster, Colour::Red);
    slow.signal(Signal::STOP);
    lock.release();
    // Found later, done earlier.
    run::run(&mut pair.load(Colour::Blue, Source::Archive, &cluster.name)).expect(0);
    slow.signal(Signal::CONT);
    let run = slow.finish();
    is_superseded(run, &pair.app.tag("dev"), "a later load").never_says("named on every node");
    all_hold(&pair, &cluster, Colour::Blue);
    no_leases(&cluster);
    // The same image, asked for anew, is the later load.
    run::run(&mut pair.load(Colour::Red, Source::Archive, &cluster.name)).expect(0);
    all_hold(&pair, &cluster, Colour::Red);
}

#[test]
fn of_loads_that_wait_for_each_other_the_later_wins() {
    let pair = Pair::new("meet");
    let cluster = cluster_with(&pair, "meet", Colour::Blue);
    for (earlier, later) in [(Colour::Red, Colour::Blue), (Colour::Blue, Colour::Red)] {
        let lock = Lock::take(&cluster);
        let one = staged(&pair, &cluster, earlier);
        let other = staged(&pair, &cluster, later);
        lock.release();
        // Who gets the lock first is open; what is left on the nodes is not.
        other.finish().expect(0);
        let one = one.finish();
        if one.code != 0 {
            is_superseded(one, &pair.app.tag("dev"), "a later load");
        }
        all_hold(&pair, &cluster, later);
        no_leases(&cluster);
    }
    // And with nothing that holds them up.
    for n in 0..4 {
        let colours = [Colour::BOTH[n % 2], Colour::BOTH[(n + 1) % 2]];
        let runs = colours
            .map(|colour| run::start(&mut pair.load(colour, Source::Folder, &cluster.name)))
            .map(Running::finish);
        let [one, other] = runs.each_ref().map(|run| run.code);
        assert!(matches!((one, other), (0, 0 | 9) | (9, 0)), "{runs:?}");
        let holds = pair.holds(&cluster.nodes);
        assert!(holds[0] == holds[1] && holds[0].is_some(), "{holds:?}");
        // Superseded is only who has not won.
        for (colour, run) in colours.iter().zip(&runs) {
            assert!(run.code == 0 || holds[0] != Some(*colour), "{run}");
        }
    }
    no_leases(&cluster);
}

#[test]
fn a_name_that_moves_while_it_is_proven() {
    let pair = Pair::new("moved");
    let cluster = cluster_with(&pair, "moved", Colour::Blue);
    let name = pair.app.on_node("dev");
    // Blue has another name too, from which it can be taken by hand.
    let ctr = |args: &[&str]| {
        let args: Vec<&str> = ["ctr", "-n", "k8s.io", "images"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        lab::exec(cluster.worker(), &args).expect(0)
    };
    let spare = pair.app.on_node("spare");
    ctr(&["tag", &name, &spare]);
    ctr(&["label", &spare, "io.kindlift.found="]);

    // By something else, on one node: it stays, and the other node's name is not touched again.
    let crictl = SlowCrictl::new(cluster.worker());
    let mut load = run::start(&mut pair.load(Colour::Red, Source::Archive, &cluster.name));
    crictl.wait_for_the_question(&mut load);
    ctr(&["tag", "--force", &spare, &name]);
    crictl.let_go();
    let run = load.finish();
    is_superseded(run, &pair.app.tag("dev"), "something other than kindlift")
        .says(cluster.worker());
    drop(crictl);
    let holds = pair.holds(&cluster.nodes);
    assert_eq!(holds, [Some(Colour::Red), Some(Colour::Blue)]);
    no_leases(&cluster);

    // By an earlier load that did not know our lock, as one of another user does not: ours is the
    // later one, and takes the name back.
    let crictl = SlowCrictl::new(cluster.worker());
    let mut load = run::start(&mut pair.load(Colour::Red, Source::Archive, &cluster.name));
    crictl.wait_for_the_question(&mut load);
    ctr(&["label", &spare, "io.kindlift.found=2020-01-01T00:00:00Z"]);
    ctr(&["tag", "--force", &spare, &name]);
    ctr(&["label", &name, "io.kindlift.found=2020-01-01T00:00:00Z"]);
    crictl.let_go();
    load.finish().expect(0);
    drop(crictl);
    all_hold(&pair, &cluster, Colour::Red);
    no_leases(&cluster);
}

#[test]
fn a_later_load_that_does_not_know_the_lock() {
    let pair = Pair::new("stranger");
    let cluster = cluster_with(&pair, "stranger", Colour::Blue);
    let crictl = SlowCrictl::new(cluster.worker());
    let mut kindlift = pair.load(Colour::Red, Source::Archive, &cluster.name);
    let mut earlier = run::start(kindlift.args(["--output", "json"]));
    crictl.wait_for_the_question(&mut earlier);
    // In a mount namespace of its own it has its own lock, as another user has.
    let mut later = lab::program("unshare");
    let load = pair.load(Colour::Blue, Source::Archive, &cluster.name);
    let lock = Lock::path_of(&cluster);
    let script = "mount -t tmpfs tmpfs \"$0\" && exec \"$@\"";
    later
        .args(["--mount", "sh", "-c", script])
        .arg(lock.parent().unwrap())
        .arg(load.get_program())
        .args(load.get_args());
    let later = run::start(&mut later);
    run::wait_until("the later load has named", run::DEADLINE, || {
        later.stderr().contains("named on every node\n")
    });
    crictl.let_go();
    later.finish().expect(0);
    let run = is_superseded(earlier.finish(), &pair.app.tag("dev"), "a later load");
    assert_eq!(run.json()["error"]["kind"], "superseded", "{run}");
    assert_eq!(run.json()["error"]["exit_code"], 9, "{run}");
    drop(crictl);
    all_hold(&pair, &cluster, Colour::Blue);
    no_leases(&cluster);
}

#[test]
fn a_lock_that_nobody_lets_go() {
    let pair = Pair::new("locked");
    let cluster = cluster_with(&pair, "locked", Colour::Red);
    let before = Before::of(&cluster);
    let lock = Lock::take(&cluster);
    let mut kindlift = pair.load(Colour::Blue, Source::Archive, &cluster.name);
    // The lock is waited for eight times as long as a node may be silent.
    run::run(kindlift.args(["--stall-timeout", "3"]))
        .expect(7)
        .says(&format!(
            "error: another kindlift has been naming images in cluster {} for 24 s\n",
            cluster.name
        ))
        .says(&format!("  hint: see who holds {}\n", lock.path.display()));
    before.is_now();
    all_hold(&pair, &cluster, Colour::Red);

    // While it waits it can be stopped.
    let waiting = staged(&pair, &cluster, Colour::Blue);
    waiting.signal(Signal::INT);
    waiting.finish().expect(130);
    before.is_now();
    lock.release();
}

#[test]
fn a_node_that_is_paused_between_naming_and_proof() {
    let pair = Pair::new("between");
    let cluster = cluster_with(&pair, "between", Colour::Red);
    let worker = cluster.worker();
    let crictl = SlowCrictl::new(worker);
    let mut kindlift = pair.load(Colour::Blue, Source::Archive, &cluster.name);
    let mut load = run::start(kindlift.args(["--stall-timeout", "5"]));
    crictl.wait_for_the_question(&mut load);
    lab::pause(worker);
    let run = load.finish();
    lab::docker(&["unpause", worker]);
    crictl.let_go();
    drop(crictl);
    run.expect(8)
        .says("it has not answered for ")
        .says(&format!(
            "; the former names could not be given back on {worker} ("
        ))
        .says("  hint: run the command again once the node answers");
    // The one that answered has its old image, the other the new one: both are whole.
    assert_eq!(
        pair.holds(&cluster.nodes),
        [Some(Colour::Red), Some(Colour::Blue)]
    );

    // Back in time, it gets its former image like the others.
    run::run(&mut pair.load(Colour::Red, Source::Archive, &cluster.name)).expect(0);
    all_hold(&pair, &cluster, Colour::Red);
    let crictl = SlowCrictl::new(worker);
    let mut kindlift = pair.load(Colour::Blue, Source::Archive, &cluster.name);
    let mut load = run::start(kindlift.args(["--stall-timeout", "5"]));
    crictl.wait_for_the_question(&mut load);
    lab::pause(worker);
    load.wait_until("names are given back", |load| {
        load.stderr()
            .contains("giving the nodes their former names back\n")
    });
    lab::docker(&["unpause", worker]);
    crictl.let_go();
    load.finish()
        .expect(8)
        .never_says("could not be given back");
    drop(crictl);
    all_hold(&pair, &cluster, Colour::Red);
    no_leases(&cluster);
    run::wait_until(
        "what was staged is collected",
        Duration::from_secs(20),
        || {
            cluster
                .nodes
                .iter()
                .all(|node| lab::Node::of(node).ingests.is_empty())
        },
    );
}
