//! Which cluster is meant: named, by the kube context, or not at all.

use std::process::Command;

use crate::lab::{self, App, Cluster};
use crate::run;

#[test]
fn several_clusters_and_none_named() {
    let other = Cluster::new("choose", 0, &[]);
    let app = App::new("none-named");
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["build", "-t", &app.tag("dev")]);
    let by_hand = run::run(&mut kindlift)
        .expect(5)
        .says("error: there are several Kind clusters and none was named\n")
        .says("  hint: name one with --cluster (there is ");
    let hint = by_hand.stderr.lines().last().unwrap();
    assert!(hint.contains(&other.name) && hint.contains("dev"), "{hint}");

    // Under Skaffold nothing is guessed, however many there are.
    run::run(&mut app.skaffold("dev"))
        .expect(5)
        .says("error: there is no kube context, so the cluster is not known\n")
        .says("--cluster or KIND_CLUSTER_NAME");
    app.is_nowhere(&lab::dev());
    app.is_nowhere(&other.nodes);
}

#[test]
fn a_context_and_the_environment_that_disagree() {
    let other = Cluster::new("odds", 0, &[]);
    let app = App::new("odds");
    let server = format!("https://{}:6443", lab::address("dev-control-plane"));
    let kubeconfig = lab::kubeconfig(app.folder(), "kind-dev", "kind-dev", &server);
    let refused = |kindlift: &mut Command| {
        run::run(kindlift.env("KUBECONFIG", &kubeconfig))
            .expect(5)
            .says(&format!(
                "error: kube context kind-dev is the Kind cluster dev, but KIND_CLUSTER_NAME or \
                 kindlift.toml says {}\n",
                other.name
            ))
            .says("  hint: change that (`kindlift config show` tells where it is), switch");
    };
    refused(app.skaffold("dev").env("KIND_CLUSTER_NAME", &other.name));
    std::fs::write(
        app.path("kindlift.toml"),
        format!("cluster = \"{}\"\n", other.name),
    )
    .unwrap();
    refused(&mut app.skaffold("dev"));
    app.is_nowhere(&lab::dev());
    app.is_nowhere(&other.nodes);
}

#[test]
fn the_servers_address_decides_where_a_context_was_renamed() {
    let app = App::new("renamed");
    let server = format!("https://{}:6443", lab::address("dev-control-plane"));
    let kubeconfig = lab::kubeconfig(app.folder(), "my-laptop", "mine", &server);
    let mut kindlift = app.skaffold("dev");
    kindlift.env("KUBECONFIG", kubeconfig);
    run::run(&mut kindlift).expect(0).says("nodes of dev");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn the_projects_file_names_cluster_and_nodes() {
    let app = App::new("project");
    std::fs::write(
        app.path("kindlift.toml"),
        "cluster = \"dev\"\nnodes = [\"dev-worker\"]\n",
    )
    .unwrap();
    // Without a kube context Skaffold's builds have no other word for it.
    run::run(&mut app.skaffold("dev"))
        .expect(0)
        .says("into 1 node of dev");
    lab::proven(&["dev-worker".to_owned()], &[app.on_node("dev")]);
    assert_eq!(lab::crictl("dev-worker2", &app.on_node("dev")), None);
    // A variable is stronger.
    run::run(
        app.skaffold("dev")
            .env("KINDLIFT_NODES", "dev-worker,dev-worker2"),
    )
    .expect(0)
    .says("into 2 nodes of dev");
}

#[test]
fn skaffolds_context_goes_before_the_current_one() {
    let app = App::new("context");
    let kubeconfig = app.path("kubeconfig");
    std::fs::write(
        &kubeconfig,
        "current-context: work\ncontexts:\n- {name: work, context: {cluster: gke}}\n\
         - {name: kind-dev, context: {cluster: kind-dev}}\n\
         clusters:\n- {name: gke, cluster: {server: 'https://192.0.2.1'}}\n\
         - {name: kind-dev, cluster: {server: 'https://dev-control-plane:6443'}}\n",
    )
    .unwrap();
    let mut kindlift = app.skaffold("dev");
    kindlift.env("KUBECONFIG", &kubeconfig);
    run::run(&mut kindlift)
        .expect(5)
        .says("error: kube context work is not a Kind cluster\n");
    app.is_nowhere(&lab::dev());

    let mut kindlift = app.skaffold("dev");
    kindlift
        .env("KUBECONFIG", &kubeconfig)
        .env("SKAFFOLD_KUBE_CONTEXT", "kind-dev");
    run::run(&mut kindlift).expect(0);
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn a_kubeconfig_that_cannot_be_read() {
    let app = App::new("kubeconfig");
    let kubeconfig = app.path("kubeconfig");
    std::fs::write(&kubeconfig, "contexts: [\n").unwrap();
    let mut kindlift = app.skaffold("dev");
    kindlift.env("KUBECONFIG", &kubeconfig);
    run::run(&mut kindlift)
        .expect(5)
        .says(&format!(
            "error: the kubeconfig {} cannot be read\n",
            kubeconfig.display()
        ))
        .says("  caused by: ");

    let path = lab::kubeconfig(app.folder(), "kind-dev", "kind-dev", "");
    let mut kindlift = app.skaffold("dev");
    kindlift
        .env("KUBECONFIG", path)
        .args(["--kube-context", "gone"]);
    run::run(&mut kindlift)
        .expect(5)
        .says("error: the kubeconfig has no context \"gone\"\n")
        .says("  hint: its contexts are kind-dev\n");
    app.is_nowhere(&lab::dev());
}

#[test]
fn a_cluster_that_is_not_there() {
    let app = App::new("absent");
    run::run(&mut app.build("dev", "no-such-cluster"))
        .expect(5)
        .says("error: there is no Kind cluster no-such-cluster (--cluster)\n")
        .says("  hint: look with `kind get clusters` (there is ");
    app.is_nowhere(&lab::dev());
}

#[test]
fn nodes_that_come_and_go_elsewhere_do_not_matter() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let node_image = lab::docker(&["inspect", "--format", "{{.Image}}", "dev-worker"]);
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Somebody else's clusters, removed between a list and a look.
        for _ in 0..3 {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    let name = lab::unique("churn");
                    lab::docker(&[
                        "create",
                        "--name",
                        &name,
                        "--label",
                        "io.x-k8s.kind.role=worker",
                        "--label",
                        &format!("io.x-k8s.kind.cluster={name}"),
                        node_image.trim(),
                    ]);
                    lab::docker(&["rm", "--force", &name]);
                }
            });
        }
        let _stop = Stop(&enough);
        let app = App::new("churn");
        let failed = (0..6)
            .map(|_| run::run(&mut app.build("dev", "no-such-cluster")))
            .find(|run| run.code != 5 || run.stderr.contains("No such container"));
        assert!(failed.is_none(), "{}", failed.unwrap());
        app.is_nowhere(&lab::dev());
    });
}
