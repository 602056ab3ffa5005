//! `prune`: superseded images go from every node; what is used, newest or not ours stays.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::lab::{self, App, Cluster, Node};
use crate::run::{self, Run};
use crate::trouble::Before;

/// Loads a new image of an app, as Skaffold has it done, and returns its ID.
fn load_next(app: &App, cluster: &str) -> String {
    app.random("app.bin", 1_000);
    let document = run::run(
        app.skaffold("dev")
            .args(["--cluster", cluster, "--output", "json"]),
    )
    .expect(0)
    .json();
    document["images"][0]["config_digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn prune(app: &App, cluster: &str, args: &[&str]) -> Run {
    run::run(
        lab::kindlift()
            .args(["prune", "--cluster", cluster, &app.name])
            .args(args),
    )
    .expect(0)
}

/// The IDs of an app's images that crictl on each node shows, of those given.
#[track_caller]
fn on_all<'a>(nodes: &[String], ids: &'a [String]) -> Vec<&'a String> {
    let shown = lab::on_each(nodes, |node| {
        let shown = ids.iter().filter(|id| lab::crictl(node, id).is_some());
        shown.collect::<Vec<_>>()
    });
    assert!(shown.iter().all(|node| *node == shown[0]), "{shown:?}");
    shown.into_iter().next().unwrap()
}

/// Makes a container of an image on a node, but does not start it; its pod goes with the value.
struct Container {
    node: String,
    pod: String,
}

