//! Builds an image with Docker or Podman, moves to each Kind node only what that node lacks,
//! and succeeds only when crictl on every node shows exactly that image.
//!
//! The library owns everything but the terminal: it never reads the process environment (it is
//! handed an [`env::Env`]), never prints (it tells a [`report::Report`]) and never exits.
//!
//! Child processes ask the kernel to die with the thread that spawned them, so drive the library
//! from a thread that lives as long as the process; the binary uses a single-threaded runtime.
//!
//! # Example
//!
//! An archive, as `docker save` writes it, into every node of the Kind cluster `dev`:
//!
//! ```
//! use std::sync::Arc;
//!
//! use kindlift::env::Env;
//! use kindlift::job::{Cancel, Job, PATIENCE, SILENCE};
//! use kindlift::report::{Event, Report};
//! use kindlift::run::{self, LoadRequest, Where};
//!
//! /// Hears what goes on. This one passes warnings on, and nothing else.
//! struct Warnings;
//!
//! impl Report for Warnings {
//!     fn event(&self, event: &Event<'_>) {
//!         if let Event::Warning { message, .. } = event {
//!             eprintln!("{message}");
//!         }
//!     }
//! }
//!
//! async fn load(archive: &str, env: Env) -> kindlift::Result<()> {
//!     let job = Job {
//!         env,
//!         report: Arc::new(Warnings),
//!         cancel: Cancel::default(),
//!         patience: PATIENCE,
//!         silence: SILENCE,
//!     };
//!     let request = LoadRequest {
//!         images: vec![archive.to_owned()],
//!         place: Where {
//!             cluster: Some("dev".to_owned()),
//!             ..Where::default()
//!         },
//!         ..LoadRequest::default()
//!     };
//!     for image in run::load(&job, &request).await? {
//!         for node in &image.nodes {
//!             println!("{} has {}: {}", node.name, image.image, node.crictl_id);
//!         }
//!     }
//!     Ok(())
//! }
//!
//! # mod lab {
//! #     include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/example.rs"));
//! # }
//! # fn main() -> kindlift::Result<()> {
//! #     let example = lab::Example::new();
//! #     let (archive, env) = (example.archive(), example.env());
//! // A program has `Env::new(std::env::vars_os())`.
//! let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
//! runtime.expect("a runtime").block_on(load(&archive, env))?;
//! #     example.is_on_every_node();
//! #     Ok(())
//! # }
//! ```
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
