//! Two builds of one name at the same time: each is about what it has built itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::engines::{Api, Engine};
use crate::lab::{self, App};
use crate::run::{self, Run, Running};

/// How often two builds meet in a test.
const PAIRS: usize = 2;

/// Two folders to build under one name. What is built is told by a label.
struct Two {
    engine: Engine,
    app: App,
    folders: [TempDir; 2],
}

impl Two {
    fn new(theme: &str, engine: Engine) -> Self {
        let app = App::new(theme);
        let folders = [(); 2].map(|()| TempDir::with_prefix("kindlift-test-").unwrap());
        for folder in &folders {
            use std::os::unix::fs::PermissionsExt;
            let open = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(folder.path(), open).unwrap();
            std::fs::copy(app.path("busybox"), folder.path().join("busybox")).unwrap();
        }
        Self {
            engine,
            app,
            folders,
        }
    }

    fn folder(&self, which: usize) -> &Path {
        self.folders[which].path()
    }

    /// Writes what no build before has had, and returns the label.
    fn write(&self, which: usize) -> String {
        let word = lab::unique("content");
        let dockerfile = format!("FROM scratch\nCOPY busybox word /\nLABEL word={word}\n");
        std::fs::write(self.folder(which).join("Dockerfile"), dockerfile).unwrap();
        std::fs::write(self.folder(which).join("word"), &word).unwrap();
        word
    }

    /// `kindlift build … FOLDER`.
    fn build(&self, which: usize, api: Api) -> Command {
        let mut command = lab::kindlift();
        self.engine.point(&mut command, api);
        command
            .args(["build", "--cluster", "dev"])
            .arg(self.folder(which));
        command
    }

    /// Starts both at once, and waits for both.
    fn meet(&self, command: impl Fn(usize) -> Command) -> [Run; 2] {
        for _ in 0..3 {
            let runs = self.meet_once(&command);
            // Docker's own builds trip over its collection of what other tests remove meanwhile.
            let tripped = |run: &Run| run.code == 3 && run.stderr.contains("parent snapshot");
            if !runs.iter().any(tripped) {
                return runs;
            }
        }
        panic!("the engine builds nothing");
    }

    fn meet_once(&self, command: impl Fn(usize) -> Command) -> [Run; 2] {
        let running = [0, 1].map(|which| run::start(&mut command(which)));
        let pids = running.each_ref().map(Running::pid);
        let runs = running.map(Running::finish);
        for pid in pids {
            assert_eq!(self.engine.holds(pid), BTreeSet::new(), "{runs:?}");
        }
        runs
    }

    /// Makes a name in the engine: Docker itself refuses one of two builds that do so at once.
    fn make(&self, name: &str) {
        if self.engine == Engine::Podman {
            return;
        }
        self.write(0);
        self.engine.build(self.folder(0), name);
    }

    /// The label of what the engine has under a name.
    fn in_engine(&self, name: &str) -> String {
        let name = match self.engine {
            Engine::Podman | Engine::Rootless => format!("docker.io/{name}"),
            _ => name.to_owned(),
        };
        let format = "{{index .Config.Labels \"word\"}}";
        let mut inspect = self.engine.command();
        let run = run::run(inspect.args(["image", "inspect", "--format", format, &name]));
        run.expect(0).stdout.trim().to_owned()
    }
}

impl Drop for Two {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.engine != Engine::Containerd {
            self.engine.forget(&self.app.name);
        }
    }
}

/// The label of what the nodes have under a name: the same on each.
#[track_caller]
fn on_nodes(name: &str) -> String {
    let name = format!("docker.io/{name}");
    lab::proven(&lab::dev(), std::slice::from_ref(&name));
    let words: BTreeSet<String> = lab::on_each(&lab::dev(), |node| {
        let inspect = [
            "crictl",
            "--timeout",
            "60s",
            "inspecti",
            "-o",
            "json",
            &name,
        ];
        let json = lab::exec(node, &inspect).expect(0).json();
        let word = &json["info"]["imageSpec"]["config"]["Labels"]["word"];
        word.as_str().unwrap_or_default().to_owned()
    })
    .into_iter()
    .collect();
    assert_eq!(words.len(), 1, "{words:?}");
    words.into_iter().next().unwrap()
}

