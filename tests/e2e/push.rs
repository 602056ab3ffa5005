//! `PUSH_IMAGE=true`: the registry gets the image, the nodes pull it, and all agree on the digest.

use std::net::{TcpListener, TcpStream};

use crate::kube::Kube;
use crate::lab;
use crate::registry::{self, Registry};
use crate::work::Work;

/// Lets the nodes reach a registry that listens on the host's loopback only, as kind's own recipe
/// for a local registry does: a file on each node, and here somebody who passes the bytes on.
pub fn open_to_nodes(kube: &Kube, registry: &Registry) {
    let format = "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}";
    let gateway = lab::docker(&["inspect", "--format", format, &kube.nodes()[0]]);
    let listener = TcpListener::bind((gateway.trim(), 0)).unwrap();
    let mirror = listener.local_addr().unwrap();
    let host = registry.host.clone();
    std::thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(&host) else {
                continue;
            };
            let ways = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
            for (from, to) in ways {
                let (mut from, mut to) = (from.unwrap(), to.unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    let folder = format!("/etc/containerd/certs.d/{}", registry.host);
    let script =
        format!("mkdir -p {folder} && echo '[host.\"http://{mirror}\"]' >{folder}/hosts.toml");
    for node in kube.nodes() {
        kube.exec(&node, &["sh", "-c", &script]).expect(0);
    }
}

#[test]
fn a_profile_that_pushes_deploys_what_the_registry_has() {
    let kube = Kube::shared();
    let space = kube.namespace("push");
    let registry = Registry::start();
    open_to_nodes(&kube, &registry);
    let work = Work::example("skaffold");
    let page = lab::unique("push");
    work.write("skaffold/index.html", &page);
    let repo = format!("--default-repo={}/team", registry.host);
    let run = work.run_skaffold("skaffold", &space, &["run", "--profile=push", &repo]);
    let said = run.to_string();
    assert!(said.contains("; nothing was loaded"), "{run}");
    let pods = space.serves("kindlift-demo", 2, &page);
    let (name, digest) = pods[0].image.split_once('@').expect(&pods[0].image);
    assert_eq!(registry::crane(&["digest", name]).trim(), digest, "{run}");
    lab::docker(&["image", "rm", "--force", name]);
}
