//! `kindlift config show`, and how settings become the flags' defaults.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Subcommand};
use kindlift::config::{Config, SETTINGS};
use kindlift::env::Env;

use anyhow::Context;

use super::{Cli, Command, EngineArg, Place};

/// Show the settings
#[derive(Args)]
#[command(disable_help_subcommand = true)]
pub struct Settings {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Show each setting, its value and where that came from
    ///
    /// Flags count as they would for other commands, so this answers what would be used.
    Show(Show),
}

#[derive(Args)]
struct Show {
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
}

/// A command line with everything that the environment and the project's file say.
pub struct Resolved {
    pub cli: Cli,
    pub config: Config,
    pub env: Env,
}

/// Reads the settings and parses the command line again with them as its defaults: so each
/// command has them without asking for them, and `--help` stays what it is.
pub fn resolve(cli: Cli, matches: &ArgMatches) -> anyhow::Result<Resolved> {
    let env = Env::new(std::env::vars_os());
    if !uses_settings(&cli.command) {
        let config = Config::default();
        return Ok(Resolved { cli, config, env });
    }
    let folder = std::env::current_dir().context("there is no current folder")?;
    let mut config = Config::read(&env, &folder)?;
    flags(&mut config, matches);
    if config.is_empty() {
        return Ok(Resolved { cli, config, env });
    }
    let command = with_defaults(Cli::command(), &config);
    let cli = Cli::from_arg_matches(&command.try_get_matches()?)?;
    let env = config.env(&env);
    Ok(Resolved { cli, config, env })
}

/// Help must work wherever it is asked for, and so must `init`.
fn uses_settings(command: &Command) -> bool {
    !matches!(
        command,
        Command::Init(_) | Command::Completions(_) | Command::Man(_) | Command::Help(_)
    )
}

fn id(key: &str) -> String {
    key.replace('-', "_")
}

/// Notes the flags that are given.
fn flags(config: &mut Config, matches: &ArgMatches) {
    let mut deepest = matches;
    while let Some((_, inner)) = deepest.subcommand() {
        deepest = inner;
    }
    for setting in &SETTINGS {
        let id = id(setting.key);
        let known = deepest.ids().any(|other| other.as_str() == id);
        if known && deepest.value_source(&id) == Some(ValueSource::CommandLine) {
            let raw = deepest.get_raw(&id).into_iter().flatten();
            let parts = raw.map(|part| part.to_string_lossy().into_owned());
            config.flag(setting.key, parts.collect());
        }
    }
}

fn with_defaults(command: clap::Command, config: &Config) -> clap::Command {
    command
        .mut_args(|arg| {
            let mut defaults = config.defaults();
            match defaults.find(|(key, _)| arg.get_id().as_str() == id(key)) {
                Some((_, parts)) => arg.default_values(parts.to_vec()),
                None => arg,
            }
        })
        .mut_subcommands(|inner| with_defaults(inner, config))
}
