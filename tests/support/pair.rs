//! Two images that take turns under one tag, and what the nodes say of it.

use std::process::Command;

use crate::lab::{self, App};
use crate::run;

/// The two images. Each container tells which it is by its exit status: what a short one prints
/// may get lost in ctr on a busy machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Colour {
    Red,
    Blue,
}

impl Colour {
    pub const BOTH: [Self; 2] = [Self::Red, Self::Blue];

    pub fn name(self) -> &'static str {
        match self {
            Self::Red => "red",
            Self::Blue => "blue",
        }
    }

    fn status(self) -> u8 {
        match self {
            Self::Red => 11,
            Self::Blue => 12,
        }
    }

    pub fn other(self) -> Self {
        match self {
            Self::Red => Self::Blue,
            Self::Blue => Self::Red,
        }
    }
}

/// Where an image is loaded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Archive,
    Folder,
    Engine,
}

/// What stands behind the tag on a node.
pub type Holds = Option<Colour>;

/// Both images, in the engine and in files.
pub struct Pair {
    pub app: App,
    /// Which way to take to the nodes, if it is not left to kindlift.
    pub way: Option<&'static str>,
    ids: [String; 2],
}

impl Pair {
    /// Builds them: no layer's chain is in both, so that each load has to stage.
    pub fn new(theme: &str) -> Self {
        let app = App::new(theme);
        let ids = Colour::BOTH.map(|colour| {
            let word = colour.name();
            app.random("first.bin", 1_000_000);
            // Large enough to go past gRPC.
            app.random("second.bin", 8_000_000);
            app.random("third.bin", 1_000_000);
            app.dockerfile(&format!(
                "FROM scratch\nCOPY first.bin /\nCOPY busybox /bin/busybox\nCOPY second.bin /\n\
                 COPY third.bin /\nENTRYPOINT [\"/bin/busybox\", \"sh\", \"-c\", \"exit {}\"]\n",
                colour.status()
            ));
            let folder = app.folder().to_str().unwrap();
            lab::docker(&["build", "--quiet", "--tag", &app.tag(word), folder]);
            lab::docker(&["tag", &app.tag(word), &app.tag("dev")]);
            let archive = text(&app, &format!("{word}.tar"));
            lab::docker(&["save", "--output", &archive, &app.tag("dev")]);
            let layout = text(&app, word);
            std::fs::create_dir(&layout).unwrap();
            run::run(lab::program("tar").args(["-xf", &archive, "-C", &layout])).expect(0);
            let manifest = std::fs::read(app.path(word).join("manifest.json")).unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
            let config = manifest[0]["Config"].as_str().unwrap();
            format!("sha256:{}", config.rsplit('/').next().unwrap())
        });
        Self {
            app,
            way: None,
            ids,
        }
    }

    /// The load of one of them under the common tag; it tells its steps.
    pub fn load(&self, colour: Colour, source: Source, cluster: &str) -> Command {
        let source = match source {
            Source::Archive => text(&self.app, &format!("{}.tar", colour.name())),
            Source::Folder => text(&self.app, colour.name()),
            Source::Engine => {
                let tag = ["tag", &self.app.tag(colour.name()), &self.app.tag("dev")];
                lab::docker(&tag);
                self.app.tag("dev")
            }
        };
        let mut kindlift = lab::kindlift();
        kindlift.args(["load", &source, "--cluster", cluster, "--verbose"]);
        kindlift.envs(self.way.map(|way| ("KINDLIFT_SESSION", way)));
        kindlift
    }

    /// Starts a container of the tag on each node, which tells what it is; asks crictl too.
    #[track_caller]
    pub fn holds(&self, nodes: &[String]) -> Vec<Holds> {
        self.holds_in(nodes, "overlayfs")
    }

    /// The same, where the nodes have another snapshotter.
    #[track_caller]
    pub fn holds_in(&self, nodes: &[String], snapshotter: &str) -> Vec<Holds> {
        let name = self.app.on_node("dev");
        // What was cut off may still end on the node, and move the name: then it is looked at again.
        // crictl comes last, because the CRI hears of a new target a little later.
        let script = format!(
            "c='ctr -n k8s.io'\n\
             target() {{ $c images ls name=={name} | awk 'NR > 1 {{print $3}}'; }}\n\
             for i in $(seq 20); do\n\
             before=$(target)\n\
             row=$($c images check --snapshotter {snapshotter} name=={name} | tail -n +2)\n\
             case $row in\n\
             '') said=absent ;;\n\
             *true*) said=$($c run --rm --snapshotter {snapshotter} {name} kill-test; echo \"exit $?\") ;;\n\
             *) said=\"torn: $row\" ;;\n\
             esac\n\
             id=$(crictl inspecti -o json {name} 2>/dev/null | jq -r .status.id)\n\
             [ \"$before\" != \"$(target)\" ] || break\n\
             done\n\
             echo \"$said\"\n\
             echo \"$id\""
        );
        let answers = lab::on_each(nodes, |node| {
            lab::exec(node, &["sh", "-c", &script]).expect(0)
        });
        let told = nodes.iter().zip(&answers).map(|(node, run)| {
            let (said, id) = run
                .stdout
                .trim_end_matches('\n')
                .split_once('\n')
                .unwrap_or((run.stdout.trim_end(), ""));
            let known = Colour::BOTH
                .into_iter()
                .zip(&self.ids)
                .find(|(colour, known)| {
                    said == format!("exit {}", colour.status()) && *known == id
                });
            match known {
                Some((colour, _)) => Some(colour),
                None if said == "absent" && id.is_empty() => None,
                None => panic!("on {node} the tag is broken:\n{run}"),
            }
        });
        told.collect()
    }

    /// Removes images from nodes.
    pub fn forget(&self, nodes: &[String], colours: &[Colour]) {
        let ids: Vec<&str> = colours
            .iter()
            .map(|colour| self.ids[*colour as usize].as_str())
            .collect();
        // One that is not there is no reason to stop.
        let script = format!("for id in {}; do crictl rmi $id; done; true", ids.join(" "));
        lab::on_each(nodes, |node| {
            lab::exec(node, &["sh", "-c", &script]).expect(0)
        });
    }
}

fn text(app: &App, file: &str) -> String {
    app.path(file).to_str().unwrap().to_owned()
}
