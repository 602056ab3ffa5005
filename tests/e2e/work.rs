//! A folder to work in: a copy of an example, as a user has it, with a home of its own, and the
//! tools as a user starts them there.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::engines::{Api, Engine};
use crate::kube::Namespace;
use crate::lab;
use crate::run::{self, Run};

/// The examples' own files, copied.
pub struct Work {
    folder: TempDir,
    home: TempDir,
    /// A tag that no other test uses: the examples all build the same names.
    pub tag: String,
}

impl Work {
    /// Copies `examples/NAME` and runs its prepare.sh with the lab's busybox.
    pub fn example(name: &str) -> Self {
        let work = Self::empty();
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        // Next to each other, as one refers to the other.
        for entry in std::fs::read_dir(&examples).unwrap() {
            let from = entry.unwrap().path();
            run::run(lab::program("cp").arg("-R").arg(from).arg(work.path(""))).expect(0);
        }
        let prepare = work.path(name).join("prepare.sh");
        run::run(lab::program(prepare.to_str().unwrap()).arg(lab::var("KINDLIFT_LAB_BUSYBOX")))
            .expect(0);
        work
    }

    /// A folder with nothing in it.
    pub fn empty() -> Self {
        let work = Self {
            folder: TempDir::with_prefix("kindlift-e2e-").unwrap(),
            home: TempDir::with_prefix("kindlift-home-").unwrap(),
            tag: lab::unique("t"),
        };
        std::fs::create_dir(work.path("")).unwrap();
        let config = work.home.path().join(".skaffold");
        std::fs::create_dir(&config).unwrap();
        // Nothing is told to anybody, and nothing is asked.
        std::fs::write(
            config.join("config"),
            "global: {collect-metrics: false, survey: {disable-prompt: true}}\nkubeContexts: []\n",
        )
        .unwrap();
        work
    }

    /// A path below the copy of `examples`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join("examples").join(file)
    }

    /// Writes a file as an editor does: aside, and then in place.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        let aside = self.home.path().join("edited");
        std::fs::write(&aside, text).unwrap();
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::rename(&aside, &path).unwrap();
    }

    /// Replaces a text in a file, in which it must be.
    #[track_caller]
    pub fn change(&self, file: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        assert!(text.contains(old), "no {old:?} in {file}:\n{text}");
        self.write(file, &text.replace(old, new));
    }

    /// A program of the lab in a folder of ours, with the namespace's cluster as the current one
    /// and the kindlift under test first on PATH.
    pub fn program(&self, name: &str, folder: &str, space: &Namespace) -> Command {
        let mut command = lab::program(name);
        command
            .current_dir(self.path(folder))
            .env("PATH", with_kindlift(lab::var("PATH")))
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("KUBECONFIG", space.kube.kubeconfig())
            .env("DO_NOT_TRACK", "1");
        command
    }

    /// Points a command at an engine; the kindlift under test stays first on PATH.
    pub fn use_engine(&self, command: &mut Command, engine: Engine, api: Api) {
        // Rootless Podman's user reads the context too.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(self.folder.path(), open).unwrap();
        engine.point(command, api);
        let path = command.get_envs().find(|(name, _)| *name == "PATH");
        let path = path.and_then(|(_, value)| value).unwrap().to_owned();
        command.env("PATH", with_kindlift(path.to_str().unwrap()));
    }

    /// `skaffold VERB --config skaffold.config --namespace … FLAGS`, as far as VERB takes them;
    /// `skaffold.config` is the example's.
    pub fn skaffold(&self, folder: &str, space: &Namespace, words: &[&str]) -> Command {
        let (verb, flags) = words.split_first().unwrap();
        let mut command = self.program("skaffold", folder, space);
        command
            .env("SKAFFOLD_UPDATE_CHECK", "false")
            .args([verb, "--interactive=false"]);
        if *verb != "render" {
            command.args(["--config", "skaffold.config"]);
        }
        if *verb != "test" {
            command.args(["--namespace", &space.name]);
        }
        // Only these build.
        if ["build", "run", "dev", "debug"].contains(verb) {
            command.args(["--tag", &self.tag]);
        }
        command.args(flags);
        command
    }

    /// The same, to its end, which must be a good one.
    #[track_caller]
    pub fn run_skaffold(&self, folder: &str, space: &Namespace, words: &[&str]) -> Run {
        run::run(&mut self.skaffold(folder, space, words)).expect(0)
    }

    /// `tilt VERB --namespace … FLAGS`, told to nobody: no port, no browser, no statistics.
    pub fn tilt(&self, folder: &str, space: &Namespace, words: &[&str]) -> Command {
        let (verb, flags) = words.split_first().unwrap();
        let mut command = self.program("tilt", folder, space);
        command.args([verb, "--namespace", &space.name]);
        if *verb != "down" {
            // The lab's Tilt has a stand-in for its web pages; see tests/lab/README.md.
            command.args(["--port=0", "--web-mode=prod"]);
        }
        command.args(flags);
        command
    }

    /// Processes that belong to this work: they have its home. Skaffold's, Tilt's and kindlift's
    /// children have it too.
    pub fn processes(&self) -> Vec<String> {
        let mark = format!("HOME={}", self.home.path().display());
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries
            .filter_map(|entry| {
                let folder = entry.path();
                let environment = std::fs::read(folder.join("environ")).ok()?;
                let ours = environment
                    .split(|byte| *byte == 0)
                    .any(|var| var == mark.as_bytes());
                let line = std::fs::read(folder.join("cmdline")).ok()?;
                (ours && !line.is_empty())
                    .then(|| String::from_utf8_lossy(&line).replace('\0', " "))
            })
            .collect()
    }
}

/// A PATH with the kindlift under test first.
fn with_kindlift(path: &str) -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_kindlift")).parent().unwrap();
    format!("{}:{path}", bin.display())
}

/// Processes on this machine, the engine's included, whose command line has a word.
pub fn processes_with(word: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(word)).collect()
}

impl Drop for Work {
    fn drop(&mut self) {
        // Left where they are if the test failed, to be looked at.
        if std::thread::panicking() {
            return;
        }
        let mut names = lab::image_names(None);
        names.retain(|name| name.ends_with(&self.tag));
        lab::forget(&names);
    }
}
