//! `load`, `ensure` and `verify`.

use serde_json::Value;

use crate::engines::Engine;
use crate::lab::{self, App, Cluster};
use crate::registry::Registry;
use crate::run::{self, Run};

fn kindlift(args: &[&str], cluster: &str) -> Run {
    run::run(lab::kindlift().args(args).args(["--cluster", cluster]))
}

/// Sums what went to the nodes.
fn sent(run: &Run) -> u64 {
    let json = run.json();
    let nodes = json["images"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|image| image["nodes"].as_array().unwrap());
    nodes.map(|node| node["bytes_sent"].as_u64().unwrap()).sum()
}

fn built(theme: &str) -> App {
    let app = App::new(theme);
    Engine::Containerd.build(app.folder(), &app.tag("dev"));
    app
}

#[test]
fn load_takes_what_the_engine_has() {
    let app = built("load");
    kindlift(&["load", &app.tag("dev")], "dev")
        .expect(0)
        .says("loaded");
    let id = lab::proven(&lab::dev(), &[app.on_node("dev")]);
    let again = kindlift(&["load", &app.tag("dev"), "--output", "json"], "dev").expect(0);
    assert_eq!(sent(&again), 0);
    assert_eq!(again.json()["images"][0]["config_digest"], Value::from(id));
}

#[test]
fn a_name_that_no_engine_has_is_not_looked_for_elsewhere() {
    let app = App::new("absent");
    kindlift(&["load", &app.tag("dev")], "dev")
        .expect(6)
        .says("has no image")
        .says(&format!("from its registry: docker://{}", app.tag("dev")));
    app.is_nowhere(&lab::dev());
}

#[test]
fn one_name_that_is_not_there_loads_nothing_at_all() {
    let app = built("half");
    kindlift(&["load", &app.tag("dev"), &app.tag("gone")], "dev").expect(6);
    app.is_nowhere(&lab::dev());
}

#[test]
fn a_digest_reference_works_on_the_node() {
    let app = built("digest");
    let digest = format!(
        "{}@sha256:{}",
        app.name,
        Engine::Containerd.hex(&app.tag("dev"))
    );
    kindlift(&["load", &digest], "dev").expect(0);
    for node in lab::dev() {
        assert!(
            lab::crictl(&node, &format!("docker.io/{digest}")).is_some(),
            "{node}"
        );
    }
    kindlift(&["verify", &digest], "dev").expect(0);
}

