//! Every `kindlift` command in README, docs, help topics and examples is given to the program as it
//! is written. Here there is no engine, so none does anything; those that can be run are run by
//! `on_lab/documented.rs` and `e2e`.

use std::collections::BTreeMap;

use crate::Sandbox;
use crate::texts::{self, Documented};

/// What only clap says, below a command line that it cannot read.
const NOT_UNDERSTOOD: &str = "\nFor more information, try '--help'.\n";

/// Tells what is wrong with a command line, if anything is.
fn wrong(words: &[&str], is_a_name: bool) -> Option<String> {
    let sandbox = Sandbox::new();
    let mut args = words.to_vec();
    if is_a_name {
        args.insert(0, "help");
    }
    // A watch has no end; with this flag it has an error in its place.
    if args.contains(&"--watch") {
        args.extend(["--output", "json"]);
    }
    // No registry is asked.
    let run = sandbox.run_with(&args, &[("HTTPS_PROXY", "http://127.0.0.1:1")]);
    let understood = !run.stderr.contains(NOT_UNDERSTOOD) && (run.code == 0 || !is_a_name);
    (!understood).then(|| run.to_string())
}

#[test]
fn every_command_in_the_texts_is_one() {
    let texts = texts::all();
    let documented: Vec<Documented> = texts.iter().flat_map(texts::Text::commands).collect();
    let mut by_language: BTreeMap<&str, usize> = BTreeMap::new();
    let mut all_wrong = String::new();
    for command in &documented {
        *by_language.entry(command.language.as_str()).or_default() += 1;
        let words: Vec<&str> = command.words.iter().map(String::as_str).collect();
        if let Some(said) = wrong(&words, command.is_a_name()) {
            all_wrong += &format!("{}: {}\n{said}\n", command.place, command.line);
        }
    }
    assert_eq!(all_wrong, "");
    // Whatever is written where, some of it is found.
    for language in ["sh", "console", "yaml", "python", "inline"] {
        let found = by_language.get(language).copied().unwrap_or_default();
        assert!(found >= 2, "{language}: {by_language:?}");
    }
}

#[test]
fn one_that_is_none_is_found() {
    for words in [
        &["load", "--to", "demo/app:dev"] as &[&str],
        &["laod", "demo/app:dev"],
        &["prune", "--keep", "many"],
        &["build", "--push", "--ref-file", "x"],
        &["ensure", "--watch", "--no-such-flag"],
    ] {
        assert!(wrong(words, false).is_some(), "{words:?}");
    }
    assert!(wrong(&["lnit"], true).is_some());
    assert!(wrong(&["lint"], true).is_none());
}
