//! `kindlift build` as people type it, and the JSON document it gives to programs.

use serde_json::{Value, json};

use crate::lab::{self, App};
use crate::run;

/// The sum of what went to the nodes.
fn sent(document: &Value) -> u64 {
    let nodes = document["images"][0]["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| node["bytes_sent"].as_u64().unwrap())
        .sum()
}

fn results(document: &Value) -> Vec<&str> {
    let nodes = document["images"][0]["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| node["result"].as_str().unwrap())
        .collect()
}

#[test]
fn build_flags_reach_the_engine() {
    let app = App::new("flags");
    app.write("token", b"not for the image");
    app.write(
        "other.Dockerfile",
        b"FROM scratch AS base\nCOPY busybox /bin/sh\nCOPY base.bin /\n\
          FROM base AS wanted\nARG COLOUR=none\nARG SIZE=none\n\
          RUN --mount=type=secret,id=token [\"/bin/sh\", \"-c\", \"test -s /run/secrets/token\"]\n\
          LABEL colour=$COLOUR size=$SIZE\n\
          FROM base AS unwanted\nLABEL colour=unwanted\n",
    );
    let mut kindlift = app.build("dev", "dev");
    kindlift
        .args(["--file", "other.Dockerfile", "--target", "wanted"])
        .args([
            "--build-arg",
            "COLOUR=dark blue; $(red)",
            "--build-arg",
            "SIZE=2",
        ])
        .args(["--secret", "id=token,src=token"])
        .args([".", "--", "--label", "by=flag"]);
    run::run(&mut kindlift).expect(0);
    let labels = lab::docker(&[
        "image",
        "inspect",
        "--format",
        "{{json .Config.Labels}}",
        &app.tag("dev"),
    ]);
    let labels: Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(
        labels,
        json!({"colour": "dark blue; $(red)", "size": "2", "by": "flag"})
    );
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn the_document_tells_what_crictl_shows() {
    let app = App::new("document");
    let run = run::run(app.build("dev", "dev").args(["--output", "json"])).expect(0);
    let document = run.json();
    assert_eq!(document["ok"], true);
    let images = document["images"].as_array().unwrap();
    assert_eq!(images.len(), 1);
    let image = &images[0];
    assert_eq!(image["cluster"], "dev");
    assert_eq!(image["image"], json!(app.tag("dev")));
    assert_eq!(image["refs"], json!([app.on_node("dev")]));
    assert_eq!(image["platform"], json!(lab::platform()));
    let phases = image["phases"].as_object().unwrap();
    assert!(phases.contains_key("build"), "{phases:?}");
    for (name, span) in phases {
        assert!(
            span["start_ms"].as_u64() <= span["end_ms"].as_u64(),
            "{name}: {span}"
        );
    }

    let id = lab::proven(&lab::dev(), &[app.on_node("dev")]);
    assert_eq!(image["config_digest"], json!(id));
    let nodes = image["nodes"].as_array().unwrap();
    let names: Vec<_> = nodes
        .iter()
        .map(|node| node["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, lab::dev());
    for node in nodes {
        assert_eq!(node["crictl_id"], json!(id));
        assert_eq!(node["result"], "loaded");
        assert!(node["bytes_sent"].as_u64().unwrap() > 200_000, "{node}");
        assert!(node["seconds"].as_f64().unwrap() > 0.0, "{node}");
    }
}

#[test]
fn a_small_change_sends_few_bytes_and_no_change_sends_none() {
    let app = App::new("change");
    app.random("base.bin", 8_000_000);
    let json = ["--output", "json"];
    let first = run::run(app.build("dev", "dev").args(json))
        .expect(0)
        .json();
    assert!(sent(&first) > 3 * 8_000_000, "{first:#}");
    assert_eq!(results(&first), ["loaded"; 3]);
    let old = lab::proven(&lab::dev(), &[app.on_node("dev")]);

    let again = run::run(app.build("dev", "dev").args(json))
        .expect(0)
        .json();
    assert_eq!(sent(&again), 0, "{again:#}");
    assert_eq!(results(&again), ["present"; 3]);
    run::run(&mut app.build("dev", "dev"))
        .expect(0)
        .says(&format!(
            "already there: {} on 3 nodes of dev: ",
            app.tag("dev")
        ));
    assert_eq!(lab::proven(&lab::dev(), &[app.on_node("dev")]), old);

    app.random("app.bin", 1_000);
    let changed = run::run(app.build("dev", "dev").args(json))
        .expect(0)
        .json();
    // One layer of a kilobyte, config and manifest.
    assert!(sent(&changed) < 3 * 16_000, "{changed:#}");
    assert_eq!(results(&changed), ["loaded"; 3]);
    assert_ne!(lab::proven(&lab::dev(), &[app.on_node("dev")]), old);
}

#[test]
fn a_second_name_moves_no_layer() {
    let app = App::new("second");
    run::run(&mut app.build("one", "dev")).expect(0);
    let again = run::run(app.build("two", "dev").args(["--output", "json"]))
        .expect(0)
        .json();
    assert_eq!(sent(&again), 0, "{again:#}");
    // The name is new, so something was done.
    assert_eq!(results(&again), ["loaded"; 3]);
    lab::proven(&lab::dev(), &[app.on_node("one"), app.on_node("two")]);
}

#[test]
fn nodes_that_are_not_named_are_left_alone() {
    let app = App::new("nodes");
    let nodes = lab::dev();
    let chosen = [nodes[0].clone(), nodes[2].clone()];
    let run = run::run(app.build("dev", "dev").args(["--nodes", &chosen.join(",")])).expect(0);
    run.says("into 2 nodes of dev");
    lab::proven(&chosen, &[app.on_node("dev")]);
    app.is_nowhere(&nodes[1..2]);

    run::run(app.build("dev", "dev").args(["--nodes", "dev-worker9"]))
        .expect(5)
        .says("error: cluster dev has no node dev-worker9\n")
        .says("  hint: its nodes are dev-control-plane, dev-worker, dev-worker2\n");
}

#[test]
fn short_names_get_their_full_form() {
    // `app` alone is docker.io/library/app:latest to a kubelet.
    let app = App::new("short");
    let short = lab::unique("kindlift-test-short");
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["build", "-t", &short, "--cluster", "dev"]);
    run::run(&mut kindlift)
        .expect(0)
        .says(&format!("warning: {short}"))
        .says("imagePullPolicy");
    let full = format!("docker.io/library/{short}:latest");
    lab::proven(&lab::dev(), std::slice::from_ref(&full));
    lab::docker(&["image", "rm", &short]);
    lab::on_each(&lab::dev(), |node| {
        lab::exec(node, &["crictl", "rmi", &full]).expect(0)
    });
}
