//! A cluster with pods: the lab's own, or one of a test's own, and what its pods answer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab;
use crate::run::{self, Running};

/// Longer than a rollout takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of two nodes with a real Kubernetes.
pub struct Kube {
    pub name: String,
    provider: &'static str,
    /// Whether it goes with this value.
    own: bool,
}

impl Kube {
    /// The lab's, which other tests use too: each in a namespace of its own.
    pub fn shared() -> Self {
        Self {
            name: "kube".to_owned(),
            provider: "docker",
            own: false,
        }
    }

    /// Makes one that the test may take apart.
    pub fn new(theme: &str, provider: &'static str) -> Self {
        // Where there is no lab, it says so here, and not once more when the cluster is dropped.
        lab::lab_tool();
        let cluster = Self {
            name: lab::unique(theme),
            provider,
            own: true,
        };
        cluster.up();
        cluster
    }

    fn up(&self) {
        let mut up = self.tool("up");
        run::run(up.args(["--kubernetes", "--workers", "1"])).expect(0);
    }

    /// Deletes the nodes and makes others in their place.
    pub fn renew(&self) {
        assert!(self.own, "others use it");
        run::run(&mut self.tool("down")).expect(0);
        self.up();
    }

    /// Deletes the worker and makes another in its place, as `docker run` had made the first.
    pub fn replace_worker(&self) {
        assert!(self.own && self.provider == "docker", "it is not ours");
        let worker = self.nodes().remove(1);
        let inspected = run::run(lab::program("docker").args(["inspect", &worker])).expect(0);
        let node = &inspected.json()[0];
        let (config, host) = (&node["Config"], &node["HostConfig"]);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut args: Vec<String> = [
            "run",
            "--detach",
            "--init",
            "--privileged",
            "--cgroupns=private",
            "--tmpfs=/tmp",
            "--tmpfs=/run",
            "--volume=/var",
            "--publish=127.0.0.1::6443",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--name={worker}"));
        args.push(format!("--hostname={worker}"));
        args.push(format!("--cgroup-parent={}", text(&host["CgroupParent"])));
        let binds = host["Binds"].as_array().into_iter().flatten();
        // The volume of /var goes with its node.
        let binds = binds.map(text).filter(|bind| bind.contains(':'));
        args.extend(binds.map(|bind| format!("--volume={bind}")));
        let labels = config["Labels"].as_object().expect("labels");
        args.extend(
            labels
                .iter()
                .map(|(name, value)| format!("--label={name}={}", text(value))),
        );
        args.push(text(&config["Image"]));
        lab::docker(&["rm", "--force", "--volumes", &worker]);
        run::run(lab::program("docker").args(&args)).expect(0);
        // Tells the nodes of each other's addresses; all nodes are there, so none is made.
        self.up();
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        let address = lab::docker(&["inspect", "--format", format, &worker]);
        let route = [
            "ip",
            "route",
            "replace",
            "10.244.1.0/24",
            "via",
            address.trim(),
        ];
        self.exec(&self.nodes()[0], &route).expect(0);
    }

    fn tool(&self, verb: &str) -> Command {
        let mut tool = lab::lab_tool();
        tool.args(["cluster", verb, &self.name, "--provider", self.provider]);
        tool
    }

    pub fn context(&self) -> String {
        format!("kind-{}", self.name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        Path::new(lab::var("KINDLIFT_LAB_DIR"))
            .join("kubeconfig")
            .join(&self.name)
    }

    pub fn nodes(&self) -> Vec<String> {
        vec![
            format!("{}-control-plane", self.name),
            format!("{}-worker", self.name),
        ]
    }

    /// Runs a command in a node, through whoever runs it.
    pub fn exec(&self, node: &str, args: &[&str]) -> run::Run {
        run::run(lab::program(self.provider).args(["exec", node]).args(args))
    }

    /// Whether a node has a name for an image: crictl says.
    pub fn has(&self, node: &str, image: &str) -> bool {
        self.exec(node, &["crictl", "inspecti", image]).code == 0
    }

    /// What kindlift may leave on the nodes when it is killed: its leases and half of a blob. On a
    /// cluster that others use, they may be those of others.
    pub fn leftovers(&self) -> String {
        let script =
            "ctr -n k8s.io leases ls | grep io.kindlift; ctr -n k8s.io content active | tail -n +2";
        self.nodes()
            .iter()
            .map(|node| self.exec(node, &["sh", "-c", script]).stdout)
            .collect()
    }

    pub fn kubectl(&self) -> Command {
        let mut kubectl = lab::program("kubectl");
        kubectl.env("KUBECONFIG", self.kubeconfig());
        kubectl
    }

    /// Makes a namespace in which pods can start.
    pub fn namespace(&self, theme: &str) -> Namespace<'_> {
        let name = lab::unique(theme);
        run::run(self.kubectl().args(["create", "namespace", &name])).expect(0);
        let space = Namespace { kube: self, name };
        run::wait_until("a service account for pods", PATIENCE, || {
            let mut get = space.kubectl();
            run::run(get.args([
                "get",
                "serviceaccount/default",
                "configmap/kube-root-ca.crt",
            ]))
            .code
                == 0
        });
        space
    }
}

impl Drop for Kube {
    fn drop(&mut self) {
        if self.own {
            let _ = self.tool("down").output();
        }
    }
}

/// A pod that has not been told to go.
#[derive(Debug, Clone)]
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub image: String,
    pub node: String,
    pub ready: bool,
    /// How its container fares.
    pub why: String,
}

