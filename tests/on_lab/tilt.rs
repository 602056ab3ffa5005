//! Tilt's contract: what it sets, what it deploys, and when pods must not roll.

use crate::lab::{self, App};
use crate::run;

#[test]
fn the_same_content_keeps_its_name_and_other_content_gets_another() {
    let app = App::new("reffile");
    let file = app.path("ref");
    let build = || {
        let mut kindlift = lab::kindlift();
        kindlift.current_dir(app.folder()).args([
            "build",
            "--cluster",
            "dev",
            "-t",
            &app.name,
            "--ref-file",
            "ref",
            ".",
        ]);
        let run = run::run(&mut kindlift).expect(0);
        let name = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        run.says(&format!("{name} "));
        name
    };
    let first = build();
    assert_eq!(build(), first, "unchanged pods would roll");
    app.random("app.bin", 1_000);
    let second = build();
    assert_ne!(second, first);
    for name in [first, second] {
        assert!(
            name.starts_with(&format!("{}:kindlift-", app.name)),
            "{name}"
        );
        lab::proven(&lab::dev(), &[format!("docker.io/{name}")]);
    }
    // Nothing was named :latest though -t had no tag.
    for node in lab::dev() {
        assert_eq!(lab::crictl(&node, &app.on_node("latest")), None);
    }
}

#[test]
fn the_ref_file_is_written_only_when_every_node_has_the_image() {
    let app = App::new("reffile");
    let mut kindlift = lab::kindlift();
    // An image for another platform is refused after the build.
    kindlift.current_dir(app.folder()).args([
        "build",
        "--cluster",
        "dev",
        "-t",
        &app.name,
        "--ref-file",
        "ref",
        "--platform",
        "linux/s390x",
        ".",
    ]);
    run::run(&mut kindlift).expect(6);
    assert!(!app.path("ref").exists());
    app.is_nowhere(&lab::dev());
}

#[test]
fn a_registry_that_tilt_found_is_told() {
    let app = App::new("registry");
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["build", "--cluster", "dev", "."])
        .env("EXPECTED_REF", app.tag("tilt-build-1"))
        .env("EXPECTED_REGISTRY", "localhost:5001");
    run::run(&mut kindlift)
        .expect(0)
        .says("Tilt found the registry localhost:5001")
        .says("outputs_image_ref_to");
    lab::proven(&lab::dev(), &[app.on_node("tilt-build-1")]);
}

#[test]
fn a_ref_file_and_an_expected_ref_do_not_go_together() {
    let app = App::new("both");
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["build", "--cluster", "dev", "--ref-file", "ref", "."])
        .env("EXPECTED_REF", app.tag("x"));
    run::run(&mut kindlift)
        .expect(2)
        .says("--ref-file does not go with the name that Tilt passed");
    app.is_nowhere(&lab::dev());
}
