//! `--color`, `NO_COLOR`, `CLICOLOR_FORCE`: who wins, on a pipe and on a terminal. Words say the
//! same without colours.

use std::process::{Command, Stdio};

use crate::{Sandbox, run};

/// What a sequence of colours begins with.
const ESCAPE: char = '\x1b';

/// Where stderr leads.
#[derive(Debug, Clone, Copy)]
enum To {
    Pipe,
    Terminal,
}

/// Returns what comes out at stderr; on a terminal, stdout is there too.
fn told(sandbox: &Sandbox, to: To, args: &[&str], vars: &[(&str, &str)]) -> String {
    let mut command = match to {
        To::Pipe => sandbox.kindlift(args),
        To::Terminal => on_terminal(sandbox, args),
    };
    command.env("TERM", "xterm").envs(vars.iter().copied());
    let run = run::run(&mut command);
    match to {
        To::Pipe => run.stderr,
        To::Terminal => run.stdout.replace('\r', ""),
    }
}

/// `script` is the terminal. It wants a shell, so PATH is the system's.
fn on_terminal(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut script = run::command("script");
    script
        .current_dir(sandbox.path())
        .env("HOME", sandbox.path())
        .env(
            "DOCKER_HOST",
            format!("unix://{}/none.sock", sandbox.path()),
        )
        .stdin(Stdio::null())
        .args([
            "-qec",
            &format!("{} {}", env!("CARGO_BIN_EXE_kindlift"), args.join(" ")),
            "/dev/null",
        ]);
    script
}

#[test]
fn the_flag_then_no_color_then_force_then_the_stream() {
    let sandbox = Sandbox::new();
    let failing = ["build", "-t", "a:1"];
    let (no, force) = (("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1"));
    for (flag, vars, on_pipe, on_terminal) in [
        ("auto", &[][..], false, true),
        ("auto", &[no], false, false),
        ("auto", &[force], true, true),
        ("auto", &[no, force], false, false),
        // An empty variable is none.
        ("auto", &[("NO_COLOR", "")], false, true),
        ("auto", &[("CLICOLOR", "0")], false, false),
        ("auto", &[("TERM", "dumb")], false, false),
        ("always", &[], true, true),
        ("always", &[no], true, true),
        ("always", &[("TERM", "dumb")], true, true),
        ("never", &[], false, false),
        ("never", &[force], false, false),
    ] {
        for (to, coloured) in [(To::Pipe, on_pipe), (To::Terminal, on_terminal)] {
            for place in [
                [&["--color", flag][..], &failing].concat(),
                [&failing[..], &[&format!("--color={flag}")]].concat(),
            ] {
                let text = told(&sandbox, to, &place, vars);
                assert!(text.contains("hint:"), "{text}");
                let found = text.contains(ESCAPE);
                assert_eq!(found, coloured, "{to:?}, {place:?}, {vars:?}: {text:?}");
            }
        }
    }
}

#[test]
fn colours_take_nothing_away_and_touch_the_words_alone() {
    let sandbox = Sandbox::new();
    let args = ["build", "-t", "app", "--builder", "x"];
    let plain = told(&sandbox, To::Pipe, &args, &[]);
    assert!(plain.starts_with("error: cannot start `docker`"), "{plain}");
    let coloured = told(&sandbox, To::Pipe, &args, &[("CLICOLOR_FORCE", "1")]);
    assert_eq!(
        coloured,
        plain
            .replace("error:", "\x1b[1m\x1b[31merror:\x1b[0m")
            .replace("caused by:", "\x1b[2mcaused by:\x1b[0m")
            .replace("hint:", "\x1b[1m\x1b[36mhint:\x1b[0m")
    );
}

#[test]
fn claps_own_words_follow() {
    let sandbox = Sandbox::new();
    let force = &[("CLICOLOR_FORCE", "1")];
    for args in [
        &["bogus"][..],
        &["build", "--bogus"],
        &["build", "--quiet", "--verbose"],
        &["build", "--stall-timeout", "soon"],
    ] {
        for (flag, vars, coloured) in [
            ("auto", &[][..], false),
            ("auto", force, true),
            ("always", &[], true),
            ("never", force, false),
        ] {
            let args = [&["--color", flag], args].concat();
            let text = told(&sandbox, To::Pipe, &args, vars);
            assert!(text.contains("error:"), "{text}");
            assert_eq!(text.contains(ESCAPE), coloured, "{args:?}: {text:?}");
        }
    }
    let help = |args: &[&str]| sandbox.run(args).expect(0).stdout.contains(ESCAPE);
    assert!(help(&["build", "--help", "--color=always"]));
    assert!(help(&["--color", "always", "build", "--help"]));
    assert!(!help(&["build", "--help"]));
    sandbox
        .run(&["build", "--color", "blue"])
        .expect(2)
        .says("invalid value 'blue' for '--color");
}

#[test]
fn doctors_screen_follows_too() {
    let sandbox = Sandbox::new();
    let marked = |args: &[&str]| {
        let run = sandbox.run(&[&["doctor"], args].concat());
        assert!(run.stdout.starts_with("kindlift "), "{run}");
        run.stdout.contains(ESCAPE)
    };
    assert!(!marked(&[]));
    assert!(marked(&["--color", "always"]));
}

#[test]
fn what_never_says_reaches_what_is_run() {
    // Its own `docker` tells what it was given.
    let sandbox = Sandbox::new();
    sandbox.write(
        "docker",
        "#!/bin/sh\necho \"NO_COLOR=${NO_COLOR-unset}\" >&2; exit 1\n",
    );
    let mut allow = run::command("chmod");
    run::run(allow.args(["+x", &format!("{}/docker", sandbox.path())])).expect(0);
    for (flag, given) in [("never", "NO_COLOR=1"), ("auto", "NO_COLOR=unset")] {
        sandbox
            .run(&["build", "-t", "app", "--builder", "x", "--color", flag])
            .expect(4)
            .says(given);
    }
}
