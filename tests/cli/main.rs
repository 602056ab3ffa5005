//! kindlift's command line where there is no engine: what it says, on which stream, and its exit
//! code, all three at once.

mod colour;
mod config;
mod doctor;
mod documented;
mod engine;
mod hosting;
mod init;
mod lint;
mod pipes;
#[expect(
    dead_code,
    reason = "only the lab's tests watch a command while it runs"
)]
#[path = "../support/run.rs"]
mod run;
mod schema;
mod shell;
mod skaffold;
#[expect(dead_code, reason = "the lab's tests run what pages show, and no more")]
#[path = "../support/texts.rs"]
mod texts;
mod usage;

use std::process::Command;

use run::Run;
use tempfile::TempDir;

/// A folder that is home and current folder, and an environment that names nothing else.
struct Sandbox {
    folder: TempDir,
}

impl Sandbox {
    /// One with a Dockerfile.
    pub fn new() -> Self {
        let sandbox = Self {
            folder: TempDir::with_prefix("kindlift-cli-").unwrap(),
        };
        sandbox.write("Dockerfile", "FROM scratch\n");
        sandbox
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    pub fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A kindlift in it. There is no engine: the socket does not exist, and PATH has no program.
    pub fn kindlift(&self, args: &[&str]) -> Command {
        let mut command = run::command(env!("CARGO_BIN_EXE_kindlift"));
        command
            .current_dir(self.folder.path())
            .env("HOME", self.path())
            .env("PATH", self.path())
            .env("DOCKER_HOST", format!("unix://{}/none.sock", self.path()))
            .args(args);
        command
    }

    /// Runs it. The folder is `[here]` in what it says.
    pub fn run(&self, args: &[&str]) -> Run {
        self.run_with(args, &[])
    }

    /// Runs it with further variables.
    pub fn run_with(&self, args: &[&str], vars: &[(&str, &str)]) -> Run {
        let mut run = run::run(self.kindlift(args).envs(vars.iter().copied()));
        run.stdout = run.stdout.replace(self.path(), "[here]");
        run.stderr = run.stderr.replace(self.path(), "[here]");
        run
    }
}

impl Run {
    /// Requires exactly this: an exit code, nothing on stdout, these lines on stderr.
    #[track_caller]
    pub fn is(&self, code: i32, stderr: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str(), self.stderr.as_str()),
            (code, "", stderr),
            "\n{self}"
        );
    }
}