/// Each ref file names what was built with it.
fn with_ref_files(engine: Engine) {
    let two = Two::new("two-refs", engine);
    for _ in 0..PAIRS {
        let words = [0, 1].map(|which| two.write(which));
        let file = |which: usize| two.app.path(&format!("ref{which}"));
        let runs = two.meet(|which| {
            let mut build = two.build(which, Api::Unused);
            build.args(["--tag", &two.app.name, "--ref-file"]);
            build.arg(file(which));
            build
        });
        for (which, run) in runs.into_iter().enumerate() {
            let run = run.expect(0);
            let name = std::fs::read_to_string(file(which)).unwrap();
            assert_eq!(on_nodes(name.trim()), words[which], "{run}");
            assert_eq!(two.in_engine(name.trim()), words[which], "{run}");
        }
    }
}

#[test]
fn ref_files_with_the_containerd_store() {
    with_ref_files(Engine::Containerd);
}

#[test]
fn ref_files_with_the_overlay2_store() {
    with_ref_files(Engine::Overlay2);
}

#[test]
fn ref_files_with_podman() {
    with_ref_files(Engine::Podman);
}

/// Of two that end at all, who has the name in the engine has it on the nodes and ended well; the
/// other did too, if it was done before, or was superseded.
#[track_caller]
fn one_has_won(two: &Two, name: &str, words: &[String; 2], runs: [Run; 2]) {
    let left = two.in_engine(name);
    let won = words.iter().position(|word| *word == left).unwrap();
    assert_eq!(on_nodes(name), left, "{runs:?}");
    assert_eq!(runs[won].code, 0, "{runs:?}");
    let [one, other] = runs;
    let lost = if won == 0 { other } else { one };
    if lost.code != 0 {
        lost.expect(9).says(&format!("{name} was superseded: "));
    }
}

fn under_one_tag(engine: Engine) {
    let two = Two::new("two-tags", engine);
    let name = two.app.tag("dev");
    two.make(&name);
    for _ in 0..PAIRS {
        let words = [0, 1].map(|which| two.write(which));
        let runs = two.meet(|which| {
            let mut build = two.build(which, Api::Unused);
            build.args(["--tag", &name]);
            build
        });
        one_has_won(&two, &name, &words, runs);
    }
}

#[test]
fn one_tag_with_the_containerd_store() {
    under_one_tag(Engine::Containerd);
}

#[test]
fn one_tag_with_the_overlay2_store() {
    under_one_tag(Engine::Overlay2);
}

#[test]
fn one_tag_with_podman() {
    under_one_tag(Engine::Podman);
}

/// Skaffold looks the image up by the name that it passed, and deploys what it finds there: that
/// must be what was loaded, or an error.
#[test]
fn skaffold_never_finds_what_was_not_loaded() {
    for engine in [Engine::Containerd, Engine::Overlay2, Engine::Podman] {
        let two = Two::new("two-skaffolds", engine);
        let name = two.app.tag("dev");
        two.make(&name);
        let words = [0, 1].map(|which| two.write(which));
        let runs = two.meet(|which| {
            let mut build = two.build(which, Api::Used);
            build
                .env("IMAGE", &name)
                .env("PUSH_IMAGE", "false")
                .env("BUILD_CONTEXT", two.folder(which))
                .env("KIND_CLUSTER_NAME", "dev");
            build
        });
        let deployed = two.app.tag(&engine.hex(&name));
        assert_eq!(on_nodes(&deployed), two.in_engine(&name), "{runs:?}");
        one_has_won(&two, &name, &words, runs);
    }
}

#[test]
fn what_a_killed_build_holds_goes_with_the_next() {
    for engine in [Engine::Containerd, Engine::Overlay2, Engine::Podman] {
        let two = Two::new("held", engine);
        let build = || {
            two.write(0);
            let mut build = two.build(0, Api::Unused);
            build.args(["--tag", &two.app.tag("dev")]);
            build
        };
        // Large enough to be met while it is loaded.
        two.app.random("large.bin", 30_000_000);
        std::fs::copy(two.app.path("large.bin"), two.folder(0).join("busybox")).unwrap();
        let mut killed = run::start(&mut build());
        let pid = killed.pid();
        killed.wait_until("it holds an image", |_| !two.engine.holds(pid).is_empty());
        killed.signal(Signal::KILL);
        killed.finish().expect(137);
        assert_ne!(two.engine.holds(pid), BTreeSet::new());
        run::run(&mut build()).expect(0);
        assert_eq!(two.engine.holds(pid), BTreeSet::new());
        on_nodes(&two.app.tag("dev"));
    }
}
