//! Words that make no sense, and those that ask for help.

use crate::Sandbox;

#[test]
fn help_goes_to_stdout() {
    let sandbox = Sandbox::new();
    let run = sandbox.run(&["--help"]).expect(0);
    assert_eq!(run.stderr, "");
    let text = run.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        text.starts_with("Builds an image with Docker or Podman"),
        "{run}"
    );
    // The documented exit codes.
    for code in [
        "0 done",
        "2 usage",
        "3 build",
        "4 no engine",
        "5 no cluster",
        "6 image",
        "7 load",
        "8 not verified",
        "130/143 interrupted",
    ] {
        assert!(text.contains(code), "{code} is not in:\n{run}");
    }
    let build = sandbox.run(&["build", "--help"]).expect(0);
    for flag in [
        "--tag",
        "--file",
        "--target",
        "--build-arg",
        "--secret",
        "--ssh",
        "--platform",
        "--engine",
        "--cluster",
        "--kube-context",
        "--nodes",
        "--push",
        "--output",
        "--stall-timeout",
        "--allow-foreign-platform",
    ] {
        assert!(build.stdout.contains(flag), "{flag} is not in:\n{build}");
    }
}

#[test]
fn the_version_is_the_crates() {
    let run = Sandbox::new().run(&["--version"]).expect(0);
    assert_eq!(
        run.stdout,
        concat!("kindlift ", env!("CARGO_PKG_VERSION"), "\n")
    );
    assert_eq!(run.stderr, "");
}

#[test]
fn without_a_command_there_is_help_and_an_error() {
    let run = Sandbox::new().run(&[]).expect(2).says("Usage: kindlift");
    assert_eq!(run.stdout, "");
}

#[test]
fn an_unknown_command_or_flag() {
    let sandbox = Sandbox::new();
    for args in [
        &["bogus"][..],
        &["build", "--bogus"],
        &["build", "-t", "a:1", "--quiet", "--verbose"],
    ] {
        let run = sandbox
            .run(args)
            .expect(2)
            .says("error: ")
            .says("Usage: kindlift");
        assert_eq!(run.stdout, "", "{args:?}");
    }
}

#[test]
fn values_that_cannot_be() {
    let sandbox = Sandbox::new();
    sandbox
        .run(&["build", "-t", "a:1", "--platform", "linux"])
        .expect(2)
        .says("error: invalid value 'linux' for '--platform")
        .says("write it as os/architecture[/variant], e.g. linux/arm64");
    for seconds in ["0", "-1", "soon", "3601"] {
        sandbox
            .run(&["build", "-t", "a:1", &format!("--stall-timeout={seconds}")])
            .expect(2)
            .says(&format!(
                "error: invalid value '{seconds}' for '--stall-timeout"
            ));
    }
    sandbox
        .run_with(
            &["build", "-t", "a:1"],
            &[("KINDLIFT_STALL_TIMEOUT", "soon")],
        )
        .expect(2)
        .says("KINDLIFT_STALL_TIMEOUT is \"soon\"");
}

#[test]
fn a_build_needs_a_name() {
    Sandbox::new()
        .run(&["build"])
        .expect(2)
        .says("error: the image has no name\n  hint: give it one with --tag, or let Skaffold");
}

#[test]
fn odd_names() {
    let sandbox = Sandbox::new();
    for (name, why) in [
        ("my app:1", "it contains ' '"),
        ("app:1 ", "it contains ' '"),
        ("app\n:1", "it contains '\\n'"),
        ("'app':1", "it contains '\\''"),
        ("\"app\":1", "it contains '\"'"),
        ("-app:1", "it begins with a dash"),
        ("--", "it begins with a dash"),
        ("App:1", "the repository must be lower case"),
        ("demo/App:1", "the repository must be lower case"),
    ] {
        sandbox.run(&["build", &format!("--tag={name}")]).is(
            2,
            &format!(
                "error: `{name}` is not an image name: {why}\n  hint: write it as \
                 [registry/]repository[:tag], the repository in lower case, e.g. demo/app:dev\n"
            ),
        );
    }
    for name in [
        "",
        ":1",
        "a:",
        "a:1:2",
        "a//b",
        "a:$(reboot)",
        "a;b",
        "a@sha256:12",
    ] {
        sandbox
            .run(&["build", &format!("--tag={name}")])
            .expect(2)
            .says(&format!("`{name}` is not an image name: "));
    }
    let digest = format!("app@sha256:{}", "1".repeat(64));
    sandbox
        .run(&["build", "--tag", &digest])
        .expect(2)
        .says("has a digest, which a build cannot choose\n  hint: name the image with a tag\n");
}

#[test]
fn a_missing_dockerfile() {
    let sandbox = Sandbox::new();
    sandbox.write("empty/README", "");
    sandbox.run(&["build", "-t", "a:1", "empty"]).is(
        2,
        "error: there is no Dockerfile at [here]/empty/Dockerfile\n  hint: name it with --file, \
         or the folder that has it as the context\n",
    );
    sandbox
        .run(&["build", "-t", "a:1", "-f", "other.Dockerfile"])
        .expect(2)
        .says("error: there is no Dockerfile at ")
        .says("other.Dockerfile\n");
    sandbox.run(&["build", "-t", "a:1", "nowhere"]).is(
        2,
        "error: the context [here]/nowhere is not a folder\n  hint: name the folder that holds \
         the Dockerfile\n",
    );
}

#[test]
fn an_error_as_a_document() {
    let run = Sandbox::new()
        .run(&["build", "-t", "my app", "--output", "json"])
        .expect(2)
        .says("error: `my app` is not an image name");
    assert_eq!(
        run.json(),
        serde_json::json!({
            "ok": false,
            "error": {
                "kind": "usage",
                "exit_code": 2,
                "message": "`my app` is not an image name: it contains ' '",
                "causes": [],
                "hint": "write it as [registry/]repository[:tag], the repository in lower case, \
                         e.g. demo/app:dev",
            },
        })
    );
}

#[test]
fn logs_for_developers() {
    let sandbox = Sandbox::new();
    let with = |log: &str| {
        crate::run::run(
            sandbox
                .kindlift(&["config", "show"])
                .env("KINDLIFT_LOG", log),
        )
    };
    with("kindlift=loud")
        .expect(2)
        .says("error: KINDLIFT_LOG is \"kindlift=loud\"\n  caused by: ")
        .says("\n  hint: say what to log like this: KINDLIFT_LOG=kindlift=debug,h2=info\n");
    with("off").expect(0);
    with("kindlift=trace,h2=info").expect(0);
}
