//! Memory does not grow with the image.

use std::io::{Seek, Write};
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::lab::{self, App, Cluster};
use crate::registry::Registry;
use crate::run;

/// The most memory that kindlift may have at any time, in kilobytes.
const LIMIT: u64 = 64 * 1024;
/// Longer than such an image takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(400);
/// Bytes of the one layer.
const SIZE: u64 = 300_000_000;

/// Makes an archive by hand whose one layer is large and does not compress.
fn large(app: &App, name: &str) -> String {
    let layer = app.path("layer.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&layer).unwrap());
    app.random("large.bin", SIZE);
    tar.append_path_with_name(app.path("large.bin"), "large.bin")
        .unwrap();
    tar.finish().unwrap();
    drop(tar);
    std::fs::remove_file(app.path("large.bin")).unwrap();
    let mut hasher = Sha256::new();
    let mut file = std::fs::File::open(&layer).unwrap();
    let mut chunk = vec![0; 1 << 20];
    while let Ok(n @ 1..) = std::io::Read::read(&mut file, &mut chunk) {
        hasher.update(&chunk[..n]);
    }
    let hex: String = hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hex}")]},
    });
    let list = serde_json::json!([
        {"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}
    ]);
    let path = app.path("large.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
    file.rewind().unwrap();
    tar.append_file("layer.tar", &mut file).unwrap();
    for (name, document) in [("config.json", config), ("manifest.json", list)] {
        let bytes = document.to_string().into_bytes();
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    tar.into_inner().unwrap().flush().unwrap();
    std::fs::remove_file(layer).unwrap();
    path.to_string_lossy().into_owned()
}

/// Runs it to its end; requires that it never had more memory than it may.
#[track_caller]
fn frugal(command: &mut Command) {
    let mut running = run::start(command);
    let mut peak = 0;
    run::wait_until("its end", DEADLINE, || {
        peak = run::high_water(running.pid()).unwrap_or(peak);
        running.has_ended()
    });
    let run = running.finish();
    run.expect(0);
    assert!(peak > 0);
    assert!(peak < LIMIT, "{:?} had {peak} kB", command.get_args());
    let args: Vec<_> = command.get_args().collect();
    println!("{peak} kB: {args:?}");
}

#[test]
fn large_images_need_no_more_memory() {
    let app = App::new("large");
    let name = app.tag("dev");
    let archive = large(&app, &name);
    let registry = Registry::start();
    let pushed = format!("docker://{}/{}:v1", registry.host, lab::unique("large"));
    let out = app.path("out.tar");
    let folder = app.path("layout");
    let export = |source: &str, format: &str| {
        let mut kindlift = lab::kindlift();
        let out = if format == "oci" { &folder } else { &out };
        kindlift
            .args(["export", source, "--format", format, "-o"])
            .arg(out);
        kindlift
    };
    frugal(&mut export(&archive, "oci-archive"));
    frugal(&mut export(&archive, "oci"));
    // As it is: compressing it would take longer than all the rest.
    let push = [
        "--insecure-policy",
        "copy",
        "--preserve-digests",
        "--dest-tls-verify=false",
    ];
    let layout = format!("oci:{}", folder.display());
    run::run(lab::program("skopeo").args(push).args([&layout, &pushed])).expect(0);
    frugal(&mut export(&pushed, "docker-archive"));
    let mut piped = export("-", "oci-archive");
    frugal(piped.stdin(std::fs::File::open(&archive).unwrap()));

    let mut cluster = Cluster::new("large", 0, &[]);
    let load = |cluster: &Cluster, source: &str| {
        let mut kindlift = lab::kindlift();
        kindlift.args(["load", source, "--as", &name, "--cluster", &cluster.name]);
        kindlift
    };
    frugal(&mut load(&cluster, &archive));
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    cluster.renew();
    frugal(&mut load(&cluster, &pushed));
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
    cluster.renew();
    let mut piped = load(&cluster, "-");
    frugal(piped.stdin(std::fs::File::open(&archive).unwrap()));
    lab::proven(&cluster.nodes, &[app.on_node("dev")]);
}
