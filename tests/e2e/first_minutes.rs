//! docs/first-ten-minutes.md, typed as it stands, by somebody who has a cluster and nothing else.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::kube::{Kube, Namespace};
use crate::lab;
use crate::readme::kubeconfig;
use crate::run::{self, Running};
use crate::work::Work;

/// The page's commands: each block of a section.
fn blocks(heading: &str) -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/first-ten-minutes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = match heading {
        "" => page.split("\n## ").next(),
        _ => page.split(&format!("\n## {heading}\n")).nth(1),
    };
    let section = section.expect("the section").split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    let blocks = blocks.map(|block| block.strip_prefix("sh\n").expect("a block of commands"));
    blocks.map(str::to_owned).collect()
}

/// Two terminals, with the cluster's context.
struct Desk<'a> {
    work: Work,
    space: Namespace<'a>,
}

impl<'a> Desk<'a> {
    fn new(kube: &'a Kube) -> Self {
        let space = kube.namespace("first");
        let work = Work::empty();
        kubeconfig(&work, &space);
        // What a pull would bring.
        let busybox = Path::new(lab::var("KINDLIFT_LAB_BUSYBOX"));
        std::fs::create_dir(work.path("base")).unwrap();
        std::fs::copy(busybox, work.path("base/busybox")).unwrap();
        work.write(
            "base/Dockerfile",
            "FROM scratch\nCOPY busybox /bin/httpd\nCOPY busybox /bin/wget\n\
             COPY busybox /bin/busybox\n",
        );
        let base = work.path("base");
        lab::docker(&["build", "--tag", "busybox:1.37", base.to_str().unwrap()]);
        // The lab's Tilt has no web pages of its own; see tests/lab/README.md.
        let tilt = format!(
            "#!/bin/sh\n[ \"$1\" != up ] || set -- \"$@\" --port=0 --web-mode=prod --stream\n\
             exec {} \"$@\"\n",
            lab::find_program("tilt").display()
        );
        work.write("bin/tilt", &tilt);
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(work.path("bin/tilt"), executable).unwrap();
        Self { work, space }
    }

    /// A shell that is given commands.
    fn shell(&self, folder: &str, commands: &str) -> Command {
        let commands = commands.replace("kind-kind", &self.space.kube.context());
        let mut shell = self.work.program("sh", folder, &self.space);
        let path = shell.get_envs().find(|(name, _)| *name == "PATH");
        let path = path.and_then(|(_, value)| value).unwrap().to_str().unwrap();
        let path = format!("{}:{path}", self.work.path("bin").display());
        // What runs until Ctrl-C takes the shell's place, and gets the signal.
        let script = ["skaffold dev", "tilt up"]
            .iter()
            .fold(commands, |commands, last| {
                commands.replace(last, &format!("exec {last}"))
            });
        shell
            .env("PATH", path)
            .env("KUBECONFIG", self.work.path("kubeconfig"))
            .env("SKAFFOLD_UPDATE_CHECK", "false")
            .env("SKAFFOLD_INTERACTIVE", "false")
            .args(["-ec", &script]);
        shell
    }

    #[track_caller]
    fn types(&self, folder: &str, commands: &str) {
        run::run(&mut self.shell(folder, commands)).expect(0);
    }

    /// Types a question until it is answered as the page says.
    #[track_caller]
    fn is_answered(&self, tool: &mut Running, question: &str, answer: &str) {
        tool.wait_until(answer, |_| {
            run::run(&mut self.shell("hello", question)).stdout.trim() == answer
        });
    }
}

#[test]
fn the_first_ten_minutes_are_as_written() {
    let kube = Kube::shared();
    let desk = Desk::new(&kube);
    // Other tests have engines and clusters up that a stranger has not: what doctor thinks of them
    // is not the page's matter, but it must run.
    let [doctor] = &blocks("")[..] else {
        panic!("one block")
    };
    let said = run::run(&mut desk.shell("", doctor));
    assert!(said.stdout.contains(&kube.context()), "{said}");

    let [app] = &blocks("An app")[..] else {
        panic!("one block")
    };
    desk.types("", app);

    let [init, dev, look, edit] = &blocks("With Skaffold")[..] else {
        panic!("four blocks")
    };
    desk.types("hello", init);
    let mut skaffold = run::start(&mut desk.shell("hello", dev));
    desk.is_answered(&mut skaffold, look, "<h1>one</h1>");
    skaffold.wait_until("Skaffold waits for changes", |skaffold| {
        skaffold.stdout().contains("Watching for changes")
    });
    desk.types("hello", edit);
    desk.is_answered(&mut skaffold, look, "<h1>two</h1>");
    skaffold.signal(Signal::INT);
    let end = skaffold.finish();
    assert!(!end.to_string().contains("warning:"), "{end}");
    desk.space.is_without("hello");

    let [up, work, down] = &blocks("With Tilt")[..] else {
        panic!("three blocks")
    };
    let (look, edit) = work.trim_end().split_once('\n').unwrap();
    let mut tilt = run::start(&mut desk.shell("hello", up));
    desk.is_answered(&mut tilt, look, "<h1>two</h1>");
    desk.types("hello", edit);
    desk.is_answered(&mut tilt, look, "<h1>three</h1>");
    tilt.signal(Signal::INT);
    tilt.finish();
    desk.types("hello", down);
    desk.space.is_without("hello");
}
