//! Ctrl-C at the worst moments: Skaffold ends at once, nothing goes on, nothing is half done.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::kube::Kube;
use crate::lab;
use crate::run::{self, Running};
use crate::work::{Work, processes_with};

/// What a terminal does: the signal goes to all of the foreground group.
fn press_ctrl_c(skaffold: &Running) {
    rustix::process::kill_process_group(Pid::from_raw(skaffold.pid()).unwrap(), Signal::INT)
        .unwrap();
}

/// Requires that Skaffold ends soon and that nothing of it goes on.
#[track_caller]
fn ends_whole(skaffold: Running, work: &Work) {
    let began = Instant::now();
    let run = skaffold.finish();
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "it took its time:\n{run}"
    );
    // Its own exit code is 0 then.
    assert!(!run.to_string().contains("succeeded"), "{run}");
    run::wait_until("the last process to end", Duration::from_secs(10), || {
        work.processes().is_empty()
    });
}

#[test]
fn ctrl_c_in_the_middle_of_a_build() {
    let kube = Kube::shared();
    let space = kube.namespace("endbuild");
    let work = Work::example("skaffold");
    let mark = lab::unique("endless").replace('-', "_");
    let whole = std::fs::read_to_string(work.path("skaffold/Dockerfile")).unwrap();
    let endless = format!(
        "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"echo has begun; while :; do read -t 1 {mark} </dev/zero; done\"]\n"
    );
    work.change("skaffold/Dockerfile", "USER ", &format!("{endless}USER "));
    let mut build = work.skaffold("skaffold", &space, &["build"]);
    let mut build = run::start(build.process_group(0));
    let running = || processes_with(&mark);
    build.wait_until("the build is running", |_| !running().is_empty());
    press_ctrl_c(&build);
    ends_whole(build, &work);
    run::wait_until(
        "the engine to stop building",
        Duration::from_secs(20),
        || running().is_empty(),
    );

    work.write("skaffold/Dockerfile", &whole);
    work.write("skaffold/index.html", &mark);
    work.run_skaffold("skaffold", &space, &["run"]);
    space.serves("kindlift-demo", 2, &mark);
}

#[test]
fn ctrl_c_in_the_middle_of_a_load() {
    let kube = Kube::new("endload", "docker");
    let space = kube.namespace("endload");
    let work = Work::example("skaffold");
    let page = lab::unique("endload");
    work.write("skaffold/index.html", &page);
    let mut random = std::io::Read::take(std::fs::File::open("/dev/urandom").unwrap(), 200_000_000);
    let mut file = std::fs::File::create(work.path("skaffold/large.bin")).unwrap();
    std::io::copy(&mut random, &mut file).unwrap();
    work.change(
        "skaffold/Dockerfile",
        "COPY index",
        "COPY large.bin /\nCOPY index",
    );
    let ignore = work.path("skaffold/.dockerignore");
    let _ = std::fs::remove_file(ignore);

    let mut build = work.skaffold("skaffold", &space, &["build"]);
    let mut build = run::start(build.process_group(0));
    let names = |node: &str| {
        kube.exec(node, &["ctr", "-n", "k8s.io", "images", "ls", "-q"])
            .stdout
    };
    let on_the_way = || {
        kube.exec(
            &kube.nodes()[1],
            &["ctr", "-n", "k8s.io", "content", "active"],
        )
        .stdout
        .contains("kindlift-")
    };
    build.wait_until("a blob is on its way", |_| on_the_way());
    press_ctrl_c(&build);
    ends_whole(build, &work);
    for node in kube.nodes() {
        assert!(
            !names(&node).contains("kindlift-demo"),
            "{node} has a name for half an image"
        );
    }

    work.run_skaffold("skaffold", &space, &["run"]);
    space.serves("kindlift-demo", 2, &page);
    assert_eq!(kube.leftovers(), "", "the next run clears what a kill left");
}
