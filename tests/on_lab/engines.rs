//! The four engines of the lab, as a user would point kindlift at them.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::lab::{self, App};
use crate::run::{self, Running};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// dockerd with the containerd image store.
    Containerd,
    /// dockerd with the classic store.
    Overlay2,
    /// Podman as root.
    Podman,
    /// Podman as a user.
    Rootless,
}

/// Whether somebody looks into the engine's Docker API afterwards, as Skaffold and Tilt do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    Used,
    Unused,
}

impl Engine {
    fn is_podman(self) -> bool {
        matches!(self, Self::Podman | Self::Rootless)
    }

    /// Points a command at this engine; nodes under Docker stay where they are.
    pub fn point(self, command: &mut Command, api: Api) {
        command.env("KINDLIFT_NODES_DOCKER_HOST", lab::var("DOCKER_HOST"));
        match (self, api) {
            (Self::Containerd, _) => {}
            (Self::Overlay2, _) => {
                command.env("DOCKER_HOST", lab::var("KINDLIFT_LAB_DOCKER_OVERLAY2"));
            }
            (Self::Podman, Api::Used) => {
                command.env("DOCKER_HOST", lab::var("KINDLIFT_LAB_PODMAN_SOCKET"));
            }
            (Self::Rootless, Api::Used) => {
                command.env("DOCKER_HOST", rootless_socket());
            }
            (Self::Podman | Self::Rootless, Api::Unused) => {
                command.env("KINDLIFT_ENGINE", "podman");
            }
        }
        if self == Self::Rootless {
            command.env("PATH", rootless_path());
        }
    }

    /// The engine's own command, in the lab's environment.
    pub fn command(self) -> Command {
        let mut command = lab::program(match self {
            Self::Containerd | Self::Overlay2 => "docker",
            Self::Podman => "podman",
            Self::Rootless => "podman-rootless",
        });
        if self == Self::Overlay2 {
            command.env("DOCKER_HOST", lab::var("KINDLIFT_LAB_DOCKER_OVERLAY2"));
        }
        command
    }

    /// Builds an image as a user's own script would.
    #[track_caller]
    pub fn build(self, folder: &Path, name: &str) {
        let build = || run::run(self.command().args(["build", "--tag", name]).arg(folder));
        let first = build();
        // Docker's own builds trip over its collection of what other tests remove meanwhile.
        if first.code != 0 && first.stderr.contains("parent snapshot") {
            build().expect(0);
        } else {
            first.expect(0);
        }
    }

    /// Saves the app's image and has `kind load` put it where the arguments say.
    #[track_caller]
    pub fn give_to_kind(self, app: &App, to: &[&str]) {
        let folder = TempDir::new().unwrap();
        let archive = folder
            .path()
            .join("image.tar")
            .to_string_lossy()
            .into_owned();
        let save = ["save", "--output", &archive, &app.tag("dev")];
        run::run(self.command().args(save)).expect(0);
        let mut kind = lab::program("kind");
        kind.args(["load", "image-archive", &archive]).args(to);
        run::run(&mut kind).expect(0);
    }

    /// Returns the hex digits of the ID that the engine gives an image.
    #[track_caller]
    pub fn hex(self, name: &str) -> String {
        let name = if self.is_podman() {
            format!("docker.io/{name}")
        } else {
            name.to_owned()
        };
        let run = run::run(
            self.command()
                .args(["image", "inspect", "--format", "{{.Id}}", &name]),
        );
        let id = run.expect(0).stdout;
        id.trim().trim_start_matches("sha256:").to_owned()
    }

    /// Returns the names, with tags, that the engine has of images that match a reference with
    /// wildcards.
    #[track_caller]
    pub fn names(self, reference: &str) -> BTreeSet<String> {
        if self == Self::Containerd {
            return lab::image_names(reference);
        }
        let filter = format!("reference={reference}");
        let format = "{{.Repository}}:{{.Tag}}";
        let mut list = self.command();
        list.args(["image", "ls", "--filter", &filter, "--format", format]);
        let names = run::run(&mut list).expect(0).stdout;
        let tagged = names.lines().filter(|name| !name.contains("<none>"));
        tagged.map(str::to_owned).collect()
    }

    /// The names by which a run holds what it builds or pushes in the engine.
    #[track_caller]
    pub fn holds(self, pid: i32) -> BTreeSet<String> {
        let names = ["kindlift.invalid/build", lab::PUSHES].map(|holds| self.names(holds));
        let of = format!("_{pid}_");
        let names = names.into_iter().flatten();
        names.filter(|name| name.contains(&of)).collect()
    }

    /// Removes all names of an image.
    #[track_caller]
    pub fn forget(self, name: &str) {
        let names = self.names(name);
        if !names.is_empty() {
            run::run(self.command().args(["image", "rm", "--force"]).args(&names)).expect(0);
        }
    }
}

/// A PATH on which `podman` is the rootless one.
fn rootless_path() -> &'static str {
    static FOLDER: OnceLock<(TempDir, String)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = TempDir::with_prefix("kindlift-test-").unwrap();
        let link = folder.path().join("podman");
        std::os::unix::fs::symlink(lab::var("KINDLIFT_LAB_PODMAN_ROOTLESS"), link).unwrap();
        let path = format!("{}:{}", folder.path().display(), lab::var("PATH"));
        (folder, path)
    });
    path
}

/// The Docker API of rootless Podman, served as long as the tests run.
fn rootless_socket() -> &'static str {
    struct Service {
        url: String,
        _running: Running,
        _folder: TempDir,
    }
    static SERVICE: OnceLock<Service> = OnceLock::new();
    let service = SERVICE.get_or_init(|| {
        let folder = TempDir::with_prefix("kindlift-test-").unwrap();
        use std::os::unix::fs::PermissionsExt;
        // The rootless user makes the socket.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let socket = folder.path().join("podman.sock");
        let url = format!("unix://{}", socket.display());
        let mut command = Engine::Rootless.command();
        command.args(["system", "service", "--time=0", &url]);
        let mut running = run::start(&mut command);
        running.wait_until("rootless Podman's socket", |_| {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        Service {
            url,
            _running: running,
            _folder: folder,
        }
    });
    &service.url
}
