//! `ensure --watch`: nodes that are made anew get their images back while it runs.

use rustix::process::Signal;

use crate::lab::{self, App, Cluster};
use crate::run::{self, Running};

/// Starts a watch that has its first look behind it.
fn watching(args: &[&str], says: &str) -> Running {
    let mut kindlift = lab::kindlift();
    kindlift.args(["ensure", "--watch"]).args(args);
    let mut watch = run::start(&mut kindlift);
    watch.wait_until("its first look", |watch| watch.stderr().contains(says));
    watch
}

#[test]
fn a_cluster_that_is_made_anew_gets_its_images_back() {
    let mut cluster = Cluster::new("watch", 1, &[]);
    let app = App::new("watch");
    lab::docker(&[
        "build",
        "--tag",
        &app.tag("dev"),
        app.path("").to_str().unwrap(),
    ]);
    app.write("ref", format!("{}\n", app.tag("ref")).as_bytes());
    lab::docker(&["tag", &app.tag("dev"), &app.tag("ref")]);
    let path = app.path("ref");
    // An hour: what is brought back is brought back because a node has started.
    let args = [
        app.tag("dev"),
        "--ref-file".into(),
        path.to_str().unwrap().into(),
        "--cluster".into(),
        cluster.name.clone(),
        "--every".into(),
        "3600".into(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut watch = watching(&args, &format!("loaded {}", app.tag("ref")));
    let names = [app.on_node("dev"), app.on_node("ref")];
    let first = lab::proven(&cluster.nodes, &names);

    cluster.renew();
    let loaded = |watch: &Running, times: usize| {
        let said = watch.stderr();
        names.iter().all(|name| {
            let name = name.trim_start_matches("docker.io/");
            let lines = said.lines().filter(|line| line.contains(name));
            // In one go, or first on the node that was there first.
            let nodes = lines.filter_map(|line| {
                let rest = line.strip_prefix("loaded ")?.split(" into ").nth(1)?;
                rest.split(' ').next()?.parse::<usize>().ok()
            });
            nodes.sum::<usize>() >= times * 2
        })
    };
    watch.wait_until("the images are back", |watch| {
        loaded(watch, 2)
            && cluster
                .nodes
                .iter()
                .all(|node| names.iter().all(|name| lab::crictl(node, name).is_some()))
    });
    assert_eq!(lab::proven(&cluster.nodes, &names), first);

    watch.signal(Signal::TERM);
    watch.finish().expect(0);
    app.forget_on(&cluster.nodes);
}

#[test]
fn what_fails_is_told_once_and_mended_when_it_can_be() {
    let app = App::new("watch-fails");
    let args = [&app.tag("dev"), "--cluster", "dev", "--every", "1"];
    let mut watch = watching(&args, "has no image");
    // Several looks later it was told once.
    lab::docker(&[
        "build",
        "--tag",
        &app.tag("dev"),
        app.path("").to_str().unwrap(),
    ]);
    watch.wait_until("the image is loaded", |watch| {
        watch.stderr().contains("loaded ")
    });
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    // Nobody tells that an image was removed: the next look sees it.
    lab::exec("dev-worker", &["crictl", "rmi", &app.on_node("dev")]).expect(0);
    watch.wait_until("the image is back", |watch| {
        watch.stderr().matches("loaded ").count() == 2
    });
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    watch.signal(Signal::INT);
    let run = watch.finish().expect(0);
    assert_eq!(run.stderr.matches("has no image").count(), 1, "{run}");
    // That all is there is no news each second.
    assert!(run.stderr.matches("already there").count() <= 1, "{run}");
}

#[test]
fn what_makes_no_sense_ends_it() {
    let mut kindlift = lab::kindlift();
    kindlift.args(["ensure", "--watch", "--cluster", "dev", "Not A Name"]);
    run::run(&mut kindlift)
        .expect(2)
        .says("is not an image name");
    let mut kindlift = lab::kindlift();
    kindlift.args(["ensure", "--watch", "--output", "json", "x:1"]);
    run::run(&mut kindlift).expect(2).says("--watch has no end");
}

/// Nothing it started goes on without it.
#[test]
fn killed_it_leaves_no_command_behind() {
    let app = App::new("watch-killed");
    let args = [&app.tag("dev"), "--cluster", "dev"];
    let mut watch = watching(&args, "has no image");
    let children = |pid: i32| {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace()
            .map(|pid| pid.parse::<i32>().unwrap())
            .filter(|pid| {
                let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&words).contains("\0events\0")
            })
            .collect::<Vec<_>>()
    };
    let mut listening = Vec::new();
    watch.wait_until("it listens", |watch| {
        listening = children(watch.pid());
        !listening.is_empty()
    });
    watch.signal(Signal::KILL);
    watch.finish().expect(137);
    run::wait_until("the commands have ended", run::DEADLINE, || {
        listening.iter().all(|pid| {
            let path = format!("/proc/{pid}/cmdline");
            std::fs::read(path).unwrap_or_default().is_empty()
        })
    });
}
