//! What a run writes: lines that Skaffold and Tilt can take, whatever the build prints.

use crate::lab::{self, App};
use crate::run;

/// Skaffold deadlocks at 64 KiB when it buffers; this is far below.
const LONGEST: usize = 16 * 1024;

/// What stands around a character, for a message.
fn around(text: &str, what: char) -> Option<&str> {
    let at = text.find(what)?;
    text.get(at.saturating_sub(40)..(at + 40).min(text.len()))
}

#[test]
fn no_line_is_long_and_none_draws() {
    let app = App::new("output");
    // A line of 100 KiB, a progress bar, colours, and what buildx itself prints in yellow.
    app.write(
        "noise.sh",
        b"head -c 102400 /dev/zero | tr '\\0' x; echo\n\
          i=0; while [ $i -lt 50 ]; do i=$((i+1)); printf '\\rprogress %d' $i; done; echo\n\
          printf '\\033[31mred\\033[0m \\033]0;title\\007and \\033[2Kdone\\n'\n",
    );
    app.dockerfile(
        "from scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/head\nCOPY busybox /bin/tr\n\
         COPY noise.sh app.bin /\nRUN [\"/bin/sh\", \"/noise.sh\"]\nFROM scratch\nCOPY base.bin /\n\
         COPY --from=0 /noise.sh /\n",
    );
    let run = run::run(&mut app.build("dev", "dev")).expect(0);
    assert_eq!(run.stdout, "");
    let text = &run.stderr;
    assert!(
        text.matches('x').count() >= 102_400,
        "the build's output passes through"
    );
    for piece in ["\n#", "progress 50\n", "red and done\n", "warning found"] {
        assert!(text.contains(piece), "{piece:?} is not there");
    }
    let longest = text.split('\n').map(str::len).max().unwrap();
    assert!(longest <= LONGEST, "a line has {longest} bytes");
    assert!(
        !text.contains('\r'),
        "a carriage return at {:?}",
        around(text, '\r')
    );
    assert!(
        !text.contains('\x1b'),
        "an escape at {:?}",
        around(text, '\x1b')
    );
    assert!(text.ends_with('\n'));
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn quiet_says_nothing_of_its_own() {
    let app = App::new("quiet");
    let run = run::run(app.build("dev", "dev").arg("--quiet")).expect(0);
    run.never_says("loaded ");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn a_reader_that_goes_away_changes_nothing() {
    let app = App::new("closed");
    let mut kindlift = app.build("dev", "dev");
    let mut child = kindlift.args(["--output", "json"]).spawn().unwrap();
    drop(child.stdout.take());
    drop(child.stderr.take());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn a_build_that_falls_silent_is_given_up() {
    let app = App::new("silent");
    app.dockerfile(
        "FROM scratch\nCOPY busybox /bin/busybox\nCOPY busybox /bin/sh\n\
         RUN [\"/bin/busybox\", \"sleep\", \"300\"]\n",
    );
    let mut kindlift = app.build("dev", "dev");
    kindlift.args(["--silence-timeout", "2"]);
    run::run(&mut kindlift)
        .expect(3)
        .says("the build has said nothing for 2 s")
        .says("--silence-timeout");
    app.is_nowhere(&lab::dev());
}

#[test]
fn verbose_tells_the_steps() {
    let app = App::new("verbose");
    run::run(app.build("dev", "dev").arg("--verbose"))
        .expect(0)
        .says("cluster dev under docker at ")
        .says(" push sha256:")
        .says(" of 4 layers unpacked, ");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}

#[test]
fn timings_tell_each_phase_and_each_node() {
    let app = App::new("timings");
    let run = run::run(
        app.build("dev", "dev")
            .args(["--timings", "--output", "json"]),
    )
    .expect(0);
    let phases = run.json()["images"][0]["phases"].clone();
    for phase in phases.as_object().unwrap().keys() {
        let drawn = run
            .stderr
            .lines()
            .any(|line| line.trim_start().starts_with(phase.as_str()) && line.ends_with('='));
        assert!(drawn, "no line for {phase}:\n{run}");
    }
    // The nodes are connected to while the build runs.
    let at = |phase: &str, end: &str| phases[phase][end].as_u64().unwrap();
    assert!(
        at("build", "start_ms") <= at("connect", "end_ms"),
        "{phases}"
    );
    assert_eq!(
        at("build", "start_ms"),
        at("connect", "start_ms"),
        "{phases}"
    );
    for node in lab::dev() {
        run.clone().says(&format!("  {node}: "));
    }
    run.says(" not sent, ");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}
