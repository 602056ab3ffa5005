//! What stdout and stderr can show, and what the user wants of it: `--color`, `NO_COLOR`,
//! `CLICOLOR_FORCE`, `TERM`, the locale.

use std::io::IsTerminal;

use anstream::{AutoStream, ColorChoice};
use kindlift::contract;
use kindlift::env::Env;
use kindlift::report::{Screen, Terminal, Verbosity};

/// Settles who wants colours, for what clap prints too. `auto` leaves it to `NO_COLOR`,
/// `CLICOLOR_FORCE` and the streams.
pub fn choose(when: clap::ColorChoice) {
    let choice = match when {
        clap::ColorChoice::Auto => ColorChoice::Auto,
        clap::ColorChoice::Always => ColorChoice::Always,
        clap::ColorChoice::Never => ColorChoice::Never,
    };
    choice.write_global();
}

/// Tells whether what goes to stderr has colours.
pub fn colour() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}

/// Returns the environment for what is run: what `--color never` says counts there too.
pub fn env(when: clap::ColorChoice, env: Env) -> Env {
    match when {
        clap::ColorChoice::Never => env.with("NO_COLOR", Some("1")),
        clap::ColorChoice::Auto | clap::ColorChoice::Always => env,
    }
}

/// Finds out what may be done with stderr. Under Skaffold and Tilt all of it ends in their logs,
/// whatever it looks like: nothing is drawn.
pub fn stderr(env: &Env, verbosity: Verbosity) -> Terminal {
    let drawn_on = std::io::stderr().is_terminal() && is_able(env) && !contract::is_run_by(env);
    Terminal {
        drawn_on,
        // Steps and developers' logs are read line by line.
        live: drawn_on && verbosity == Verbosity::Normal && !env.has("KINDLIFT_LOG"),
        colour: colour(),
    }
}

/// Finds out what stdout can show.
pub fn stdout() -> Screen {
    let env = Env::new(std::env::vars_os());
    let stdout = std::io::stdout();
    Screen {
        width: stdout
            .is_terminal()
            .then(|| terminal_size::terminal_size_of(&stdout))
            .flatten()
            .map(|(width, _)| width.0.into()),
        unicode: is_unicode(&env),
        colour: AutoStream::choice(&stdout) != ColorChoice::Never,
    }
}

/// Tells whether the terminal can move its cursor.
fn is_able(env: &Env) -> bool {
    env.get("TERM").is_some_and(|term| term != "dumb")
}

/// The first of the three that is set counts, as for the C library.
fn is_unicode(env: &Env) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| env.get(name))
        .is_some_and(|locale| {
            let locale = locale.to_uppercase();
            locale.contains("UTF-8") || locale.contains("UTF8")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_locale_decides() {
        assert!(is_unicode(&Env::new([("LANG", "en_GB.UTF-8")])));
        assert!(is_unicode(&Env::new([("LC_CTYPE", "C.utf8")])));
        assert!(!is_unicode(&Env::new([
            ("LANG", "en_GB.UTF-8"),
            ("LC_ALL", "C")
        ])));
        assert!(is_unicode(&Env::new([
            ("LANG", "en_GB.UTF-8"),
            ("LC_ALL", "")
        ])));
        assert!(!is_unicode(&Env::default()));
    }
}
