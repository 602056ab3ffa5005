//! What others do with the same input, beside what kindlift does: every symptom that people report
//! of `kind load`, got for real, on nodes of three generations of containerd.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engines::{Api, Engine};
use crate::lab::{self, App, Cluster};
use crate::registry::Registry;
use crate::run::{self, Run};
use crate::trouble::Before;

fn kind_load(args: &[&str], cluster: &str) -> Run {
    let mut kind = lab::program("kind");
    kind.arg("load").args(args).args(["--name", cluster]);
    run::run(&mut kind)
}

fn kindlift(args: &[&str], cluster: &str) -> Run {
    run::run(lab::kindlift().args(args).args(["--cluster", cluster]))
}

#[track_caller]
fn lacks_content(run: &Run) {
    assert_ne!(run.code, 0, "it loads it by now:\n{run}");
    assert!(
        run.stderr.contains("content digest sha256:") && run.stderr.contains("not found"),
        "it fails for another reason:\n{run}"
    );
}

/// Starts a container of an image on a node, as a kubelet would, and returns its log.
#[track_caller]
pub fn run_on(node: &str, image: &str) -> String {
    try_on(node, image).expect(0).stdout
}

fn try_on(node: &str, image: &str) -> Run {
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
         trap 'crictl rmp --force \"$pod\" >/dev/null' EXIT\n\
         cat > pod.json <<'E'\n{pod}\nE\ncat > container.json <<'E'\n{container}\nE\n\
         pod=$(crictl runp pod.json)\n\
         container=$(crictl create \"$pod\" container.json pod.json)\n\
         crictl start \"$container\" >/dev/null\n\
         for i in $(seq 500); do \
           state=$(crictl inspect -o json \"$container\" | jq -r .status.state); \
           [ \"$state\" = CONTAINER_EXITED ] && break; done\n\
         crictl logs \"$container\""
    );
    lab::exec(node, &["sh", "-c", &script])
}

/// An index in a registry whose native platform alone the engine has.
fn partial_index(registry: &Registry) -> (String, &'static str) {
    let native = lab::platform();
    let foreign = if native == "linux/arm64" {
        "linux/amd64"
    } else {
        "linux/arm64"
    };
    let one = registry.image("peers:native", native, &registry.layer("native"));
    let other = registry.image("peers:foreign", foreign, &registry.layer("foreign"));
    (registry.index("peers:both", &[&one, &other]), native)
}

/// One cluster of a containerd's generation, on which each symptom is shown.
struct Table {
    cluster: Cluster,
    /// Whether ctr imports in the client, as it did before containerd 2.
    old: bool,
}

impl Table {
    fn new(suite: &str) -> Self {
        let cluster = Cluster::of_suite(suite, 0);
        let versions = lab::exec(
            &cluster.nodes[0],
            &["sh", "-c", "containerd --version; crictl --version"],
        );
        let versions = versions.expect(0).stdout;
        let kind = run::run(lab::program("kind").arg("version"))
            .expect(0)
            .stdout;
        run::tell(&format!(
            "{suite}: {}, {kind}",
            versions.trim().replace('\n', ", ")
        ));
        let old = versions.contains(" 1.");
        Self { cluster, old }
    }

    fn node(&self) -> &str {
        &self.cluster.nodes[0]
    }

    fn kind_load(&self, args: &[&str]) -> Run {
        kind_load(args, &self.cluster.name)
    }

    fn kindlift(&self, args: &[&str]) -> Run {
        kindlift(args, &self.cluster.name)
    }

    fn ctr_import(&self, flags: &[&str], archive: &str) -> Run {
        let file = std::fs::File::open(archive).unwrap();
        let mut import = lab::program("docker");
        import
            .args(["exec", "-i", self.node(), "ctr", "-n", "k8s.io"])
            .args(["images", "import", "--digests"])
            .args(flags)
            .arg("-")
            .stdin(file);
        run::run(&mut import)
    }

