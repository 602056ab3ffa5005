//! What every step of a run needs: the environment, where to tell things, how patient to be, and
//! whether the user has asked to stop.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::report::{Doing, Event, Report};

/// How long nothing may move before a step is given up, unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How long the engine may say nothing while it works, unless told otherwise.
pub const SILENCE: Duration = Duration::from_secs(1800);

/// One run of kindlift.
#[derive(Clone)]
pub struct Job {
    /// The environment.
    pub env: Env,
    /// Where to tell things.
    pub report: Arc<dyn Report>,
    /// Whether to stop.
    pub cancel: Cancel,
    /// How long nothing may move.
    pub patience: Duration,
    /// How long the engine may say nothing while it builds, pushes, pulls or saves.
    pub silence: Duration,
}

impl Job {
    /// Tells a step, for people who ask for details.
    pub fn step(&self, text: impl FnOnce() -> String) {
        self.report.event(&Event::Step(&text()));
    }

    /// Tells what a node does from now on.
    pub fn node(&self, name: &str, doing: Doing) {
        self.report.event(&Event::Node { name, doing });
    }
}

/// A wish to stop, and which signal brought it.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    token: CancellationToken,
    kind: Arc<OnceLock<ErrorKind>>,
}

impl Cancel {
    /// Asks everything to stop and clean up.
    pub fn cancel(&self, kind: ErrorKind) {
        let _ = self.kind.set(kind);
        self.token.cancel();
    }

    /// Tells whether a stop was asked for.
    pub fn is_cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits for a stop.
    pub async fn cancelled(&self) {
        self.token.cancelled().await;
    }

    /// Returns the error to end with.
    pub fn error(&self) -> Error {
        let kind = self.kind.get().copied().unwrap_or(ErrorKind::Interrupted);
        Error::new(kind, "interrupted")
    }

    /// Runs something that may be dropped half way.
    ///
    /// # Errors
    /// Interrupted or terminated, if a stop is asked for first.
    pub async fn unless<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.token.run_until_cancelled(work).await {
            Some(done) => done,
            None => Err(self.error()),
        }
    }
}
