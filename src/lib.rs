//! Builds an image with Docker or Podman, moves to each Kind node only what that node lacks,
//! and succeeds only when crictl on every node shows exactly that image.
//!
//! The library owns everything but the terminal: it never reads the process environment (it is
//! handed an [`env::Env`]), never prints (it tells a [`report::Report`]) and never exits.
//!
//! Child processes ask the kernel to die with the thread that spawned them, so drive the library
//! from a thread that lives as long as the process; the binary uses a single-threaded runtime.
#![warn(missing_docs)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cluster;
pub mod config;
pub mod contract;
pub mod engine;
pub mod env;
pub mod error;
pub mod image;
pub mod job;
pub mod load;
pub mod lock;
pub mod node;
pub mod owner;
pub mod process;
pub mod push;
pub mod reference;
pub mod report;
pub mod run;
pub mod source;

pub use error::{Error, ErrorKind, Result};
