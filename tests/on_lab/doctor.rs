//! `doctor` against engines and nodes that are well, and against each fault that it knows.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::engines::{Api, Engine};
use crate::lab::{self, App, Cluster};
use crate::run::{self, Run};
use crate::trouble::Without;

/// A doctor that looks at one cluster, in a folder without a skaffold.yaml or Tiltfile.
fn doctor(cluster: &str) -> Command {
    let mut command = lab::kindlift();
    command
        .current_dir("/")
        .args(["doctor", "--output", "json", "--cluster", cluster]);
    command
}

/// Returns the check of a name.
#[track_caller]
fn check(run: &Run, name: &str) -> Value {
    let document = run.json();
    let checks = document["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found
        .unwrap_or_else(|| panic!("no check {name:?} in:\n{run}"))
        .clone()
}

/// Requires a verdict and a piece of the finding; returns the fix.
#[track_caller]
fn says(run: &Run, name: &str, verdict: &str, finding: &str) -> String {
    let check = check(run, name);
    assert_eq!(check["verdict"], verdict, "{check:#}");
    let found = check["finding"].as_str().unwrap();
    assert!(found.contains(finding), "no {finding:?} in {found:?}");
    check["fix"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_lab_that_is_well() {
    let run = run::run(&mut doctor("dev")).expect(0);
    let document = run.json();
    assert_eq!(document["ok"], true, "{run}");
    // How fast and how full this machine is, is not the lab's fault.
    let well = |check: &Value| match check["name"].as_str() {
        Some("exec" | "disk") => check["verdict"] != "fail",
        _ => check["verdict"] == "ok" || check["verdict"] == "skipped",
    };
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.iter().all(well), "{run}");

    // Against what engine and nodes say by themselves.
    let version = lab::docker(&["version", "--format", "{{.Server.Version}}"]);
    says(&run, "engine", "ok", &format!("Docker {}", version.trim()));
    says(&run, "image store", "ok", "containerd's");
    says(&run, "nodes", "ok", &lab::dev().join(", "));
    let asked = |args: &[&str]| lab::exec("dev-worker", args).expect(0).stdout;
    let containerd = asked(&["containerd", "--version"]);
    let crictl = asked(&["crictl", "--version"]);
    for (name, said) in [("containerd", &containerd), ("crictl", &crictl)] {
        let finding = check(&run, name)["nodes"]["dev-worker"].clone();
        assert!(
            said.contains(finding.as_str().unwrap()),
            "{finding} is not in {said}"
        );
    }
    says(&run, "snapshotter", "ok", "overlayfs");
    says(&run, "unpacked layers", "ok", "discarded");
    says(&run, "tunnel", "ok", "perl is there");
    let exec = &check(&run, "exec")["nodes"]["dev-worker2"];
    assert!(exec.as_str().unwrap().ends_with(" ms"), "{exec}");
    let machine = asked(&["uname", "-m"])
        .trim()
        .replace("x86_64", "amd64")
        .replace("aarch64", "arm64");
    says(&run, "platform", "ok", &format!("linux/{machine}"));
    says(
        &run,
        "kindlift would",
        "ok",
        "load into 3 nodes of dev (--cluster)",
    );

    // The same as a screen: each check is one line, then as many as there are fixes.
    let screen = run::run(
        lab::kindlift()
            .current_dir("/")
            .args(["doctor", "--cluster", "dev"]),
    )
    .expect(0);
    assert!(
        screen
            .stdout
            .contains("\nok tunnel           containerd answers"),
        "{screen}"
    );
    let ends = ["nothing is wrong\n", "1 warning\n", "2 warnings\n"];
    assert!(
        ends.iter().any(|end| screen.stdout.ends_with(end)),
        "{screen}"
    );
    let lines = screen.stdout.lines();
    let fixes = lines
        .clone()
        .filter(|line| line.trim_start().starts_with("-> "));
    assert_eq!(lines.count() - fixes.count(), checks.len() + 2, "{screen}");
}

#[test]
fn each_engine_is_told_by_its_store() {
    for (engine, api, name, store) in [
        (
            Engine::Overlay2,
            Api::Used,
            "Docker ",
            "Docker's own (overlay2)",
        ),
        (Engine::Podman, Api::Unused, "Podman ", "Podman's (overlay)"),
        (
            Engine::Podman,
            Api::Used,
            " at unix://",
            "Podman's (overlay)",
        ),
        (
            Engine::Rootless,
            Api::Unused,
            ", rootless",
            "Podman's (overlay)",
        ),
    ] {
        let mut command = doctor("dev");
        engine.point(&mut command, api);
        let run = run::run(&mut command).expect(0);
        says(&run, "engine", "ok", name);
        says(&run, "image store", "ok", store);
        says(&run, "nodes", "ok", "dev-worker2");
    }
}

#[test]
fn a_paused_node_hides_no_other() {
    let cluster = Cluster::new("doctor-paused", 1, &[]);
    let worker = cluster.worker();
    lab::pause(worker);
    let run = run::run(&mut doctor(&cluster.name)).expect(5);
    lab::docker(&["unpause", worker]);
    let fix = says(&run, "nodes", "fail", &format!("{worker} (paused)"));
    assert!(fix.contains(&format!("`docker unpause {worker}`")), "{fix}");
    let control_plane = &check(&run, "containerd")["nodes"][&cluster.nodes[0]];
    assert!(control_plane.is_string(), "{run}");
    says(&run, "engine", "ok", "Docker");
    says(&run, "kindlift would", "skipped", "no cluster");
    assert_eq!(run.json()["ok"], false);
}

#[test]
fn a_node_that_hangs_ends_within_the_deadline() {
    let cluster = Cluster::new("doctor-hangs", 1, &[]);
    let worker = cluster.worker();
    lab::exec(worker, &["pkill", "-STOP", "-x", "containerd"]).expect(0);
    let run = run::run(doctor(&cluster.name).args(["--stall-timeout", "6"]));
    lab::exec(worker, &["pkill", "-CONT", "-x", "containerd"]).expect(0);
    let run = run.expect(5);
    says(&run, "tunnel", "fail", "no answer within 6 s");
    let control_plane = &check(&run, "crictl")["nodes"][&cluster.nodes[0]];
    assert!(control_plane.is_string(), "{run}");
}

#[test]
fn nodes_without_perl_or_crictl_and_with_other_settings() {
    let cluster = Cluster::new(
        "doctor-bare",
        1,
        &["--env=HTTP_PROXY=http://u:secret@127.0.0.1:3128"],
    );
    let worker = cluster.worker();
    let perl = Without::new(worker, "/usr/bin/perl");
    let run = run::run(&mut doctor(&cluster.name)).expect(0);
    let slower = format!("{worker}: no perl that runs: ctr and crictl are used instead");
    let fix = says(&run, "tunnel", "warn", &slower);
    assert!(fix.contains("a node image with perl"), "{fix}");
    says(&run, "containerd", "ok", "2.");
    // A proxy on loopback is the node itself; its password is nobody's business.
    says(
        &run,
        "node proxy",
        "warn",
        "HTTP_PROXY=http://***@127.0.0.1:3128",
    );
    assert!(!run.stdout.contains("secret"), "{run}");
    drop(perl);

    let crictl = Without::new(worker, "/usr/local/bin/crictl");
    let run = run::run(&mut doctor(&cluster.name)).expect(5);
    let fix = says(&run, "crictl", "fail", &format!("{worker}: not found"));
    assert!(fix.contains("crictl in the node image"), "{fix}");
    drop(crictl);

    let config = "/etc/containerd/config.toml";
    let off = "s/discard_unpacked_layers = true/discard_unpacked_layers = false/";
    lab::exec(worker, &["sed", "-i", off, config]).expect(0);
    let run = run::run(&mut doctor(&cluster.name)).expect(0);
    says(
        &run,
        "unpacked layers",
        "ok",
        &format!("{worker}: kept as blobs too"),
    );
}

#[test]
fn a_disk_that_is_nearly_full() {
    let cluster = Cluster::new("doctor-full", 0, &["--tmpfs=/var/lib/containerd:size=64m"]);
    let run = run::run(&mut doctor(&cluster.name)).expect(7);
    let fix = says(&run, "disk", "fail", " MB free");
    assert!(fix.contains("`kindlift prune`"), "{fix}");
    assert!(
        fix.contains(&format!(
            "docker exec {} crictl rmi --prune",
            cluster.nodes[0]
        )),
        "{fix}"
    );
}

#[test]
fn a_kube_context_that_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = lab::kindlift();
    let kubeconfig = lab::kubeconfig(
        folder.path(),
        "kind-gone",
        "kind-gone",
        "https://127.0.0.1:1",
    );
    command
        .current_dir("/")
        .args(["doctor", "--output", "json"])
        .env("KUBECONFIG", kubeconfig);
    let run = run::run(&mut command).expect(5);
    says(
        &run,
        "kube context",
        "ok",
        "kind-gone (https://127.0.0.1:1)",
    );
    let fix = says(
        &run,
        "cluster",
        "fail",
        "there is no Kind cluster gone (kube context kind-gone)",
    );
    assert!(fix.contains("kind get clusters"), "{fix}");
    // Which cluster was meant is not known: all are looked at, also those that other tests have
    // stopped.
    let nodes = &check(&run, "nodes")["finding"];
    assert!(nodes.as_str().unwrap().contains("dev-worker2"), "{nodes}");
    assert!(
        check(&run, "containerd")["nodes"]["dev-worker"].is_string(),
        "{run}"
    );
    says(&run, "kindlift would", "skipped", "no cluster");

    // A context that is no Kind cluster's: by hand it is the only cluster, or one must be named.
    let server = format!("https://{}:6443", lab::address("dev-control-plane"));
    let kubeconfig = lab::kubeconfig(folder.path(), "renamed", "mine", &server);
    let run = run::run(command.env("KUBECONFIG", kubeconfig)).expect(0);
    says(&run, "cluster", "ok", "dev (kube context renamed)");
}

#[test]
fn a_socket_that_belongs_to_others() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("kindlift");
    std::fs::copy(env!("CARGO_BIN_EXE_kindlift"), &program).unwrap();
    let socket = folder.path().join("docker.sock");
    // Nobody gets as far as to notice that no engine listens.
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o660)).unwrap();
    let mut command = run::command("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&program)
        .args(["doctor", "--output", "json"])
        .current_dir("/")
        .env("PATH", "/nowhere")
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .env(
            "KINDLIFT_NODES_DOCKER_HOST",
            format!("unix://{}", socket.display()),
        );
    command.env("PATH", std::env::var("PATH").unwrap());
    let run = run::run(&mut command).expect(4);
    let fix = says(&run, "engine", "fail", "permission denied");
    assert!(fix.contains("add yourself to the group"), "{fix}");
    let fix = says(
        &run,
        "socket",
        "fail",
        "root:root 0660; user 65534 may not use it",
    );
    assert!(fix.contains("rootless"), "{fix}");
    says(&run, "clusters", "fail", "permission denied");
}