#[test]
fn manifests_name_the_images_and_the_kubelet_gets_the_rest() {
    let app = built("from");
    let text = format!(
        "kind: List\nitems:\n- kind: Pod\n  spec: {{containers: [{{image: {0}}}], initContainers: [{{image: {0}}}]}}\n\
         ---\nkind: Deployment\nspec: {{template: {{spec: {{containers: [{{image: nobody/has:this}}]}}}}}}\n",
        app.tag("dev")
    );
    app.write("k8s.yaml", text.as_bytes());
    let path = app.path("k8s.yaml");
    kindlift(&["load", "--from", path.to_str().unwrap()], "dev")
        .expect(0)
        .says(&format!("loaded {}", app.tag("dev")))
        .says("left to the kubelet: nobody/has:this");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn an_image_that_is_there_gets_another_name_without_a_byte_of_layers() {
    let app = built("rename");
    kindlift(&["load", &app.tag("dev")], "dev").expect(0);
    lab::docker(&["tag", &app.tag("dev"), &app.tag("two")]);
    let run = kindlift(&["load", &app.tag("two"), "--output", "json"], "dev").expect(0);
    assert_eq!(sent(&run), 0);
    lab::proven(&lab::dev(), &[app.on_node("dev"), app.on_node("two")]);
}

#[test]
fn verify_tells_what_is_wrong_where() {
    let cluster = Cluster::new("verify", 1, &[]);
    let app = built("verify");
    let name = app.tag("dev");
    kindlift(&["verify", &name], &cluster.name)
        .expect(8)
        .says("it does not have it");
    kindlift(&["load", &name], &cluster.name).expect(0);
    kindlift(&["verify", &name], &cluster.name).expect(0);

    // Another image under the name, on one node only.
    let other = built("other");
    kindlift(
        &["load", &other.tag("dev"), "--nodes", cluster.worker()],
        &cluster.name,
    )
    .expect(0);
    let swap = [
        "ctr",
        "-n",
        "k8s.io",
        "images",
        "tag",
        "--force",
        &other.on_node("dev"),
        &app.on_node("dev"),
    ];
    lab::exec(cluster.worker(), &swap).expect(0);
    kindlift(&["verify", &name], &cluster.name)
        .expect(8)
        .says(&format!("{}: it has another image", cluster.worker()));
    kindlift(&["ensure", &name], &cluster.name).expect(0);
    let id = lab::proven(&cluster.nodes, &[app.on_node("dev")]);

    // The engine forgets it: the nodes can only be compared with one another.
    lab::docker(&["image", "rm", "--force", &name]);
    kindlift(&["verify", &name], &cluster.name)
        .expect(0)
        .says("not compared");
    assert_eq!(lab::proven(&cluster.nodes, &[app.on_node("dev")]), id);
}

#[test]
fn an_image_that_was_never_unpacked_is_seen_and_mended() {
    let cluster = Cluster::new("torn", 0, &[]);
    let app = built("torn");
    let node = &cluster.nodes[0];
    // What an import leaves that is cut short: the CRI lists the image all the same.
    let archive = app.path("image.tar");
    lab::docker(&[
        "save",
        "--output",
        archive.to_str().unwrap(),
        &app.tag("dev"),
    ]);
    lab::docker(&[
        "cp",
        archive.to_str().unwrap(),
        &format!("{node}:/var/image.tar"),
    ]);
    let import = [
        "ctr",
        "-n",
        "k8s.io",
        "images",
        "import",
        "--no-unpack",
        "/var/image.tar",
    ];
    lab::exec(node, &import).expect(0);
    run::wait_until(
        "the CRI to list it",
        std::time::Duration::from_secs(10),
        || lab::crictl(node, &app.on_node("dev")).is_some(),
    );
    kindlift(&["verify", &app.tag("dev")], &cluster.name)
        .expect(8)
        .says("not complete");
    kindlift(&["ensure", &app.tag("dev")], &cluster.name)
        .expect(0)
        .says("loaded");
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}

#[test]
fn ensure_brings_back_what_is_missing_and_only_that() {
    let cluster = Cluster::new("ensure", 2, &[]);
    let app = built("ensure");
    let name = app.tag("dev");
    let ensure = || kindlift(&["ensure", &name, "--output", "json"], &cluster.name).expect(0);
    assert!(sent(&ensure()) > 0);
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    assert_eq!(sent(&ensure()), 0, "nothing is missing");

    // One node of three.
    lab::exec(cluster.worker(), &["crictl", "rmi", &app.on_node("dev")]).expect(0);
    let run = ensure();
    for node in run.json()["images"][0]["nodes"].as_array().unwrap() {
        let lacked = node["name"] == cluster.worker();
        assert_eq!(node["bytes_sent"].as_u64().unwrap() > 0, lacked, "{node}");
    }
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}

#[test]
fn ensure_fills_a_cluster_that_was_made_anew() {
    let app = built("anew");
    let mut cluster = Cluster::new("anew", 1, &[]);
    for _ in 0..2 {
        kindlift(&["ensure", &app.tag("dev")], &cluster.name)
            .expect(0)
            .says("loaded");
        lab::proven(&cluster.nodes, &[app.on_node("dev")]);
        cluster.renew();
        assert_eq!(lab::crictl(cluster.worker(), &app.on_node("dev")), None);
    }
}

#[test]
fn a_pushed_image_is_not_ours() {
    let hex = "a".repeat(64);
    let run = run::run(
        lab::kindlift()
            .arg("ensure")
            .env("IMAGE", format!("reg.example/app@sha256:{hex}")),
    );
    run.expect(0).says("nothing to ensure");
}

#[test]
fn ensure_takes_skaffolds_image() {
    let app = built("test-hook");
    let deployed = app.tag(&Engine::Containerd.hex(&app.tag("dev")));
    lab::docker(&["tag", &app.tag("dev"), &deployed]);
    let mut kindlift = lab::kindlift();
    kindlift
        .args(["ensure", "--cluster", "dev"])
        .env("IMAGE", &deployed);
    run::run(&mut kindlift).expect(0).says("loaded");
    lab::proven(&lab::dev(), &[format!("docker.io/{deployed}")]);
    run::run(&mut kindlift).expect(0).says("already there");
}

#[test]
fn latest_is_warned_about_by_each_command() {
    let app = App::new("latest");
    let name = app.tag("latest");
    for args in [
        &["build", "-t", &name][..],
        &["load", &name],
        &["ensure", &name],
    ] {
        let mut kindlift = lab::kindlift();
        kindlift
            .current_dir(app.folder())
            .args(args)
            .args(["--cluster", "dev"]);
        run::run(&mut kindlift)
            .expect(0)
            .says("the tag is latest")
            .says("imagePullPolicy: IfNotPresent");
    }
    lab::proven(&lab::dev(), &[app.on_node("latest")]);
}

/// Outside a git folder Skaffold's own tagger says latest; what it deploys has another tag.
#[test]
fn latest_is_no_matter_where_another_name_is_deployed() {
    let app = App::new("latest");
    let mut skaffold = app.skaffold("latest");
    skaffold.env("KIND_CLUSTER_NAME", "dev");
    run::run(&mut skaffold).expect(0).never_says("the tag is");
    let mut tilt = lab::kindlift();
    tilt.current_dir(app.folder())
        .args(["build", "--cluster", "dev"])
        .env("EXPECTED_REF", app.tag("latest"));
    run::run(&mut tilt).expect(0).never_says("the tag is");
    lab::proven(&lab::dev(), &[app.on_node("latest")]);
}

#[test]
fn a_stale_localhost_name_is_told() {
    let app = App::new("shadow");
    let name = app.tag("dev");
    Engine::Podman.build(app.folder(), &format!("localhost/{name}"));
    app.random("app.bin", 1_000);
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["build", "--cluster", "dev"]);
    Engine::Podman.point(&mut kindlift, crate::engines::Api::Used);
    kindlift
        .env("IMAGE", &name)
        .env("PUSH_IMAGE", "false")
        .env("BUILD_CONTEXT", app.folder());
    run::run(&mut kindlift)
        .expect(6)
        .says(&format!(
            "localhost/{name} is another image than docker.io/{name}, and Skaffold would deploy that one"
        ))
        .says("podman untag");
    app.is_nowhere(&lab::dev());
    run::run(
        Engine::Podman
            .command()
            .args(["untag", &format!("localhost/{name}")]),
    )
    .expect(0);
    run::run(&mut kindlift).expect(0);
    lab::proven(
        &lab::dev(),
        &[app.on_node("dev"), app.on_node(&Engine::Podman.hex(&name))],
    );
    Engine::Podman.forget(&format!("docker.io/{}", app.name));
}

