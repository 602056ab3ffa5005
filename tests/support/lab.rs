//! The lab as the tests see it: real engines, real nodes, and questions to both that do not go
//! through kindlift.
//!
//! Where the lab is not up, every test fails and says so; none is skipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::run::{self, Run};

#[path = "docker_api.rs"]
mod docker_api;
#[path = "lab_vars.rs"]
mod lab_vars;

struct Lab {
    /// What `lab env` sets, and no more: PATH, `DOCKER_HOST`, …
    vars: BTreeMap<String, String>,
    /// A home without Docker contexts, kubeconfig or caches.
    home: TempDir,
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Result<Lab, String>> = OnceLock::new();
    match LAB.get_or_init(find_lab) {
        Ok(lab) => lab,
        Err(why) => panic!("the lab is not up: {why}\nbring it up with `make lab-up`"),
    }
}

fn find_lab() -> Result<Lab, String> {
    let vars = lab_vars::of_the_lab()?;
    let home = TempDir::new().map_err(|e| e.to_string())?;
    let lab = Lab { vars, home };
    let version =
        run::run(in_lab(&lab, "docker").args(["version", "--format", "{{.Server.Version}}"]));
    if version.code != 0 {
        return Err(version.stderr);
    }
    let nodes = run::run(in_lab(&lab, "docker").args([
        "ps",
        "--quiet",
        "--filter",
        "label=io.x-k8s.kind.cluster=dev",
    ]));
    if nodes.stdout.lines().count() != 3 {
        return Err(format!("cluster dev has not three running nodes\n{nodes}"));
    }
    Ok(lab)
}

fn in_lab(lab: &Lab, program: &str) -> Command {
    let mut command = run::command(find(lab, program));
    command
        .envs(&lab.vars)
        .env("HOME", lab.home.path())
        .env("XDG_RUNTIME_DIR", lab.home.path());
    command
}

/// The path of the lab counts, not ours.
fn find(lab: &Lab, program: &str) -> PathBuf {
    std::env::split_paths(&lab.vars["PATH"])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| program.into())
}

/// Returns where a program of the lab lies.
pub fn find_program(name: &str) -> PathBuf {
    find(lab(), name)
}

/// A program in the lab's environment.
pub fn program(name: &str) -> Command {
    in_lab(lab(), name)
}

/// Returns a variable that the lab sets.
pub fn var(name: &str) -> &'static str {
    &lab().vars[name]
}

/// How an image can leave its engine; what must hold holds for both.
pub const WAYS: [&str; 2] = ["push", "save"];

/// Tells whether the tests take the way to the nodes that does without a tunnel.
pub fn is_plain() -> bool {
    std::env::var_os("KINDLIFT_TEST_SESSION").is_some_and(|way| way == "plain")
}

/// The kindlift under test, in the lab's environment and nothing else; by `KINDLIFT_TEST_SESSION` in
/// ours it is told which way to take to the nodes, so that any test shows it for either.
pub fn kindlift() -> Command {
    let mut command = in_lab(lab(), env!("CARGO_BIN_EXE_kindlift"));
    if let Some(way) = std::env::var_os("KINDLIFT_TEST_SESSION") {
        command.env("KINDLIFT_SESSION", way);
    }
    command
}

/// Runs a docker command that must succeed; returns its stdout.
#[track_caller]
pub fn docker(args: &[&str]) -> String {
    run::run(program("docker").args(args)).expect(0).stdout
}

/// The platform of the lab's Docker and its nodes, as `linux/amd64`.
pub fn platform() -> &'static str {
    static PLATFORM: OnceLock<String> = OnceLock::new();
    PLATFORM.get_or_init(|| {
        let server = docker(&["version", "--format", "{{.Server.Os}}/{{.Server.Arch}}"]);
        server.trim().to_owned()
    })
}

/// The socket of the lab's Docker.
fn socket() -> &'static str {
    var("DOCKER_HOST").strip_prefix("unix://").unwrap()
}

/// A reference that matches the names by which engines push to kindlift.
pub const PUSHES: &str = "127.0.0.1:*/kindlift/load";

/// Returns the names that Docker has of images: all, or those that match a reference with wildcards.
#[track_caller]
pub fn image_names<'a>(reference: impl Into<Option<&'a str>>) -> BTreeSet<String> {
    docker_api::image_names(socket(), reference.into())
}

/// Removes images from Docker by their names.
pub fn forget(names: &BTreeSet<String>) {
    docker_api::forget(socket(), names);
}

/// Pauses a node. runc gives up where processes begin all the time while it freezes them ("unable to
/// freeze"): then it is told again.
#[track_caller]
pub fn pause(node: &str) {
    let end = std::time::Instant::now() + run::DEADLINE;
    loop {
        let run = run::run(program("docker").args(["pause", node]));
        if run.code == 0 {
            return;
        }
        let again = run.stderr.contains("unable to freeze") && std::time::Instant::now() < end;
        assert!(again, "{run}");
    }
}

