//! The command line: reads flags and the environment, runs one command, reports.

mod build;
mod config;
mod doctor;
mod export;
mod images;
mod init;
mod lint;
mod prune;
mod shell;
mod terminal;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use kindlift::config::Config;
use kindlift::engine::EngineKind;
use kindlift::error::{Error, ErrorKind, Result};
use kindlift::image::Platform;
use kindlift::job::{Cancel, Job, PATIENCE, SILENCE};
use kindlift::report::{self, Event, Outcome, Report, Text, Verbosity};
use kindlift::run::doctor::Diagnosis;
use kindlift::run::init::Initiated;
use kindlift::run::{self as library, Exported, Pruning, Where};
use serde::Serialize;

/// Builds an image with Docker or Podman and puts it, proven, into every node of a Kind cluster.
#[derive(Parser)]
#[command(name = "kindlift", version, max_term_width = 100, after_help = EXIT_CODES,
          after_long_help = shell::after_help(EXIT_CODES), disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done and proven · 1 internal · 2 usage · 3 build or push failed · 4 no engine · \
5 no cluster or node · 6 image refused · 7 load failed, nodes as before · 8 not verified · \
9 superseded by another load · 10 lint found something · 130/143 interrupted";

#[derive(Subcommand)]
enum Command {
    Build(Box<build::Build>),
    Load(images::Load),
    Ensure(images::Ensure),
    Verify(images::Verify),
    Export(export::Export),
    Prune(prune::Prune),
    Lint(lint::Lint),
    Doctor(doctor::Doctor),
    Init(init::Init),
    Config(config::Settings),
    Completions(shell::Completions),
    Man(shell::Man),
    Help(shell::Help),
}

/// What a command says when it is done; in JSON, the fields beside `ok`.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Images { images: Vec<Outcome> },
    Exported { export: Exported },
    Pruned(Pruning),
    Linted(library::Lint),
    Found(Diagnosis),
    Settings(Config),
    Page { text: String },
    Files(Initiated),
}

impl Answer {
    /// Returns the kind of failure that the answer tells of, where that is what was asked for.
    fn failure(&self) -> Option<ErrorKind> {
        match self {
            Self::Found(diagnosis) => diagnosis.failure(),
            Self::Linted(lint) if !lint.findings.is_empty() => Some(ErrorKind::Findings),
            _ => None,
        }
    }

    /// Tells it to people.
    fn tell(&self, seconds: f64, verbosity: Verbosity) {
        match self {
            Self::Linted(lint) => report::linting(lint, verbosity),
            Self::Found(found) => {
                report::diagnosis(found, terminal::stdout(), verbosity == Verbosity::Quiet);
            }
            // Telling it is all that was asked for, even quietly.
            Self::Settings(config) => report::settings(config),
            Self::Page { text } => report::page(text),
            _ if verbosity == Verbosity::Quiet => {}
            Self::Images { images } => images
                .iter()
                .for_each(|outcome| report::summary(outcome, seconds)),
            Self::Exported { export } => report::exported(export),
            Self::Pruned(pruning) => report::pruning(pruning),
            Self::Files(files) => report::files(files),
        }
    }

    /// Tells where the time went.
    fn tell_timings(&self) {
        if let Self::Images { images } = self {
            images.iter().for_each(report::timings);
        }
    }
}

#[derive(Args)]
struct Global {
    /// How to report: lines on stderr, or one JSON document on stdout
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    output: Output,
    /// Tell each step
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Tell errors only, and what the build says
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Colour what is told; auto asks NO_COLOR, CLICOLOR_FORCE and whether it is a terminal
    #[arg(long, value_name = "auto|always|never", default_value_t = ColorChoice::Auto,
          hide_possible_values = true, global = true)]
    color: ColorChoice,
    /// Tell when each phase was and what went to each node
    #[arg(long, global = true)]
    timings: bool,
    /// Give a step up when nothing has moved for this long, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=3600), global = true)]
    stall_timeout: u64,
    /// Give the engine up when its build, push, pull or save has said nothing for this long, in
    /// seconds
    #[arg(long, value_name = "SECONDS", default_value_t = SILENCE.as_secs(),
          value_parser = clap::value_parser!(u64).range(1..=86400), global = true)]
    silence_timeout: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Who has the image.
