//! `kindlift help`, `completions` and `man`: what the program says of itself, all made from the
//! one definition of its command line.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, Command};
use clap_complete::Shell;
use kindlift::error::{Error, ErrorKind};

/// Explanations that belong to no command: name, one line, text.
const TOPICS: [(&str, &str, &str); 4] = [
    (
        "configuration",
        "kindlift.toml, environment, and which wins",
        include_str!("topics/configuration.txt"),
    ),
    (
        "exit-codes",
        "What each exit code means",
        include_str!("topics/exit-codes.txt"),
    ),
    (
        "skaffold",
        "How kindlift works under Skaffold",
        include_str!("topics/skaffold.txt"),
    ),
    (
        "tilt",
        "How kindlift works under Tilt",
        include_str!("topics/tilt.txt"),
    ),
];

/// Show the help of a command, or explain a topic
#[derive(Args)]
#[command(after_help = topics())]
pub struct Help {
    /// The command (and its own commands), or the topic
    #[arg(value_name = "COMMAND|TOPIC")]
    words: Vec<String>,
}

impl Help {
    /// Finds the text.
    pub fn run(&self, mut command: Command) -> Result<String, Error> {
        if let [word] = self.words.as_slice()
            && let Some((_, _, text)) = TOPICS.iter().find(|(name, _, _)| name == word)
        {
            return Ok((*text).to_owned());
        }
        let mut inner = &command;
        for word in &self.words {
            inner = inner.find_subcommand(word).ok_or_else(|| {
                let all = self.words.join(" ");
                Error::usage(format!("there is no command or topic {all:?}"))
                    .hint("`kindlift --help` lists the commands and the topics")
            })?;
        }
        // As if the command's own --help had been given: clap chooses the layout.
        let words = self.words.iter().map(String::as_str);
        let line = ["kindlift"].into_iter().chain(words).chain(["--help"]);
        Ok(match command.try_get_matches_from_mut(line) {
            Err(help) => help.render().to_string(),
            Ok(_) => String::new(),
        })
    }
}

/// Lists the topics, for below a help text.
fn topics() -> String {
    let mut text = "Topics, for `kindlift help`:".to_owned();
    for (name, about, _) in TOPICS {
        text += &format!("\n  {name:<14} {about}");
    }
    text
}

/// Puts the topics below what stands at the end of a help text.
pub fn after_help(text: &str) -> String {
    format!("{text}\n\n{}", topics())
}

/// Write a shell's completions to stdout
///
/// bash: kindlift completions bash > ~/.local/share/bash-completion/completions/kindlift
#[derive(Args)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Makes them.
    pub fn run(&self, command: Command) -> String {
        let mut command = completed(command);
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "kindlift", &mut script);
        String::from_utf8_lossy(&script).into_owned()
    }
}

/// Lets `help` be completed with the commands and topics that there are.
fn completed(command: Command) -> Command {
    let words: Vec<String> = command
        .get_subcommands()
        .map(|inner| inner.get_name().to_owned())
        .chain(TOPICS.iter().map(|(name, _, _)| (*name).to_owned()))
        .collect();
    command.mut_subcommand("help", |help| {
        help.mut_arg("words", |arg| {
            arg.value_parser(PossibleValuesParser::new(words))
        })
    })
}

/// Write man pages into a folder, one for each command
///
/// kindlift man ~/.local/share/man/man1
#[derive(Args)]
pub struct Man {
    /// The folder; it is made if it is not there
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

impl Man {
    /// Writes them, and returns their paths, one a line.
    pub fn run(&self, command: Command) -> Result<String, Error> {
        let failed = |path: &Path, e: std::io::Error| {
            let what = format!("cannot write {}", path.display());
            Error::new(ErrorKind::Usage, what).because(e)
        };
        std::fs::create_dir_all(&self.folder).map_err(|e| failed(&self.folder, e))?;
        let mut command = command;
        command.build();
        let mut written = String::new();
        let mut waiting = vec![command];
        while let Some(command) = waiting.pop() {
            waiting.extend(command.get_subcommands().cloned());
            let page = clap_mangen::Man::new(command)
                .source(concat!("kindlift ", env!("CARGO_PKG_VERSION")))
                .manual("kindlift");
            let path = self.folder.join(page.get_filename());
            let mut text = Vec::new();
            page.render(&mut text).map_err(|e| failed(&path, e))?;
            std::fs::write(&path, text).map_err(|e| failed(&path, e))?;
            written += &format!("{}\n", path.display());
        }
        Ok(written)
    }
}
