//! Skaffold's contract: what it sets, what it will look for afterwards.

use crate::lab::{self, App};
use crate::run;

/// The tag that Skaffold deploys: the ID that the engine gives.
fn hex(image: &str) -> String {
    let id = lab::docker(&["image", "inspect", "--format", "{{.Id}}", image]);
    id.trim().strip_prefix("sha256:").unwrap().to_owned()
}

#[test]
fn both_names_are_on_every_node() {
    let app = App::new("contract");
    let run = run::run(app.skaffold("dev").env("KIND_CLUSTER_NAME", "dev")).expect(0);
    assert_eq!(run.stdout, "", "stdout is for --output json");
    let run = run.says(&format!("loaded {} into 3 nodes of dev: ", app.tag("dev")));
    assert!(run.stderr.ends_with(" sent\n"), "{run}");

    let names = [app.on_node("dev"), app.on_node(&hex(&app.tag("dev")))];
    lab::proven(&lab::dev(), &names);
    for node in lab::dev() {
        assert_eq!(app.names_on(&node), names.clone().into(), "{node}");
    }
}

#[test]
fn platforms_may_be_listed_or_all() {
    let app = App::new("platforms");
    for (tag, platforms) in [("listed", lab::platform()), ("all", "all")] {
        let mut kindlift = app.skaffold(tag);
        kindlift
            .env("PLATFORMS", platforms)
            .env("KIND_CLUSTER_NAME", "dev");
        run::run(&mut kindlift).expect(0);
        let names = [app.on_node(tag), app.on_node(&hex(&app.tag(tag)))];
        lab::proven(&lab::dev(), &names);
    }
}

#[test]
fn the_same_sources_give_the_same_deployed_name() {
    let app = App::new("stable");
    run::run(app.skaffold("one").env("KIND_CLUSTER_NAME", "dev")).expect(0);
    let first = hex(&app.tag("one"));
    run::run(app.skaffold("two").env("KIND_CLUSTER_NAME", "dev")).expect(0);
    assert_eq!(
        hex(&app.tag("two")),
        first,
        "an attestation changes it at every build"
    );
    let names = [app.on_node("one"), app.on_node("two"), app.on_node(&first)];
    lab::proven(&lab::dev(), &names);
}

#[test]
fn several_platforms_cannot_be_loaded() {
    let app = App::new("several");
    let mut kindlift = app.skaffold("dev");
    kindlift
        .env("PLATFORMS", "linux/amd64,linux/arm64")
        .env("KIND_CLUSTER_NAME", "dev");
    run::run(&mut kindlift)
        .expect(2)
        .says("several platforms can only be built to be pushed");
    app.is_nowhere(&lab::dev());
}
