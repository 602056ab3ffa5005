//! `--timings`: when each phase of a run was, and what went to each node.

use std::fmt::Write as _;

use super::Outcome;
use super::text::{line, size};

/// The width of the time axis, in characters.
const WIDTH: u64 = 40;

/// Tells when each phase was and what went where.
pub fn timings(outcome: &Outcome) {
    for text in timeline(outcome) {
        line(&text);
    }
}

/// Draws a line for each phase, in the order in which they began, and for each node.
fn timeline(outcome: &Outcome) -> Vec<String> {
    let mut phases: Vec<_> = outcome.phases.iter().collect();
    phases.sort_by_key(|(_, span)| (span.start_ms, span.end_ms));
    let end = phases.iter().map(|(_, span)| span.end_ms).max();
    let end = end.unwrap_or_default().max(1);
    let at = |ms: u64| usize::try_from(ms * WIDTH / end).unwrap_or_default();
    let mut lines = vec![format!("timings of {}, in milliseconds:", outcome.image)];
    for (phase, span) in phases {
        let mut text = format!("  {phase:<8} {:>6} {:>6}  ", span.start_ms, span.end_ms);
        text.extend(std::iter::repeat_n(' ', at(span.start_ms)));
        let long = at(span.end_ms) - at(span.start_ms);
        text.extend(std::iter::repeat_n('=', long.max(1)));
        lines.push(text);
    }
    for node in &outcome.nodes {
        let mut text = format!("  {}: {} sent", node.name, size(node.bytes_sent));
        let _ = write!(
            text,
            ", {} not sent, {:.0} ms",
            size(node.bytes_skipped),
            node.seconds * 1000.0
        );
        lines.push(text);
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{NodeOutcome, NodeResult, Span};
    use super::*;
    use crate::image::{Digest, ImageId, Platform};

    #[test]
    fn phases_stand_in_time_and_overlap() {
        let span = |start_ms, end_ms| Span { start_ms, end_ms };
        let outcome = Outcome {
            cluster: "dev".into(),
            image: "app:1".into(),
            config_digest: ImageId(Digest::of(b"config")),
            manifest_digest: Digest::of(b"manifest"),
            platform: Platform::linux("amd64", None),
            refs: Vec::new(),
            nodes: vec![NodeOutcome {
                name: "dev-worker".into(),
                result: NodeResult::Loaded,
                bytes_sent: 1_000_000,
                bytes_skipped: 250_000_000,
                seconds: 0.15,
                crictl_id: String::new(),
            }],
            compared: true,
            phases: BTreeMap::from([
                ("build", span(0, 300)),
                ("connect", span(0, 100)),
                ("name", span(300, 301)),
                ("push", span(320, 400)),
            ]),
        };
        assert_eq!(
            timeline(&outcome),
            [
                "timings of app:1, in milliseconds:",
                "  connect       0    100  ==========",
                "  build         0    300  ==============================",
                "  name        300    301                                =",
                "  push        320    400                                  ========",
                "  dev-worker: 1.0 MB sent, 250 MB not sent, 150 ms",
            ]
        );
    }
}
