//! kindlift against real engines and real nodes: the lab of `tests/lab`, or nothing.
//!
//! Each test asks crictl on every node, from outside kindlift, before it ends.
//! See tests/lab/README.md for how to bring the lab up.

mod engines;
#[path = "../support/lab.rs"]
mod lab;
#[path = "../support/pair.rs"]
mod pair;
mod registry;
#[path = "../support/run.rs"]
mod run;
#[path = "../support/texts.rs"]
mod texts;

mod at_once;
mod builder;
mod bulk;
mod by_hand;
mod choose;
mod conditions;
mod contexts;
mod doctor;
mod documented;
mod engine_faults;
mod every_source;
mod export;
mod from_node;
mod from_registry;
mod hosting;
mod init;
mod into_file;
mod loader;
mod matrix;
mod memory;
mod output;
mod overtaken;
mod peers;
mod plain;
mod prune;
mod push;
mod signals;
mod skaffold;
mod sources;
mod terminal;
mod tilt;
mod trouble;
mod versions;
mod watch;
