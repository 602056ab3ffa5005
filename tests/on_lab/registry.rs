//! A registry on the loopback, which Docker takes for an insecure one without being told.

use std::process::Command;

use tempfile::TempDir;

use crate::lab;
use crate::run::{self, Running};

/// Debian's docker-registry, for as long as a test needs it.
pub struct Registry {
    pub host: String,
    folder: TempDir,
    _server: Running,
}

impl Registry {
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("kindlift-registry-").unwrap();
        let config = folder.path().join("config.yml");
        let root = folder.path().join("data");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut server = run::start(program(folder.path()).arg("serve").arg(&config));
        let mut port = String::new();
        server.wait_until("the registry listens", |server| {
            let log = server.stderr();
            let rest = log.split("listening on 127.0.0.1:").nth(1);
            port = rest
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect())
                .unwrap_or_default();
            !port.is_empty()
        });
        Self {
            host: format!("127.0.0.1:{port}"),
            folder,
            _server: server,
        }
    }

    /// Makes an image of one layer for a platform, without any engine.
    pub fn image(&self, name: &str, platform: &str, layer: &std::path::Path) -> String {
        let name = format!("{}/{name}", self.host);
        let layer = layer.to_str().unwrap();
        crane(&["append", "--new_layer", layer, "--new_tag", &name]);
        crane(&[
            "mutate",
            &name,
            "--tag",
            &name,
            "--set-platform",
            platform,
            "--entrypoint",
            "/bin/busybox,echo,it runs",
        ]);
        name
    }

    /// Makes an index of images.
    pub fn index(&self, name: &str, images: &[&str]) -> String {
        let name = format!("{}/{name}", self.host);
        let mut args = vec!["index", "append", "--tag", name.as_str()];
        for image in images {
            args.extend(["--manifest", image]);
        }
        crane(&args);
        name
    }

    /// Makes a layer of a busybox and a file that no other image has.
    pub fn layer(&self, name: &str) -> std::path::PathBuf {
        let root = self.folder.path().join(format!("{name}.root"));
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::copy(lab::var("KINDLIFT_LAB_BUSYBOX"), root.join("bin/busybox")).unwrap();
        std::fs::write(root.join("which"), lab::unique(name)).unwrap();
        let layer = self.folder.path().join(format!("{name}.tar"));
        let mut tar = tar::Builder::new(std::fs::File::create(&layer).unwrap());
        tar.append_dir_all(".", &root).unwrap();
        tar.finish().unwrap();
        layer
    }
}

/// Runs crane, which must succeed; returns its stdout.
#[track_caller]
pub fn crane(args: &[&str]) -> String {
    run::run(lab::program("crane").args(args)).expect(0).stdout
}

/// Returns the platforms of an index.
pub fn platforms(image: &str) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_str(&crane(&["manifest", image])).unwrap();
    let manifests = manifest["manifests"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    manifests
        .iter()
        .map(|manifest| {
            let platform = &manifest["platform"];
            format!(
                "{}/{}",
                platform["os"].as_str().unwrap(),
                platform["architecture"].as_str().unwrap()
            )
        })
        .collect()
}

/// The lab has the program in its tree, but no wrapper for it; it is run as crane is.
fn program(folder: &std::path::Path) -> Command {
    let wrapper = std::fs::read_to_string(lab::find_program("crane")).unwrap();
    let script = folder.join("docker-registry");
    std::fs::write(&script, wrapper.replace("crane", "docker-registry")).unwrap();
    let mut command = lab::program("sh");
    command.arg(script);
    command
}
