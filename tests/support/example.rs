// What the example in src/lib.rs is run with: the lab, an archive of an image that nobody else has,
// and a look at the nodes afterwards, from outside kindlift.

use std::collections::BTreeMap;
use std::process::Command;

use tempfile::TempDir;

mod lab_vars {
    include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/lab_vars.rs"));
}

const NODES: [&str; 3] = ["dev-control-plane", "dev-worker", "dev-worker2"];

/// An image in an archive.
pub struct Example {
    vars: BTreeMap<String, String>,
    folder: TempDir,
    name: String,
}

impl Example {
    /// Has Docker build it.
    pub fn new() -> Self {
        let vars = lab_vars::of_the_lab().unwrap_or_else(|why| {
            panic!("the lab is not up: {why}\nbring it up with `make lab-up`")
        });
        let example = Self {
            vars,
            folder: TempDir::with_prefix("kindlift-example-").unwrap(),
            name: format!("kindlift-test/example:{}", std::process::id()),
        };
        std::fs::write(example.folder.path().join("page"), &example.name).unwrap();
        std::fs::write(example.folder.path().join("Dockerfile"), "FROM scratch\nCOPY page /\n").unwrap();
        example.docker(&["build", "--tag", &example.name, example.folder.path().to_str().unwrap()]);
        example.docker(&["save", "--output", &example.archive(), &example.name]);
        example.docker(&["image", "rm", &example.name]);
        example
    }

    pub fn archive(&self) -> String {
        self.folder.path().join("image.tar").to_str().unwrap().to_owned()
    }

    pub fn env(&self) -> kindlift::env::Env {
        kindlift::env::Env::new(self.vars.clone())
    }

    /// Requires that crictl on every node shows it.
    pub fn is_on_every_node(&self) {
        for node in NODES {
            self.docker(&["exec", node, "crictl", "inspecti", &self.name]);
        }
    }

    fn docker(&self, args: &[&str]) {
        let paths = self.vars["PATH"].split(':');
        let program = paths.map(|folder| format!("{folder}/docker"));
        let program = program.into_iter().find(|file| std::path::Path::new(file).is_file());
        let output = Command::new(program.unwrap()).args(args).envs(&self.vars).output().unwrap();
        assert!(output.status.success(), "docker {args:?}: {output:?}");
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            for node in NODES {
                self.docker(&["exec", node, "crictl", "rmi", &self.name]);
            }
        }
    }
}
