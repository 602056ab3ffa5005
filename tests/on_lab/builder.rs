//! buildx builders that are no engine: a real buildkitd behind the driver `remote`.

use std::process::Command;

use tempfile::TempDir;

use crate::engines::Engine;
use crate::lab::{self, App};
use crate::registry::{self, Registry};
use crate::run;

/// A builder that buildx knows for as long as a test needs it.
struct Builder {
    folder: TempDir,
    name: String,
}

impl Builder {
    fn new() -> Self {
        let builder = Self {
            folder: TempDir::with_prefix("kindlift-buildx-").unwrap(),
            name: lab::unique("far"),
        };
        let mut create = lab::program("docker");
        builder.known_to(&mut create).args([
            "buildx",
            "create",
            "--name",
            &builder.name,
            "--driver",
            "remote",
            lab::var("KINDLIFT_LAB_BUILDKIT"),
        ]);
        run::run(&mut create).expect(0);
        builder
    }

    fn known_to<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("BUILDX_CONFIG", self.folder.path())
    }

    fn build(&self, app: &App, args: &[&str]) -> Command {
        let mut kindlift = lab::kindlift();
        self.known_to(&mut kindlift)
            .current_dir(app.folder())
            .args(["build", "--builder", &self.name])
            .args(args);
        kindlift
    }
}

/// Requires that Docker's store has no name of an app.
#[track_caller]
fn in_no_engine(app: &App) {
    let filter = format!("reference={}", app.name);
    let images = lab::docker(&["image", "ls", "--quiet", "--filter", &filter]);
    assert_eq!(images, "", "the image went through the engine");
}

#[test]
fn by_hand_the_image_passes_through_no_engine() {
    let (app, builder) = (App::new("builder"), Builder::new());
    let mut build = builder.build(
        &app,
        &["-v", "-t", &app.tag("dev"), "--cluster", "dev", "."],
    );
    // There need not be any engine but the one that runs the nodes.
    build
        .env("KINDLIFT_NODES_DOCKER_HOST", lab::var("DOCKER_HOST"))
        .env("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    run::run(&mut build)
        .expect(0)
        .says(&format!(
            "building with builder {} (remote)\n",
            builder.name
        ))
        .says(&format!("loaded {} into 3 nodes of dev", app.tag("dev")));
    let first = lab::proven(&lab::dev(), &[app.on_node("dev")]);
    in_no_engine(&app);

    app.random("app.bin", 1_000);
    let args = [
        "-t",
        &app.tag("dev"),
        "--cluster",
        "dev",
        "--output",
        "json",
        ".",
    ];
    let json = run::run(&mut builder.build(&app, &args)).expect(0).json();
    let second = lab::proven(&lab::dev(), &[app.on_node("dev")]);
    assert_ne!(second, first);
    // Only what changed went there.
    let node = &json["images"][0]["nodes"][0];
    assert!(node["bytes_sent"].as_u64().unwrap() < 20_000, "{json}");
    in_no_engine(&app);
}

#[test]
fn tilts_ref_file_names_the_content() {
    let (app, builder) = (App::new("builder-ref"), Builder::new());
    let args = [
        "-t",
        &app.name,
        "--ref-file",
        "ref",
        "--cluster",
        "dev",
        ".",
    ];
    let build = || {
        run::run(&mut builder.build(&app, &args)).expect(0);
        let text = std::fs::read_to_string(app.path("ref")).unwrap();
        text.trim().to_owned()
    };
    let first = build();
    assert!(
        first.starts_with(&format!("{}:kindlift-", app.name)),
        "{first}"
    );
    assert_eq!(build(), first, "unchanged pods would roll");
    app.random("app.bin", 1_000);
    let second = build();
    assert_ne!(second, first);
    for name in [first, second] {
        lab::proven(&lab::dev(), &[format!("docker.io/{name}")]);
    }
    in_no_engine(&app);
}

#[test]
fn under_skaffold_the_engine_has_it_too() {
    let (app, builder) = (App::new("builder-skaffold"), Builder::new());
    let mut skaffold = app.skaffold("dev");
    builder
        .known_to(&mut skaffold)
        .args(["--builder", &builder.name, "--cluster", "dev"]);
    run::run(&mut skaffold).expect(0).says(&format!(
        "building with \"{}\" instance using remote driver",
        builder.name
    ));
    // Skaffold looks it up there, and deploys it by this ID.
    let hex = Engine::Containerd.hex(&app.tag("dev"));
    lab::proven(&lab::dev(), &[app.on_node("dev"), app.on_node(&hex)]);
}

#[test]
fn several_platforms_become_one_index_whose_digest_is_told() {
    let (app, builder, registry) = (App::new("builder-push"), Builder::new(), Registry::start());
    let repository = format!("{}/{}", registry.host, app.name);
    let image = format!("{repository}:dev");
    let mut skaffold = app.skaffold("dev");
    builder
        .known_to(&mut skaffold)
        .args(["--builder", &builder.name])
        .env("IMAGE", &image)
        .env("IMAGE_REPO", &repository)
        .env("PUSH_IMAGE", "true")
        .env("PLATFORMS", "linux/amd64,linux/arm64");
    let run = run::run(&mut skaffold).expect(0);
    // Skaffold asks the registry for the same.
    let digest = registry::crane(&["digest", &image]);
    run.says(&format!(
        "pushed {image}@{}; nothing was loaded\n",
        digest.trim()
    ));
    let mut pushed = registry::platforms(&image);
    pushed.sort();
    // No attestation among them.
    assert_eq!(pushed, ["linux/amd64", "linux/arm64"]);
    in_no_engine(&app);
    app.is_nowhere(&lab::dev());
}

#[test]
fn a_builder_that_is_not_there_and_one_that_fails() {
    let (app, builder) = (App::new("builder-fails"), Builder::new());
    let mut build = app.build("dev", "dev");
    builder.known_to(&mut build).args(["--builder", "nobody"]);
    run::run(&mut build)
        .expect(4)
        .says("error: there is no builder nobody\n")
        .says("docker buildx ls");
    app.dockerfile("FROM scratch\nCOPY nothing /\n");
    let args = ["-t", &app.tag("dev"), "--cluster", "dev", "."];
    run::run(&mut builder.build(&app, &args))
        .expect(3)
        .says("error: the build failed (");
    app.is_nowhere(&lab::dev());
}

#[test]
fn an_engines_own_builder_is_the_engine() {
    let app = App::new("builder-own");
    let mut build = app.build("dev", "dev");
    build.args(["--builder", "default"]);
    run::run(&mut build).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    Engine::Containerd.hex(&app.tag("dev"));
    let mut podman = app.build("dev", "dev");
    podman.args(["--builder", "default", "--engine", "podman"]);
    run::run(&mut podman)
        .expect(2)
        .says("cannot build with the buildx builder default");
}
