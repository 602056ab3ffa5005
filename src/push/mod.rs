//! *Push to us*: a registry inside this process that the engine pushes one image to.
//!
//! An engine that pushes asks first, so it moves only what is missing: here the nodes answer, and
//! uploads go on to them while they arrive. The registry lives for one command, listens on
//! 127.0.0.1 alone, wants a password that is made for that command, and takes one image. What the
//! nodes get is content under a lease, without a name: [`crate::load`] does the rest.

mod answer;
mod landing;
mod registry;
mod request;
#[cfg(test)]
mod tests;
mod upload;

pub use landing::{Landed, Landing};
pub use registry::Registry;

use std::ops::Range;

/// The one repository that the registry has. Always the same: Docker's containerd store labels
/// content with each repository that it was pushed to.
pub const REPOSITORY: &str = "kindlift/load";
/// Its one tag.
pub const TAG: &str = "now";
/// The registry's one user.
pub const USER: &str = "kindlift";

/// Where an engine pushes to.
#[derive(Clone)]
pub struct Target {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The password of [`USER`].
    pub password: String,
}

impl Target {
    /// Returns the host as an image name has it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Returns the ports that this user's registries take: the same ones each time, because Docker's
/// overlay2 store keeps a record of each host and port that it has pushed a layer to.
pub fn ports() -> Range<u16> {
    const EACH: u16 = 8;
    let user = rustix::process::getuid().as_raw() % 1000;
    let first = 20_000 + EACH * u16::try_from(user).expect("it is below 1000");
    first..first + EACH
}
