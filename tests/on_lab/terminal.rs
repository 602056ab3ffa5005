//! What stands on a user's terminal while an image is on its way, and what stays there. The
//! terminal is tmux, which breaks lines anew when its window gets narrower.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::lab::{self, App};
use crate::run;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a shell does first: on a screen that is full, everything moves. And last: tmux now and then
/// never learns with what code a command has ended. Ctrl-C is for the command alone.
const FULL: &str = "seq 100; trap : INT; \"$@\"; echo $? >\"$0.new\"; mv \"$0.new\" \"$0\"";

/// A terminal with one command in it.
struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// Starts a command that was prepared with its folder and its whole environment.
    #[track_caller]
    fn start(command: &Command, columns: u16) -> Self {
        let terminal = Self {
            folder: TempDir::with_prefix("kindlift-tmux-").unwrap(),
        };
        let settings = "set -g status off\nset -g remain-on-exit on\nset -g remain-on-exit-format ''\n\
                        set -g default-terminal screen\n";
        let conf = terminal.folder.path().join("conf");
        std::fs::write(&conf, settings).unwrap();
        let mut tmux = terminal.tmux();
        tmux.envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .current_dir(command.get_current_dir().unwrap())
            .arg("-f")
            .arg(conf)
            .args(["new-session", "-d", "-y", "30", "-x"])
            .arg(columns.to_string())
            .args(["sh", "-c", FULL])
            .arg(terminal.code())
            .arg(command.get_program())
            .args(command.get_args());
        run::run(&mut tmux).expect(0);
        terminal
    }

    fn tmux(&self) -> Command {
        let mut tmux = lab::program("tmux");
        tmux.arg("-S").arg(self.folder.path().join("socket"));
        tmux
    }

    #[track_caller]
    fn ask(&self, args: &[&str]) -> String {
        run::run(self.tmux().args(args)).expect(0).stdout
    }

    /// Returns all lines that the command has written, those that have scrolled away too.
    fn lines(&self) -> Vec<String> {
        let text = self.ask(&["capture-pane", "-p", "-S", "-"]);
        let lines = text.trim_end().lines();
        let written = lines.skip_while(|line| *line != "100").skip(1);
        written.map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until the lines show something; the command must be at work all the while.
    #[track_caller]
    fn shows(&self, what: &str, holds: impl Fn(&[String]) -> bool) {
        run::wait_until(what, DEADLINE, || {
            let lines = self.lines();
            assert!(!self.has_ended(), "it ended before {what}: {lines:#?}");
            holds(&lines)
        });
    }

    fn has_ended(&self) -> bool {
        self.ask(&["display", "-p", "#{pane_dead}"]).trim() == "1"
    }

    /// Waits for the command's end. Returns its exit code and what is left on the screen.
    #[track_caller]
    fn end(&self) -> (String, Vec<String>) {
        // Once the pane is dead, all that was written is on the screen.
        run::wait_until("its end", DEADLINE, || {
            self.has_ended() && self.code().exists()
        });
        let code = std::fs::read_to_string(self.code()).unwrap();
        (code.trim().to_owned(), self.lines())
    }

    /// The file that gets the command's exit code.
    fn code(&self) -> PathBuf {
        self.folder.path().join("code")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux().arg("kill-server").output();
    }
}

/// Tells whether a node has a line that says one of these.
fn tells(lines: &[String], node: &str, words: &[&str]) -> bool {
    let line = lines
        .iter()
        .find(|line| line.starts_with(&format!("{node} ")));
    line.is_some_and(|line| words.iter().any(|word| line.contains(&format!(" {word}"))))
}

const WORDS: &[&str] = &["waiting", "staging", "staged", "named", "proven"];

/// Requires that of what was drawn nothing is left.
#[track_caller]
fn is_clean(lines: &[String]) {
    for node in lab::dev() {
        assert!(
            !lines.iter().any(|line| line.starts_with(&node)),
            "{lines:#?}"
        );
    }
}

/// An image that takes a while, in an archive of its own.
fn archive(app: &App, megabytes: u64) -> String {
    app.random("app.bin", megabytes * 1_000_000);
    let path = app.path("app.tar").to_str().unwrap().to_owned();
    lab::docker(&[
        "build",
        "--quiet",
        "--provenance=false",
        "--tag",
        &app.tag("dev"),
        app.folder().to_str().unwrap(),
    ]);
    lab::docker(&["image", "save", "--output", &path, &app.tag("dev")]);
    path
}

fn load(app: &App, archive: &str) -> Command {
    let mut kindlift = lab::kindlift();
    kindlift
        .current_dir(app.folder())
        .args(["load", archive, "--cluster", "dev"]);
    kindlift
}

/// The line that stays when an image is on all nodes of `dev`.
fn summary(app: &App) -> String {
    format!("loaded {} into 3 nodes of dev: ", app.tag("dev"))
}

