//! `export`: what the usual tools read, the same bytes each time, whole or not at all.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::engines::Engine;
use crate::lab::{self, App};
use crate::registry::Registry;
use crate::run::{self, Run};

const ARCHIVES: [&str; 2] = ["oci-archive", "docker-archive"];

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn export(source: &str, out: &str, more: &[&str]) -> Run {
    let mut kindlift = lab::kindlift();
    kindlift.args(["export", source, "-o", out]).args(more);
    run::run(&mut kindlift)
}

fn tool(name: &str, args: &[&str]) -> Run {
    run::run(lab::program(name).args(args)).expect(0)
}

/// An app whose image both of Docker's stores have, and its ID: only the classic one tells it.
fn built(theme: &str) -> (App, String) {
    let app = App::new(theme);
    Engine::Overlay2.build(app.folder(), &app.tag("dev"));
    let id = Engine::Overlay2.hex(&app.tag("dev"));
    let saved = text(&app.path("saved.tar"));
    let save = ["save", "--output", &saved, &app.tag("dev")];
    run::run(Engine::Overlay2.command().args(save)).expect(0);
    lab::docker(&["load", "--input", &saved]);
    (app, id)
}

fn shell(script: &str) -> Run {
    run::run(lab::program("sh").args(["-euc", script])).expect(0)
}

/// Has an engine load an archive, run it, and forget it.
fn loads_and_runs(mut engine: impl FnMut() -> Command, archive: &str, image: &str) {
    run::run(engine().args(["load", "--input", archive])).expect(0);
    run::run(engine().args(["run", "--rm", "--network=none", image, "echo", "it runs"])).expect(0);
    run::run(engine().args(["image", "rm", "--force", image])).expect(0);
}

#[test]
fn every_archive_is_read_by_every_tool_and_is_the_same_each_time() {
    let (app, id) = built("exported");
    let image = app.tag("dev");
    let mut made = Vec::new();
    for format in ARCHIVES {
        let paths = ["one.tar", "two.tar"].map(|name| text(&app.path(&format!("{format}-{name}"))));
        for path in &paths {
            export(&image, path, &["--format", format])
                .expect(0)
                .says(&format!("wrote {image} for linux/amd64 to {path}"));
        }
        let [one, two] = paths;
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        made.push((format, one));
    }
    lab::docker(&["image", "rm", "--force", &image]);
    Engine::Overlay2.forget(&app.name);
    for (format, path) in made {
        for engine in [Engine::Containerd, Engine::Overlay2, Engine::Podman] {
            loads_and_runs(|| engine.command(), &path, &image);
        }
        let source = format!("{format}:{path}");
        tool("skopeo", &["inspect", &source]);
        let copied = text(&app.path(&format!("{format}.dir")));
        tool(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                &source,
                &format!("dir:{copied}"),
            ],
        );
        tool("crane", &["validate", "--tarball", &path]);
        tool("kind", &["load", "image-archive", &path, "--name", "dev"]);
        assert_eq!(
            lab::proven(&lab::dev(), &[app.on_node("dev")]),
            format!("sha256:{id}")
        );
        app.forget_on(&lab::dev());
        let docker = lab::find_program("docker");
        shell(&format!(
            "{} exec -i dev-worker ctr -n k8s.io images import - <{path}",
            docker.display()
        ));
        let shown = lab::crictl("dev-worker", &app.on_node("dev")).unwrap();
        assert_eq!(shown.id, format!("sha256:{id}"));
        app.forget_on(&lab::dev());
        // And by us.
        run::run(lab::kindlift().args(["load", &path, "--cluster", "dev"])).expect(0);
        lab::proven(&lab::dev(), &[app.on_node("dev")]);
        app.forget_on(&lab::dev());
    }
}