#[derive(Args)]
struct EngineArg {
    /// The engine [default: the one that Skaffold and Tilt look into, else what answers]
    #[arg(long, value_enum, value_name = "docker|podman")]
    engine: Option<EngineName>,
}

#[derive(Clone, Copy, ValueEnum)]
enum EngineName {
    Docker,
    Podman,
}

impl EngineArg {
    fn kind(&self) -> Option<EngineKind> {
        self.engine.map(|name| match name {
            EngineName::Docker => EngineKind::Docker,
            EngineName::Podman => EngineKind::Podman,
        })
    }
}

/// How to read registries.
#[derive(Args)]
struct Registry {
    /// Read docker:// images without TLS; one of this host's loopback may do without it anyway
    #[arg(long)]
    plain_http: bool,
}

/// Where to load.
#[derive(Args)]
struct Place {
    /// The Kind cluster [default: that of the kube context]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// The kube context whose cluster to use
    #[arg(long, value_name = "CONTEXT", conflicts_with = "cluster")]
    kube_context: Option<String>,
    /// Load only these nodes
    #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
    nodes: Vec<String>,
    /// Load an image that the nodes cannot run
    #[arg(long)]
    allow_foreign_platform: bool,
}

impl Place {
    fn resolve(&self) -> Where {
        Where {
            cluster: self.cluster.clone(),
            kube_context: self.kube_context.clone(),
            nodes: self.nodes.clone(),
            allow_foreign_platform: self.allow_foreign_platform,
        }
    }
}

fn platform(text: &str) -> Result<Platform, String> {
    text.parse()
        .map_err(|e: Error| e.next_step().unwrap_or("unknown platform").to_owned())
}

/// Parses, runs, reports.
pub fn run() -> ExitCode {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((matches, cli))
    });
    let (matches, cli) = match parsed {
        Ok(parsed) => parsed,
        Err(e) => {
            let color = early("color").and_then(|when| ColorChoice::from_str(&when, false).ok());
            terminal::choose(color.unwrap_or_default());
            // A closed pipe behind `--help | head` is fine.
            let _ = e.print();
            if e.use_stderr() && early("output").as_deref() == Some("json") {
                report::document::<Answer>(Err(&Error::usage(e.kind().to_string())));
            }
            return ExitCode::from(if e.use_stderr() {
                ErrorKind::Usage.exit_code()
            } else {
                0
            });
        }
    };
    let start = Instant::now();
    terminal::choose(cli.global.color);
    let verbosity = verbosity(&cli.global);
    let (output, timings) = (cli.global.output, cli.global.timings);
    let result = log(verbosity)
        .map_err(anyhow::Error::from)
        .and_then(|()| config::resolve(cli, &matches))
        .and_then(|resolved| execute(resolved, verbosity));
    let result = result.map_err(|e| {
        // What the library did not make is a failure of the program around it.
        e.downcast::<Error>()
            .unwrap_or_else(|e| Error::new(ErrorKind::Internal, format!("{e:#}")))
    });
    match (&result, output) {
        (Ok(answer), output) => {
            if output == Output::Text {
                answer.tell(start.elapsed().as_secs_f64(), verbosity);
            }
            if timings {
                answer.tell_timings();
            }
            if output == Output::Json {
                report::document(Ok((answer.failure().is_none(), answer)));
            }
        }
        (Err(e), output) => {
            report::error(e, terminal::colour());
            if output == Output::Json {
                report::document::<Answer>(Err(e));
            }
        }
    }
    let failure = match &result {
        Ok(answer) => answer.failure(),
        Err(e) => Some(e.kind()),
    };
    ExitCode::from(failure.map_or(0, ErrorKind::exit_code))
}

/// Returns what a command line that cannot be parsed says after a flag.
fn early(flag: &str) -> Option<String> {
    let args = std::env::args_os().map(|arg| arg.to_string_lossy().into_owned());
    let mut args = args.take_while(|arg| arg != "--");
    let flag = format!("--{flag}");
    while let Some(arg) = args.next() {
        match arg.strip_prefix(&flag) {
            Some("") => return args.next(),
            Some(value) if value.starts_with('=') => return Some(value[1..].to_owned()),
            _ => {}
        }
    }
    None
}