#[test]
fn a_line_a_node_and_then_the_summary_alone() {
    let app = App::new("terminal");
    let archive = archive(&app, 150);
    let nodes = lab::dev();
    let terminal = Terminal::start(&load(&app, &archive), 100);
    terminal.shows("a line a node", |lines| {
        nodes.iter().all(|node| tells(lines, node, WORDS)) && lines.len() == nodes.len()
    });
    terminal.shows("bytes and rate", |lines| {
        let moving = lines.iter().find(|line| line.contains(" MB of 15"));
        moving.is_some_and(|line| line.contains("[==") && line.ends_with("B/s"))
    });
    for (columns, rows) in [(75, 30), (140, 8), (72, 30), (100, 12)] {
        let size = ["-x", &columns.to_string(), "-y", &rows.to_string()];
        terminal.ask(&[&["resize-window"][..], &size].concat());
        let before = terminal.lines();
        terminal.shows("the lines drawn anew", |lines| lines != before);
    }
    let (code, lines) = terminal.end();
    assert_eq!(code, "0", "{lines:#?}");
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].starts_with(&summary(&app)), "{lines:#?}");
    lab::proven(&nodes, &[app.on_node("dev")]);
}

#[test]
fn below_the_builds_own_drawing() {
    let app = App::new("terminal-build");
    app.random("app.bin", 120_000_000);
    let terminal = Terminal::start(&app.build("dev", "dev"), 100);
    // buildx draws there, and is not drawn over.
    terminal.shows("buildx's own lines", |lines| {
        lines.iter().any(|line| line.starts_with("[+] Building"))
    });
    let nodes = lab::dev();
    terminal.shows("a line a node", |lines| {
        nodes.iter().all(|node| tells(lines, node, WORDS))
            && lines.iter().any(|line| line.contains("FINISHED"))
    });
    let (code, lines) = terminal.end();
    assert_eq!(code, "0", "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.contains("FINISHED")),
        "{lines:#?}"
    );
    assert!(
        lines.last().unwrap().starts_with(&summary(&app)),
        "{lines:#?}"
    );
    is_clean(&lines);
    lab::proven(&nodes, &[app.on_node("dev")]);
}

#[test]
fn interrupted_it_leaves_the_error_alone() {
    let app = App::new("terminal-stop");
    let archive = archive(&app, 150);
    // On a narrow one, too.
    let terminal = Terminal::start(&load(&app, &archive), 40);
    let nodes = lab::dev();
    terminal.shows("a transfer", |lines| {
        nodes.iter().all(|node| tells(lines, node, &["staging"])) && lines.len() == nodes.len()
    });
    terminal.ask(&["send-keys", "C-c"]);
    let (code, lines) = terminal.end();
    assert_eq!(
        (code.as_str(), lines),
        ("130", vec!["error: interrupted".to_owned()])
    );
    app.is_nowhere(&nodes);
}

#[test]
fn nothing_is_drawn_where_it_would_be_kept() {
    let app = App::new("terminal-log");
    let archive = archive(&app, 20);
    let log = app.path("log");
    let recorded = |kindlift: &Command| {
        let line = kindlift.get_args().map(|arg| arg.to_str().unwrap());
        let line: Vec<_> = [kindlift.get_program().to_str().unwrap()]
            .into_iter()
            .chain(line)
            .collect();
        let mut script = lab::program("script");
        script
            .current_dir(app.folder())
            .envs(kindlift.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .env("TERM", "xterm")
            .args(["-qec", &line.join(" ")])
            .arg(&log);
        run::run(&mut script).expect(0);
        let text = std::fs::read_to_string(&log).unwrap();
        // What `script` itself writes is above the first line and below the last.
        let (_, text) = text.split_once('\n').unwrap();
        let (text, _) = text.rsplit_once("\nScript done").unwrap();
        text.replace('\r', "")
    };
    // It is drawn in such a terminal, so what follows proves something.
    assert!(recorded(&load(&app, &archive)).contains("\x1b["));
    app.forget_on(&lab::dev());

    let pipe = run::run(&mut load(&app, &archive)).expect(0);
    assert!(pipe.stderr.starts_with(&summary(&app)), "{pipe}");
    assert_eq!(pipe.stderr.lines().count(), 1, "{pipe}");
    app.forget_on(&lab::dev());
    for (args, env) in [
        // Skaffold and Tilt give no terminal; if they did, it would be their log.
        (&[][..], &[("IMAGE", "app:1")][..]),
        (&[], &[("EXPECTED_REF", "app:1")]),
        (&["--quiet"], &[]),
        (&["--verbose"], &[]),
    ] {
        let mut kindlift = load(&app, &archive);
        kindlift.args(args).envs(env.iter().copied());
        let text = recorded(&kindlift);
        assert!(!text.contains('\x1b'), "{args:?} {env:?}: {text:?}");
        assert!(!text.contains("waiting"), "{args:?} {env:?}: {text:?}");
        app.forget_on(&lab::dev());
    }
    let mut skaffold = app.skaffold("dev");
    skaffold.args(["--cluster", "dev"]);
    let text = recorded(&skaffold);
    assert!(!text.contains('\x1b') && text.contains("\n#"), "{text:?}");
    lab::proven(&lab::dev(), &[app.on_node("dev")]);
}
