//! Images that come in archives and folders, as the usual tools write them.

use std::path::Path;
use std::process::Stdio;

use crate::engines::Engine;
use crate::lab::{self, App, Cluster};
use crate::run::{self, Run};

fn load(args: &[&str]) -> Run {
    run::run(
        lab::kindlift()
            .arg("load")
            .args(args)
            .args(["--cluster", "dev"]),
    )
}

fn built(theme: &str) -> App {
    let app = App::new(theme);
    Engine::Containerd.build(app.folder(), &app.tag("dev"));
    app
}

/// Saves the app's image with `docker save` and returns the archive's path.
fn saved(app: &App) -> String {
    let path = app.path("docker.tar").to_string_lossy().into_owned();
    lab::docker(&["save", "--output", &path, &app.tag("dev")]);
    path
}

fn skopeo(from: &str, to: &str) {
    let copy = ["--insecure-policy", "copy", from, to];
    run::run(lab::program("skopeo").args(copy)).expect(0);
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn what_docker_saves() {
    for engine in [Engine::Containerd, Engine::Overlay2] {
        let app = App::new("saved");
        engine.build(app.folder(), &app.tag("dev"));
        let path = text(&app.path("image.tar"));
        run::run(
            engine
                .command()
                .args(["save", "--output", &path, &app.tag("dev")]),
        )
        .expect(0);
        // An absolute path is a path; so is oci-archive: and docker-archive: of the same file.
        for source in [
            path.clone(),
            format!("docker-archive:{path}"),
            format!("oci-archive:{path}"),
        ] {
            load(&[&source]).expect(0);
            lab::proven(&lab::dev(), &[app.on_node("dev")]);
        }
        engine.forget(&app.name);
    }
}

#[test]
fn what_skopeo_and_podman_write() {
    let app = built("skopeo");
    let docker = format!("docker-archive:{}", saved(&app));
    let oci = text(&app.path("oci.tar"));
    let folder = text(&app.path("layout"));
    let old = text(&app.path("old.tar"));
    skopeo(&docker, &format!("oci-archive:{oci}:{}", app.tag("oci")));
    skopeo(&docker, &format!("oci:{folder}:{}", app.tag("folder")));
    skopeo(&docker, &format!("docker-archive:{old}:{}", app.tag("old")));
    for (source, tag) in [
        (format!("oci-archive:{oci}"), "oci"),
        (format!("oci:{folder}"), "folder"),
        (folder.clone(), "folder"),
        (format!("docker-archive:{old}"), "old"),
        (format!("docker-archive:{old}:{}", app.tag("old")), "old"),
    ] {
        app.forget_on(&lab::dev());
        load(&[&source]).expect(0).says("loaded");
        lab::proven(&lab::dev(), &[app.on_node(tag)]);
    }
}

#[test]
fn an_archive_on_stdin() {
    let app = built("stdin");
    let file = std::fs::File::open(saved(&app)).unwrap();
    let mut kindlift = lab::kindlift();
    kindlift
        .args(["load", "-", "--cluster", "dev"])
        .stdin(Stdio::from(file));
    run::run(&mut kindlift).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn an_archive_is_read_where_it_is() {
    let app = built("inplace");
    let path = saved(&app);
    let mut kindlift = lab::kindlift();
    // A copy could be made nowhere.
    kindlift
        .args(["load", &path, "--cluster", "dev"])
        .env("TMPDIR", "/nonexistent");
    run::run(&mut kindlift).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn another_name_and_no_name() {
    let app = built("rename");
    let path = saved(&app);
    load(&[&path, "--as", &app.tag("renamed")]).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("renamed")]);
    for node in lab::dev() {
        assert_eq!(lab::crictl(&node, &app.on_node("dev")), None, "{node}");
    }
    // Saved by its ID, an image has no name.
    let id = Engine::Containerd.hex(&app.tag("dev"));
    lab::docker(&["save", "--output", &path, &format!("sha256:{id}")]);
    load(&[&path])
        .expect(2)
        .says("gives its image no name")
        .says("--as NAME:TAG");
    load(&[&path, "--as", &app.tag("named")]).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("named")]);
}

