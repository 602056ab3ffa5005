//! `skaffold dev` and `skaffold debug`: the loop itself.

use rustix::process::Signal;

use crate::kube::Kube;
use crate::lab;
use crate::run::{self, Running};
use crate::work::Work;

const APP: &str = "kindlift-demo";

#[test]
fn each_edit_reaches_new_pods_and_nothing_stays() {
    let kube = Kube::shared();
    let space = kube.namespace("dev");
    let work = Work::example("skaffold");
    let mark = lab::unique("dev");
    work.write("skaffold/index.html", &format!("<p>{mark} 0</p>"));
    let mut dev = run::start(&mut work.skaffold("skaffold", &space, &["dev"]));
    let mut before = space.serves_under(&mut dev, APP, 2, &format!("{mark} 0<"));
    for edit in 1..=10 {
        // What changes before Skaffold has looked for the first time, it never sees.
        watches(&mut dev, edit);
        work.write("skaffold/index.html", &format!("<p>{mark} {edit}</p>"));
        let pods = space.serves_under(&mut dev, APP, 2, &format!("{mark} {edit}<"));
        assert_ne!(pods[0].image, before[0].image);
        assert!(
            pods.iter()
                .all(|pod| before.iter().all(|old| old.uid != pod.uid))
        );
        before = pods;
    }
    // Ctrl-C while nothing happens: it takes its pods away.
    dev.signal(Signal::INT);
    let end = dev.finish();
    assert!(end.to_string().contains("Cleaning up"), "{end}");
    space.is_without(APP);
    assert_eq!(work.processes(), Vec::<String>::new());
}

/// Waits until Skaffold has said so many times that it waits for changes.
#[track_caller]
fn watches(dev: &mut Running, times: usize) {
    dev.wait_until("Skaffold watches the files", |dev| {
        dev.stdout().matches("Watching for changes").count() >= times
    });
}

#[test]
fn debug_runs_it_as_it_is() {
    let kube = Kube::shared();
    let space = kube.namespace("debug");
    let work = Work::example("skaffold");
    let page = lab::unique("debug");
    work.write("skaffold/index.html", &page);
    let mut debug = run::start(&mut work.skaffold("skaffold", &space, &["debug"]));
    space.serves_under(&mut debug, APP, 2, &page);
    debug.signal(Signal::INT);
    debug.finish();
    space.is_without(APP);
    assert_eq!(work.processes(), Vec::<String>::new());
}
