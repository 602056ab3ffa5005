//! Help topics, completions and man pages: in real shells and readers.

use std::process::Command;

use crate::{Sandbox, run};

/// The commands, as the program lists them.
fn commands(sandbox: &Sandbox) -> Vec<String> {
    let help = sandbox.run(&["--help"]).expect(0).stdout;
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("    "));
    let names: Vec<_> = names
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 5, "{help}");
    names
}

fn in_shell(sandbox: &Sandbox, program: &str, args: &[&str]) -> String {
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_kindlift"));
    let folder = folder.parent().unwrap().display();
    let mut shell = Command::new(program);
    shell
        .env_clear()
        .env("PATH", format!("{folder}:/usr/bin:/bin"))
        .env("HOME", sandbox.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .args(args);
    let run = run::run(&mut shell).expect(0);
    assert_eq!(run.stderr, "");
    run.stdout
}

#[test]
fn bash_completes() {
    let sandbox = Sandbox::new();
    let complete = |words: &str, count: usize| {
        let script = format!(
            "source <(kindlift completions bash) && complete -p kindlift >/dev/null || exit 1
             COMP_WORDS=({words}) COMP_CWORD={count}
             _kindlift kindlift \"${{COMP_WORDS[-1]}}\" x && echo \"${{COMPREPLY[*]}}\""
        );
        in_shell(&sandbox, "bash", &["-c", &script])
    };
    assert_eq!(complete("kindlift buil", 1), "build\n");
    assert_eq!(complete("kindlift build --kube", 2), "--kube-context\n");
    assert_eq!(complete("kindlift help exit", 2), "exit-codes\n");
    assert_eq!(complete("kindlift init sk", 2), "skaffold\n");
}

#[test]
fn zsh_and_fish_take_theirs() {
    let sandbox = Sandbox::new();
    let zsh = "autoload -Uz compinit && compinit -D -u && source <(kindlift completions zsh) && \
               print $_comps[kindlift]";
    assert_eq!(in_shell(&sandbox, "zsh", &["-f", "-c", zsh]), "_kindlift\n");
    let fish = "kindlift completions fish | source; complete -C 'kindlift verif'";
    let found = in_shell(&sandbox, "fish", &["--no-config", "-c", fish]);
    assert!(found.starts_with("verify\t"), "{found}");
    // There is no PowerShell to ask.
    let run = sandbox.run(&["completions", "powershell"]).expect(0);
    assert!(run.stdout.contains("Register-ArgumentCompleter"), "{run}");
}

#[test]
fn every_command_has_a_man_page() {
    let sandbox = Sandbox::new();
    let written = sandbox.run(&["man", "share/man1"]).expect(0).stdout;
    let mut names: Vec<String> = commands(&sandbox)
        .iter()
        .map(|name| format!("kindlift-{name}.1"))
        .collect();
    names.extend(["kindlift.1".to_owned(), "kindlift-config-show.1".to_owned()]);
    for name in &names {
        assert!(
            written
                .lines()
                .any(|line| line == format!("share/man1/{name}")),
            "{name}: {written}"
        );
        let page = format!("{}/share/man1/{name}", sandbox.path());
        // mandoc's warnings are of form (blank lines), its errors of content.
        in_shell(&sandbox, "mandoc", &["-T", "lint", "-W", "error", &page]);
        let text = in_shell(&sandbox, "mandoc", &["-T", "utf8", &page]);
        assert!(text.contains("kindlift 0."), "{text}");
    }
    assert_eq!(written.lines().count(), names.len(), "{written}");
    sandbox.write("file", "");
    sandbox
        .run(&["man", "file"])
        .expect(2)
        .says("error: cannot write file");
}

#[test]
fn help_explains_topics_and_commands() {
    let sandbox = Sandbox::new();
    for (topic, words) in [
        (
            "exit-codes",
            "load failed; every node has what it had before",
        ),
        ("skaffold", "kind-disable-load true"),
        ("tilt", "outputs_image_ref_to"),
        ("configuration", "KINDLIFT_STALL_TIMEOUT"),
    ] {
        let run = sandbox.run(&["help", topic]).expect(0);
        assert!(run.stdout.contains(words), "{run}");
        let help = sandbox.run(&["--help"]).expect(0);
        assert!(help.stdout.contains(&format!("  {topic} ")), "{help}");
    }
    for words in [&["build"][..], &["config", "show"], &["help"]] {
        let run = sandbox.run(&[&["help"], words].concat()).expect(0);
        let usage = format!("Usage: kindlift {}", words.join(" "));
        assert!(run.stdout.contains(&usage), "{run}");
        assert_eq!(
            run.stdout,
            sandbox.run(&[words, &["--help"]].concat()).stdout
        );
    }
    sandbox.run(&["help", "config", "nothing"]).is(
        2,
        "error: there is no command or topic \"config nothing\"\n  hint: `kindlift --help` lists \
         the commands and the topics\n",
    );
}

#[test]
fn the_topic_of_exit_codes_has_each() {
    let text = Sandbox::new().run(&["help", "exit-codes"]).expect(0).stdout;
    for code in [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143] {
        let code = format!("{code} ");
        assert!(
            text.lines()
                .any(|line| line.trim_start().starts_with(&code)),
            "{code}"
        );
    }
}