/// A namespace, which goes with its pods.
pub struct Namespace<'a> {
    pub kube: &'a Kube,
    pub name: String,
}

impl Namespace<'_> {
    pub fn kubectl(&self) -> Command {
        let mut kubectl = self.kube.kubectl();
        kubectl.args(["--namespace", &self.name]);
        kubectl
    }

    /// The pods whose label `app` has a value, the leaving ones left out.
    pub fn pods(&self, app: &str) -> Vec<Pod> {
        let label = format!("app={app}");
        let run = run::run(
            self.kubectl()
                .args(["get", "pods", "-o", "json", "-l", &label]),
        );
        if run.code != 0 {
            return Vec::new();
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let json = run.json();
        let pods = json["items"].as_array().cloned().unwrap_or_default();
        pods.iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
            .map(|pod| Pod {
                name: text(&pod["metadata"]["name"]),
                uid: text(&pod["metadata"]["uid"]),
                image: text(&pod["spec"]["containers"][0]["image"]),
                node: text(&pod["spec"]["nodeName"]),
                ready: pod["status"]["containerStatuses"][0]["ready"] == true,
                why: pod["status"]["containerStatuses"][0]["state"].to_string(),
            })
            .collect()
    }

    /// What a pod's web server answers, through the API server; nothing if it does not.
    pub fn page(&self, pod: &str, path: &str) -> String {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{pod}:8080/proxy/{path}",
            self.name
        );
        run::run(self.kubectl().args(["get", "--raw", &path])).stdout
    }

    /// Returns the pods of an app if there are so many, all ready, and every one answers with a
    /// text; else what there is.
    pub fn served(&self, app: &str, count: usize, text: &str) -> Result<Vec<Pod>, String> {
        let pods = self.pods(app);
        if pods.len() != count || pods.iter().any(|pod| !pod.ready) {
            let told = |pod: &Pod| format!("{} on {}: {}\n", pod.name, pod.node, pod.why);
            return Err(pods.iter().map(told).collect());
        }
        for pod in &pods {
            let page = self.page(&pod.name, "");
            if !page.contains(text) {
                return Err(format!("{} answers {page:?}", pod.name));
            }
        }
        Ok(pods)
    }

    /// Waits until exactly these pods serve a text, and returns them.
    #[track_caller]
    pub fn serves(&self, app: &str, count: usize, text: &str) -> Vec<Pod> {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            match self.served(app, count, text) {
                Ok(pods) => return pods,
                Err(what) => assert!(
                    std::time::Instant::now() < end,
                    "no {count} pods of {app} serve {text:?}: {what}"
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The same while a tool runs, which must not end meanwhile.
    #[track_caller]
    pub fn serves_under(
        &self,
        tool: &mut Running,
        app: &str,
        count: usize,
        text: &str,
    ) -> Vec<Pod> {
        let mut served = Vec::new();
        tool.wait_until(&format!("{app} serves {text:?}"), |_| {
            self.served(app, count, text)
                .map(|pods| served = pods)
                .is_ok()
        });
        served
    }

    /// Waits until no pod of an app is left.
    #[track_caller]
    pub fn is_without(&self, app: &str) {
        run::wait_until("no pod", PATIENCE, || self.pods(app).is_empty());
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        // Those that run on are shown, as the namespace goes.
        if std::thread::panicking() {
            let run = run::run(self.kubectl().args(["get", "pods,events"]));
            eprintln!("namespace {}:\n{run}", self.name);
        }
        let mut delete = self.kube.kubectl();
        let _ = delete
            .args(["delete", "namespace", &self.name, "--wait=false"])
            .output();
    }
}