    /// Returns the names that ctr lists.
    fn names(&self) -> Vec<String> {
        let run = lab::exec(self.node(), &["ctr", "-n", "k8s.io", "images", "ls", "-q"]);
        run.expect(0).stdout.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn runs(&self, image: &str) {
        lab::proven(&self.cluster.nodes, &[image.to_owned()]);
        assert_eq!(run_on(self.node(), image), "it runs\n");
    }

    /// Removes what a peer's import left, whole or not.
    fn forget(&self, word: &str) {
        for name in self.names().iter().filter(|name| name.contains(word)) {
            lab::exec(
                self.node(),
                &["ctr", "-n", "k8s.io", "images", "rm", "--sync", name],
            )
            .expect(0);
        }
    }

    /// kind #3795, #3845, #3996: "content digest … not found".
    fn an_index_of_which_one_platform_is_present(&self, registry: &Registry) {
        let (image, native) = partial_index(registry);
        lab::docker(&["pull", "--quiet", &image]);
        lacks_content(&self.kind_load(&["docker-image", &image]));
        let folder = tempfile::tempdir().unwrap();
        let archive = text(&folder.path().join("image.tar"));
        lab::docker(&["save", "--output", &archive, &image]);
        lacks_content(&self.kind_load(&["image-archive", &archive]));
        lacks_content(&self.ctr_import(&["--all-platforms"], &archive));
        lab::docker(&["image", "rm", &image]);
        lab::docker(&["pull", "--quiet", "--platform", native, &image]);
        lacks_content(&self.kind_load(&["docker-image", &image]));
        // Its half import shows in crictl on some versions: what comes is not its doing.
        self.forget("peers:both");

        let document = self
            .kindlift(&["load", &image, "--output", "json"])
            .expect(0)
            .json();
        assert_eq!(document["images"][0]["platform"], json!(native));
        self.runs(&image);
        self.forget("peers:both");
        self.kindlift(&["load", &archive]).expect(0);
        self.runs(&image);
        lab::docker(&["image", "rm", &image]);
        self.forget("peers:both");
    }

    /// containerd #11344: an attestation that is named and was not pulled.
    fn an_index_with_an_attestation(&self, registry: &Registry) {
        let app = runnable("attested");
        let image = format!("{}/{}:dev", registry.host, app.name);
        let mut build = lab::program("docker");
        build
            .args([
                "buildx",
                "build",
                "--provenance=mode=max",
                "--push",
                "--tag",
                &image,
            ])
            .arg(app.folder());
        run::run(&mut build).expect(0);
        lab::docker(&["image", "rm", "--force", &image]);
        lab::docker(&["pull", "--quiet", &image]);
        lacks_content(&self.kind_load(&["docker-image", &image]));
        self.forget(&app.name);
        self.kindlift(&["load", &image]).expect(0).says("loaded");
        self.runs(&image);
        lab::docker(&["image", "rm", "--force", &image]);
        self.forget(&app.name);
    }

    /// kind #3488 and moby #47150: archives as Docker 25.0.0 wrote them. kind #2477: the failed
    /// import is "already present on machine".
    fn what_docker_25_0_0_wrote(&self) {
        let app = runnable("docker25");
        Engine::Overlay2.build(app.folder(), &app.tag("dev"));
        let archive = text(&app.path("image.tar"));
        let save = ["save", "--output", &archive, &app.tag("dev")];
        run::run(Engine::Overlay2.command().args(save)).expect(0);
        let lost = as_docker_25_wrote_it(&app, "lost", |layers| drop(layers.remove(1)));
        let mixed = as_docker_25_wrote_it(&app, "mixed", |layers| layers.reverse());
        let before = Before::of(&self.cluster);

        // Without a trace, where the peers would leave one.
        let cause = "Docker 25.0.0 writes such ";
        let refused = self.kindlift(&["load", &lost]).expect(6);
        refused
            .says("mismatched image rootfs")
            .says(cause)
            .says("25.0.1");
        let refused = self.kindlift(&["load", &mixed]).expect(6);
        refused
            .says("does not match the image's rootfs")
            .says(cause)
            .says("25.0.1");
        before.is_now();

        // containerd 2 has the same check in other words.
        let mismatched = if self.old {
            "mismatched image rootfs and manifest layers"
        } else {
            "number of layers and diffIDs don't match"
        };
        let failed = self.kind_load(&["image-archive", &lost]);
        assert_ne!(failed.code, 0, "{failed}");
        failed.says(mismatched);
        self.forget(&app.name);
        let failed = self.kind_load(&["image-archive", &mixed]);
        assert_ne!(failed.code, 0, "{failed}");
        failed.says("wrong diff id calculated on extraction");
        if !self.old {
            // By default it tells the image's name last now. With --local it is as before.
            assert!(!self.names().contains(&app.on_node("dev")));
            let failed = self.ctr_import(&["--local"], &mixed);
            assert_ne!(failed.code, 0, "{failed}");
        }
        run::wait_until("crictl lists what failed", Duration::from_secs(10), || {
            lab::crictl(self.node(), &app.on_node("dev")).is_some()
        });
        let dead = try_on(self.node(), &app.on_node("dev"));
        assert_ne!(dead.code, 0, "{dead}");

        let with_overlay2 = |command: &str| {
            let mut kindlift = lab::kindlift();
            Engine::Overlay2.point(&mut kindlift, Api::Unused);
            kindlift.args([command, &app.tag("dev"), "--cluster", &self.cluster.name]);
            run::run(&mut kindlift)
        };
        with_overlay2("verify").expect(8).says("not complete");
        with_overlay2("load").expect(0).says("loaded");
        self.runs(&app.on_node("dev"));
        with_overlay2("verify").expect(0);
        Engine::Overlay2.forget(&app.name);
        self.forget(&app.name);
    }

    /// kind #2038: Podman's names, which no kubelet asks for.
    fn podmans_names(&self) {
        let app = runnable("podman");
        Engine::Podman.build(app.folder(), &app.tag("dev"));
        let archive = text(&app.path("image.tar"));
        let save = ["save", "--quiet", "--output", &archive, &app.tag("dev")];
        run::run(Engine::Podman.command().args(save)).expect(0);
        self.kind_load(&["image-archive", &archive]).expect(0);
        let local = format!("localhost/{}", app.tag("dev"));
        assert!(lab::crictl(self.node(), &local).is_some());
        assert_eq!(lab::crictl(self.node(), &app.on_node("dev")), None);
        self.forget(&app.name);
        self.kindlift(&["load", "--engine", "podman", &app.tag("dev")])
            .expect(0);
        self.runs(&app.on_node("dev"));
        assert!(!self.names().contains(&local));
        Engine::Podman.forget(&format!("localhost/{}", app.name));
        self.forget(&app.name);
    }

    /// kind #4236: loaded again on every run, though nothing has changed.
    fn the_same_image_again(&self) {
        let app = runnable("again");
        Engine::Containerd.build(app.folder(), &app.tag("dev"));
        for _ in 0..2 {
            self.kind_load(&["docker-image", &app.tag("dev")])
                .expect(0)
                .says("not yet present on node");
        }
        self.forget(&app.name);
        self.kindlift(&["load", &app.tag("dev")])
            .expect(0)
            .says("loaded");
        self.kindlift(&["load", &app.tag("dev")])
            .expect(0)
            .says("already there: ")
            .says(", 0 B sent");
        self.runs(&app.on_node("dev"));
        self.forget(&app.name);
    }

    /// kind #4184: names made of the date.
    fn an_archive_without_a_name(&self) {
        let app = runnable("nameless");
        Engine::Containerd.build(app.folder(), &app.tag("dev"));
        let archive = text(&app.path("image.tar"));
        let id = format!("sha256:{}", Engine::Containerd.hex(&app.tag("dev")));
        lab::docker(&["save", "--output", &archive, &id]);
        self.kind_load(&["image-archive", &archive]).expect(0);
        let names = self.names();
        let dated = names.iter().any(|name| name.starts_with("import-2"));
        assert!(dated && !names.contains(&app.on_node("dev")), "{names:?}");
        self.forget("import-2");
        self.kindlift(&["load", &archive])
            .expect(2)
            .says("gives its image no name")
            .says("--as NAME:TAG");
        self.kindlift(&["load", &archive, "--as", &app.tag("dev")])
            .expect(0);
        self.runs(&app.on_node("dev"));
        let names = self.names();
        assert!(
            !names.iter().any(|name| name.starts_with("import-")),
            "{names:?}"
        );
        self.forget(&app.name);
    }

    fn all(&self) {
        let registry = Registry::start();
        self.an_index_of_which_one_platform_is_present(&registry);
        self.an_index_with_an_attestation(&registry);
        self.what_docker_25_0_0_wrote();
        self.podmans_names();
        self.the_same_image_again();
        self.an_archive_without_a_name();
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// An app whose container says so.
fn runnable(theme: &str) -> App {
    let app = App::new(theme);
    app.dockerfile(
        "FROM scratch\nCOPY base.bin /\nCOPY busybox /bin/busybox\nCOPY app.bin /\n\
         ENTRYPOINT [\"/bin/busybox\", \"echo\", \"it runs\"]\n",
    );
    app
}

/// Writes the app's `image.tar` as Docker 25.0.0 wrote archives: it went through the layers of the
/// OCI manifest in a map's order, and those that are alike once. Returns the new archive.
pub fn as_docker_25_wrote_it(app: &App, name: &str, order: impl Fn(&mut Vec<Value>)) -> String {
    let folder = app.path(name);
    std::fs::create_dir(&folder).unwrap();
    let tar = |args: &[&str]| {
        run::run(lab::program("tar").args(["-C", &text(&folder)]).args(args)).expect(0);
    };
    tar(&["-xf", &text(&app.path("image.tar"))]);
    let read =
        |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let blob = |digest: &str| folder.join("blobs").join(digest.replace(':', "/"));
    let mut index = read(&folder.join("index.json"));
    let mut manifest = read(&blob(index["manifests"][0]["digest"].as_str().unwrap()));
    order(manifest["layers"].as_array_mut().unwrap());
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let digest = kindlift::image::Digest::of(&manifest).to_string();
    std::fs::write(blob(&digest), &manifest).unwrap();
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(manifest.len());
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    let archive = text(&app.path(&format!("{name}.tar")));
    tar(&["-cf", &archive, "."]);
    archive
}

#[test]
fn nodes_with_containerd_1_6() {
    let table = Table::new("bookworm");
    assert!(table.old);
    table.all();
}

#[test]
fn nodes_with_containerd_1_7() {
    let table = Table::new("trixie");
    assert!(table.old);
    table.all();
}

#[test]
fn nodes_with_what_debian_sid_has() {
    Table::new("sid").all();
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
