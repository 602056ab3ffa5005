//! Skaffold's commands that come to an end, with `examples/skaffold`.

use crate::kube::{Kube, Namespace};
use crate::lab;
use crate::run;
use crate::work::Work;

const APP: &str = "kindlift-demo";

/// The example with a page of its own.
fn example(theme: &str) -> (Work, String) {
    let work = Work::example("skaffold");
    let page = format!("<p>{}</p>", lab::unique(theme));
    work.write("skaffold/index.html", &page);
    (work, page)
}

/// Requires that the deployed images are on both nodes: pods run where the scheduler likes.
#[track_caller]
fn both_nodes_have(space: &Namespace, image: &str) {
    for node in space.kube.nodes() {
        assert!(space.kube.has(&node, image), "{node} has no {image}");
    }
}

#[test]
fn run_serves_what_was_built_and_loads_once() {
    let kube = Kube::shared();
    let space = kube.namespace("run");
    let (work, page) = example("run");
    let run = work.run_skaffold("skaffold", &space, &["run"]);
    let pods = space.serves(APP, 2, &page);
    both_nodes_have(&space, &pods[0].image);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains(" into 2 nodes of kube: "), "{run}");
    assert!(said.contains("already there: "), "ensure looked:\n{run}");
    assert!(!said.contains("Loading images into kind"), "{run}");

    work.run_skaffold("skaffold", &space, &["delete"]);
    space.is_without(APP);
}

#[test]
fn build_test_and_deploy_are_steps_of_their_own() {
    let kube = Kube::shared();
    let space = kube.namespace("steps");
    let (work, page) = example("steps");
    let out = ["--file-output", "built.json"];
    work.run_skaffold("skaffold", &space, &["build", out[0], out[1]]);
    let from = ["--build-artifacts", "built.json"];
    let test = work.run_skaffold("skaffold", &space, &["test", from[0], from[1]]);
    assert!(test.to_string().contains("already there: "), "{test}");
    work.run_skaffold("skaffold", &space, &["deploy", from[0], from[1]]);
    space.serves(APP, 2, &page);
}

#[test]
fn rendered_with_tags_the_manifest_works_by_itself() {
    let kube = Kube::shared();
    let space = kube.namespace("render");
    let (work, page) = example("render");
    work.run_skaffold("skaffold", &space, &["build"]);
    let mut render = work.skaffold("skaffold", &space, &["render"]);
    // Without building, the tag must be told: it is what the build was given.
    render.args([
        "--digest-source=tag",
        "--output=rendered.yaml",
        "--tag",
        &work.tag,
    ]);
    run::run(&mut render).expect(0);
    let rendered = std::fs::read_to_string(work.path("skaffold/rendered.yaml")).unwrap();
    let image = format!("kindlift-demo/app:{}", work.tag);
    assert!(
        rendered.contains(&format!("image: {image}\n")),
        "{rendered}"
    );
    let file = work.path("skaffold/rendered.yaml");
    run::run(space.kubectl().args(["apply", "-f"]).arg(file)).expect(0);
    let pods = space.serves(APP, 2, &page);
    assert_eq!(pods[0].image, image);
}

#[test]
fn a_cluster_made_anew_gets_its_images_back_without_a_build() {
    let kube = Kube::new("anew", "docker");
    let (work, page) = example("anew");
    {
        let space = kube.namespace("first");
        let first = work.run_skaffold("skaffold", &space, &["run"]);
        space.serves(APP, 2, &page);
        assert!(first.to_string().contains("Building ["), "{first}");
    }
    kube.renew();
    let space = kube.namespace("second");
    let second = work.run_skaffold("skaffold", &space, &["run"]);
    let said = second.to_string();
    assert!(said.contains("Found Locally"), "{second}");
    assert!(!said.contains("Building ["), "{second}");
    assert!(
        said.contains(&format!("2 nodes of {}: ", kube.name)),
        "{second}"
    );
    let pods = space.serves(APP, 2, &page);
    both_nodes_have(&space, &pods[0].image);
}

#[test]
fn a_platform_and_a_default_repo_are_followed() {
    let kube = Kube::shared();
    let space = kube.namespace("repo");
    let (work, page) = example("repo");
    let platform = format!("--platform={}", lab::platform());
    let repo = "--default-repo=registry.example/team";
    work.run_skaffold("skaffold", &space, &["run", repo, &platform]);
    let pods = space.serves(APP, 2, &page);
    let image = &pods[0].image;
    assert!(
        image.starts_with("registry.example/team/kindlift-demo"),
        "{image}"
    );
    both_nodes_have(&space, image);
    lab::docker(&["image", "rm", "--force", image]);
}

#[test]
fn a_platform_that_the_nodes_do_not_run_fails_the_build() {
    let kube = Kube::shared();
    let space = kube.namespace("foreign");
    let (work, _) = example("foreign");
    let mut build = work.skaffold("skaffold", &space, &["build", "--platform=linux/s390x"]);
    let run = run::run(&mut build);
    assert_ne!(run.code, 0, "{run}");
    assert!(run.to_string().contains("linux/s390x"), "{run}");
    for node in kube.nodes() {
        let image = format!("docker.io/kindlift-demo/app:{}", work.tag);
        assert!(!kube.has(&node, &image));
    }
}

#[test]
fn another_kube_context_is_met_by_the_hook_before_deploy() {
    let current = Kube::new("current", "docker");
    let other = Kube::shared();
    let space = other.namespace("context");
    let (work, page) = example("context");
    // The first file says which context is the current one.
    let config = std::env::join_paths([current.kubeconfig(), other.kubeconfig()]).unwrap();
    let flags = [
        "run",
        "--profile=kube-context",
        "--kube-context",
        &other.context(),
    ];
    let mut skaffold = work.skaffold("skaffold", &space, &flags);
    run::run(skaffold.env("KUBECONFIG", config)).expect(0);
    let pods = space.serves(APP, 2, &page);
    both_nodes_have(&space, &pods[0].image);
    for node in current.nodes() {
        assert!(!current.has(&node, &pods[0].image), "{node} was not meant");
    }
}

#[test]
fn modules_that_share_a_base_are_built_at_once() {
    let kube = Kube::shared();
    let space = kube.namespace("modules");
    let work = Work::example("skaffold-modules");
    let mut pages = Vec::new();
    for app in ["front", "back"] {
        let page = lab::unique(app);
        work.write(&format!("skaffold-modules/{app}/index.html"), &page);
        pages.push((app, page));
    }
    let run = work.run_skaffold("skaffold-modules", &space, &["run"]);
    assert!(
        run.to_string().contains("Building 3 artifacts in parallel"),
        "{run}"
    );
    for (app, page) in pages {
        let pods = space.serves(app, 1, &page);
        both_nodes_have(&space, &pods[0].image);
    }
}
