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

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

use tokio::net::TcpListener;

use crate::engine::hold;
use crate::error::{Error, ErrorKind, Result};

/// The one repository that the registry has. Always the same: Docker's containerd store labels
/// content with each repository that it was pushed to.
pub const REPOSITORY: &str = "kindlift/load";
/// The registry's one user.
pub const USER: &str = "kindlift";

/// Where an engine pushes to.
#[derive(Clone)]
pub struct Target {
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The password of [`USER`].
    pub password: String,
    /// The one tag.
    pub tag: String,
}

impl Target {
    /// Returns the host as an image name has it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the repository with its host.
    pub fn repository(&self) -> String {
        format!("{}/{REPOSITORY}", self.host())
    }

    /// Returns the whole name.
    pub fn name(&self) -> String {
        format!("{}:{}", self.repository(), self.tag)
    }
}

/// A port that is ours, on which registries answer one after the other, and its password. As long as
/// there is none, whoever connects waits.
pub struct Listener {
    socket: TcpListener,
    target: Target,
}

impl Listener {
    /// Listens on one of this user's ports, or on any, if others of this user's runs have them all.
    ///
    /// # Errors
    /// Engine error, if none can be had.
    pub async fn bind() -> Result<Self> {
        Self::bind_one_of(ports()).await
    }

    async fn bind_one_of(ports: Range<u16>) -> Result<Self> {
        let mut random = [0; 24];
        getrandom::fill(&mut random)
            .map_err(|e| Error::new(ErrorKind::Internal, "cannot make a password").because(e))?;
        let addresses = ports
            .chain([0])
            .map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let addresses: Vec<SocketAddr> = addresses.collect();
        let socket = TcpListener::bind(addresses.as_slice()).await;
        let bound = socket.and_then(|socket| Ok((socket.local_addr()?.port(), socket)));
        let (port, socket) = bound.map_err(|e| {
            Error::new(ErrorKind::Engine, "no port of 127.0.0.1 can be had").because(e)
        })?;
        let password = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let tag = hold::tag();
        let target = Target {
            port,
            password,
            tag,
        };
        Ok(Self { socket, target })
    }

    /// Returns where the engine is to push to.
    pub fn target(&self) -> &Target {
        &self.target
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
