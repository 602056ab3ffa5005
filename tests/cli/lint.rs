//! `lint`: what it finds, how it says so, and the exit code that CI sees.

use std::io::Write;
use std::process::Stdio;

use crate::Sandbox;
use crate::run::Run;

const DEPLOYMENT: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: team}
spec:
  template:
    spec:
      initContainers:
      - {name: init, image: demo/init:latest}
      containers:
      - {name: web, image: demo/app:dev, imagePullPolicy: Always}
      - {name: fine, image: demo/app:dev}
      - {name: public, image: ghcr.io/x/y:latest}
";

fn piped(sandbox: &Sandbox, args: &[&str], text: &str) -> Run {
    let mut command = sandbox.kindlift(args);
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn tells_place_policy_and_fix() {
    let sandbox = Sandbox::new();
    sandbox.write("k8s.yaml", &format!("kind: ConfigMap\n---\n{DEPLOYMENT}"));
    let run = sandbox.run(&["lint", "k8s.yaml"]).expect(10);
    assert_eq!(
        run.stdout,
        "k8s.yaml: document 2: Deployment/web spec.template.spec.initContainers[0]: \
         demo/init:latest: the tag is latest, which means Always: the kubelet asks docker.io for \
         it at every start, whatever the node has\n  \
         fix: use another tag, or set imagePullPolicy: IfNotPresent\n\
         k8s.yaml: document 2: Deployment/web spec.template.spec.containers[0]: \
         demo/app:dev: imagePullPolicy is Always: the kubelet asks docker.io for it at every \
         start, whatever the node has\n  \
         fix: leave imagePullPolicy out, or set it to IfNotPresent\n"
    );
    assert_eq!(run.stderr, "to fix: 2 of 4 images in the manifests\n");
    // What is quiet says it by the exit code, and the list is still there.
    let quiet = sandbox.run(&["lint", "-q", "k8s.yaml"]).expect(10);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (run.stdout, ""));
}

#[test]
fn nothing_to_fix() {
    let sandbox = Sandbox::new();
    let good = "kind: Pod\nspec: {containers: [{image: 'app:1'}, {image: ghcr.io/x/y}]}\n";
    sandbox.write("pod.yaml", good);
    sandbox.run(&["lint", "pod.yaml"]).is(
        0,
        "nothing to fix: 2 images in the manifests (1 of registries, pulled at every start: -v \
         lists them)\n",
    );
    let run = sandbox.run(&["lint", "-v", "pod.yaml"]).expect(0);
    assert!(
        run.stdout
            .starts_with("pod.yaml: document 1: Pod spec.containers[1]: note: ghcr.io/x/y: "),
        "{run}"
    );
}

#[test]
fn only_the_images_that_are_named() {
    let sandbox = Sandbox::new();
    sandbox.write("k8s.yaml", DEPLOYMENT);
    let found = |names: &[&str]| {
        let names = names.iter().flat_map(|name| ["--image", *name]);
        let args: Vec<&str> = ["lint", "k8s.yaml"].into_iter().chain(names).collect();
        let run = sandbox.run(&args);
        (run.code, run.stdout.lines().count() / 2)
    };
    assert_eq!(found(&["demo/init"]), (10, 1));
    assert_eq!(found(&["demo/init", "demo/app"]), (10, 2));
    // Whatever the registry, if it is said.
    assert_eq!(found(&["ghcr.io/x/y"]), (10, 1));
    assert_eq!(found(&["demo/app:other"]), (0, 0));
    assert_eq!(found(&["docker.io/demo/app:dev"]), (10, 1));
    sandbox
        .run(&["lint", "k8s.yaml", "--image", "Not A Name"])
        .expect(2)
        .says("is not an image name");
}

#[test]
fn one_json_document() {
    let sandbox = Sandbox::new();
    let run = piped(&sandbox, &["lint", "-", "--output", "json"], DEPLOYMENT).expect(10);
    let json = run.json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["checked"], 4);
    assert_eq!(
        json["findings"][1],
        serde_json::json!({
            "file": "-", "document": 1, "kind": "Deployment", "name": "web", "namespace": "team",
            "path": "spec.template.spec.containers[0]", "container": "web",
            "image": "demo/app:dev", "policy": "Always", "problem": "pulled",
            "message": "imagePullPolicy is Always: the kubelet asks docker.io for it at every \
                        start, whatever the node has",
            "fix": "leave imagePullPolicy out, or set it to IfNotPresent",
        })
    );
    assert_eq!(json["notes"][0]["image"], "ghcr.io/x/y:latest");
    let good = piped(&sandbox, &["lint", "-", "--output=json"], "kind: Pod\n").expect(0);
    assert_eq!(good.json()["ok"], true);
}

