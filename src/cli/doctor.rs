//! `kindlift doctor`.

use std::io::IsTerminal;

use clap::Args;
use kindlift::env::Env;
use kindlift::error::{Error, ErrorKind};
use kindlift::job::Job;
use kindlift::report::Screen;
use kindlift::run::doctor::{self, Diagnosis, DoctorRequest};

use super::{EngineArg, Place};

/// Tell what kindlift sees here, what is wrong with it, and what to do
///
/// Looks at the engine, the cluster and its nodes, and at the settings of Skaffold and Tilt in this
/// folder. Changes nothing. The exit code is that of the first failure; a warning is none.
#[derive(Args)]
pub struct Doctor {
    /// Explain why this pod (or those of a Deployment of this name) does not get its image
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// The pod's namespace [default: the kube context's]
    #[arg(short, long, value_name = "NAMESPACE", requires = "pod")]
    namespace: Option<String>,
    #[command(flatten)]
    engine: EngineArg,
    #[command(flatten)]
    place: Place,
}

impl Doctor {
    /// Runs it.
    pub async fn run(&self, job: &Job) -> Result<Diagnosis, Error> {
        let folder = std::env::current_dir()
            .map_err(|e| Error::new(ErrorKind::Usage, "the current folder is gone").because(e))?;
        let request = DoctorRequest {
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            folder,
            engine: self.engine.kind(),
            place: self.place.resolve(),
        };
        doctor::doctor(job, &request).await
    }
}

/// Finds out what stdout can show.
pub fn screen() -> Screen {
    let env = Env::new(std::env::vars_os());
    let terminal = std::io::stdout().is_terminal();
    Screen {
        width: terminal
            .then(|| terminal_size::terminal_size_of(std::io::stdout()))
            .flatten()
            .map(|(width, _)| width.0.into()),
        unicode: is_unicode(&env),
        colour: terminal && !env.has("NO_COLOR") && env.get("TERM") != Some("dumb"),
    }
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
