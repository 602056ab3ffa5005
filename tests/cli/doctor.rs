//! `doctor` where there is nothing: each line says what to do.

use crate::Sandbox;
use crate::run::Run;

/// Runs `doctor` where no node is either, whatever runs on this machine.
fn doctor(sandbox: &Sandbox, args: &[&str], vars: &[(&str, &str)]) -> Run {
    let nowhere = format!("unix://{}/none.sock", sandbox.path());
    let vars = [&[("KINDLIFT_NODES_DOCKER_HOST", nowhere.as_str())], vars].concat();
    sandbox.run_with(&[&["doctor"], args].concat(), &vars)
}

/// Returns what follows the line that tells version and machine.
#[track_caller]
fn checks(run: &Run) -> &str {
    let (first, rest) = run.stdout.split_once('\n').unwrap();
    let version = concat!("kindlift ", env!("CARGO_PKG_VERSION"), " on ");
    assert!(first.starts_with(version), "{run}");
    assert_eq!(run.stderr, "", "{run}");
    rest
}

#[test]
fn without_anything_each_line_has_its_fix() {
    let run = doctor(&Sandbox::new(), &[], &[]).expect(4);
    assert_eq!(
        checks(&run),
        "\
X  engine          Docker does not answer at unix://[here]/none.sock (DOCKER_HOST): the socket is not there
                   -> start Docker, or point DOCKER_HOST or a Docker context at it
-  socket          [here]/none.sock is not there
!  kube context    there is none: Skaffold, Tilt and kubectl do not know the cluster
                   -> `kind export kubeconfig --name CLUSTER`, or look at KUBECONFIG
X  clusters        none was found: Docker does not answer at unix://[here]/none.sock: the socket is not there
                   -> start Docker, or point DOCKER_HOST or a Docker context at it
-  skaffold        no skaffold.yaml in this folder
-  tilt            no Tiltfile in this folder
-  kindlift would  there is neither an engine nor a cluster that it would take
2 failures, 1 warning
",
        "{run}"
    );
}

#[test]
fn quiet_tells_failures_only() {
    let run = doctor(&Sandbox::new(), &["--quiet"], &[]).expect(4);
    assert!(
        run.stdout.starts_with("X  engine    Docker does not"),
        "{run}"
    );
    assert!(!run.stdout.contains("kube context"), "{run}");
}

#[test]
fn a_broken_kubeconfig_hides_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write(".kube/config", "contexts: [\n");
    let run = doctor(&sandbox, &[], &[]).expect(4);
    let text = checks(&run);
    for line in [
        "X  engine ",
        "X  kube context    the kubeconfig [here]/.kube/config cannot be read: ",
        "X  clusters ",
        "-  tilt ",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{run}");
    }

    sandbox.write(".kube/config", "current-context: gone\n");
    let run = doctor(&sandbox, &[], &[]).expect(4);
    let text = checks(&run);
    assert!(
        text.contains("X  kube context    the kubeconfig has no context \"gone\"\n"),
        "{run}"
    );
    assert!(
        text.contains("-> it has no contexts at all; look at KUBECONFIG\n"),
        "{run}"
    );
}

#[test]
fn a_variable_that_makes_no_sense() {
    let sandbox = Sandbox::new();
    // A setting of our own is refused before any command runs.
    let run = doctor(&sandbox, &[], &[("KINDLIFT_ENGINE", "lxc")]).expect(2);
    run.says("error: KINDLIFT_ENGINE is \"lxc\"\n")
        .says("hint: set it to docker or podman, or unset it\n");
    let run = doctor(&sandbox, &[], &[("KIND_EXPERIMENTAL_PROVIDER", "lxc")]).expect(4);
    assert!(
        checks(&run).contains("X  clusters        KIND_EXPERIMENTAL_PROVIDER is \"lxc\"\n"),
        "{run}"
    );
}

#[test]
fn a_document() {
    let run = doctor(&Sandbox::new(), &["--output", "json"], &[]).expect(4);
    let document = run.json();
    assert_eq!(document["ok"], false);
    assert_eq!(document["version"], env!("CARGO_PKG_VERSION"));
    let first = &document["checks"][0];
    assert_eq!(first["name"], "engine");
    assert_eq!(first["verdict"], "fail");
    assert_eq!(first["error"], "engine");
    assert_eq!(
        first["fix"],
        "start Docker, or point DOCKER_HOST or a Docker context at it"
    );
    let verdicts: Vec<_> = document["checks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["verdict"])
        .collect();
    assert!(verdicts.iter().any(|v| *v == "skipped") && verdicts.iter().any(|v| *v == "warn"));
}

#[test]
fn utf8_where_the_locale_has_it() {
    let sandbox = Sandbox::new();
    let run = doctor(&sandbox, &[], &[("LANG", "en_GB.UTF-8")]).expect(4);
    assert!(checks(&run).starts_with("✗ engine "), "{run}");
    // No colours where stdout is no terminal.
    assert!(!run.stdout.contains('\x1b'), "{run}");
    let run = doctor(&sandbox, &[], &[("LANG", "en_GB.UTF-8"), ("LC_ALL", "C")]).expect(4);
    assert!(run.stdout.is_ascii(), "{run}");
}

#[test]
fn skaffolds_and_tilts_settings() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "skaffold.yaml",
        "build:\n  artifacts:\n  - image: demo/app\n    custom: {buildCommand: exec kindlift build}\n",
    );
    sandbox.write(".skaffold/config", "global: {kind-disable-load: true}\n");
    sandbox.write(
        ".kube/config",
        "current-context: kind-dev\ncontexts: [{name: kind-dev, context: {cluster: kind-dev}}]\n",
    );
    sandbox.write(
        "Tiltfile",
        "custom_build('a', 'exec kindlift build .', deps=['.'])\n",
    );
    let run = doctor(&sandbox, &[], &[]).expect(4);
    let text = checks(&run);
    for line in [
        "!  skaffold         skaffold.yaml: when Skaffold's cache has demo/app, nobody looks",
        "X  skaffold push    kind-disable-load without `local.push: false` makes Skaffold push",
        "-> add `local: {push: false}` under `build:` in skaffold.yaml\n",
        "ok skaffold load    kind-disable-load for kind-dev\n",
        "X  skaffold engine  Skaffold looks for the image through Docker's API",
        "!  tilt             Tiltfile: Tilt runs `kind load` too after each build\n",
    ] {
        assert!(text.contains(line), "no {line:?} in:\n{run}");
    }

    sandbox.write("skaffold.yaml", "build: [\n");
    let run = doctor(&sandbox, &[], &[]).expect(4);
    assert!(
        checks(&run).contains("X  skaffold        skaffold.yaml cannot be used: "),
        "{run}"
    );
}

#[test]
fn a_pod_needs_a_cluster_and_a_name() {
    let sandbox = Sandbox::new();
    let run = doctor(&sandbox, &["--pod", "app"], &[]).expect(5);
    assert!(
        checks(&run).starts_with("X  pod app  there is no Kind cluster"),
        "{run}"
    );
    for name in ["../secrets/x", "App", "a b", ""] {
        let run = doctor(&sandbox, &["--pod", name], &[]).expect(2);
        assert!(run.stdout.contains("is not the name of a pod\n"), "{run}");
    }
    doctor(&sandbox, &["--namespace", "x"], &[])
        .expect(2)
        .says("--pod");
}
