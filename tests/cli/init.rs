//! `init` in folders as people have them: what it would write, and what it leaves alone.

use std::process::Command;

use crate::{Sandbox, run};

const DEPLOYMENT: &str = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec:\n  \
                          template:\n    spec:\n      containers:\n      - image: ";

impl Sandbox {
    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.path().join(file)).unwrap_or_default()
    }

    fn deploys(&self, file: &str, image: &str) {
        self.write(file, &format!("{DEPLOYMENT}{image}\n"));
    }

    /// Runs `init`, which must change something and then nothing more.
    #[track_caller]
    fn init(&self, args: &[&str]) -> run::Run {
        let args = [&["init"], args, &["--yes"]].concat();
        let first = self.run(&args).expect(0);
        assert!(first.stdout.contains("+++ b/"), "{first}");
        // What the diff shows is what was written.
        let again = self.run(&args).expect(0).says("nothing to change in ");
        assert_eq!(again.stdout, "");
        first
    }
}

#[test]
fn nothing_is_written_unasked() {
    let sandbox = Sandbox::new();
    for tool in ["skaffold", "tilt"] {
        let run = sandbox.run(&["init", tool]).expect(2).says(
            "error: nothing was written: there is no terminal to ask on\n  hint: say --yes to \
             write this\n",
        );
        assert!(run.stdout.contains("+++ b/k8s.yaml"), "{run}");
        let run = sandbox.run(&["init", tool, "--output", "json"]).expect(2);
        assert_eq!(run.json()["ok"], false);
    }
    let left: Vec<_> = std::fs::read_dir(sandbox.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn on_a_terminal_it_asks() {
    let sandbox = Sandbox::new();
    let answered = |answer: &str| {
        let kindlift = env!("CARGO_BIN_EXE_kindlift");
        // Typed when it has asked, and not before.
        let line = format!(
            "coproc SCREEN {{ exec script -qec '{kindlift} init tilt' /dev/null; }}
             screen=$SCREEN_PID shown=
             while [[ $shown != *'[y/N] ' ]] && IFS= read -r -n 1 -d '' c <&${{SCREEN[0]}}; do
               shown+=$c
             done
             printf '{answer}' >&${{SCREEN[1]}}
             printf %s \"$shown\"; cat <&${{SCREEN[0]}}; wait $screen"
        );
        let mut shell = Command::new("bash");
        shell
            .env("HOME", sandbox.path())
            .current_dir(sandbox.path())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .args(["-c", &line]);
        run::run(&mut shell)
    };
    let run = answered("n\\n").expect(2);
    assert!(
        run.stdout
            .contains("write Tiltfile, k8s.yaml, .dockerignore? [y/N]"),
        "{run}"
    );
    assert!(run.stdout.contains("the answer was not yes"), "{run}");
    assert_eq!(sandbox.read("Tiltfile"), "");
    // ^C while it waits.
    answered("\\003").expect(130);
    assert_eq!(sandbox.read("Tiltfile"), "");
    answered("y\\n").expect(0);
    assert!(sandbox.read("Tiltfile").contains("custom_build("));
}

#[test]
fn a_dockerfile_is_enough() {
    let sandbox = Sandbox::new();
    sandbox.write("shop/Dockerfile", "FROM scratch\nexpose 80/tcp 9000\n");
    sandbox.init(&["skaffold", "shop"]);
    assert_eq!(
        sandbox.read("shop/skaffold.yaml"),
        "apiVersion: skaffold/v4beta13\nkind: Config\nbuild:\n  # Without this line, \
         kind-disable-load makes Skaffold push to a registry.\n  local: {push: false}\n  \
         artifacts:\n  - image: shop\n    custom:\n      # `exec`, so that Skaffold's signals \
         reach kindlift and not a shell.\n      buildCommand: exec kindlift build\n      \
         dependencies:\n        dockerfile: {path: Dockerfile}\ntest:\n# Runs even if Skaffold's \
         cache skips the build, as it does for a new cluster.\n- image: shop\n  custom:\n  - \
         command: exec kindlift ensure\n    timeoutSeconds: 300\nmanifests:\n  rawYaml:\n  - \
         k8s.yaml\ndeploy:\n  kubectl: {}\n"
    );
    let manifest = sandbox.read("shop/k8s.yaml");
    for line in [
        "image: shop\n",
        "containerPort: 80\n",
        "containerPort: 9000\n",
    ] {
        assert!(manifest.contains(line), "{manifest}");
    }
    // Manifests are there now, and Tilt's file is made for them.
    sandbox.init(&["tilt", "shop"]);
    let tiltfile = sandbox.read("shop/Tiltfile");
    assert!(tiltfile.contains("k8s_yaml(['k8s.yaml'])"), "{tiltfile}");
    assert_eq!(sandbox.read("shop/.dockerignore"), ".kindlift-ref*\n");
    assert_eq!(sandbox.read("shop/k8s.yaml"), manifest);
}

#[test]
fn names_come_from_the_manifests() {
    let sandbox = Sandbox::new();
    for file in [
        "api/Dockerfile",
        "web/Dockerfile",
        "Dockerfile.job",
        "node_modules/x/Dockerfile",
    ] {
        sandbox.write(file, "FROM scratch\n");
    }
    std::fs::remove_file(format!("{}/Dockerfile", sandbox.path())).unwrap();
    sandbox.deploys("k8s/api.yaml", "reg.example:5000/shop/api:v1");
    sandbox.deploys("k8s/web.yaml", "shop/web");
    sandbox.deploys(
        "k8s/job.yaml",
        "shop/job@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    );
    sandbox.deploys("k8s/db.yaml", "postgres:16");
    sandbox.write(
        "kind.yaml",
        "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n",
    );
    sandbox.write("compose.yaml", "services: {}\n");
    sandbox.write("overlay/kustomization.yaml", "resources: [cm.yaml]\n");
    sandbox.write("overlay/cm.yaml", "apiVersion: v1\nkind: ConfigMap\n");
    sandbox.write("chart/Chart.yaml", "name: x\n");
    sandbox.write(
        "chart/templates/x.yaml",
        "apiVersion: v1\nkind: {{ .Kind }}\n",
    );
    sandbox
        .init(&["skaffold"])
        .says("next: add the Helm chart in ./chart");
    let text = sandbox.read("skaffold.yaml");
    for part in [
        "- image: reg.example:5000/shop/api\n    context: api\n",
        "- image: shop/web\n    context: web\n",
        "- image: shop/job\n    custom:",
        "buildCommand: \"exec kindlift build --file Dockerfile.job\"",
        "rawYaml:\n  - k8s/api.yaml\n  - k8s/db.yaml\n  - k8s/job.yaml\n  - k8s/web.yaml\n",
        "kustomize:\n    paths:\n    - ./overlay\n",
    ] {
        let unquoted = text.replace("\"reg.example:5000/shop/api\"", "reg.example:5000/shop/api");
        assert!(unquoted.contains(part), "{part:?} is not in:\n{text}");
    }
    sandbox.init(&["tilt"]);
    let text = sandbox.read("Tiltfile");
    for part in [
        "['kindlift', 'build', '-t', 'shop/job', '--ref-file', '.kindlift-ref-1', '--file', 'Dockerfile.job', '.']",
        "['kindlift', 'build', '-t', 'shop/web', '--ref-file', '.kindlift-ref-3', 'web']",
        "k8s_yaml(['k8s/api.yaml', 'k8s/db.yaml', 'k8s/job.yaml', 'k8s/web.yaml'])",
        "k8s_yaml(kustomize('./overlay'))",
        "k8s_yaml(helm('./chart'))",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert_eq!(
        sandbox.read("Dockerfile.job.dockerignore"),
        ".kindlift-ref*\n"
    );
}

#[test]
fn what_is_not_clear_is_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.deploys("a.yaml", "shop/api");
    sandbox.deploys("b.yaml", "postgres:16");
    sandbox.run(&["init", "skaffold"]).is(
        2,
        "error: which image Dockerfile makes is not clear: the manifests name shop/api, postgres\n  \
         hint: say --image NAME=Dockerfile\n",
    );
    sandbox.init(&["skaffold", "--image", "shop/api:v3"]);
    assert!(
        sandbox
            .read("skaffold.yaml")
            .contains("- image: shop/api\n")
    );
    let tilt = |image: &str| sandbox.run(&["init", "tilt", "--image", image]);
    tilt("shop/api=no/Dockerfile")
        .expect(2)
        .says("there is no no/Dockerfile in .");
    tilt("shop/api=../Dockerfile")
        .expect(2)
        .says("there is no ../Dockerfile in .");
    tilt("Shop").expect(2).says("`Shop` is not an image name");
    std::fs::remove_file(format!("{}/Dockerfile", sandbox.path())).unwrap();
    tilt("a")
        .expect(2)
        .says("there is no Dockerfile in .\n  hint: ");
    sandbox
        .run(&["init", "tilt", "nowhere"])
        .expect(2)
        .says("error: cannot read the folder nowhere");
}

const THEIRS: &str = "# ours
apiVersion: skaffold/v4beta11  # pinned
kind: Config

build:
  # who builds
  artifacts:
  - image: shop/api   # the API
    docker: {dockerfile: Dockerfile}
  - image: shop/web
    jib: {}

# how we deploy
deploy:
  kubectl: {}
";

#[test]
fn an_existing_skaffold_yaml_keeps_its_comments_and_builders() {
    let sandbox = Sandbox::new();
    sandbox.write("skaffold.yaml", THEIRS);
    sandbox.init(&["skaffold"]);
    let expected = THEIRS
        .replace(
            "build:\n",
            "build:\n  # Without this line, kind-disable-load makes Skaffold push to a \
             registry.\n  local: {push: false}\n",
        )
        .replace(
            "    jib: {}\n",
            "    jib: {}\ntest:\n- image: shop/api\n  custom:\n  - command: exec kindlift \
             ensure\n    timeoutSeconds: 300\n- image: shop/web\n  custom:\n  - command: exec \
             kindlift ensure\n    timeoutSeconds: 300\n",
        );
    assert_eq!(sandbox.read("skaffold.yaml"), expected);
}

#[test]
fn what_there_is_of_local_and_test_is_added_to() {
    let sandbox = Sandbox::new();
    for (local, became) in [
        (
            "  local:\n    # why\n    useBuildkit: true\n",
            "  local:\n    push: false\n    # why\n    useBuildkit: true\n",
        ),
        (
            "  local: {useBuildkit: true}\n",
            "  local: {push: false, useBuildkit: true}\n",
        ),
        ("  local: {}\n", "  local: {push: false}\n"),
        ("  local:\n", "  local:\n    push: false\n"),
        ("  local: {push: false}\n", "  local: {push: false}\n"),
    ] {
        for (test, tested) in [
            ("test: []\n", "test:\nNEW"),
            (
                "test:\n  # first\n  - image: a\n    structureTests: [./t/*]\n",
                "test:\n  NEW  # first\n  - image: a\n    structureTests: [./t/*]\n",
            ),
        ] {
            let text = |local: &str, test: &str| {
                format!(
                    "apiVersion: skaffold/v4beta13\nkind: Config\nbuild:\n  artifacts:\n  - image: a\n{local}{test}"
                )
            };
            let ensure = "- image: a\n  custom:\n  - command: exec kindlift ensure\n    timeoutSeconds: 300\n";
            let indented: String = ensure.lines().map(|line| format!("  {line}\n")).collect();
            let tested = tested.replace("  NEW", &indented).replace("NEW", ensure);
            sandbox.write("skaffold.yaml", &text(local, test));
            sandbox.init(&["skaffold"]);
            assert_eq!(sandbox.read("skaffold.yaml"), text(became, &tested));
        }
    }
}

#[test]
fn several_configurations_in_one_file() {
    let sandbox = Sandbox::new();
    let one = "apiVersion: skaffold/v4beta13\nkind: Config\nmetadata: {name: NAME}\nbuild:\n  artifacts:\n  - image: NAME\n";
    let text = format!(
        "{}---\n{}",
        one.replace("NAME", "a"),
        one.replace("NAME", "b")
    );
    sandbox.write("skaffold.yaml", &text.replace('\n', "\r\n"));
    sandbox.init(&["skaffold"]);
    let new = sandbox.read("skaffold.yaml");
    assert_eq!(new.matches("push: false").count(), 2, "{new}");
    assert_eq!(new.matches("kindlift ensure").count(), 2, "{new}");
    assert_eq!(
        new.matches('\n').count(),
        new.matches("\r\n").count(),
        "{new}"
    );
}

#[test]
fn what_stands_in_the_way_is_replaced_by_force_alone() {
    let sandbox = Sandbox::new();
    let text = THEIRS.replace("build:\n", "build:\n  local:\n    push: true # for CI\n");
    sandbox.write("skaffold.yaml", &text);
    sandbox.run(&["init", "skaffold", "--yes"]).is(
        2,
        "error: skaffold.yaml:7: push is true\n  hint: kindlift loads what was not pushed: \
         --force makes it false\n",
    );
    assert_eq!(sandbox.read("skaffold.yaml"), text);
    sandbox.init(&["skaffold", "--force"]);
    assert!(
        sandbox
            .read("skaffold.yaml")
            .contains("    push: false # for CI\n")
    );
}

#[test]
fn what_cannot_be_added_to_is_left_alone() {
    let sandbox = Sandbox::new();
    for (text, why) in [
        (
            "{apiVersion: skaffold/v4beta13, kind: Config, build: {artifacts: [{image: a}]}}\n",
            "in a way that kindlift cannot add to",
        ),
        (
            "kind: Config\nbuild: &b\n  artifacts: &a\n  - image: a\nx: *a\ntest: *a\n",
            "in a way that kindlift cannot add to",
        ),
        ("a: [\n", "error: skaffold.yaml is no YAML"),
        (
            "kind: Config\n",
            "error: skaffold.yaml has no build.artifacts",
        ),
        (
            "apiVersion: skaffold/v2beta12\nbuild: {artifacts: [{image: a}]}\n",
            "run `skaffold fix --overwrite` first",
        ),
        (
            "apiVersion: skaffold/v4beta13\nbuild:\n  googleCloudBuild: {}\n  artifacts:\n  - image: a\n",
            "builds with googleCloudBuild",
        ),
    ] {
        sandbox.write("skaffold.yaml", text);
        sandbox
            .run(&["init", "skaffold", "--yes", "--force"])
            .expect(2)
            .says(why);
        assert_eq!(sandbox.read("skaffold.yaml"), text);
    }
}

#[test]
fn always_is_told() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "k8s.yaml",
        &format!("{DEPLOYMENT}app\n        imagePullPolicy: Always\n"),
    );
    sandbox
        .init(&["skaffold"])
        .says("next: take imagePullPolicy: Always out of k8s.yaml:9: ");
}

#[test]
fn a_docker_build_is_replaced_by_force_alone() {
    let sandbox = Sandbox::new();
    let text = "# ours\nREPO = 'shop'\n\nif True:\n    docker_build(\n        REPO + '/api', './api', # the API\n        \
                dockerfile='api/Dockerfile.dev', target='dev',\n        build_args={'A': 'b', 'C': REPO},\n        \
                live_update=[sync('./api', '/src')],\n    )\ndocker_build('shop/web', '.')\nk8s_yaml('k8s.yaml')\n";
    sandbox.write("Tiltfile", text);
    sandbox.run(&["init", "tilt", "--yes"]).is(
        2,
        "error: Tiltfile:5 builds REPO + '/api' with docker_build\n  hint: --force puts a \
         custom_build in its place, and shows it before\n",
    );
    assert_eq!(sandbox.read("Tiltfile"), text);
    sandbox.init(&["tilt", "--force"]);
    assert_eq!(
        sandbox.read("Tiltfile"),
        "# ours\nREPO = 'shop'\n\nif True:\n    custom_build(\n        REPO + '/api',\n        \
         ['kindlift', 'build', '-t', REPO + '/api', '--ref-file', NAMED, '--file', \
         'api/Dockerfile.dev', '--target', 'dev'] + ['--build-arg=%s=%s' % pair for pair in ({'A': \
         'b', 'C': REPO}).items()] + ['./api'],\n        deps=['./api'],\n        \
         ignore=[NAMED],\n        skips_local_docker=True,\n        \
         outputs_image_ref_to=NAMED,\n        live_update=[sync('./api', '/src')],\n    \
         )\ncustom_build(\n    'shop/web',\n    ['kindlift', 'build', '-t', 'shop/web', '--ref-file', \
         '.kindlift-ref-2', '.'],\n    deps=['.'],\n    ignore=['.kindlift-ref-2'],\n    \
         skips_local_docker=True,\n    outputs_image_ref_to='.kindlift-ref-2',\n)\nk8s_yaml('k8s.yaml')\n"
            // Such a call may be made for several images.
            .replace("NAMED", "'.kindlift-ref-' + (REPO + '/api').replace('/', '-').replace(':', '-')")
    );
    assert_eq!(sandbox.read(".dockerignore"), ".kindlift-ref*\n");
}

#[test]
fn a_docker_build_without_a_counterpart_is_left_alone() {
    let sandbox = Sandbox::new();
    for (call, what) in [
        ("docker_build('a', '.', only=['src'])", "only"),
        ("docker_build('a', '.', **more)", "**more"),
        ("docker_build('a')", "no context"),
    ] {
        sandbox.write("Tiltfile", call);
        sandbox
            .run(&["init", "tilt", "--yes", "--force"])
            .expect(2)
            .says(&format!("error: Tiltfile:1: docker_build has {what}\n"));
        assert_eq!(sandbox.read("Tiltfile"), call);
    }
}

#[test]
fn a_tiltfile_without_a_build_gets_one() {
    let sandbox = Sandbox::new();
    sandbox.deploys("k8s.yaml", "shop/api");
    sandbox.write("Tiltfile", "k8s_yaml('k8s.yaml')");
    sandbox.write(".dockerignore", "*.log");
    sandbox.write(".gitignore", "/bin\n");
    sandbox.init(&["tilt"]);
    let text = sandbox.read("Tiltfile");
    assert!(
        text.starts_with("k8s_yaml('k8s.yaml')\n\n# kindlift builds"),
        "{text}"
    );
    assert_eq!(text.matches("custom_build(").count(), 1, "{text}");
    assert_eq!(sandbox.read(".dockerignore"), "*.log\n.kindlift-ref*\n");
    assert_eq!(sandbox.read(".gitignore"), "/bin\n.kindlift-ref*\n");
    // Somebody's own custom_build is theirs.
    sandbox.write(
        "Tiltfile",
        "custom_build('shop/api', './make.sh', deps=['.'])\n",
    );
    sandbox
        .run(&["init", "tilt", "--yes"])
        .expect(2)
        .says("error: Tiltfile speaks of shop/api, but not in a docker_build");
}

#[test]
fn a_document_of_what_was_written() {
    let sandbox = Sandbox::new();
    sandbox.deploys("k8s.yaml", "shop/api");
    let run = sandbox
        .run(&["init", "skaffold", "--yes", "--output=json"])
        .expect(0);
    assert_eq!(run.stderr, "");
    let document = run.json();
    assert_eq!(
        document["files"],
        serde_json::json!([{"path": "skaffold.yaml", "change": "created"}])
    );
    assert!(
        document["notes"][0]
            .as_str()
            .unwrap()
            .contains("kind-disable-load")
    );
}
