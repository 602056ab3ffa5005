//! A node is made anew while Tilt runs. Tilt itself does not notice; the watch beside it does.

use rustix::process::Signal;

use crate::kube::Kube;
use crate::lab;
use crate::run;
use crate::tilt::built;
use crate::work::Work;

const APP: &str = "kindlift-demo-tilt";

/// The line that docs/tilt.md tells people to put into their Tiltfile.
fn documented() -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/tilt.md");
    let page = std::fs::read_to_string(page).unwrap();
    let line = page
        .lines()
        .find(|line| line.contains("--watch --ref-file"));
    line.expect("the watch in docs/tilt.md").to_owned()
}

#[test]
fn a_worker_made_anew_gets_the_image_back_without_a_build() {
    let kube = Kube::new("tiltwatch", "docker");
    let nodes = kube.nodes();
    let worker = &nodes[1];
    // Pods go to the worker, which is the one that goes.
    run::run(kube.kubectl().args(["cordon", &nodes[0]])).expect(0);
    let space = kube.namespace("tiltwatch");
    let work = Work::example("tilt");
    let mark = lab::unique("tiltwatch");
    let page = |n: usize| work.write("tilt/index.html", &format!("<p>{mark} {n}</p>"));
    page(0);
    let tiltfile = std::fs::read_to_string(work.path("tilt/Tiltfile")).unwrap();
    work.write("tilt/Tiltfile", &format!("{tiltfile}\n{}\n", documented()));
    let mut up = run::start(&mut work.tilt("tilt", &space, &["up", "--stream"]));
    let before = space.serves_under(&mut up, APP, 1, &format!("{mark} 0<"));
    built(&mut up, 1);
    assert_eq!(before[0].node, *worker);
    let image = before[0].image.clone();
    up.wait_until("the watch looks after the image", |up| {
        up.stdout().contains(&format!("already there: {image}"))
    });

    kube.replace_worker();
    up.wait_until("the image is back", |_| kube.has(worker, &image));
    let mut delete = space.kubectl();
    run::run(delete.args(["delete", "pod", "--force", &before[0].name])).expect(0);
    let after = space.serves_under(&mut up, APP, 1, &format!("{mark} 0<"));
    assert_eq!((&after[0].image, &after[0].node), (&image, worker));
    assert_ne!(after[0].uid, before[0].uid);
    let builds = up.stdout().matches("DONE IN: ").count();
    assert_eq!(builds, 1, "it was not a build that brought it back");

    // And the loop goes on.
    page(1);
    space.serves_under(&mut up, APP, 1, &format!("{mark} 1<"));
    up.signal(Signal::TERM);
    up.finish();
    run::wait_until("the watch has ended", crate::kube::PATIENCE, || {
        work.processes().is_empty()
    });
}
