//! Ends that nobody chose: SIGINT and SIGTERM, which let kindlift clean up, and SIGKILL, which is
//! how Skaffold ends its builders and lets nobody do anything.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;

use crate::engines::Engine;
use crate::lab::{self, App, Cluster};
use crate::run::{self, Running};
use crate::trouble::Before;

/// A Dockerfile whose build never ends, and a word that its process carries in the engine.
fn endless(app: &App) -> String {
    let mark = lab::unique("endless");
    app.dockerfile(&format!(
        "FROM scratch\nCOPY busybox /bin/sh\n\
         RUN [\"/bin/sh\", \"-c\", \"echo has begun; while :; do read -t 1 {} < /dev/zero; done\"]\n",
        mark.replace('-', "_")
    ));
    mark.replace('-', "_")
}

/// Returns the processes on this machine, the engine's included, whose command line has a word.
fn processes_with(word: &str) -> Vec<String> {
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            let line = std::fs::read(folder.join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            line.contains(word)
                .then(|| format!("{}: {line}", folder.display()))
        })
        .collect()
}

/// Returns all processes below one, by `/proc/PID/stat`'s fourth field.
fn descendants(pid: i32) -> BTreeSet<i32> {
    let parents: Vec<(i32, i32)> = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent(pid)?))
        })
        .collect();
    let mut found = BTreeSet::from([pid]);
    loop {
        let more: BTreeSet<i32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            break;
        }
        found.extend(more);
    }
    found.remove(&pid);
    found
}

fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// Requires that processes end, and soon. A zombie has ended.
#[track_caller]
fn are_gone(pids: &BTreeSet<i32>) {
    let alive = |pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit_once(')')
                .is_some_and(|(_, rest)| rest.starts_with(" Z"))
        })
    };
    run::wait_until("the children are gone", Duration::from_secs(10), || {
        !pids.iter().any(alive)
    });
}

/// Requires that the engine's build has stopped: its RUN process is gone.
#[track_caller]
fn build_stops(mark: &str) {
    run::wait_until(
        "the engine's build has stopped",
        Duration::from_secs(15),
        || processes_with(mark).is_empty(),
    );
}

/// Starts a build that will not end, and waits until the engine is in it.
#[track_caller]
fn in_a_build(app: &App, cluster: &str) -> (Running, String, BTreeSet<i32>) {
    let mark = endless(app);
    let mut running = run::start(&mut app.build("dev", cluster));
    running.wait_until("the build is under way", |_| !in_engine(&mark).is_empty());
    let children = descendants(running.pid());
    assert!(!children.is_empty());
    (running, mark, children)
}

/// The RUN process alone: the shell in the engine, not the commands that mention it.
fn in_engine(mark: &str) -> Vec<String> {
    let mut found = processes_with(mark);
    found.retain(|line| line.contains("/bin/sh -c echo has begun"));
    found
}

#[test]
fn stopped_in_the_middle_of_a_build() {
    let cluster = Cluster::new("build", 0, &[]);
    let before = cluster.state();
    let app = App::new("build");
    for (signal, code) in [
        (Signal::INT, 130),
        (Signal::TERM, 143),
        (Signal::KILL, 128 + 9),
    ] {
        let (running, mark, children) = in_a_build(&app, &cluster.name);
        running.signal(signal);
        let run = running.finish().expect(code);
        if signal != Signal::KILL {
            run.says("error: interrupted\n");
        }
        are_gone(&children);
        build_stops(&mark);
        assert_eq!(cluster.state(), before);
        app.is_nowhere(&cluster.nodes);
    }
}

/// Starts a load of much, over an old image, and waits until a blob is on its way.
#[track_caller]
fn in_a_load(app: &App, cluster: &Cluster, way: &str) -> (Running, BTreeSet<i32>) {
    app.random("app.bin", 60_000_000);
    let running = run::start(&mut app.build_by(way, "dev", &cluster.name));
    lab::wait_for_transfer(&cluster.nodes[0]);
    let children = descendants(running.pid());
    (running, children)
}

#[test]
fn stopped_in_the_middle_of_a_load() {
    lab::WAYS
        .into_iter()
        .for_each(stopped_in_the_middle_of_a_load_by);
}

fn stopped_in_the_middle_of_a_load_by(way: &str) {
    let cluster = Cluster::new("load", 1, &[]);
    let app = App::new("load");
    let names = [app.on_node("dev")];
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    let old = lab::proven(&cluster.nodes, &names);
    let before = Before::of(&cluster);

    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (running, children) = in_a_load(&app, &cluster, way);
        running.signal(signal);
        running.finish().expect(code).says("error: interrupted\n");
        are_gone(&children);
        // At once: the command has waited for the collection.
        before.is_now();
        assert_eq!(lab::proven(&cluster.nodes, &names), old);
    }

    let (running, children) = in_a_load(&app, &cluster, way);
    let killed = running.pid();
    running.signal(Signal::KILL);
    running.finish().expect(128 + 9);
    are_gone(&children);
    // No name has moved, and what is there is held by a lease that tells whose it was.
    assert_eq!(lab::proven(&cluster.nodes, &names), old);
    for node in &cluster.nodes {
        // Without a tunnel there are notes beside it, which have its name before their own.
        let leases = lab::leases(node);
        let first = leases.first().cloned().unwrap_or_default();
        let others = leases.iter().filter(|lease| !lease.starts_with(&first));
        assert_eq!(others.count(), 0, "{node}: {leases:?}");
        assert!(!leases.is_empty(), "{node}");
        assert!(leases.len() == 1 || lab::is_plain(), "{node}: {leases:?}");
        run::wait_until("the relay is gone", Duration::from_secs(10), || {
            let processes = lab::exec(node, &["ps", "-eo", "args"]).expect(0);
            !processes.stdout.contains("perl -e")
        });
    }

    // The next run sweeps it and goes all the way.
    run::run(&mut app.build_by(way, "dev", &cluster.name)).expect(0);
    assert_ne!(lab::proven(&cluster.nodes, &names), old);
    for node in &cluster.nodes {
        assert_eq!(lab::leases(node), [].into(), "{node}");
        assert_eq!(lab::Node::of(node).ingests, [].into(), "{node}");
    }
    assert_eq!(Engine::Containerd.holds(killed), [].into());
}
