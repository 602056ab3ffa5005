//! Tilt's commands, with `examples/tilt` in its three modes.

use rustix::process::Signal;

use crate::kube::{Kube, Namespace};
use crate::lab;
use crate::run::{self, Running};
use crate::work::Work;

const APP: &str = "kindlift-demo-tilt";
const MODES: [&str; 3] = ["ref-file", "disable-push", "default"];

/// A page that no other has, and so an image that no other is.
fn page(theme: &str) -> String {
    format!("<p>{}</p>", lab::unique(theme))
}

#[test]
fn ci_ends_well_in_every_mode() {
    let kube = Kube::shared();
    for mode in MODES {
        let space = kube.namespace(mode);
        let work = Work::example("tilt");
        let page = page(mode);
        work.write("tilt/index.html", &page);
        let mut ci = work.tilt("tilt", &space, &["ci"]);
        let run = run::run(ci.env("KINDLIFT_TILT_MODE", mode)).expect(0);
        let pods = space.serves(APP, 1, &page);
        for node in kube.nodes() {
            assert!(kube.has(&node, &pods[0].image), "{node}\n{run}");
        }
        let tag = if mode == "ref-file" {
            ":kindlift-"
        } else {
            ":tilt-"
        };
        assert!(pods[0].image.contains(tag), "{}", pods[0].image);
        let said = run.to_string();
        assert_eq!(
            said.contains("Loading image to KIND"),
            mode == "default",
            "{run}"
        );
    }
}

#[test]
fn an_edit_rolls_the_pod_the_same_content_does_not_and_down_takes_it_away() {
    let kube = Kube::shared();
    let space = kube.namespace("up");
    let work = Work::example("tilt");
    let mark = lab::unique("up");
    let write = |n: usize| work.write("tilt/index.html", &format!("<p>{mark} {n}</p>"));
    write(0);
    let mut up = run::start(&mut work.tilt("tilt", &space, &["up", "--stream"]));
    let mut before = space.serves_under(&mut up, APP, 1, &format!("{mark} 0<"));
    for n in 1..=3 {
        built(&mut up, n);
        write(n);
        let pods = space.serves_under(&mut up, APP, 1, &format!("{mark} {n}<"));
        assert_ne!(pods[0].uid, before[0].uid);
        before = pods;
    }
    // Written again with what it has: Tilt builds, and deploys the same name.
    built(&mut up, 4);
    write(3);
    built(&mut up, 5);
    assert_eq!(space.pods(APP)[0].uid, before[0].uid);

    up.signal(Signal::TERM);
    up.finish();
    is_still(&work);
    run::run(&mut work.tilt("tilt", &space, &["down"])).expect(0);
    space.is_without(APP);
}

/// Waits until Tilt has said so many times that a build and deploy are done.
#[track_caller]
pub fn built(tilt: &mut Running, times: usize) {
    tilt.wait_until("Tilt has built", |tilt| {
        tilt.stdout().matches("DONE IN: ").count() >= times
    });
}

/// Requires that nothing goes on.
#[track_caller]
fn is_still(work: &Work) {
    run::wait_until("the last process to end", crate::kube::PATIENCE, || {
        work.processes().is_empty()
    });
}

#[test]
fn sigterm_in_the_middle_of_a_build() {
    let kube = Kube::shared();
    let space = kube.namespace("term");
    let work = Work::example("tilt");
    let mark = lab::unique("term").replace('-', "_");
    let whole = std::fs::read_to_string(work.path("tilt/Dockerfile")).unwrap();
    let endless = format!(
        "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"while :; do read -t 1 {mark} </dev/zero; done\"]\nUSER "
    );
    work.change("tilt/Dockerfile", "USER ", &endless);
    let mut up = run::start(&mut work.tilt("tilt", &space, &["up", "--stream"]));
    let running = || crate::work::processes_with(&mark);
    up.wait_until("the build runs", |_| !running().is_empty());
    up.signal(Signal::TERM);
    up.finish();
    is_still(&work);
    run::wait_until("the engine stops building", crate::kube::PATIENCE, || {
        running().is_empty()
    });
    assert!(space.pods(APP).is_empty());

    work.write("tilt/Dockerfile", &whole);
    work.write("tilt/index.html", &mark);
    run::run(&mut work.tilt("tilt", &space, &["ci"])).expect(0);
    space.serves(APP, 1, &mark);
}

/// Writes an app of a name and returns its part of a Tiltfile.
fn app(work: &Work, space: &Namespace, name: &str, page: &str) -> String {
    for file in ["Dockerfile", "k8s.yaml", "busybox"] {
        let from = work.path("tilt").join(file);
        let to = work.path(name);
        std::fs::create_dir_all(&to).unwrap();
        std::fs::copy(from, to.join(file)).unwrap();
    }
    let image = format!("kindlift-test/{}-{name}", space.name);
    work.change(&format!("{name}/k8s.yaml"), "kindlift-demo/tilt", &image);
    work.change(&format!("{name}/k8s.yaml"), APP, name);
    work.write(&format!("{name}/index.html"), page);
    format!(
        "custom_build('{image}', 'exec kindlift build -t {image} --ref-file {name}.ref {name}',\n    \
         deps=['{name}'], skips_local_docker=True, outputs_image_ref_to='{name}.ref')\n\
         k8s_yaml('{name}/k8s.yaml')\n"
    )
}

#[test]
fn three_images_are_built_and_loaded_at_once() {
    let kube = Kube::shared();
    let space = kube.namespace("three");
    let work = Work::example("tilt");
    let apps = ["one", "two", "three"].map(|name| (name, page(name)));
    let parts = apps
        .each_ref()
        .map(|(name, page)| app(&work, &space, name, page));
    work.write("Tiltfile", &parts.concat());
    run::run(&mut work.tilt(".", &space, &["ci"])).expect(0);
    for (name, page) in &apps {
        space.serves(name, 1, page);
    }
}