impl Container {
    fn of(node: &str, image: &str) -> Self {
        let id = lab::unique("prune-pod");
        let script = format!(
            r#"set -e; cd $(mktemp -d)
            echo '{{"metadata":{{"name":"{id}","namespace":"default","uid":"{id}"}},"log_directory":"/tmp","linux":{{"security_context":{{"namespace_options":{{"network":2}}}}}}}}' > pod
            echo '{{"metadata":{{"name":"c"}},"image":{{"image":"{image}"}},"log_path":"{id}.log","linux":{{}}}}' > container
            pod=$(crictl runp pod); crictl create "$pod" container pod >/dev/null; echo "$pod""#
        );
        let run = lab::exec(node, &["sh", "-c", &script]).expect(0);
        Self {
            node: node.to_owned(),
            pod: run.stdout.trim().to_owned(),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = lab::exec(&self.node, &["crictl", "rmp", "--force", &self.pod]);
    }
}

#[test]
fn superseded_images_go_from_every_node() {
    // Its own: what a dry run leaves as it is, no other test may touch meanwhile.
    let cluster = Cluster::new("prune", 2, &[]);
    let app = App::new("prune");
    let stranger = App::new("stranger");
    run::run(&mut stranger.build("dev", &cluster.name)).expect(0);
    let ids: Vec<String> = (0..5).map(|_| load_next(&app, &cluster.name)).collect();
    let worker = cluster.worker();
    // Whatever becomes of its name: by ID.
    let container = Container::of(worker, &ids[0]);
    // Somebody gave the second one another name, on one node.
    let other = format!("docker.io/library/{}:mine", lab::unique("other"));
    let listed = prune(&app, &cluster.name, &["--output", "json"]).json();
    let name_of = |id: &String| -> String {
        let image = listed["images"].as_array().unwrap().iter().find(|image| {
            image["names"].as_array().unwrap().iter().any(|name| {
                lab::crictl(worker, name.as_str().unwrap()).is_some_and(|shown| shown.id == *id)
            })
        });
        image.unwrap()["names"][0].as_str().unwrap().to_owned()
    };
    lab::exec(
        worker,
        &[
            "ctr",
            "-n",
            "k8s.io",
            "images",
            "tag",
            &name_of(&ids[1]),
            &other,
        ],
    )
    .expect(0);

    let before = Before::of(&cluster);
    let dry = prune(&app, &cluster.name, &["--keep", "1"]);
    assert!(dry.stderr.contains("would remove 2 images"), "{dry}");
    assert!(dry.stderr.contains("--yes"), "{dry}");
    for words in [
        "keep: newest",
        "keep: a container uses it",
        "keep: it has a name that kindlift did not give",
        "remove",
    ] {
        assert!(dry.stdout.contains(words), "no {words:?} in:\n{dry}");
    }
    before.is_now();
    assert_eq!(on_all(&cluster.nodes, &ids).len(), 5);

    let done = prune(
        &app,
        &cluster.name,
        &["--keep", "1", "--yes", "--output", "json"],
    )
    .json();
    let verdicts: Vec<&Value> = done["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| &image["verdict"])
        .collect();
    // Newest first.
    assert_eq!(
        verdicts,
        ["newest", "remove", "remove", "named-by-others", "in-use"]
    );
    assert_eq!(on_all(&cluster.nodes, &ids), [&ids[0], &ids[1], &ids[4]]);
    // Their bytes too: nothing holds their configs any more.
    for node in cluster.state() {
        for id in &ids[2..4] {
            assert!(!node.content.contains(id), "{id} is still there");
        }
    }
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    lab::proven(&cluster.nodes, &[stranger.on_node("dev")]);

    // Once nothing uses it and nobody else names it, it goes.
    drop(container);
    lab::exec(worker, &["ctr", "-n", "k8s.io", "images", "rm", &other]).expect(0);
    prune(&app, &cluster.name, &["--keep", "1", "--yes"]);
    assert_eq!(on_all(&cluster.nodes, &ids), [&ids[4]]);
}

#[test]
fn an_image_without_a_tag_is_still_known_by_its_name() {
    let app = App::new("prune-untagged");
    let mut ids = Vec::new();
    for _ in 0..2 {
        app.random("app.bin", 1_000);
        let mut build = app.build("dev", "dev");
        let document = run::run(build.args(["--output", "json"])).expect(0).json();
        ids.push(
            document["images"][0]["config_digest"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let dry = prune(&app, "dev", &["--keep", "1"]);
    let untagged = format!("{} (no tag left)", app.name);
    assert!(dry.stdout.contains(&untagged), "{dry}");
    prune(&app, "dev", &["--keep", "1", "--yes"]);
    assert_eq!(on_all(&lab::dev(), &ids), [&ids[1]]);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn young_images_stay() {
    let app = App::new("prune-young");
    let ids = [load_next(&app, "dev"), load_next(&app, "dev")];
    prune(&app, "dev", &["--keep", "1", "--older-than", "1h", "--yes"]);
    assert_eq!(on_all(&lab::dev(), &ids).len(), 2);
}

#[test]
fn a_build_prunes_what_it_supersedes() {
    let app = App::new("prune-build");
    let first = load_next(&app, "dev");
    let second = load_next(&app, "dev");
    app.random("app.bin", 1_000);
    run::run(app.skaffold("dev").args(["--cluster", "dev", "--prune=2"])).expect(0);
    assert_eq!(on_all(&lab::dev(), &[first, second.clone()]), [&second]);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn what_kindlift_did_not_load_is_not_even_listed() {
    let app = App::new("prune-not-ours");
    run::run(&mut app.build("dev", "dev")).expect(0);
    let worker = &lab::dev()[1];
    let run =
        run::run(lab::kindlift().args(["prune", "--cluster", "dev", "--output", "json"])).expect(0);
    let names: BTreeSet<String> = run.json()["images"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|image| image["names"].as_array().unwrap().clone())
        .map(|name| name.as_str().unwrap().to_owned())
        .collect();
    assert!(names.contains(&app.on_node("dev")), "{names:?}");
    let on_node = Node::of(worker).images;
    let sandbox = on_node.iter().find(|name| name.contains("pause"));
    assert!(
        sandbox.is_some_and(|name| !names.contains(name)),
        "{on_node:?}"
    );
}