/// A name that no other test and no other run uses.
pub fn unique(theme: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{theme}-{}-{n}", std::process::id())
}

/// A folder to build from: a busybox, random data that makes its image unlike any other, and a
/// Dockerfile FROM scratch. Its images go when it does.
pub struct App {
    folder: TempDir,
    /// The name without a tag.
    pub name: String,
}

impl App {
    pub fn new(theme: &str) -> Self {
        let app = Self {
            folder: TempDir::with_prefix("kindlift-test-").unwrap(),
            name: format!("kindlift-test/{}", unique(theme)),
        };
        let busybox = std::fs::read(var("KINDLIFT_LAB_BUSYBOX")).unwrap();
        app.write("busybox", &busybox);
        make_executable(&app.path("busybox"));
        app.random("base.bin", 200_000);
        app.random("app.bin", 1_000);
        app.dockerfile(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\nCOPY base.bin /\n\
             COPY app.bin /\nENTRYPOINT [\"/bin/busybox\"]\n",
        );
        app
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.folder().join(file)
    }

    pub fn write(&self, file: &str, bytes: &[u8]) {
        std::fs::write(self.path(file), bytes).unwrap();
    }

    pub fn dockerfile(&self, text: &str) {
        self.write("Dockerfile", text.as_bytes());
    }

    /// Writes bytes that nothing compresses and that no other file has.
    pub fn random(&self, file: &str, size: u64) {
        use std::io::Read;
        let random = std::fs::File::open("/dev/urandom").unwrap();
        let mut out = std::fs::File::create(self.path(file)).unwrap();
        std::io::copy(&mut random.take(size), &mut out).unwrap();
    }

    /// Returns the name with a tag.
    pub fn tag(&self, tag: &str) -> String {
        format!("{}:{tag}", self.name)
    }

    /// Returns what a node calls it.
    pub fn on_node(&self, tag: &str) -> String {
        format!("docker.io/{}:{tag}", self.name)
    }

    /// `kindlift build -t NAME:TAG --cluster CLUSTER` in the app's folder.
    pub fn build(&self, tag: &str, cluster: &str) -> Command {
        let mut command = kindlift();
        command.current_dir(self.folder()).args([
            "build",
            "--tag",
            &self.tag(tag),
            "--cluster",
            cluster,
        ]);
        command
    }

    /// The same, with the way in which the image leaves the engine.
    pub fn build_by(&self, way: &str, tag: &str, cluster: &str) -> Command {
        let mut command = self.build(tag, cluster);
        command.env("KINDLIFT_EXPORT", way);
        command
    }

    /// `kindlift build` in the app's folder with the variables that Skaffold sets.
    pub fn skaffold(&self, tag: &str) -> Command {
        let mut command = kindlift();
        command
            .current_dir(self.folder())
            .arg("build")
            .env("IMAGE", self.tag(tag))
            .env("PUSH_IMAGE", "false")
            .env("BUILD_CONTEXT", self.folder())
            .env("PLATFORMS", "")
            .env("SKIP_TEST", "false")
            .env("IMAGE_REPO", &self.name)
            .env("IMAGE_TAG", tag);
        command
    }

    /// Returns the names that a node has of it.
    pub fn names_on(&self, node: &str) -> BTreeSet<String> {
        let prefix = format!("docker.io/{}:", self.name);
        Node::of(node)
            .images
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }

    /// Requires that no node of a cluster has any name of it.
    #[track_caller]
    pub fn is_nowhere(&self, cluster: &[String]) {
        let answers = on_each(cluster, |node| {
            (self.names_on(node), crictl(node, &self.on_node("dev")))
        });
        for (node, (names, shown)) in cluster.iter().zip(answers) {
            assert!(names.is_empty(), "node {node} has {names:?}");
            assert_eq!(shown, None, "node {node}");
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // Left where they are if the test failed, to be looked at.
        if std::thread::panicking() {
            return;
        }
        forget(&image_names(self.name.as_str()));
        self.forget_on(&dev());
    }
}

impl App {
    /// Removes all its images from nodes.
    pub fn forget_on(&self, nodes: &[String]) {
        let script = format!(
            "crictl images -o json | jq -r '.images[] | select(any(.repoTags[]; startswith(\"docker.io/{}:\"))) | .id' | xargs -r crictl rmi",
            self.name
        );
        on_each(nodes, |node| exec(node, &["sh", "-c", &script]));
    }
}

fn make_executable(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The nodes of the lab's own cluster `dev`, which other tests use too: leave them running.
pub fn dev() -> Vec<String> {
    ["dev-control-plane", "dev-worker", "dev-worker2"]
        .map(str::to_owned)
        .to_vec()
}

/// A cluster of a test's own, which goes with it.
pub struct Cluster {
    pub name: String,
    pub nodes: Vec<String>,
}

impl Cluster {
    /// Makes a control plane and so many workers, with flags for `docker run`.
    pub fn new(theme: &str, workers: usize, run_args: &[&str]) -> Self {
        let run_args = run_args.iter().flat_map(|arg| ["--run-arg", *arg]);
        Self::make(theme, workers, &run_args.collect::<Vec<_>>())
    }

    /// Makes nodes of another Debian suite: an older containerd.
    pub fn of_suite(suite: &str, workers: usize) -> Self {
        Self::make(suite, workers, &["--suite", suite])
    }

    /// Makes a control plane and so many workers with a real Kubernetes; returns its kubeconfig too.
    pub fn with_kubernetes(theme: &str, workers: usize) -> (Self, PathBuf) {
        let cluster = Self::make(theme, workers, &["--kubernetes"]);
        // The lab's own lies next to it.
        let kubeconfig = Path::new(var("KINDLIFT_LAB_KUBECONFIG")).with_file_name(&cluster.name);
        (cluster, kubeconfig)
    }

    fn make(theme: &str, workers: usize, args: &[&str]) -> Self {
        let name = unique(theme);
        let count = workers.to_string();
        let mut up = lab_tool();
        up.args(["cluster", "up", &name, "--workers", &count])
            .args(args);
        // From here on what was made goes, even where it is half of it.
        let mut cluster = Self {
            name,
            nodes: Vec::new(),
        };
        run::run(&mut up).expect(0);
        let control_plane = format!("{}-control-plane", cluster.name);
        let workers = (1..=workers).map(|n| match n {
            1 => format!("{}-worker", cluster.name),
            n => format!("{}-worker{n}", cluster.name),
        });
        cluster.nodes = std::iter::once(control_plane).chain(workers).collect();
        // What making the node has left unreferenced goes now, and not between two looks.
        let prune = ["ctr", "-n", "k8s.io", "content", "prune", "references"];
        on_each(&cluster.nodes, |node| exec(node, &prune).expect(0));
        cluster
    }

    /// Deletes the nodes and makes them anew.
    pub fn renew(&mut self) {
        let workers = (self.nodes.len() - 1).to_string();
        run::run(lab_tool().args(["cluster", "down", &self.name])).expect(0);
        run::run(lab_tool().args(["cluster", "up", &self.name, "--workers", &workers])).expect(0);
    }

    /// Returns what is on all nodes.
    pub fn state(&self) -> Vec<Node> {
        on_each(&self.nodes, Node::of)
    }

    pub fn worker(&self) -> &str {
        &self.nodes[1]
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = lab_tool().args(["cluster", "down", &self.name]).output();
        if let Err(e) = down {
            eprintln!("cluster {} is left: {e}", self.name);
        }
    }
}

/// The lab's command, which needs what the user's shell has (a cache folder, perhaps sudo).
pub fn lab_tool() -> Command {
    lab();
    let mut command = Command::new(lab_vars::command());
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    command
}

/// The nodes of the lab's cluster under Podman.
pub fn pod() -> Vec<String> {
    ["pod-control-plane", "pod-worker"]
        .map(str::to_owned)
        .to_vec()
}

/// Runs a command in a node, through whoever runs it.
#[track_caller]
pub fn exec(node: &str, args: &[&str]) -> Run {
    if node.starts_with("pod-") {
        return run::run(program("podman").args(["exec", node]).args(args));
    }
    docker_api::exec(socket(), node, args)
}

/// Asks all nodes at once.
pub fn on_each<T: Send>(nodes: &[String], ask: impl Fn(&str) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = nodes.iter().map(|node| scope.spawn(|| ask(node))).collect();
        asked
            .into_iter()
            .map(|answer| {
                answer
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

/// What crictl on a node says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub id: String,
    pub tags: BTreeSet<String>,
    pub architecture: String,
}

impl Shown {
    fn read(json: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            id: text(&json["status"]["id"]),
            tags: json["status"]["repoTags"]
                .as_array()
                .into_iter()
                .flatten()
                .map(text)
                .collect(),
            architecture: text(&json["info"]["imageSpec"]["architecture"]),
        }
    }
}

/// Asks crictl on a node, from outside kindlift. None, if it knows no such image.
#[track_caller]
pub fn crictl(node: &str, name: &str) -> Option<Shown> {
    let run = exec(
        node,
        &["crictl", "--timeout", "60s", "inspecti", "-o", "json", name],
    );
    if run.code != 0 {
        assert!(
            run.stderr.contains("no such image"),
            "crictl on {node}:\n{run}"
        );
        return None;
    }
    Some(Shown::read(&run.json()))
}

/// Requires that crictl on every node shows one and the same image under every name, and that it
/// is unpacked there; returns its ID.
#[track_caller]
pub fn proven(nodes: &[String], names: &[String]) -> String {
    proven_as(nodes, names).swap_remove(0).id
}

/// The same; returns what crictl shows, node by node, under each name.
#[track_caller]
pub fn proven_as(nodes: &[String], names: &[String]) -> Vec<Shown> {
    // One exec a node, because each takes longer than what is asked.
    const SCRIPT: &str = "for name; do \
        crictl --timeout 60s inspecti -o json \"$name\" | jq -c . || exit; echo; \
        done; ctr -n k8s.io images check \"name==$1\"";
    let answers = on_each(nodes, |node| {
        let mut args = vec!["sh", "-c", SCRIPT, "sh"];
        args.extend(names.iter().map(String::as_str));
        exec(node, &args)
    });
    let mut all = Vec::new();
    for (node, run) in nodes.iter().zip(answers) {
        let mut lines = run.stdout.lines();
        for name in names {
            let json: Vec<&str> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
            let json = serde_json::from_str(&json.concat())
                .unwrap_or_else(|_| panic!("{node} has no {name}\n{run}"));
            let shown = Shown::read(&json);
            assert!(
                shown.tags.contains(name),
                "{node} lists {name} not among {:?}",
                shown.tags
            );
            all.push(shown);
        }
        let row = lines.find(|row| row.starts_with(&names[0]));
        assert!(
            row.is_some_and(|row| row.trim_end().ends_with("true")),
            "{} is not unpacked on {node}:\n{run}",
            names[0]
        );
    }
    let ids: BTreeSet<&str> = all.iter().map(|shown| shown.id.as_str()).collect();
    assert_eq!(ids.len(), 1, "the nodes show different images: {ids:?}");
    all
}

/// All that containerd on a node holds for the kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub leases: BTreeSet<String>,
    pub images: BTreeSet<String>,
    pub content: BTreeSet<String>,
    pub ingests: BTreeSet<String>,
    pub snapshots: BTreeSet<String>,
}

impl Node {
    /// Asks ctr on the node.
    #[track_caller]
    pub fn of(node: &str) -> Self {
        const SCRIPT: &str = "set -e; c='ctr -n k8s.io'; $c leases ls -q; echo =; $c images ls -q; echo =; \
            $c content ls -q; echo =; $c content active | tail -n +2; echo =; $c snapshots ls | tail -n +2";
        let run = exec(node, &["sh", "-c", SCRIPT]).expect(0);
        let mut parts = run.stdout.split("=\n").map(|part| {
            part.lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_owned)
                .collect::<BTreeSet<_>>()
        });
        let mut next = || parts.next().unwrap();
        Self {
            leases: next(),
            images: next(),
            content: next(),
            ingests: next(),
            snapshots: next(),
        }
    }
}

/// Returns the leases that kindlift made on a node, by their label.
#[track_caller]
pub fn leases(node: &str) -> BTreeSet<String> {
    let run = exec(node, &["ctr", "-n", "k8s.io", "leases", "ls"]).expect(0);
    run.stdout
        .lines()
        .filter(|line| line.contains("io.kindlift.owner="))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

/// Waits, on a node, for the moment in which a blob is on its way there.
#[track_caller]
pub fn wait_for_transfer(node: &str) {
    // What comes first, by ctr, is small: names that hold something.
    let script = "for i in $(seq 2000); do \
        ctr -n k8s.io content active | grep -q '[0-9]MB' && exit 0; done; exit 1";
    exec(node, &["sh", "-c", script]).expect(0);
}

/// Makes a kubeconfig with one context and returns its path as text.
pub fn kubeconfig(folder: &Path, context: &str, cluster: &str, server: &str) -> String {
    let path = folder.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {context}\n\
         contexts:\n- name: {context}\n  context: {{cluster: {cluster}, user: u}}\n\
         clusters:\n- name: {cluster}\n  cluster: {{server: '{server}'}}\n\
         users:\n- name: u\n  user: {{}}\n"
    );
    std::fs::write(&path, text).unwrap();
    path.to_string_lossy().into_owned()
}

/// Returns a node's own address in its network.
#[track_caller]
pub fn address(node: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    docker(&["inspect", "--format", format, node])
        .trim()
        .to_owned()
}

/// A PATH on which there are only some of the lab's programs, and the system's own.
pub fn empty_path_with(programs: &[&str]) -> String {
    let bin = lab().home.path().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    for name in programs {
        let link = bin.join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(program(name).get_program(), link).unwrap();
        }
    }
    format!("{}:/usr/bin:/bin", bin.display())
}
