//! A node of the cluster: one session each, through `exec` to its containerd.
//!
//! Owns everything that happens on a node. Knows nothing of engines, contracts or the other
//! nodes: [`crate::load`] has the transaction over all of them.

pub mod content;
pub mod cri;
pub mod crictl;
pub mod find;
pub mod images;
pub mod inventory;
pub mod lease;
pub mod name;
pub mod session;
pub mod snapshot;
pub mod stage;
mod tunnel;

pub use session::{Facts, Session};
