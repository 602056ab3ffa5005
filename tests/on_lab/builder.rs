//! buildx builders that are no engine: a real buildkitd behind the driver `remote`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::engines::Engine;
use crate::lab::{self, App};
use crate::registry::{self, Registry};
use crate::run::{self, Run};

/// A builder that buildx knows for as long as a test needs it.
pub struct Builder {
    folder: TempDir,
    name: String,
}

impl Builder {
    pub fn new() -> Self {
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

    pub fn build(&self, app: &App, args: &[&str]) -> Command {
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
    let images = lab::image_names(app.name.as_str());
    assert_eq!(images, [].into(), "the image went through the engine");
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

/// Returns how many bytes of how many the builder has sent, each time that it was asked.
#[track_caller]
fn sent(run: &Run) -> Vec<(u64, u64)> {
    let told = run.stderr.lines().filter_map(|line| {
        let (sent, all) = line.strip_prefix("it has sent ")?.split_once(" of ")?;
        let (all, _) = all.split_once(" bytes; ")?;
        Some((sent.parse().unwrap(), all.parse().unwrap()))
    });
    told.collect()
}

/// Bytes that went to each node, in the order of their names.
fn received(run: &Run) -> Vec<u64> {
    let json = run.json();
    let nodes = json["images"][0]["nodes"].as_array().unwrap();
    let mut nodes: Vec<_> = nodes
        .iter()
        .map(|node| {
            (
                node["name"].as_str().unwrap(),
                node["bytes_sent"].as_u64().unwrap(),
            )
        })
        .collect();
    nodes.sort_unstable();
    nodes.into_iter().map(|(_, bytes)| bytes).collect()
}

/// What lies in a folder.
fn left_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// A build onto `dev` that tells what the builder sends, with a folder of its own for that.
fn watched(app: &App, builder: &Builder, temporary: &TempDir) -> Command {
    let args = [
        "-v",
        "-t",
        &app.tag("dev"),
        "--cluster",
        "dev",
        "--output",
        "json",
        ".",
    ];
    let mut build = builder.build(app, &args);
    build.env("TMPDIR", temporary.path());
    build
}

#[test]
fn what_all_nodes_have_is_not_sent() {
    let (app, builder) = (App::new("builder-thin"), Builder::new());
    let temporary = TempDir::new().unwrap();
    let build = || {
        let run = run::run(&mut watched(&app, &builder, &temporary)).expect(0);
        assert_eq!(left_in(temporary.path()), [""; 0]);
        let id = lab::proven(&lab::dev(), &[app.on_node("dev")]);
        (run, id)
    };
    // An image that no node knows comes whole.
    let (run, first) = build();
    let [(bytes, whole)] = sent(&run)[..] else {
        panic!("{run}");
    };
    assert!(bytes > 200_000 && whole >= bytes, "{run}");

    app.random("app.bin", 1_000);
    let (run, second) = build();
    assert_ne!(second, first);
    let [(bytes, all)] = sent(&run)[..] else {
        panic!("{run}");
    };
    assert!(bytes < 20_000, "{run}");
    assert!(all.abs_diff(whole) < 10_000, "{run}");
    assert!(received(&run).iter().all(|bytes| *bytes < 20_000), "{run}");

    let (run, third) = build();
    assert_eq!(third, second);
    assert!(sent(&run)[0].0 < 10_000, "{run}");
    assert_eq!(received(&run), [0; 3], "{run}");

    // A node that has lost it gets what the others need not.
    for id in [&first, &second] {
        lab::exec("dev-worker", &["crictl", "rmi", id]).expect(0);
    }
    app.random("app.bin", 1_000);
    let (run, fourth) = build();
    assert_ne!(fourth, third);
    assert!(sent(&run)[0].0 > 200_000, "{run}");
    let [control_plane, worker, worker2] = received(&run)[..] else {
        panic!("{run}");
    };
    assert!(worker > 200_000, "{run}");
    assert!(control_plane < 20_000 && worker2 < 20_000, "{run}");
}

#[test]
fn a_layer_that_has_moved_is_asked_for_again() {
    let (app, builder) = (App::new("builder-link"), Builder::new());
    let temporary = TempDir::new().unwrap();
    // A linked layer is the same blob, whatever lies below it; on the nodes it is another.
    app.dockerfile(
        "FROM scratch\nCOPY app.bin /\nCOPY --link busybox /bin/busybox\nCOPY --link base.bin /\n\
         ENTRYPOINT [\"/bin/busybox\"]\n",
    );
    run::run(&mut watched(&app, &builder, &temporary)).expect(0);
    let first = lab::proven(&lab::dev(), &[app.on_node("dev")]);
    app.random("app.bin", 1_000);
    let run = run::run(&mut watched(&app, &builder, &temporary))
        .expect(0)
        .says("\ntrying again with everything: ");
    let [(little, _), (all, _)] = sent(&run)[..] else {
        panic!("{run}");
    };
    assert!(little < 20_000 && all > 200_000, "{run}");
    assert_ne!(lab::proven(&lab::dev(), &[app.on_node("dev")]), first);
    assert_eq!(left_in(temporary.path()), [""; 0]);
}

/// Waits until no process has a word in its command line.
#[track_caller]
fn nobody_uses(word: &str) {
    run::wait_until("its children are gone", Duration::from_secs(20), || {
        let mut lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
            Some(String::from_utf8_lossy(&line).into_owned())
        });
        !lines.any(|line| line.contains(word))
    });
}

#[test]
fn whatever_ends_it_no_folder_stays() {
    let (app, builder) = (App::new("builder-killed"), Builder::new());
    let temporary = TempDir::new().unwrap();
    app.random("app.bin", 60_000_000);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::KILL, 137)] {
        let mut running = run::start(&mut watched(&app, &builder, &temporary));
        running.wait_until("its folder is there", |_| {
            !left_in(temporary.path()).is_empty()
        });
        running.signal(signal);
        running.finish().expect(code);
        nobody_uses(temporary.path().to_str().unwrap());
        let left = left_in(temporary.path()).len();
        assert_eq!(left, usize::from(signal == Signal::KILL), "{signal:?}");
    }
    app.is_nowhere(&lab::dev());
    // A build that fails leaves nothing either, nor what the killed one has left.
    app.dockerfile("FROM scratch\nCOPY nothing /\n");
    run::run(&mut watched(&app, &builder, &temporary)).expect(3);
    assert_eq!(left_in(temporary.path()), [""; 0]);
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
