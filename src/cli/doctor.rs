//! `kindlift doctor`.

use clap::Args;
use kindlift::error::{Error, ErrorKind};
use kindlift::job::Job;
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
