//! A node of the cluster: one session each, through `exec` to its containerd.
//!
//! Owns everything that happens on a node. Knows nothing of engines, contracts or the other
//! nodes: [`crate::load`] has the transaction over all of them.

pub mod crictl;
mod discard;
pub mod find;
mod hello;
pub mod images;
pub mod inventory;
pub mod lease;
mod link;
pub mod name;
mod plain;
pub mod session;
pub mod stage;
pub mod tunnel;

pub use link::{Facts, Failure, Link};
pub use session::Session;
