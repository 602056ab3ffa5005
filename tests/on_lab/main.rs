//! kindlift against real engines and real nodes: the lab of `tests/lab`, or nothing.
//!
//! Each test asks crictl on every node, from outside kindlift, before it ends.
//! See tests/lab/README.md for how to bring the lab up.

mod engines;
mod lab;
mod registry;
#[path = "../support/run.rs"]
mod run;

mod by_hand;
mod choose;
mod contexts;
mod export;
mod from_node;
mod from_registry;
mod loader;
mod matrix;
mod memory;
mod output;
mod peers;
mod prune;
mod push;
mod signals;
mod skaffold;
mod sources;
mod tilt;
mod trouble;
mod versions;