#[test]
fn a_layout_is_read_by_every_tool_and_replaced_as_a_whole() {
    let (app, id) = built("layout");
    let folder = text(&app.path("layout"));
    let again = text(&app.path("again"));
    export(&app.tag("dev"), &format!("{folder}/"), &[]).expect(0);
    export(&app.tag("dev"), &again, &["--format", "oci"]).expect(0);
    tool("diff", &["-r", &folder, &again]);

    let tagged = format!("{folder}:dev");
    tool("skopeo", &["inspect", &format!("oci:{tagged}")]);
    tool("umoci", &["stat", "--image", &tagged]);
    let bundle = text(&app.path("bundle"));
    tool("umoci", &["unpack", "--image", &tagged, &bundle]);
    assert!(app.path("bundle/rootfs/bin/busybox").exists());
    run::run(
        Engine::Podman
            .command()
            .args(["pull", &format!("oci:{tagged}")]),
    )
    .expect(0);
    Engine::Podman.forget(&app.name);
    let docker = lab::find_program("docker");
    shell(&format!(
        "tar -C {folder} -c . | {} exec -i dev-worker ctr -n k8s.io images import -",
        docker.display()
    ));
    let shown = lab::crictl("dev-worker", &app.on_node("dev")).unwrap();
    assert_eq!(shown.id, format!("sha256:{id}"));

    // Another image in its place: nothing of the first is left.
    let (other, _) = built("layout");
    export(&other.tag("dev"), &folder, &[]).expect(0);
    let fresh = text(&app.path("fresh"));
    export(&other.tag("dev"), &fresh, &["--format", "oci"]).expect(0);
    tool("diff", &["-r", &folder, &fresh]);
}

#[test]
fn a_layout_s_tags_choose_its_images() {
    let (one, _) = built("tagged");
    let (two, _) = built("tagged");
    let folder = text(&one.path("layout"));
    for (app, tag) in [(&one, "v1"), (&two, "v2")] {
        let archive = text(&app.path("image.tar"));
        export(&app.tag("dev"), &archive, &[]).expect(0);
        let from = format!("oci-archive:{archive}");
        let to = format!("oci:{folder}:{tag}");
        tool("skopeo", &["--insecure-policy", "copy", &from, &to]);
    }
    let load = |args: &[&str]| {
        let mut kindlift = lab::kindlift();
        run::run(kindlift.arg("load").args(args).args(["--cluster", "dev"]))
    };
    load(&[&format!("oci:{folder}:v2")])
        .expect(2)
        .says("gives its image no name")
        .says("--as NAME:TAG");
    load(&[&format!("oci:{folder}:v2"), "--as", &two.tag("dev")]).expect(0);
    let id = lab::proven(&lab::dev(), &[two.on_node("dev")]);
    assert_eq!(
        id,
        format!("sha256:{}", Engine::Overlay2.hex(&two.tag("dev")))
    );
    one.is_nowhere(&lab::dev());
    load(&[&format!("oci:{folder}:v3"), "--as", &one.tag("dev")])
        .expect(6)
        .says("it has no image v3")
        .says("it has v1, v2");
    for app in [&one, &two] {
        Engine::Overlay2.forget(&app.name);
    }
}