/// kubectl for a cluster of the lab.
fn kubectl(kubeconfig: &Path, args: &[&str]) -> Run {
    let mut command = lab::program("kubectl");
    run::run(command.arg("--kubeconfig").arg(kubeconfig).args(args))
}

struct Pods {
    cluster: Cluster,
    kubeconfig: PathBuf,
}

impl Pods {
    fn apply(&self, text: &str) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pods.yaml");
        std::fs::write(&file, text).unwrap();
        kubectl(&self.kubeconfig, &["apply", "-f", file.to_str().unwrap()]).expect(0);
    }

    /// A pod of one container that does not end.
    fn run(&self, name: &str, image: &str, policy: &str) {
        self.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{nodeName: {}, \
             containers: [{{name: app, image: '{image}', command: [/bin/busybox, sleep, '9999'], \
             imagePullPolicy: {policy}}}]}}}}",
            self.cluster.worker()
        ));
    }

    /// Waits until the kubelet gives a reason, or the pod runs.
    fn wait(&self, name: &str, what: &str) {
        let path = "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.reason}";
        run::wait_until(&format!("{name}: {what}"), Duration::from_secs(100), || {
            let run = kubectl(&self.kubeconfig, &["get", "pod", name, "-o", path]);
            run.stdout.contains(what)
        });
    }

    fn explain(&self, args: &[&str]) -> Run {
        let mut command = lab::kindlift();
        run::run(
            command
                .current_dir("/")
                .env("KUBECONFIG", &self.kubeconfig)
                .args(["doctor", "--output", "json", "--pod"])
                .args(args),
        )
    }
}

