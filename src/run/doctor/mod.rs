//! `doctor`: what kindlift sees here, what it would choose and why, and what is wrong with it.
//!
//! Each check ends within a deadline and hides no other: without an engine the nodes are still
//! looked at, and without a node the rest. Checks are data; [`crate::report`] makes a screen of
//! them.

mod api;
mod cause;
mod clusters;
mod engine;
mod nodes;
mod pod;
mod skaffold;
mod tilt;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::Where;
use crate::engine::EngineKind;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::job::Job;

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct DoctorRequest {
    /// The pod to explain, instead of everything.
    pub pod: Option<String>,
    /// Its namespace [default: the kube context's].
    pub namespace: Option<String>,
    /// The folder whose skaffold.yaml and Tiltfile are read.
    pub folder: PathBuf,
    /// `--engine`.
    pub engine: Option<EngineKind>,
    /// Which cluster and nodes.
    pub place: Where,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Diagnosis {
    /// kindlift's version.
    pub version: &'static str,
    /// The machine that it runs on: system, architecture, kernel.
    pub host: String,
    /// The checks, in the order in which a build would meet what they look at.
    pub checks: Vec<Check>,
}

impl Diagnosis {
    /// Returns the kind of the first failed check: what a build would end with.
    pub fn failure(&self) -> Option<ErrorKind> {
        self.checks.iter().find_map(|check| check.error)
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There was nothing to look at.
    Skipped,
    /// As it should be.
    Ok,
    /// Works, but not as well as it could, or only by hand.
    Warn,
    /// Does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at, in a word or two.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub finding: String,
    /// What to do about it.
    pub fix: Option<String>,
    /// If it failed, what kind of error a build would end with.
    pub error: Option<ErrorKind>,
    /// What each node said, where nodes were asked.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<String, String>,
}

impl Check {
    fn new(name: impl Into<String>, verdict: Verdict, finding: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict,
            finding: finding.into(),
            fix: None,
            error: None,
            nodes: BTreeMap::new(),
        }
    }

    fn ok(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, finding)
    }

    fn skipped(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(name, Verdict::Skipped, why)
    }

    fn warn(name: impl Into<String>, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(name, Verdict::Warn, finding).fix(fix)
    }

    fn fail(
        name: impl Into<String>,
        kind: ErrorKind,
        finding: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let check = Self::new(name, Verdict::Fail, finding).fix(fix);
        Self {
            error: Some(kind),
            ..check
        }
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Makes a check of an error: what it says, and its hint as the fix.
    fn error(name: impl Into<String>, error: &Error) -> Self {
        let mut check = Self::new(name, Verdict::Fail, one_line(error).to_string());
        check.fix = error.next_step().map(str::to_owned);
        check.error = Some(error.kind());
        check
    }

    /// Makes a check that did not come out well, but stops nobody, a warning.
    fn tolerable(mut self) -> Self {
        if self.verdict == Verdict::Fail {
            self.verdict = Verdict::Warn;
            self.error = None;
        }
        self
    }
}

/// Looks at everything, or explains a pod.
///
/// # Errors
/// Interrupted only: what is wrong is in the checks.
pub async fn doctor(job: &Job, request: &DoctorRequest) -> Result<Diagnosis> {
    let checks = async {
        Ok(match &request.pod {
            Some(pod) => pod::explain(job, request, pod).await,
            None => everything(job, request).await,
        })
    };
    Ok(Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        host: host(),
        checks: job.cancel.unless(checks).await?,
    })
}

