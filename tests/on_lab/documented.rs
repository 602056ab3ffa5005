//! Every `kindlift` command that README.md and docs show, run as it is written: by a shell, in a
//! project such as the texts presume, with a cluster, engines and a registry as they name them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::hosting::{document, kubectl};
use crate::lab::{self, App, Cluster};
use crate::registry::Registry;
use crate::run::{self, Run};
use crate::texts::{self, Documented};

/// What is not run here, and why.
const NOT_HERE: [(&str, &str); 1] = [("--watch", "has no end: watch.rs, e2e/tilt.rs")];

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: 'demo/app:dev'}]
";

/// The commands that can be run, each once.
fn documented() -> Vec<Documented> {
    let pages = texts::all().into_iter().filter(texts::Text::is_page);
    let mut commands: Vec<Documented> = pages.flat_map(|page| page.commands()).collect();
    let mut seen = BTreeSet::new();
    commands.retain(|command| {
        !command.is_a_pattern()
            && !command.is_a_name()
            && !NOT_HERE.iter().any(|(word, _)| command.line.contains(word))
            && seen.insert(command.line.clone())
    });
    assert!(commands.len() >= 40, "{commands:#?}");
    commands
}

/// A project whose image is demo/app, with all that the texts name, and where it runs.
struct Project {
    app: App,
    cluster: Cluster,
    kubeconfig: String,
    registry: Registry,
}

impl Project {
    fn new() -> Self {
        let (cluster, kubeconfig) = Cluster::with_kubernetes("documented", 1);
        let project = Self {
            app: App::new("documented"),
            cluster,
            kubeconfig: kubeconfig.to_str().unwrap().to_owned(),
            registry: Registry::start(),
        };
        project.write_files();
        project.fill_registry();
        project.build();
        project.deploy();
        project
    }

