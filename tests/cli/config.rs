//! Settings: which source wins, what is shown, and what makes no sense.

use crate::Sandbox;

const SHOW: &[&str] = &["config", "show"];

/// The columns VALUE and FROM of a setting.
#[track_caller]
fn shown(sandbox: &Sandbox, args: &[&str], vars: &[(&str, &str)], key: &str) -> (String, String) {
    let run = sandbox.run_with(&[SHOW, args].concat(), vars).expect(0);
    assert_eq!(run.stderr, "");
    let line = run
        .stdout
        .lines()
        .find(|line| line.starts_with(key))
        .unwrap();
    let mut columns = line
        .split("  ")
        .map(str::trim)
        .filter(|column| !column.is_empty());
    columns.next();
    let mut next = || columns.next().unwrap().to_owned();
    (next(), next())
}

fn pair(value: &str, from: &str) -> (String, String) {
    (value.to_owned(), from.to_owned())
}

#[test]
fn flags_then_environment_then_file_then_default() {
    let sandbox = Sandbox::new();
    let env = &[("KINDLIFT_NODES", "c,d"), ("KINDLIFT_STALL_TIMEOUT", "20")];
    assert_eq!(shown(&sandbox, &[], &[], "nodes"), pair("all", "default"));
    sandbox.write(
        "kindlift.toml",
        "nodes = [\"a\", \"b\"]\n\nstall-timeout = 30\n",
    );
    assert_eq!(
        shown(&sandbox, &[], &[], "nodes"),
        pair("a,b", "[here]/kindlift.toml:1")
    );
    assert_eq!(
        shown(&sandbox, &[], &[], "stall-timeout"),
        pair("30", "[here]/kindlift.toml:3")
    );
    assert_eq!(
        shown(&sandbox, &[], env, "nodes"),
        pair("c,d", "KINDLIFT_NODES")
    );
    assert_eq!(
        shown(&sandbox, &[], env, "stall-timeout"),
        pair("20", "KINDLIFT_STALL_TIMEOUT")
    );
    let flags = &["--nodes", "e", "--stall-timeout=10"];
    assert_eq!(shown(&sandbox, flags, env, "nodes"), pair("e", "--nodes"));
    assert_eq!(
        shown(&sandbox, flags, env, "stall-timeout"),
        pair("10", "--stall-timeout")
    );
    // A variable that is empty is none.
    assert_eq!(
        shown(&sandbox, &[], &[("KINDLIFT_NODES", "")], "nodes"),
        pair("a,b", "[here]/kindlift.toml:1")
    );
}

#[test]
fn a_document() {
    let sandbox = Sandbox::new();
    sandbox.write(".git/HEAD", "");
    sandbox.write(
        "kindlift.toml",
        "[kindlift]\nnodes = [\"a\"]\nstall-timeout = 30\n",
    );
    let run = sandbox
        .run(&["config", "show", "--cluster", "x", "--output", "json"])
        .expect(0);
    let document = run.json();
    assert_eq!(document["ok"], true);
    assert_eq!(document["file"], "[here]/kindlift.toml");
    let settings = &document["settings"];
    assert_eq!(settings["nodes"]["value"], serde_json::json!(["a"]));
    assert_eq!(settings["nodes"]["at"], "[here]/kindlift.toml:2");
    assert_eq!(settings["stall-timeout"]["value"], 30);
    assert_eq!(
        settings["cluster"],
        serde_json::json!({"value": "x", "source": "flag", "at": "--cluster", "default": "the kube context's"})
    );
    assert_eq!(settings["engine"]["source"], "default");
    assert_eq!(settings["engine"]["value"], serde_json::Value::Null);
}

#[test]
fn the_file_works_as_its_flags_do() {
    // There is no podman, and Docker was not asked for.
    let sandbox = Sandbox::new();
    sandbox.write("kindlift.toml", "engine = \"podman\"\n");
    sandbox
        .run(&["build", "-t", "app:1"])
        .expect(4)
        .says("podman")
        .never_says("Docker");
    sandbox
        .run(&["build", "-t", "app:1", "--engine", "docker"])
        .expect(4)
        .says("error: Docker does not answer");
    sandbox
        .run_with(&["build", "-t", "app:1"], &[("KINDLIFT_ENGINE", "docker")])
        .expect(4)
        .says("error: Docker does not answer");
}

#[test]
fn a_file_that_makes_no_sense() {
    let sandbox = Sandbox::new();
    sandbox.write("kindlift.toml", "# ours\nclusters = \"dev\"\n");
    for args in [&["build", "-t", "app:1"][..], SHOW] {
        sandbox.run(args).is(
            2,
            "error: [here]/kindlift.toml:2: there is no setting \"clusters\"\n  hint: did you \
             mean cluster?\n",
        );
    }
    let document = sandbox
        .run(&["config", "show", "--output=json"])
        .expect(2)
        .json();
    assert_eq!(document["error"]["kind"], "usage");
    // Help is never refused.
    for args in [
        &["--version"][..],
        &["--help"],
        &["help", "build"],
        &["completions", "bash"],
    ] {
        sandbox.run(args).expect(0);
    }
}

#[test]
fn variables_that_make_no_sense() {
    let sandbox = Sandbox::new();
    sandbox
        .run_with(SHOW, &[("KINDLIFT_STALL_TIMEOUT", "soon")])
        .is(
            2,
            "error: KINDLIFT_STALL_TIMEOUT is \"soon\"\n  hint: set it to a number of seconds \
             from 1 to 3600, or unset it\n",
        );
    sandbox
        .run_with(SHOW, &[("KINDLIFT_NODES", "a,,b")])
        .expect(2)
        .says("error: KINDLIFT_NODES is \"a,,b\"");
}

#[test]
fn a_flag_makes_the_files_other_word_void() {
    let sandbox = Sandbox::new();
    sandbox.write("kindlift.toml", "kube-context = \"kind-a\"\n");
    let run = sandbox.run(&["config", "show", "--cluster", "b"]).expect(0);
    assert!(!run.stdout.contains("kind-a"), "{run}");
    // The command line alone is judged for conflicts.
    sandbox
        .run(&["build", "-t", "a:1", "--cluster", "b"])
        .expect(4);
}