#[test]
fn names_and_policies_that_kubernetes_refuses() {
    let sandbox = Sandbox::new();
    let text = "kind: Pod\nspec: {containers: [{image: 'app:1', imagePullPolicy: always}, {image: Demo/App:1x/y}]}\n";
    let run = piped(&sandbox, &["lint", "-"], text).expect(10);
    assert!(run.stdout.contains("stdin: document 1: Pod spec.containers[0]: app:1 (imagePullPolicy: always): Kubernetes does not know this pull policy\n"), "{run}");
    assert!(run.stdout.contains("is not an image name"), "{run}");
}

#[test]
fn folders_as_kubectl_reads_them() {
    let sandbox = Sandbox::new();
    let pod = |image: &str| format!("kind: Pod\nspec: {{containers: [{{image: '{image}'}}]}}\n");
    sandbox.write("k8s/a.yaml", &pod("a"));
    sandbox.write("k8s/b.yml", &pod("b"));
    sandbox.write(
        "k8s/c.json",
        r#"{"kind": "Pod", "spec": {"containers": [{"image": "c"}]}}"#,
    );
    sandbox.write("k8s/README.md", "- {{ not a manifest");
    sandbox.write("k8s/deep/d.yaml", &pod("d"));
    let found = |args: &[&str]| {
        let run = sandbox.run(args).expect(10);
        let lines = run.stdout.lines().filter(|line| !line.starts_with("  "));
        lines
            .map(|line| line.split(": ").nth(3).unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(found(&["lint", "k8s"]), ["a", "b", "c"]);
    assert_eq!(found(&["lint", "-R", "k8s"]), ["a", "b", "c", "d"]);
    assert_eq!(found(&["lint", "k8s/deep", "k8s/b.yml"]), ["d", "b"]);
    sandbox.write("empty/README.md", "");
    sandbox.run(&["lint", "empty"]).is(
        2,
        "error: the folder empty has no manifests\n  \
         hint: manifests end in .yaml, .yml or .json; -R looks into sub-folders too\n",
    );
}

#[test]
fn what_cannot_be_read() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "bad.yaml",
        "kind: Pod\n---\nkind: Pod\nspec: {containers: [\n",
    );
    sandbox
        .run(&["lint", "bad.yaml"])
        .expect(2)
        .says("error: bad.yaml: document 2, line ")
        .says(": this is no manifest\n");
    // The first is no YAML, the second is, by chance.
    for (template, says) in [
        (
            "spec:\n  {{- if .x }}\n  a: b\n",
            "document 1, line 2: this is no manifest",
        ),
        (
            "image: {{ .Values.image }}\n",
            "document 1: a key is no text",
        ),
    ] {
        sandbox.write("chart/pod.yaml", template);
        sandbox
            .run(&["lint", "chart"])
            .expect(2)
            .says(&format!("error: chart/pod.yaml: {says}\n"))
            .says(
                "  hint: a template must be rendered first: `helm template … | kindlift lint -`\n",
            );
    }
    sandbox
        .run(&["lint", "gone.yaml"])
        .expect(2)
        .says("error: cannot read the manifests in gone.yaml\n");
    // A command before the pipe that failed.
    piped(&sandbox, &["lint", "-"], "")
        .expect(2)
        .says("error: there is no manifest in stdin\n");
    sandbox.run(&["lint"]).expect(2).says("<FILE|->");
}

#[test]
fn a_hint_for_what_a_loop_renders() {
    let sandbox = Sandbox::new();
    let text = "kind: Pod\nspec: {containers: [{image: demo/app}]}\n";
    piped(&sandbox, &["lint", "-"], text)
        .expect(10)
        .says("to fix: 1 of 1 image in the manifests\n  hint: Skaffold and Tilt give");
    // As Skaffold and Tilt render it.
    let tag = "a".repeat(64);
    let text = text.replace("demo/app", &format!("demo/app:{tag}"));
    piped(&sandbox, &["lint", "-"], &text).expect(0);
    let always = text.replace("}]", ", imagePullPolicy: Always}]");
    let elsewhere = always.replace("demo/app", "ghcr.io/demo/app");
    piped(&sandbox, &["lint", "-"], &elsewhere).expect(10);
}
