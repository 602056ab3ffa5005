//! What can die, and how it is made to.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::lab;
use crate::run::{self, Running};

/// What is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// kindlift itself.
    Kindlift,
    /// The exec that is the tunnel to one node; without one, what feeds an import there.
    Exec,
    /// A node's containerd, which its init starts again.
    Containerd,
    /// A node, paused for a moment.
    PauseBriefly,
    /// A node, paused until kindlift has given up.
    Pause,
    /// A node, killed and started again.
    Restart,
}

impl Strike {
    pub const ALL: [Self; 6] = [
        Self::Kindlift,
        Self::Exec,
        Self::Containerd,
        Self::PauseBriefly,
        Self::Pause,
        Self::Restart,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Kindlift => "kindlift",
            Self::Exec => "exec",
            Self::Containerd => "containerd",
            Self::PauseBriefly => "hiccup",
            Self::Pause => "pause",
            Self::Restart => "restart",
        }
    }

    /// Strikes. False, if there was nothing to strike at that moment.
    pub fn hit(self, kindlift: &Running, node: &Target) -> bool {
        match self {
            Self::Kindlift => {
                kindlift.signal(Signal::KILL);
                true
            }
            Self::Exec => kill(|process| {
                node.runs(process)
                    && (process.has(&["perl", "-e"]) || process.has(&["ctr", "images", "import"]))
            }),
            Self::Containerd => {
                kill(|process| node.runs(process) && process.words == ["containerd"])
            }
            Self::PauseBriefly | Self::Pause => {
                // runc gives up where processes begin faster than it freezes them.
                run::wait_until("the node is paused", run::DEADLINE, || {
                    run::run(lab::program("docker").args(["pause", &node.name])).code == 0
                });
                true
            }
            Self::Restart => {
                lab::docker(&["kill", &node.name]);
                true
            }
        }
    }

    /// Undoes what keeps a node from answering while kindlift still runs.
    pub fn undo_early(self, node: &Target, after: Duration) {
        match self {
            Self::PauseBriefly => {
                std::thread::sleep(after);
                lab::docker(&["unpause", &node.name]);
            }
            Self::Restart => {
                lab::docker(&["start", &node.name]);
            }
            _ => {}
        }
    }

    /// Undoes the rest, once kindlift has ended, and waits for the node.
    pub fn undo(self, node: &Target) {
        if self == Self::Pause {
            lab::docker(&["unpause", &node.name]);
        }
        if matches!(self, Self::Containerd | Self::Restart) {
            lab::exec(&node.name, &["lab-node-ready"]).expect(0);
        }
    }
}

/// A node that can be struck.
pub struct Target {
    pub name: String,
    /// The container's ID, by which its processes are known on the host.
    id: String,
}

impl Target {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            id: lab::docker(&["inspect", "--format", "{{.Id}}", name])
                .trim()
                .to_owned(),
        }
    }

    fn runs(&self, process: &Process) -> bool {
        let cgroup = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid));
        cgroup.is_ok_and(|text| text.contains(&self.id))
    }
}

/// A process of this machine, those in containers included.
struct Process {
    pid: i32,
    words: Vec<String>,
}

impl Process {
    fn read(folder: &Path) -> Option<Self> {
        let pid = folder.file_name()?.to_str()?.parse().ok()?;
        let line = std::fs::read(folder.join("cmdline")).ok()?;
        let words: Vec<String> = String::from_utf8_lossy(&line)
            .split_terminator('\0')
            .map(str::to_owned)
            .collect();
        (!words.is_empty()).then_some(Self { pid, words })
    }

    fn has(&self, words: &[&str]) -> bool {
        words
            .iter()
            .all(|word| self.words.iter().any(|mine| mine == word))
    }
}

/// Ends the processes that are meant; false, if there was none.
fn kill(meant: impl Fn(&Process) -> bool) -> bool {
    let mut hit = false;
    for entry in std::fs::read_dir("/proc").unwrap() {
        if let Some(process) = entry.ok().and_then(|entry| Process::read(&entry.path()))
            && meant(&process)
            && let Some(pid) = Pid::from_raw(process.pid)
        {
            hit |= kill_process(pid, Signal::KILL).is_ok();
        }
    }
    hit
}