#[test]
fn from_wherever_it_is() {
    let (app, id) = built("anywhere");
    let registry = Registry::start();
    let archive = text(&app.path("image.tar"));
    export(&app.tag("dev"), &archive, &[]).expect(0);
    let pushed = format!("{}/{}:v1", registry.host, lab::unique("anywhere"));
    tool("crane", &["push", &archive, &pushed]);
    run::run(Engine::Podman.command().args(["load", "--input", &archive])).expect(0);
    tool(
        "kind",
        &["load", "image-archive", &archive, "--name", "dev"],
    );
    let folder = text(&app.path("layout"));
    export(&archive, &folder, &["--format", "oci"]).expect(0);
    let out = text(&app.path("out.tar"));
    for source in [
        app.tag("dev"),
        format!("docker-daemon:{}", app.tag("dev")),
        format!("containers-storage:{}", app.tag("dev")),
        format!("docker://{pushed}"),
        archive.clone(),
        format!("oci-archive:{archive}:dev"),
        format!("docker-archive:{archive}:{}", app.tag("dev")),
        format!("oci:{folder}"),
        folder,
        format!("node:dev-worker/{}", app.tag("dev")),
    ] {
        for format in ["oci-archive", "docker-archive"] {
            let run = export(&source, &out, &["--format", format, "--output", "json"]).expect(0);
            let json = run.json();
            assert_eq!(json["ok"], true, "{source}");
            let export = &json["export"];
            assert_eq!(export["config_digest"], format!("sha256:{id}"), "{source}");
            assert_eq!(export["format"], format);
            tool("crane", &["validate", "--tarball", &out]);
        }
    }
    Engine::Podman.forget(&app.name);
    Engine::Overlay2.forget(&app.name);
}

#[test]
fn through_pipes() {
    let (app, _) = built("piped");
    let kindlift = env!("CARGO_BIN_EXE_kindlift");
    let (image, docker) = (app.tag("dev"), lab::find_program("docker"));
    let docker = docker.display();
    shell(&format!(
        "{kindlift} export {image} -v -o - 2>{0}/said | {kindlift} export - -o {0}/copy.tar\n\
         {kindlift} export {image} -o {0}/image.tar\n\
         cmp {0}/copy.tar {0}/image.tar\n\
         grep -q 'spooling the archive to a temporary file' {0}/said\n\
         {docker} image rm --force {image} >&2\n\
         {kindlift} export {0}/image.tar -o - --format docker-archive | {docker} load",
        app.folder().display()
    ));
    tool(
        "docker",
        &["run", "--rm", "--network=none", &image, "echo", "it runs"],
    );
    // A device is written to, and not replaced.
    export(&image, "/dev/null", &[]).expect(0);
    let null = std::fs::metadata("/dev/null").unwrap();
    assert!(null.file_type().is_char_device());
    export(&image, "-", &["--output", "json"])
        .expect(2)
        .says("stdout takes the image or the document, not both");
    export(&image, "-", &["--format", "oci"])
        .expect(2)
        .says("a folder cannot be written to a pipe");
    // A reader that goes away.
    let mut kindlift = lab::kindlift();
    kindlift
        .args(["export", &image, "-o", "-"])
        .stdout(Stdio::piped());
    let mut child = kindlift.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    Engine::Overlay2.forget(&app.name);
}

#[test]
fn one_platform_and_no_other() {
    let registry = Registry::start();
    let app = App::new("export-platforms");
    let theme = lab::unique("export");
    let amd = registry.image(
        &format!("{theme}:amd"),
        "linux/amd64",
        &registry.layer("amd"),
    );
    let arm = registry.image(
        &format!("{theme}:arm"),
        "linux/arm64",
        &registry.layer("arm"),
    );
    let index = format!(
        "docker://{}",
        registry.index(&format!("{theme}:all"), &[&amd, &arm])
    );
    let out = text(&app.path("out.tar"));
    export(&index, &out, &[]).expect(0).says("for linux/amd64");
    export(&index, &out, &["--platform", "linux/arm64"]).expect(0);
    let kept = std::fs::read(&out).unwrap();
    let source = format!("oci-archive:{out}");
    let shown = tool("skopeo", &["inspect", "--config", &source]).json();
    assert_eq!(shown["architecture"], "arm64");
    for (platform, says) in [
        (
            Some("linux/s390x"),
            "no manifest for linux/s390x (it has: linux/amd64, linux/arm64)",
        ),
        (Some("windows/amd64"), "no manifest for windows/amd64"),
    ] {
        let more: Vec<&str> = platform.iter().flat_map(|p| ["--platform", p]).collect();
        export(&index, &out, &more).expect(6).says(says);
    }
    export(&format!("docker://{arm}"), &out, &[])
        .expect(6)
        .says("no manifest for linux/amd64 (it has: linux/arm64)")
        .says("hint: say which with --platform");
    // What was there is there.
    assert_eq!(std::fs::read(&out).unwrap(), kept);
    let image = format!("kindlift-test/{theme}:dev");
    Engine::Containerd.build(app.folder(), &app.tag("dev"));
    export(
        &app.tag("dev"),
        &out,
        &["--platform", "linux/arm64", "--as", &image],
    )
    .expect(6);
    assert_eq!(std::fs::read(&out).unwrap(), kept);
}