#[test]
fn several_images_in_one_archive() {
    let (one, two) = (built("several"), built("several"));
    let path = text(&one.path("both.tar"));
    lab::docker(&["save", "--output", &path, &one.tag("dev"), &two.tag("dev")]);
    load(&[&path])
        .expect(6)
        .says("it holds 2 images")
        .says(&two.on_node("dev"));
    one.is_nowhere(&lab::dev());
    load(&[&format!("docker-archive:{path}:{}", two.tag("dev"))]).expect(0);
    lab::proven(&lab::dev(), &[two.on_node("dev")]);
    one.is_nowhere(&lab::dev());
    load(&[&format!("docker-archive:{path}:nobody/has:this")])
        .expect(6)
        .says("it has no image nobody/has:this");
}

#[test]
fn one_platform_of_several() {
    let app = App::new("platforms");
    let path = text(&app.path("index.tar"));
    let mut build = lab::program("docker");
    build
        .args([
            "buildx",
            "build",
            "--platform",
            "linux/amd64,linux/arm64",
            "--tag",
            &app.tag("dev"),
        ])
        .args([
            "--output",
            &format!("type=oci,dest={path},name={}", app.tag("dev")),
        ])
        .arg(app.folder());
    run::run(&mut build).expect(0);
    load(&[&path]).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    let shown = lab::crictl("dev-worker", &app.on_node("dev")).unwrap();
    assert_eq!(shown.architecture, "amd64");

    load(&[&path, "--platform", "linux/s390x"])
        .expect(6)
        .says("no manifest for linux/s390x (it has: linux/amd64, linux/arm64)");
    load(&[&path, "--platform", "linux/arm64"])
        .expect(6)
        .says("the image is for linux/arm64");
    assert_eq!(lab::crictl("dev-worker", &app.on_node("dev")), Some(shown));
}

#[test]
fn what_is_no_archive() {
    let app = App::new("broken");
    app.write("text.tar", b"this is no tar");
    let tool = |name: &str, args: &[&str]| {
        run::run(lab::program(name).current_dir(app.folder()).args(args)).expect(0);
    };
    tool("tar", &["-cf", "other.tar", "Dockerfile"]);
    tool("tar", &["-czf", "zipped.tar", "Dockerfile"]);
    for (file, says) in [
        ("text.tar", "this is no tar archive"),
        ("other.tar", "neither index.json nor manifest.json"),
        ("zipped.tar", "zcat"),
        ("gone.tar", "cannot open"),
    ] {
        load(&[&format!("./{file}")])
            .expect(6)
            .says(&format!("./{file} is refused"));
        let path = text(&app.path(file));
        load(&[&path]).expect(6).says(says);
    }
    load(&["ftp://x"]).expect(2).says("oci-archive:");
    app.is_nowhere(&lab::dev());
}

#[test]
fn a_layer_that_is_not_what_it_says_reaches_no_name() {
    let app = App::new("damaged");
    Engine::Overlay2.build(app.folder(), &app.tag("dev"));
    let path = text(&app.path("image.tar"));
    run::run(
        Engine::Overlay2
            .command()
            .args(["save", "--output", &path, &app.tag("dev")]),
    )
    .expect(0);
    // One byte of the random file, which is in a layer that is stored as it is.
    let needle = std::fs::read(app.path("base.bin")).unwrap();
    let mut archive = std::fs::read(&path).unwrap();
    let at = archive
        .windows(64)
        .position(|window| window == &needle[..64])
        .expect("the layer is stored uncompressed");
    archive[at] ^= 1;
    std::fs::write(&path, archive).unwrap();
    let cluster = Cluster::new("damaged", 1, &[]);
    let before = cluster.state();
    let mut kindlift = lab::kindlift();
    kindlift.args(["load", &path, "--cluster", &cluster.name]);
    run::run(&mut kindlift)
        .expect(6)
        .says("is not what its digest says");
    assert_eq!(cluster.state(), before);
    Engine::Overlay2.forget(&app.name);
}

#[test]
fn two_tags_of_a_layout_are_two_images() {
    let (one, two) = (built("tags"), built("tags"));
    let folder = text(&one.path("layout"));
    skopeo(
        &format!("docker-archive:{}", saved(&one)),
        &format!("oci:{folder}:v1"),
    );
    skopeo(
        &format!("docker-archive:{}", saved(&two)),
        &format!("oci:{folder}:v2"),
    );
    load(&[&format!("oci:{folder}"), "--as", &one.tag("dev")])
        .expect(6)
        .says("it holds 2 images");
    one.is_nowhere(&lab::dev());
}