#[test]
fn what_podman_calls_localhost_is_loaded_as_the_kubelet_reads_it() {
    let app = App::new("localhost");
    let name = app.tag("dev");
    // `podman build -t NAME` without a registry makes localhost/NAME.
    Engine::Podman.build(app.folder(), &name);
    kindlift(&["load", "--engine", "podman", &name], "dev").expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    Engine::Podman.forget(&format!("localhost/{}", app.name));
}

#[test]
fn the_engine_pulls_when_it_is_told() {
    let registry = Registry::start();
    let app = App::new("pull");
    let name = format!("{}/{}:dev", registry.host, app.name);
    Engine::Containerd.build(app.folder(), &name);
    lab::docker(&["push", &name]);
    lab::docker(&["image", "rm", "--force", &name]);
    kindlift(&["load", &name], "dev").expect(6);
    kindlift(&["load", &name, "--pull"], "dev")
        .expect(0)
        .says("loaded");
    lab::proven(&lab::dev(), std::slice::from_ref(&name));
    // It is the engine that has pulled it.
    lab::docker(&["image", "rm", "--force", &name]);
    for node in lab::dev() {
        lab::exec(&node, &["crictl", "rmi", &name]).expect(0);
    }
    let absent = format!("{}/nobody/has:this", registry.host);
    kindlift(&["load", &absent, "--pull"], "dev")
        .expect(6)
        .says("the pull failed");
}