#[test]
fn nothing_half_done_is_left() {
    let (app, _) = built("broken-export");
    let archive = text(&app.path("image.tar"));
    export(&app.tag("dev"), &archive, &["--format", "docker-archive"]).expect(0);
    // One byte of the random file, which is in a layer that is stored as it is.
    let needle = std::fs::read(app.path("base.bin")).unwrap();
    let mut bytes = std::fs::read(&archive).unwrap();
    let found = bytes.windows(64).position(|window| window == &needle[..64]);
    let at = found.expect("the layer is stored uncompressed");
    bytes[at] ^= 1;
    std::fs::write(&archive, bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| text(&folder.path().join(name));
    for format in ["oci-archive", "docker-archive", "oci"] {
        export(&archive, &inside(format), &["--format", format])
            .expect(6)
            .says("is not what its digest says");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    // Targets that are none, each told before any work is done.
    std::fs::write(inside("file"), "kept").unwrap();
    std::fs::create_dir(inside("folder")).unwrap();
    std::fs::write(inside("folder/mine"), "kept").unwrap();
    for (out, more, says) in [
        (
            "folder",
            &[][..],
            "other things in it than an OCI layout: mine",
        ),
        ("folder", &["--format", "oci-archive"][..], "is a folder"),
        ("file", &["--format", "oci"][..], "is no folder"),
        ("gone/file.tar", &[][..], "cannot write"),
    ] {
        export(&app.tag("dev"), &inside(out), more)
            .expect(2)
            .says(says);
    }
    assert_eq!(std::fs::read(inside("file")).unwrap(), b"kept");
    assert_eq!(std::fs::read(inside("folder/mine")).unwrap(), b"kept");
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left, 2);
    // A link's target is replaced, and the link stays.
    std::os::unix::fs::symlink("file", folder.path().join("link")).unwrap();
    export(&app.tag("dev"), &inside("link"), &[]).expect(0);
    assert!(
        std::fs::symlink_metadata(inside("link"))
            .unwrap()
            .is_symlink()
    );
    assert!(std::fs::metadata(inside("file")).unwrap().len() > 1000);
    Engine::Overlay2.forget(&app.name);
}

#[test]
fn names() {
    let (app, _) = built("named");
    let out = text(&app.path("out.tar"));
    let id = Engine::Containerd.hex(&app.tag("dev"));
    lab::docker(&["save", "--output", &out, &format!("sha256:{id}")]);
    let again = text(&app.path("again.tar"));
    export(&out, &again, &[]).expect(2).says("--as NAME:TAG");
    export(&out, &again, &["--as", &app.tag("mine")]).expect(0);
    run::run(lab::kindlift().args(["load", &again, "--cluster", "dev"])).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("mine")]);
    export("no-such/image:1", &again, &[])
        .expect(6)
        .says("has no image no-such/image:1");
    let registry = Registry::start();
    let theme = lab::unique("named");
    let image = registry.image(&format!("{theme}:v1"), "linux/amd64", &registry.layer("x"));
    let digest = crate::registry::crane(&["digest", &image]);
    let pinned = format!("docker://{}/{theme}@{}", registry.host, digest.trim());
    export(&pinned, &again, &[]).expect(2).says("--as NAME:TAG");
    export(&pinned, &again, &["--as", "x:1"]).expect(0);
    Engine::Overlay2.forget(&app.name);
}