async fn everything(job: &Job, request: &DoctorRequest) -> Vec<Check> {
    let cluster = async {
        let found = clusters::look(job, &request.place).await;
        let (nodes, kubernetes) = futures_util::join!(
            nodes::look(job, &found.nodes),
            api::look(&job.env, found.api.as_ref()),
        );
        (found, nodes, kubernetes)
    };
    let (engine, (clusters, nodes, kubernetes)) =
        futures_util::future::join(engine::look(job, request.engine), cluster).await;
    let would = would(&engine, &clusters, &nodes);
    let context = clusters.context_name();
    let skaffold = skaffold::look(&request.folder, &job.env, context, &engine);
    let tilt = tilt::look(&request.folder);
    let mut checks = engine.checks;
    checks.extend(clusters.checks);
    checks.extend(nodes.checks(engine.about.as_ref()));
    checks.extend(kubernetes);
    checks.extend(skaffold);
    checks.push(tilt);
    checks.push(would);
    checks
}

/// Says what a build by hand would use, and why.
fn would(engine: &engine::Found, clusters: &clusters::Found, nodes: &nodes::Looks) -> Check {
    let name = "kindlift would";
    let (Some(engine), Some((cluster, why))) = (&engine.chosen, &clusters.chosen) else {
        let lacking = match (&engine.chosen, &clusters.chosen) {
            (None, None) => "there is neither an engine nor a cluster that it would take",
            (None, _) => "there is no engine that it would take",
            _ => "there is no cluster that it would take",
        };
        return Check::skipped(name, lacking);
    };
    let platforms = nodes.platforms();
    let what = match platforms.as_slice() {
        [] => String::new(),
        [one] => format!(" for {one}"),
        several => format!(" for one of {}", several.join(", ")),
    };
    let count = clusters.nodes.len();
    let plural = if count == 1 { "node" } else { "nodes" };
    Check::ok(
        name,
        format!("build{what} with {engine}, and load into {count} {plural} of {cluster} ({why})"),
    )
}

/// Gives something a deadline. None, if it passed.
async fn within<T>(deadline: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(deadline, work).await.ok()
}

fn silent(deadline: Duration) -> String {
    format!("no answer within {} s", deadline.as_secs())
}

/// Hides the password in an address like `http://me:secret@proxy:3128`: reports of bugs are public.
fn without_password(address: &str) -> String {
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}***@{host}"),
        None => address.to_owned(),
    }
}

/// Tells whether a proxy's address is that of whoever uses it.
fn is_on_loopback(proxy: &str) -> bool {
    let rest = proxy.split_once("://").map_or(proxy, |(_, rest)| rest);
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    host.starts_with("localhost") || host.starts_with("127.") || host.starts_with("[::1]")
}

fn host() -> String {
    let (os, machine) = (std::env::consts::OS, std::env::consts::ARCH);
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(kernel) => format!("{os} {machine}, kernel {}", kernel.trim()),
        Err(_) => format!("{os} {machine}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_no_part_of_a_report() {
        for (address, shown) in [
            ("http://me:p@ss@proxy:3128", "http://***@proxy:3128"),
            ("me:secret@proxy", "***@proxy"),
            ("http://proxy:3128", "http://proxy:3128"),
        ] {
            assert_eq!(without_password(address), shown);
        }
    }

    #[test]
    fn a_proxy_on_loopback_is_known() {
        for proxy in ["http://127.0.0.1:3128", "localhost:1", "http://u:p@[::1]:8"] {
            assert!(is_on_loopback(proxy), "{proxy}");
        }
        for proxy in ["http://10.0.0.1:3128", "proxy.example.com", "http://u@p"] {
            assert!(!is_on_loopback(proxy), "{proxy}");
        }
    }

    #[test]
    fn the_first_failure_counts() {
        let fail = |kind| Check::fail("x", kind, "", "");
        let mut diagnosis = Diagnosis {
            version: "",
            host: String::new(),
            checks: vec![
                Check::warn("x", "", ""),
                Check::error("x", &Error::usage("u")).tolerable(),
            ],
        };
        assert_eq!(diagnosis.failure(), None);
        diagnosis.checks.push(fail(ErrorKind::Cluster));
        diagnosis.checks.insert(0, fail(ErrorKind::Engine));
        assert_eq!(diagnosis.failure(), Some(ErrorKind::Engine));
    }
}