#[test]
fn pods_that_get_no_image() {
    let (cluster, kubeconfig) = Cluster::with_kubernetes("doctor-pods", 1);
    let pods = Pods {
        cluster,
        kubeconfig,
    };
    let app = App::new("doctor");
    let image = app.tag("dev");
    lab::docker(&["build", "--tag", &image, app.folder().to_str().unwrap()]);

    // In the engine, but not on the node.
    pods.run("never", &image, "Never");
    pods.wait("never", "ErrImageNeverPull");
    let run = pods.explain(&["never"]).expect(8);
    let fix = says(
        &run,
        "pod never",
        "fail",
        &format!("ErrImageNeverPull: the node lacks {image}, and imagePullPolicy is Never"),
    );
    assert_eq!(fix, format!("`kindlift load {image}`"));
    let fault = check(&run, "pod never");
    assert_eq!(fault["nodes"][pods.cluster.worker()], "absent", "{run}");

    // The fix is one; another node's image helps nobody.
    let control_plane = &pods.cluster.nodes[0];
    let load = |nodes: &str| {
        let mut command = lab::kindlift();
        run::run(command.args([
            "load",
            &image,
            "--cluster",
            &pods.cluster.name,
            "--nodes",
            nodes,
        ]))
        .expect(0);
    };
    load(control_plane);
    let run = pods.explain(&["never"]).expect(8);
    says(
        &run,
        "pod never",
        "fail",
        &format!("; {control_plane} has it"),
    );
    load(pods.cluster.worker());
    pods.wait("never", "Running");
    let run = pods.explain(&["never"]).expect(0);
    says(&run, "pod never", "ok", "Running, 1 of 1 containers ready");

    // The node has it, and the kubelet asks a registry all the same.
    let here = format!("127.0.0.1:1/{}", app.tag("always"));
    lab::docker(&["tag", &image, &here]);
    run::run(lab::kindlift().args(["load", &here, "--cluster", &pods.cluster.name])).expect(0);
    pods.run("always", &here, "Always");
    pods.wait("always", "ImagePull");
    let run = pods.explain(&["always"]).expect(8);
    let fix = says(
        &run,
        "pod always",
        "fail",
        "but imagePullPolicy is Always: the kubelet asks the registry",
    );
    assert!(fix.contains("IfNotPresent"), "{fix}");
    // The kubelet's own words, with the cause at their end.
    says(&run, "pod always", "fail", "connection refused");
    lab::docker(&["image", "rm", &here]);

    // Another tag is there; nobody has this one. A Deployment's name stands for its pods.
    let other = format!("127.0.0.1:1/{}", app.tag("other"));
    pods.run("web-5c9d-x1", &other, "IfNotPresent");
    pods.wait("web-5c9d-x1", "ImagePull");
    let run = pods.explain(&["web"]).expect(8);
    let fix = says(
        &run,
        "pod web-5c9d-x1",
        "fail",
        &format!("and the pull fails; it has {here}"),
    );
    assert_eq!(
        fix,
        format!("the engine has no such image: `kindlift build -t {other} .`")
    );

    pods.run("name", "Not/A:name", "IfNotPresent");
    pods.wait("name", "InvalidImageName");
    let run = pods.explain(&["name"]).expect(8);
    says(
        &run,
        "pod name",
        "fail",
        "InvalidImageName: \"Not/A:name\" is not an image name",
    );

    let run = pods.explain(&["gone"]).expect(5);
    let fix = says(
        &run,
        "pod gone",
        "fail",
        "there is no pod gone in namespace default",
    );
    assert!(fix.contains("always, name, never, web-5c9d-x1"), "{fix}");
    let run = pods.explain(&["never", "-n", "kube-system"]).expect(5);
    says(&run, "pod never", "fail", "in namespace kube-system");

    a_cluster_with_kubernetes(&pods);
    for name in [&here, &other] {
        let _ = run::run(lab::program("docker").args(["image", "rm", "--force", name]));
    }
}

/// The checks that need Kubernetes, on a cluster that is made already.
fn a_cluster_with_kubernetes(pods: &Pods) {
    let look = || {
        let mut command = lab::kindlift();
        run::run(
            command
                .current_dir("/")
                .env("KUBECONFIG", &pods.kubeconfig)
                .args(["doctor", "--output", "json"]),
        )
        .expect(0)
    };
    let run = look();
    says(&run, "kubernetes", "ok", "v1.");
    says(&run, "local registry", "ok", "none");
    let name = &pods.cluster.name;
    says(
        &run,
        "cluster",
        "ok",
        &format!("{name} (kube context kind-{name})"),
    );
    pods.apply(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: local-registry-hosting, namespace: \
         kube-public}, data: {localRegistryHosting.v1: 'host: \"localhost:5001\"'}}",
    );
    let run = look();
    says(
        &run,
        "local registry",
        "ok",
        "localhost:5001 (ConfigMap kube-public/local-registry-hosting)",
    );
}