#[test]
fn manifests_on_stdin() {
    let app = built("from-stdin");
    let text = format!(
        "kind: Pod\nspec: {{containers: [{{image: '{}'}}]}}\n",
        app.tag("dev")
    );
    app.write("k8s.yaml", text.as_bytes());
    let mut kindlift = lab::kindlift();
    kindlift
        .args(["load", "--from", "-", "--cluster", "dev"])
        .stdin(std::fs::File::open(app.path("k8s.yaml")).unwrap());
    run::run(&mut kindlift).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn the_hook_knows_skaffolds_and_tilts_names() {
    let app = built("hooks");
    let hex = Engine::Containerd.hex(&app.tag("dev"));
    for (variable, deployed) in [
        ("SKAFFOLD_IMAGE", hex.clone()),
        ("EXPECTED_REF", format!("tilt-{}", &hex[..16])),
    ] {
        app.forget_on(&lab::dev());
        let mut kindlift = lab::kindlift();
        kindlift
            .args(["load", "--cluster", "dev"])
            .env(variable, app.tag("dev"));
        run::run(&mut kindlift).expect(0).says("loaded");
        lab::proven(&lab::dev(), &[app.on_node("dev"), app.on_node(&deployed)]);
    }
}

#[test]
fn an_engine_that_was_asked_for_and_is_not_there_is_an_error() {
    let app = built("noengine");
    kindlift(&["load", &app.tag("dev")], "dev").expect(0);
    let verify = |variable: &str, value: &str| {
        let mut kindlift = lab::kindlift();
        kindlift
            .args(["verify", &app.tag("dev"), "--cluster", "dev"])
            .env("KINDLIFT_NODES_DOCKER_HOST", lab::var("DOCKER_HOST"))
            .env(variable, value);
        run::run(&mut kindlift)
    };
    verify("KINDLIFT_ENGINE", "lxc").expect(2).says("lxc");
    // Nobody said which: the nodes can still be compared with one another, and that is told.
    let path = lab::empty_path_with(&["docker"]);
    let mut kindlift = lab::kindlift();
    kindlift
        .args(["verify", &app.tag("dev"), "--cluster", "dev"])
        .env("PATH", path)
        .env("KINDLIFT_NODES_DOCKER_HOST", lab::var("DOCKER_HOST"))
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    run::run(&mut kindlift)
        .expect(0)
        .says("no engine to compare with")
        .says("/nonexistent/docker.sock")
        .says("not compared");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn podmans_socket_alone_is_enough_for_nodes_under_podman() {
    let app = App::new("podman-only");
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .arg("build")
        .env("DOCKER_HOST", lab::var("KINDLIFT_LAB_PODMAN_SOCKET"))
        .env("KIND_CLUSTER_NAME", "pod")
        .env("IMAGE", app.tag("dev"))
        .env("PUSH_IMAGE", "false")
        .env("BUILD_CONTEXT", app.folder());
    run::run(&mut kindlift).expect(0);
    let names = [
        app.on_node("dev"),
        app.on_node(&Engine::Podman.hex(&app.tag("dev"))),
    ];
    lab::proven(&lab::pod(), &names);
    Engine::Podman.forget(&format!("docker.io/{}", app.name));
    app.forget_on(&lab::pod());
}
