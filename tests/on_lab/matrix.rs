//! Every engine × every way to be asked × nodes under Docker and under Podman.
//!
//! Left out: rootless Podman into nodes under rootful Podman. One `podman` command is one or the
//! other; a user has both his images and his nodes in the same.

use crate::engines::{Api, Engine};
use crate::lab::{self, App};
use crate::run;

/// How kindlift is asked.
#[derive(Debug, Clone, Copy)]
enum Ask {
    /// As Skaffold's custom builder.
    Skaffold,
    /// As Tilt's custom_build.
    Tilt,
    /// As Tilt's custom_build with outputs_image_ref_to.
    RefFile,
    /// On the command line.
    Hand,
    /// `kindlift load` behind somebody's own builder, under Skaffold.
    Hook,
}

const ALL: [Ask; 5] = [Ask::Skaffold, Ask::Tilt, Ask::RefFile, Ask::Hand, Ask::Hook];

fn check(engine: Engine, cluster: &str, nodes: &[String]) {
    let app = App::new("matrix");
    for ask in ALL {
        // Another image each time, so that bytes have to move.
        app.random("app.bin", 10_000);
        let tag = format!("{ask:?}").to_lowercase();
        let names = deliver(&app, engine, ask, &tag, cluster);
        eprintln!("{engine:?} {ask:?} {cluster}: {names:?}");
        lab::proven(nodes, &names);
    }
    engine.forget(&app.name);
    // Podman's names say docker.io.
    engine.forget(&format!("docker.io/{}", app.name));
    app.forget_on(nodes);
}

/// Runs kindlift; returns the names that the nodes must have now.
fn deliver(app: &App, engine: Engine, ask: Ask, tag: &str, cluster: &str) -> Vec<String> {
    let name = app.tag(tag);
    let mut kindlift = lab::kindlift();
    kindlift.current_dir(app.folder());
    let api = match ask {
        Ask::Skaffold | Ask::Tilt | Ask::Hook => Api::Used,
        Ask::RefFile | Ask::Hand => Api::Unused,
    };
    engine.point(&mut kindlift, api);
    let ref_file = app.path("ref");
    match ask {
        Ask::Skaffold | Ask::Hook => {
            kindlift
                .env("IMAGE", &name)
                .env("PUSH_IMAGE", "false")
                .env("BUILD_CONTEXT", app.folder())
                .env("IMAGE_REPO", &app.name)
                .env("IMAGE_TAG", tag);
        }
        Ask::Tilt => {
            kindlift.env("EXPECTED_REF", &name).env("EXPECTED_TAG", tag);
        }
        Ask::RefFile | Ask::Hand => {}
    }
    match ask {
        Ask::Hook => {
            engine.build(app.folder(), &format!("docker.io/{name}"));
            kindlift.arg("load");
        }
        Ask::Skaffold | Ask::Tilt => {
            kindlift.args(["build", "."]);
        }
        Ask::RefFile => {
            kindlift
                .args(["build", "-t", &app.name, "--ref-file"])
                .arg(&ref_file)
                .arg(".");
        }
        Ask::Hand => {
            kindlift.args(["build", "-t", &name, "."]);
        }
    }
    let run = run::run(kindlift.args(["--cluster", cluster])).expect(0);
    run.never_says("warning: localhost/");
    let on_node = |tag: &str| app.on_node(tag);
    match ask {
        Ask::Skaffold | Ask::Hook => vec![on_node(tag), on_node(&engine.hex(&name))],
        Ask::Tilt => vec![
            on_node(tag),
            on_node(&format!("tilt-{}", &engine.hex(&name)[..16])),
        ],
        Ask::RefFile => {
            let text = std::fs::read_to_string(&ref_file).unwrap();
            vec![format!("docker.io/{}", text.trim())]
        }
        Ask::Hand => vec![on_node(tag)],
    }
}

#[test]
fn docker_containerd_into_docker() {
    check(Engine::Containerd, "dev", &lab::dev());
}

#[test]
fn docker_containerd_into_podman() {
    check(Engine::Containerd, "pod", &lab::pod());
}

#[test]
fn docker_overlay2_into_docker() {
    check(Engine::Overlay2, "dev", &lab::dev());
}

#[test]
fn docker_overlay2_into_podman() {
    check(Engine::Overlay2, "pod", &lab::pod());
}

#[test]
fn podman_into_docker() {
    check(Engine::Podman, "dev", &lab::dev());
}

#[test]
fn podman_into_podman() {
    check(Engine::Podman, "pod", &lab::pod());
}

#[test]
fn podman_rootless_into_docker() {
    check(Engine::Rootless, "dev", &lab::dev());
}