fn execute(resolved: config::Resolved, verbosity: Verbosity) -> anyhow::Result<Answer> {
    let config::Resolved { cli, config, env } = resolved;
    let output = cli.global.output;
    // One thread, which lives as long as the process: children are told to die with the thread
    // that spawned them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let report: Arc<dyn Report> = Arc::new(Text::new(verbosity, terminal::stderr(&env, verbosity)));
    let job = Job {
        env: terminal::env(cli.global.color, env),
        report: Arc::clone(&report),
        cancel: Cancel::default(),
        patience: Duration::from_secs(cli.global.stall_timeout),
        silence: Duration::from_secs(cli.global.silence_timeout),
    };
    let images = |images| Ok(Answer::Images { images });
    let page = |text| Ok(Answer::Page { text });
    let result = runtime.block_on(async {
        let _listening = listen(&job)?;
        match &cli.command {
            Command::Build(args) => images(args.run(&job).await?),
            Command::Load(args) => images(args.run(&job).await?),
            Command::Ensure(args) if args.watch && cli.global.output == Output::Json => {
                let error =
                    Error::usage("--watch has no end, and so no document for --output json");
                Err(error.hint("leave one of the two out").into())
            }
            Command::Ensure(args) => images(args.run(&job).await?),
            Command::Verify(args) => images(args.run(&job).await?),
            Command::Export(args) => {
                if args.to_stdout() && cli.global.output == Output::Json {
                    let error = Error::usage("stdout takes the image or the document, not both");
                    return Err(error.hint("name a file with -o").into());
                }
                let export = args.run(&job).await?;
                Ok(Answer::Exported { export })
            }
            Command::Lint(args) => Ok(Answer::Linted(args.run(&job).await?)),
            Command::Prune(args) => Ok(Answer::Pruned(args.run(&job).await?)),
            Command::Doctor(args) => Ok(Answer::Found(args.run(&job).await?)),
            Command::Init(args) => Ok(Answer::Files(args.run(&job, output == Output::Json).await?)),
            Command::Config(_) => Ok(Answer::Settings(config)),
            Command::Completions(args) => page(args.run(Cli::command())),
            Command::Man(args) => page(args.run(Cli::command())?),
            Command::Help(args) => page(args.run(Cli::command())?),
        }
    });
    // A read that hangs in a worker thread must not keep us.
    runtime.shutdown_background();
    // What stopped half way has not said so.
    report.event(&Event::Settled);
    result
}

/// Turns the first SIGINT or SIGTERM into a wish to stop, and the second into an end.
fn listen(job: &Job) -> anyhow::Result<tokio_util::task::AbortOnDropHandle<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let deaf = "cannot listen for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(deaf)?;
    let mut terminate = signal(SignalKind::terminate()).context(deaf)?;
    let (cancel, report) = (job.cancel.clone(), Arc::clone(&job.report));
    let listening = tokio::spawn(async move {
        let mut stopping = false;
        loop {
            let kind = tokio::select! {
                _ = interrupt.recv() => ErrorKind::Interrupted,
                _ = terminate.recv() => ErrorKind::Terminated,
            };
            if stopping {
                report.event(&Event::Settled);
                std::process::exit(kind.exit_code().into());
            }
            stopping = true;
            cancel.cancel(kind);
        }
    });
    Ok(tokio_util::task::AbortOnDropHandle::new(listening))
}

fn verbosity(global: &Global) -> Verbosity {
    match (global.quiet, global.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    }
}

/// Sets up developers' logs on stderr; silent unless `KINDLIFT_LOG` or `-v` asks for them.
///
/// # Errors
/// Usage error, if `KINDLIFT_LOG` cannot be read.
fn log(verbosity: Verbosity) -> Result<()> {
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::layer::{Layer, SubscriberExt};
    use tracing_subscriber::util::SubscriberInitExt;
    let asked = std::env::var("KINDLIFT_LOG").ok();
    let text = match (&asked, verbosity) {
        (Some(asked), _) => asked.as_str(),
        (None, Verbosity::Verbose) => "kindlift=info",
        (None, _) => "off",
    };
    // The larger filter, which knows spans and their fields, would bring a megabyte of regex.
    let filter: Targets = text.parse().map_err(|e| {
        Error::usage(format!("KINDLIFT_LOG is {text:?}"))
            .because(e)
            .hint("say what to log like this: KINDLIFT_LOG=kindlift=debug,h2=info")
    })?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // Telling that stderr is closed, on stderr, would panic.
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .init();
    Ok(())
}
