//! Nodes with older containerds: Debian's 1.6 and 1.7 beside the 2.1 of all other tests.

use crate::lab::{self, App, Cluster};
use crate::peers::run_on;
use crate::run;

fn check(suite: &str, containerd: &str) {
    let cluster = Cluster::of_suite(suite, 1);
    let version = lab::exec(cluster.worker(), &["containerd", "--version"])
        .expect(0)
        .stdout;
    assert!(version.contains(&format!(" {containerd}.")), "{version}");
    let app = App::new(suite);
    let names = [app.on_node("dev")];
    let mut former = None;
    for word in ["first", "second"] {
        // The same name for other content: the second takes it over.
        app.dockerfile(&format!(
            "FROM scratch\nCOPY busybox /bin/busybox\nCOPY base.bin /\n\
             ENTRYPOINT [\"/bin/busybox\", \"echo\", \"{word}\"]\n"
        ));
        run::run(&mut app.build("dev", &cluster.name)).expect(0);
        let id = lab::proven(&cluster.nodes, &names);
        assert_ne!(Some(&id), former.as_ref());
        former = Some(id);
        assert_eq!(run_on(cluster.worker(), &names[0]), format!("{word}\n"));
    }
    // Removed by hand on one node, it comes back there.
    lab::exec(cluster.worker(), &["crictl", "rmi", &names[0]]).expect(0);
    let mut ensure = lab::kindlift();
    ensure.args(["ensure", &app.tag("dev"), "--cluster", &cluster.name]);
    run::run(&mut ensure).expect(0).says("loaded");
    lab::proven(&cluster.nodes, &names);
    for node in &cluster.nodes {
        assert!(lab::leases(node).is_empty(), "{node} keeps a lease");
    }
}

#[test]
fn containerd_1_6() {
    check("bookworm", "1.6");
}

#[test]
fn containerd_1_7() {
    check("trixie", "1.7");
}
