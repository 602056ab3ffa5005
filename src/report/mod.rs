//! What a run tells while it goes on and when it is done.
//!
//! The library emits events into a [`Report`]; the sinks in this module are the only code that
//! prints.

mod diagnosis;
mod json;
mod linted;
mod live;
mod node;
mod page;
mod pruned;
mod screen;
mod text;
mod timeline;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use serde::Serialize;

pub use diagnosis::{Screen, diagnosis};
pub use json::document;
pub use linted::linting;
pub use page::{files, page, settings};
pub use pruned::pruning;
pub(crate) use text::size;
pub use text::{Terminal, Text, Verbosity, error, exported, summary};
pub use timeline::timings;

use crate::image::{Digest, ImageId, Platform};
use crate::reference::Reference;

/// Something worth telling while a run goes on.
#[derive(Debug)]
pub enum Event<'a> {
    /// Output of the engine's build, as it came.
    Build(&'a [u8]),
    /// Something the user should change.
    Warning {
        /// What is wrong.
        message: &'a str,
        /// What to do.
        hint: Option<&'a str>,
    },
    /// A step, for people who ask for details.
    Step(&'a str),
    /// An image that is on all nodes now, while the run goes on.
    Delivered {
        /// What was done.
        outcome: &'a Outcome,
        /// How long it took, in seconds.
        seconds: f64,
    },
    /// What was done, where there is no [`Outcome`].
    Done(&'a str),
    /// An image is on its way to these nodes; each waits for now.
    Bound(&'a [&'a str]),
    /// What one of them does from now on.
    Node {
        /// Its name.
        name: &'a str,
        /// What it does.
        doing: Doing,
    },
    /// The image is on the nodes, or is not going to be: nobody does anything any more.
    Settled,
}

/// What a node does while an image is on its way to it.
#[derive(Debug, Clone)]
pub enum Doing {
    /// It waits: for the engine, for the image, or for other nodes.
    Waiting,
    /// It takes layers and unpacks them.
    Staging {
        /// Counts the bytes that went there.
        sent: Arc<AtomicU64>,
        /// How many there will be, if that is known.
        of: Option<u64>,
    },
    /// It has all of the image, without a name.
    Staged,
    /// The names stand for the image.
    Named,
    /// crictl shows the image.
    Proven,
}

/// Where events go.
pub trait Report: Send + Sync {
    /// Takes an event.
    fn event(&self, event: &Event<'_>);

    /// Tells whether anybody reads steps: some are found out only to be told.
    fn tells_steps(&self) -> bool {
        false
    }

    /// Tells whether the build may draw on the terminal itself. Nothing else does meanwhile: what
    /// nodes do is told when the build has ended.
    fn owns_terminal(&self) -> bool {
        false
    }
}

/// What a run did, for one image.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The cluster.
    pub cluster: String,
    /// The name it was built or asked for.
    pub image: String,
    /// The digest of the config: crictl's image ID.
    pub config_digest: ImageId,
    /// The digest of the manifest on the nodes.
    pub manifest_digest: Digest,
    /// The platform that was loaded.
    pub platform: Platform,
    /// Every name it has on the nodes.
    pub refs: Vec<Reference>,
    /// What happened on each node.
    pub nodes: Vec<NodeOutcome>,
    /// Whether the nodes' image was compared with the engine's; if not, only with one another.
    pub compared: bool,
    /// How long each phase took, in milliseconds from the start of the run.
    pub phases: BTreeMap<&'static str, Span>,
}

/// What happened on one node.
#[derive(Debug, Clone, Serialize)]
pub struct NodeOutcome {
    /// The node.
    pub name: String,
    /// `loaded`, or `present` if the node had everything.
    pub result: NodeResult,
    /// Bytes that went there.
    pub bytes_sent: u64,
    /// Bytes of the image that did not have to.
    pub bytes_skipped: u64,
    /// Seconds from the node's first staging call to crictl's answer.
    pub seconds: f64,
    /// The image ID that crictl shows.
    pub crictl_id: String,
}

/// What a node needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeResult {
    /// Bytes or names.
    Loaded,
    /// Nothing: it had the image under every name.
    Present,
}

/// Start and end of a phase, in milliseconds from the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Span {
    /// When it began.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: u64,
}

/// Notes when phases begin and end.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    phases: BTreeMap<&'static str, Span>,
}

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self {
            start: Instant::now(),
            phases: BTreeMap::new(),
        }
    }

    /// Notes a phase that began at a time and ends now.
    pub fn end(&mut self, phase: &'static str, began: Instant) {
        self.note(phase, began, Instant::now());
    }

    /// Notes a phase that began and ended at these times.
    pub fn note(&mut self, phase: &'static str, began: Instant, ended: Instant) {
        let ms = |at: Instant| {
            u64::try_from(at.duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
        };
        let span = Span {
            start_ms: ms(began),
            end_ms: ms(ended),
        };
        self.phases.insert(phase, span);
    }

    /// Returns the phases.
    pub fn phases(&self) -> BTreeMap<&'static str, Span> {
        self.phases.clone()
    }
}
