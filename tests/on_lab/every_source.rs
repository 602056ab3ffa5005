//! Every source with an image for the nodes' platform, for another one alone, and for both: the
//! first and the last load, the other is refused by name.

use std::path::PathBuf;
use std::process::Command;

use crate::engines::{Api, Engine};
use crate::lab::{self, App};
use crate::registry::Registry;
use crate::run;

const NODE: &str = "dev-worker";
const FOREIGN: &str = "linux/arm64";

/// Which platforms an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The nodes' own.
    Own,
    /// Another one alone.
    Foreign,
    /// Both, in an index.
    Both,
}

impl Shape {
    const ALL: [Self; 3] = [Self::Own, Self::Foreign, Self::Both];

    fn platforms(self) -> String {
        match self {
            Self::Own => own().to_owned(),
            Self::Foreign => FOREIGN.to_owned(),
            Self::Both => format!("{},{FOREIGN}", own()),
        }
    }

    fn tag(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::Both => "both",
        }
    }
}

/// The nodes' own platform.
fn own() -> &'static str {
    let own = lab::platform();
    assert_ne!(
        own, FOREIGN,
        "on such a machine another platform is foreign"
    );
    own
}

/// An app whose image is made in one shape, and an OCI archive of it.
struct Made {
    app: App,
    shape: Shape,
    archive: PathBuf,
}

impl Made {
    fn new(shape: Shape) -> Self {
        let app = App::new("sources");
        let archive = app.path("image.tar");
        let name = app.on_node(shape.tag());
        let out = format!("type=oci,dest={},name={name}", archive.display());
        let made = Self {
            app,
            shape,
            archive,
        };
        made.buildx(&["--output", &out]);
        made
    }

    fn name(&self) -> String {
        self.app.tag(self.shape.tag())
    }

    fn buildx(&self, args: &[&str]) {
        let mut build = lab::program("docker");
        build
            .args(["buildx", "build", "--provenance=false", "--platform"])
            .arg(self.shape.platforms())
            .args(args)
            .arg(self.app.folder());
        run::run(&mut build).expect(0);
    }

    /// Copies the archive with skopeo: the index where there is one, else the one image.
    fn copy(&self, to: &str) {
        let from = format!("oci-archive:{}", self.archive.display());
        let mut copy = lab::program("skopeo");
        copy.arg("--insecure-policy");
        if self.shape == Shape::Foreign {
            copy.arg(format!(
                "--override-arch={}",
                FOREIGN.split_once('/').unwrap().1
            ));
        }
        copy.args(["copy", "--dest-tls-verify=false"]);
        if self.shape == Shape::Both {
            copy.arg("--all");
        }
        run::run(copy.args([from.as_str(), to])).expect(0);
    }

    /// Requires of a load of the image from a source what its shape asks for.
    fn judge(&self, source: &str, command: impl Fn() -> Command) {
        self.judged(source, false, command);
    }

    fn judged(&self, source: &str, of_engine: bool, command: impl Fn() -> Command) {
        let name = self.app.tag("loaded");
        let on_node = self.app.on_node("loaded");
        let load = |more: &[&str]| {
            let mut command = command();
            command.args(["load", source, "--as", &name, "--cluster", "dev"]);
            eprintln!("{:?}: {source} {more:?}", self.shape);
            run::run(command.args(more))
        };
        let refused = |run: run::Run| {
            let run = run.expect(6).says("hint: ");
            assert!(run.stderr.contains(FOREIGN), "{run}");
            let shown = lab::on_each(&lab::dev(), |node| lab::crictl(node, &on_node));
            assert_eq!(shown, [None, None, None]);
        };
        if self.shape == Shape::Foreign {
            refused(load(&[]));
            return;
        }
        if self.shape == Shape::Both {
            match of_engine {
                // An engine is asked for its own choice.
                true => drop(load(&["--platform", FOREIGN]).expect(2).says("hint: ")),
                false => refused(load(&["--platform", FOREIGN])),
            }
        }
        load(&[]).expect(0);
        for shown in lab::proven_as(&lab::dev(), std::slice::from_ref(&on_node)) {
            assert_eq!(own(), format!("linux/{}", shown.architecture));
        }
        self.app.forget_on(&lab::dev());
    }
}

#[test]
fn files_and_stdin() {
    for shape in Shape::ALL {
        let made = Made::new(shape);
        let path = made.archive.display().to_string();
        made.judge(&path, lab::kindlift);
        made.judge(&format!("oci-archive:{path}"), lab::kindlift);
        made.judge("-", || {
            let mut kindlift = lab::kindlift();
            kindlift.stdin(std::fs::File::open(&path).unwrap());
            kindlift
        });
        let layout = made.app.path("layout").display().to_string();
        made.copy(&format!("oci:{layout}:{}", made.name()));
        made.judge(&format!("oci:{layout}"), lab::kindlift);
        // Docker's own format has no index.
        if shape != Shape::Both {
            let old = made.app.path("old.tar").display().to_string();
            made.copy(&format!("docker-archive:{old}:{}", made.name()));
            made.judge(&format!("docker-archive:{old}"), lab::kindlift);
        }
    }
}

#[test]
fn a_registry_and_a_node() {
    let registry = Registry::start();
    for shape in Shape::ALL {
        let made = Made::new(shape);
        let pushed = format!("docker://{}/{}", registry.host, made.name());
        made.copy(&pushed);
        made.judge(&pushed, lab::kindlift);

        let mut import = lab::program("docker");
        import
            .args([
                "exec", "-i", NODE, "ctr", "-n", "k8s.io", "images", "import",
            ])
            .args(["--all-platforms", "-"])
            .stdin(std::fs::File::open(&made.archive).unwrap());
        run::run(&mut import).expect(0);
        made.judge(&format!("node:{NODE}/{}", made.name()), lab::kindlift);
    }
}

#[test]
fn engines() {
    for engine in [
        Engine::Containerd,
        Engine::Overlay2,
        Engine::Podman,
        Engine::Rootless,
    ] {
        for shape in Shape::ALL {
            let made = Made::new(shape);
            let name = made.name();
            match (engine, shape) {
                (Engine::Containerd, _) => made.buildx(&["--load", "--tag", &name]),
                // The classic store holds one platform of an image.
                (Engine::Overlay2, Shape::Both) => continue,
                // Podman's images for several platforms are manifest lists.
                (Engine::Podman | Engine::Rootless, Shape::Both) => {
                    let mut build = engine.command();
                    build.args(["build", "--platform", &shape.platforms()]);
                    build.args(["--manifest", &name]).arg(made.app.folder());
                    run::run(&mut build).expect(0);
                }
                _ => {
                    let mut build = engine.command();
                    build.args(["build", "--platform", &shape.platforms()]);
                    build.args(["--tag", &name]).arg(made.app.folder());
                    run::run(&mut build).expect(0);
                }
            }
            let transport = match engine {
                Engine::Containerd | Engine::Overlay2 => "docker-daemon:",
                Engine::Podman | Engine::Rootless => "containers-storage:",
            };
            for source in [name.clone(), format!("{transport}{name}")] {
                made.judged(&source, true, || {
                    let mut kindlift = lab::kindlift();
                    engine.point(&mut kindlift, Api::Unused);
                    kindlift
                });
            }
            if matches!(engine, Engine::Podman | Engine::Rootless) && shape == Shape::Both {
                run::run(engine.command().args(["manifest", "rm", &name])).expect(0);
            }
            engine.forget(&made.app.name);
        }
    }
}
