//! A local registry that a cluster documents (KEP-1755), asked of a real API server.

use std::process::Command;

use crate::engines::Engine;
use crate::lab::{self, App, Cluster};
use crate::registry::{self, Registry};
use crate::run::{self, Run};

/// Runs kubectl against a cluster, which must succeed.
#[track_caller]
pub fn kubectl(kubeconfig: &str, args: &[&str]) -> Run {
    let mut kubectl = lab::program("kubectl");
    kubectl.env("KUBECONFIG", kubeconfig).args(args);
    run::run(&mut kubectl).expect(0)
}

/// Has a cluster document a local registry.
pub fn document(kubeconfig: &str, text: &str) {
    let name = [
        "--namespace",
        "kube-public",
        "configmap",
        "local-registry-hosting",
    ];
    let delete = [&["delete", "--ignore-not-found"], &name[..]].concat();
    kubectl(kubeconfig, &delete);
    let literal = format!("--from-literal=localRegistryHosting.v1={text}");
    let create = [&["create"], &name[..], &[literal.as_str()]].concat();
    kubectl(kubeconfig, &create);
}

#[test]
fn what_a_real_api_server_documents() {
    let (cluster, kubeconfig) = Cluster::with_kubernetes("hosting", 0);
    let kubeconfig = kubeconfig.to_str().unwrap();
    let context = format!("kind-{}", cluster.name);
    let (app, registry) = (App::new("hosting"), Registry::start());
    let host = &registry.host;
    let push = |args: &[&str]| {
        let mut kindlift = lab::kindlift();
        kindlift
            .current_dir(app.folder())
            .env("KUBECONFIG", kubeconfig)
            .args(["build", "--push"])
            .args(args);
        kindlift
    };
    let pushed = format!("{host}/{}:dev", app.name);

    // The image goes there under the registry's name, and pods know it by theirs.
    document(
        kubeconfig,
        &format!("host: \"{host}\"\nhostFromContainerRuntime: registry:5000\n"),
    );
    run::run(&mut push(&["-t", &app.tag("dev"), "."]))
        .expect(0)
        .says(&format!("pushed {pushed}; nothing was loaded\n"))
        .says(&format!(
            "in manifests it is registry:5000/{}\n",
            app.tag("dev")
        ));
    let digest = registry::crane(&["digest", &pushed]);
    // The same by the cluster's name.
    document(kubeconfig, &format!("host: \"{host}\"\n"));
    let mut named = push(&["-t", &app.tag("two"), "--cluster", &cluster.name, "."]);
    run::run(&mut named)
        .expect(0)
        .says(&format!("in manifests it is {host}/{}\n", app.tag("two")));
    assert_eq!(
        registry::crane(&["digest", &format!("{host}/{}:two", app.name)]),
        digest
    );

    // Who names a registry has it.
    let other = Registry::start();
    let elsewhere = format!("{}/{}:dev", other.host, app.name);
    run::run(&mut push(&["-t", &elsewhere, "."]))
        .expect(0)
        .says(&format!("pushed {elsewhere}; nothing was loaded\n"))
        .never_says("in manifests");

    // Skaffold has looked by itself, and is told why it pushes.
    let skaffold = |image: &str, push: &str| -> Command {
        let mut kindlift = app.skaffold("dev");
        kindlift
            .env("KUBECONFIG", kubeconfig)
            .env("IMAGE", image)
            .env("IMAGE_REPO", image.trim_end_matches(":dev"))
            .env("PUSH_IMAGE", push);
        kindlift
    };
    run::run(&mut skaffold(&pushed, "true"))
        .expect(0)
        .says(&format!(
            "Skaffold pushes because {context} documents the local registry {host}; with \
         build.local.push: false in skaffold.yaml the image is loaded\n"
        ));

    // Loaded all the same, who asks for details is told what a loop would do.
    let told = format!("{context} documents the local registry {host}: ");
    let mut build = skaffold(&app.tag("dev"), "false");
    run::run(build.arg("-v")).expect(0).says(&format!(
        "{told}without build.local.push: false, Skaffold would push there\n"
    ));
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    run::run(&mut skaffold(&app.tag("dev"), "false"))
        .expect(0)
        .never_says(&told);

    for name in [&pushed, &elsewhere, &format!("{host}/{}:two", app.name)] {
        let _ = run::run(
            Engine::Containerd
                .command()
                .args(["image", "rm", "--force", name]),
        );
    }
    app.forget_on(&cluster.nodes);
}
