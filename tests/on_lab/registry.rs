//! A registry on the loopback, which Docker takes for an insecure one without being told.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::lab;
use crate::run::{self, Running};

/// Debian's docker-registry, for as long as a test needs it.
pub struct Registry {
    pub host: String,
    folder: Arc<TempDir>,
    server: Running,
}

/// How a registry is guarded.
#[derive(Default)]
pub struct Guard<'a> {
    /// Listen there instead of on the loopback.
    pub address: Option<&'a str>,
    /// Let in only `USER` with `PASSWORD`.
    pub password: bool,
    /// Speak TLS, with a certificate by the lab's own authority ([`authority`]).
    pub tls: bool,
}

pub const USER: &str = "lab";
pub const PASSWORD: &str = "s3cret";
/// USER and PASSWORD as htpasswd writes them.
const HTPASSWD: &str = "lab:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

/// Returns the certificate of the authority that a registry's certificate is by.
pub fn authority() -> PathBuf {
    Path::new(lab::var("KINDLIFT_LAB_TLS_CERTS")).join("ca.pem")
}

impl Registry {
    pub fn start() -> Self {
        let folder = TempDir::with_prefix("kindlift-registry-").unwrap();
        Self::serve(Arc::new(folder), &Guard::default())
    }

    /// Serves the same images at another port, guarded.
    pub fn guarded(&self, guard: &Guard<'_>) -> Self {
        Self::serve(Arc::clone(&self.folder), guard)
    }

    fn serve(folder: Arc<TempDir>, guard: &Guard<'_>) -> Self {
        let path = |name: &str| folder.path().join(lab::unique(name));
        let (config, htpasswd) = (path("config.yml"), path("htpasswd"));
        let address = guard.address.unwrap_or("127.0.0.1");
        let mut text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http:\n  addr: '{address}:0'\n",
            folder.path().join("data").display()
        );
        if guard.tls {
            let certs = Path::new(lab::var("KINDLIFT_LAB_TLS_CERTS")).with_file_name("server");
            text += &format!(
                "  tls: {{certificate: {0}/cert.pem, key: {0}/key.pem}}\n",
                certs.display()
            );
        }
        if guard.password {
            std::fs::write(&htpasswd, HTPASSWD).unwrap();
            text += &format!(
                "auth: {{htpasswd: {{realm: lab, path: {}}}}}\n",
                htpasswd.display()
            );
        }
        std::fs::write(&config, text).unwrap();
        let mut server = run::start(program(folder.path()).arg("serve").arg(&config));
        let mut port = String::new();
        server.wait_until("the registry listens", |server| {
            let log = server.stderr();
            let rest = log.split(&format!("listening on {address}:")).nth(1);
            port = rest
                .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect())
                .unwrap_or_default();
            !port.is_empty()
        });
        Self {
            host: format!("{address}:{port}"),
            folder,
            server,
        }
    }

    /// Returns how often a blob was asked for, and with which answer: the lines of the log.
    pub fn gets(&self, digest: &str) -> Vec<String> {
        let log = self.server.stdout() + &self.server.stderr();
        let asked = format!("/blobs/{digest} HTTP");
        log.lines()
            .filter(|line| line.contains("\"GET ") && line.contains(&asked))
            .map(str::to_owned)
            .collect()
    }

    /// Returns where a blob lies.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self
            .folder
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Makes an image of one layer for a platform, without any engine.
    pub fn image(&self, name: &str, platform: &str, layer: &Path) -> String {
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
    pub fn layer(&self, name: &str) -> PathBuf {
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

/// Returns the digests of an image's layers.
pub fn layers(image: &str) -> Vec<String> {
    let manifest: serde_json::Value = serde_json::from_str(&crane(&["manifest", image])).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers
        .map(|layer| layer["digest"].as_str().unwrap().to_owned())
        .collect()
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
fn program(folder: &Path) -> Command {
    let wrapper = std::fs::read_to_string(lab::find_program("crane")).unwrap();
    let script = folder.join("docker-registry");
    std::fs::write(&script, wrapper.replace("crane", "docker-registry")).unwrap();
    let mut command = lab::program("sh");
    command.arg(script);
    command
}
