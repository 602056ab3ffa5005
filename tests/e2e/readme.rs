//! README's quick starts, taken out of README.md and run in a folder that has an app and no more.

use rustix::process::Signal;

use crate::kube::{Kube, Namespace};
use crate::lab;
use crate::run;
use crate::work::Work;

const APP: &str = "app";

/// The fenced block of README.md after a heading that begins with a text.
#[track_caller]
fn block(heading: &str, first: &str) -> String {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let section = readme.split(&format!("\n## {heading}\n")).nth(1);
    let section = section.expect("the section").split("\n## ").next().unwrap();
    let mut blocks = section.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.split_once('\n').unwrap().1.starts_with(first));
    let block = block.unwrap_or_else(|| panic!("no block in {heading} begins with {first:?}"));
    block.split_once('\n').unwrap().1.to_owned()
}

/// An app of a stranger's: what README presumes, and the manifest it asks for.
fn stranger(page: &str) -> Work {
    let work = Work::example("tilt");
    let dockerfile = std::fs::read_to_string(work.path("tilt/Dockerfile")).unwrap();
    let dockerfile = dockerfile.replace("COPY index.html /www/index.html", "COPY src /www");
    assert!(dockerfile.contains("src"), "{dockerfile}");
    work.write("mine/Dockerfile", &dockerfile);
    let manifest = std::fs::read_to_string(work.path("tilt/k8s.yaml")).unwrap();
    let manifest = manifest.replace("kindlift-demo/tilt", "demo/app");
    work.write(
        "mine/k8s.yaml",
        &manifest.replace("kindlift-demo-tilt", APP),
    );
    work.write("mine/src/index.html", page);
    std::fs::copy(work.path("tilt/busybox"), work.path("mine/busybox")).unwrap();
    work
}

/// The cluster's kubeconfig with the namespace in it, so that nothing must be added to commands.
pub fn kubeconfig(work: &Work, space: &Namespace) -> std::path::PathBuf {
    let config = std::fs::read_to_string(space.kube.kubeconfig()).unwrap();
    let user = format!("user: {}}}", space.kube.context());
    assert!(config.contains(&user), "{config}");
    let with = format!(
        "user: {}, namespace: {}}}",
        space.kube.context(),
        space.name
    );
    work.write("kubeconfig", &config.replacen(&user, &with, 1));
    work.path("kubeconfig")
}

#[test]
fn the_skaffold_quick_start_works() {
    let kube = Kube::shared();
    let space = kube.namespace("readme");
    let mark = lab::unique("readme");
    let work = stranger(&format!("{mark} 0<"));
    work.write("mine/skaffold.yaml", &block("Skaffold", "# skaffold.yaml"));
    let commands = block("Skaffold", "skaffold config set");
    let commands = commands.replace("kind-kind", &kube.context());
    let config = kubeconfig(&work, &space);
    let mut shell = work.program("sh", "mine", &space);
    // The last command runs until Ctrl-C.
    let script = commands.replace("skaffold dev", "exec skaffold dev");
    shell.env("KUBECONFIG", config).args(["-ec", &script]);
    shell.env("SKAFFOLD_UPDATE_CHECK", "false");
    let mut dev = run::start(&mut shell);
    space.serves_under(&mut dev, APP, 1, &format!("{mark} 0<"));
    dev.wait_until("Skaffold watches", |dev| {
        dev.stdout().contains("Watching for changes")
    });
    work.write("mine/src/index.html", &format!("{mark} 1<"));
    space.serves_under(&mut dev, APP, 1, &format!("{mark} 1<"));
    assert!(!dev.stdout().contains("Loading images into kind"));
    dev.signal(Signal::INT);
    dev.finish();
    space.is_without(APP);
}

#[test]
fn the_tilt_quick_start_works() {
    let kube = Kube::shared();
    let space = kube.namespace("readme");
    let page = lab::unique("readme");
    let work = stranger(&page);
    work.write("mine/Tiltfile", &block("Tilt", "# Tiltfile"));
    run::run(&mut work.tilt("mine", &space, &["ci"])).expect(0);
    space.serves(APP, 1, &page);
}