    fn write_files(&self) {
        let write = |file: &str, text: &str| {
            let path = self.app.path(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "Dockerfile",
            "FROM scratch AS dev\nARG A\nCOPY busybox /bin/busybox\nCOPY src /src\n\
             CMD [\"/bin/busybox\", \"sleep\", \"1000000\"]\n",
        );
        write("src/page", &lab::unique("page"));
        write("k8s.yaml", DEPLOYMENT);
        write("k8s/web.yaml", DEPLOYMENT);
        write(
            "my-build.sh",
            "#!/bin/sh\nexec docker build --tag \"$IMAGE\" \"$BUILD_CONTEXT\"\n",
        );
        run::run(
            lab::program("chmod")
                .arg("+x")
                .arg(self.app.path("my-build.sh")),
        )
        .expect(0);
        // As README has them, so that `init` finds nothing to do.
        let readme = texts::all().remove(0);
        for (language, file) in [("yaml", "skaffold.yaml"), ("python", "Tiltfile")] {
            let blocks = readme.blocks(&[language]);
            let named = |block: &&texts::Block| block.text.starts_with(&format!("# {file}\n"));
            write(file, &blocks.iter().find(named).expect(file).text);
        }
        write(
            ".dockerignore",
            ".kindlift-ref\nhome\n*.tar\nbuild\nlayout\n",
        );
        write(".gitignore", ".kindlift-ref\n");
        write("build/.keep", "");
        write("home/.local/share/bash-completion/completions/.keep", "");
        // Nothing is told to anybody, and nothing is asked.
        write(
            "home/.skaffold/config",
            "global: {collect-metrics: false, survey: {disable-prompt: true}}\nkubeContexts: []\n",
        );
    }

    /// What the texts have in registries, for two platforms.
    fn fill_registry(&self) {
        let registry = &self.registry;
        let image = |platform: &str| {
            let name = format!("demo/app:{}", platform.replace('/', "-"));
            registry.image(&name, platform, &registry.layer("layer"))
        };
        let (amd, arm) = (image("linux/amd64"), image("linux/arm64"));
        for name in ["demo/app:1", "demo/app:dev"] {
            registry.index(name, &[&amd, &arm]);
        }
    }

    /// The image, in Docker, as an archive, as a folder, and on a node by `kind load`, which keeps
    /// the layers.
    fn build(&self) {
        for line in [
            "docker build --provenance=false --tag demo/app:dev .",
            "docker tag demo/app:dev a:1",
            "docker tag demo/app:dev b:2",
            "docker save --output image.tar demo/app:dev",
            "kindlift export demo/app:dev -o build/layout/",
            &format!(
                "kind load image-archive image.tar --name {}",
                self.cluster.name
            ),
            // Skaffold's tags are made of commits; without one, they are `latest`.
            "git init --quiet && git add Dockerfile && \
             git -c user.name=lab -c user.email=lab@localhost commit --quiet -m app",
            "docker buildx create --name far --driver remote \"$KINDLIFT_LAB_BUILDKIT\"",
        ] {
            self.shell(line).expect(0);
        }
    }

    /// A pod of it, and the word that there is a local registry.
    fn deploy(&self) {
        kubectl(&self.kubeconfig, &["create", "namespace", "shop"]);
        for args in [
            &[
                "apply",
                "-n",
                "shop",
                "-f",
                self.app.path("k8s.yaml").to_str().unwrap(),
            ] as &[&str],
            &[
                "rollout",
                "status",
                "-n",
                "shop",
                "deployment/web",
                "--timeout",
                "100s",
            ],
        ] {
            kubectl(&self.kubeconfig, args);
        }
        document(
            &self.kubeconfig,
            &format!("host: \"{}\"\n", self.registry.host),
        );
    }

    /// Runs a line as a user's shell would, in the project's folder.
    fn shell(&self, line: &str) -> Run {
        run::run(&mut self.shell_for(line))
    }

    fn shell_for(&self, line: &str) -> Command {
        let bin = Path::new(env!("CARGO_BIN_EXE_kindlift")).parent().unwrap();
        let home = self.app.path("home");
        let mut command = lab::program("bash");
        command
            .current_dir(self.app.folder())
            .env("PATH", format!("{}:{}", bin.display(), lab::var("PATH")))
            .env("HOME", &home)
            .env("BUILDX_CONFIG", home.join("buildx"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("SKAFFOLD_UPDATE_CHECK", "false")
            .args(["-o", "pipefail", "-ec", line]);
        command
    }

    /// Runs a documented command, with what the texts' names stand for here.
    fn run(&self, documented: &Documented) -> Run {
        let Cluster { name, .. } = &self.cluster;
        let mut line = documented.line.clone();
        for (theirs, ours) in [
            ("--cluster dev", format!("--cluster {name}")),
            ("--cluster ci", format!("--cluster {name}")),
            ("kind-worker", self.cluster.worker().to_owned()),
            ("--nodes n1", format!("--nodes {}", self.cluster.worker())),
            ("registry.example", self.registry.host.clone()),
            ("localhost:5001", self.registry.host.clone()),
            ("${{ github.sha }}", "0123abc".to_owned()),
        ] {
            line = line.replace(theirs, &ours);
        }
        let mut command = self.shell_for(&line);
        let words = &documented.words;
        let is_named = words
            .iter()
            .any(|word| word == "-t" || word == "--ref-file");
        if line.contains("exec kindlift") && !is_named {
            // Tilt's commands name the folder, Skaffold's do not.
            if words.last().is_some_and(|word| word == ".") {
                command.env("EXPECTED_REF", "demo/app:tilt-build-1");
            } else {
                command
                    .env("IMAGE", "demo/app:dev")
                    .env("PUSH_IMAGE", "false")
                    .env("BUILD_CONTEXT", self.app.folder())
                    .env("PLATFORMS", "");
            }
        }
        run::run(&mut command)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let forget = "docker image ls --format '{{.Repository}}:{{.Tag}}' | \
                          grep -E '(^|/)(demo/app|a:1|b:2)' | xargs -r docker image rm --force; \
                          podman image rm --force demo/app:dev";
            self.shell(forget);
        }
    }
}

#[test]
fn the_commands_of_readme_and_docs_do_what_is_said() {
    let project = Project::new();
    let mut failed = String::new();
    for command in documented() {
        let run = project.run(&command);
        if run.code != 0 {
            failed += &format!("{}: {}\n{run}\n", command.place, command.line);
        }
    }
    assert_eq!(failed, "");
    // Each by itself: the commands have built and loaded demo/app:dev anew, with other engines too.
    // `a:1` goes to one node alone in the end, but had all of them before.
    for name in [
        "docker.io/demo/app:dev",
        "docker.io/library/a:1",
        "docker.io/library/b:2",
    ] {
        lab::proven(&project.cluster.nodes, &[name.to_owned()]);
    }
}
