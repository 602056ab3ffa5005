//! Readers that go away. `kindlift --help | head -1` must not panic, and an error stays one.

use std::process::Stdio;

use crate::{Sandbox, run};

/// The writing end of a pipe that nobody reads any more.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

#[test]
fn nobody_reads_stdout() {
    let sandbox = Sandbox::new();
    for (args, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["build", "--output", "json"], 2),
    ] {
        let run = run::run(sandbox.kindlift(args).stdout(closed()));
        run.expect(code).never_says("panicked");
    }
}

#[test]
fn nobody_reads_stderr() {
    let sandbox = Sandbox::new();
    for (args, code) in [
        (&["bogus"][..], 2),
        (&["build"], 2),
        (&["build", "-t", "a:1"], 4),
        (&["build", "-t", "a:1", "--verbose"], 4),
    ] {
        let mut kindlift = sandbox.kindlift(args);
        let run = run::run(kindlift.stderr(closed()).env("KINDLIFT_LOG", "trace"));
        assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{args:?}");
    }
}

#[test]
fn nobody_reads_anything() {
    let sandbox = Sandbox::new();
    let mut kindlift = sandbox.kindlift(&["build", "-t", "a:1", "--output", "json"]);
    run::run(kindlift.stdout(closed()).stderr(closed())).expect(4);
}
