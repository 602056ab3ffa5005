//! `ensure --watch`: brings images back when nodes are made anew, for as long as it runs.
//!
//! Looks when an engine tells that a node has started, and every now and then, because nobody
//! tells when an image is removed. What fails is told once and tried again; only a command line
//! that makes no sense ends it.

use std::time::{Duration, Instant};

use super::{LoadRequest, check};
use crate::cluster::events::{Events, News};
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::job::Job;
use crate::report::{Event, NodeResult, Outcome};

/// Nodes of one cluster start together: how long to wait for the next, and for all.
const SETTLE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(3));
/// How soon a look that failed is repeated, at first; then later and later.
const RETRY: Duration = Duration::from_secs(1);

/// Ensures the images until it is told to stop.
///
/// # Errors
/// Usage error.
pub async fn watch(job: &Job, request: &LoadRequest, every: Duration) -> Result<()> {
    // Before the first look: a node that starts during it is not missed.
    let mut events = Events::listen(&job.env)?;
    let mut seen = Seen::default();
    let mut retry = RETRY;
    loop {
        let began = Instant::now();
        events.clear();
        let pause = match check::ensure(job, request).await {
            _ if job.cancel.is_cancelled() => return Ok(()),
            Ok(outcomes) => {
                seen.tell(job, &outcomes, began.elapsed().as_secs_f64());
                retry = RETRY;
                every
            }
            Err(e) if e.kind() == ErrorKind::Usage => return Err(e),
            Err(e) => {
                seen.tell_failure(job, &e);
                let pause = retry.min(every);
                retry = (retry * 2).min(every);
                pause
            }
        };
        tokio::select! {
            () = job.cancel.cancelled() => return Ok(()),
            () = worth_a_look(job, &mut events) => retry = RETRY,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Waits until nodes have started, and no further one follows.
async fn worth_a_look(job: &Job, events: &mut Events) {
    loop {
        match events.next().await {
            News::Started => break,
            News::Silent(why) => job.step(|| format!("not told of nodes that start: {why}")),
        }
    }
    job.step(|| "a node has started".to_owned());
    let others = async { while tokio::time::timeout(SETTLE.0, events.next()).await.is_ok() {} };
    let _ = tokio::time::timeout(SETTLE.1, others).await;
}

/// What was told last: the same is not told again.
#[derive(Default)]
struct Seen {
    failure: Option<String>,
    started: bool,
}

impl Seen {
    fn tell(&mut self, job: &Job, outcomes: &[Outcome], seconds: f64) {
        for outcome in outcomes {
            let loaded = outcome.nodes.iter().any(|n| n.result == NodeResult::Loaded);
            // That all is there is news at first, and after something was wrong.
            if loaded || !self.started || self.failure.is_some() {
                job.report.event(&Event::Delivered { outcome, seconds });
            } else {
                job.step(|| format!("still there: {}", outcome.image));
            }
        }
        self.failure = None;
        self.started = true;
    }

    fn tell_failure(&mut self, job: &Job, e: &Error) {
        let text = format!("not ensured: {}", one_line(e));
        if self.failure.as_ref() == Some(&text) {
            return job.step(|| format!("still {text}"));
        }
        job.report.event(&Event::Warning {
            message: &text,
            hint: e.next_step(),
        });
        self.failure = Some(text);
    }
}
