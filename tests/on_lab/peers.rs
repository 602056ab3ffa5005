//! What others do with the same input: an index of which only one platform is present, as every
//! `docker pull` of a public image leaves it in the containerd store.
//!
//! kubernetes-sigs/kind#3795: `kind load` cannot load it. kindlift must, and the image must run.

use crate::lab::{self, App, Cluster};
use crate::registry::Registry;
use crate::run::{self, Run};

/// An index in a registry whose native platform alone the engine has.
fn partial_index(registry: &Registry) -> (String, String) {
    let server = lab::docker(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]);
    let native = server.trim().to_owned();
    let foreign = if native == "linux/arm64" {
        "linux/amd64"
    } else {
        "linux/arm64"
    };
    let one = registry.image("peers:native", &native, &registry.layer("native"));
    let other = registry.image("peers:foreign", foreign, &registry.layer("foreign"));
    (registry.index("peers:both", &[&one, &other]), native)
}

fn kind_load(args: &[&str], cluster: &str) -> Run {
    let mut kind = lab::program("kind");
    kind.arg("load").args(args).args(["--name", cluster]);
    run::run(&mut kind)
}

#[track_caller]
fn lacks_content(run: Run) {
    assert_ne!(run.code, 0, "kind loads it by now:\n{run}");
    assert!(
        run.stderr.contains("content digest sha256:") && run.stderr.contains("not found"),
        "kind fails for another reason:\n{run}"
    );
}

/// Starts a container of an image on a node, as a kubelet would, and returns its log.
#[track_caller]
pub fn run_on(node: &str, image: &str) -> String {
    let id = lab::unique("pod");
    let pod = serde_json::json!({
        "metadata": {"name": id, "namespace": "default", "uid": id, "attempt": 0},
        "log_directory": format!("/tmp/{id}"),
        // The node's own network: no CNI has to be set up.
        "linux": {"security_context": {"namespace_options": {"network": 2}}},
    });
    let container = serde_json::json!({
        "metadata": {"name": "c", "attempt": 0},
        "image": {"image": image},
        "log_path": "c.log",
        "linux": {},
    });
    let script = format!(
        "set -e; mkdir -p /tmp/{id}; cd /tmp/{id}\n\
         cat > pod.json <<'E'\n{pod}\nE\ncat > container.json <<'E'\n{container}\nE\n\
         pod=$(crictl runp pod.json)\n\
         container=$(crictl create \"$pod\" container.json pod.json)\n\
         crictl start \"$container\" >/dev/null\n\
         for i in $(seq 500); do \
           state=$(crictl inspect -o json \"$container\" | jq -r .status.state); \
           [ \"$state\" = CONTAINER_EXITED ] && break; done\n\
         crictl logs \"$container\"; crictl rmp --force \"$pod\" >/dev/null"
    );
    lab::exec(node, &["sh", "-c", &script]).expect(0).stdout
}

#[test]
fn an_index_of_which_one_platform_is_present() {
    let registry = Registry::start();
    let (image, native) = partial_index(&registry);
    let cluster = Cluster::new("peers", 1, &[]);
    lab::docker(&["pull", "--quiet", &image]);

    // What it is for the others.
    lacks_content(kind_load(&["docker-image", &image], &cluster.name));
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("image.tar");
    let archive = archive.to_str().unwrap();
    lab::docker(&["save", "--output", archive, &image]);
    lacks_content(kind_load(&["image-archive", archive], &cluster.name));
    lab::docker(&["image", "rm", &image]);
    lab::docker(&["pull", "--quiet", "--platform", &native, &image]);
    lacks_content(kind_load(&["docker-image", &image], &cluster.name));
    // Its half import shows in crictl on some versions: what comes is not its doing.
    for node in &cluster.nodes {
        let _ = lab::exec(
            node,
            &["ctr", "-n", "k8s.io", "images", "rm", "--sync", &image],
        );
        assert_eq!(lab::crictl(node, &image), None);
    }

    // What it is for us.
    let mut kindlift = lab::kindlift();
    kindlift.args([
        "load",
        &image,
        "--cluster",
        &cluster.name,
        "--output",
        "json",
    ]);
    let document = run::run(&mut kindlift).expect(0).json();
    assert_eq!(document["images"][0]["platform"], serde_json::json!(native));
    lab::proven(&cluster.nodes, std::slice::from_ref(&image));
    for node in &cluster.nodes {
        assert_eq!(run_on(node, &image), "it runs\n", "{node}");
    }
    lab::docker(&["image", "rm", &image]);
}

#[test]
fn a_build_from_such_an_index() {
    let registry = Registry::start();
    let (base, _) = partial_index(&registry);
    lab::docker(&["pull", "--quiet", &base]);
    let app = App::new("from-index");
    app.dockerfile(&format!("FROM {base}\nCOPY app.bin /\n"));
    run::run(&mut app.build("dev", "dev")).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
    for node in lab::dev() {
        assert_eq!(run_on(&node, &app.on_node("dev")), "it runs\n", "{node}");
    }
    lab::docker(&["image", "rm", &base]);
}
