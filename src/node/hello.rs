//! What a node tells of itself before anything is asked of it.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

use super::link::Facts;
use crate::image::Platform;

/// More than a greeting can be.
const MAX_HELLO: u64 = 16 * 1024;

/// The greeting.
#[derive(Debug, Clone, Default)]
pub struct Hello {
    /// `uname -m`.
    pub machine: String,
    /// Bytes free where containerd stores, if `df` told.
    pub free: Option<u64>,
    /// The device that lies on, by its number on the provider's host: nodes share disks.
    pub disk: String,
    /// Whether the node's configuration discards layer blobs once they are unpacked.
    pub discard: bool,
    /// Names of the enabled binfmt_misc handlers.
    pub binfmt: Vec<String>,
    /// Whether its ctr does its work itself only if it is told to.
    pub local: bool,
}

impl Hello {
    /// Makes facts of it; the snapshotter is still to be asked for.
    pub fn facts(self) -> Facts {
        Facts {
            platform: Platform::of_machine(&self.machine),
            free: self.free,
            disk: self.disk,
            discard: self.discard,
            binfmt: self.binfmt,
            snapshotter: String::new(),
        }
    }
}

/// Reads a greeting, up to its empty line and no further.
///
/// # Errors
/// If something else comes, or nothing.
pub async fn read(stdout: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Hello> {
    let mut hello = Hello::default();
    let mut lines = stdout.take(MAX_HELLO);
    let mut first = true;
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        match key {
            "kindlift" => first = false,
            _ if first => return Err(io::Error::other(format!("unexpected answer {line:?}"))),
            "" => return Ok(hello),
            "machine" => value.clone_into(&mut hello.machine),
            "free" => hello.free = value.parse().ok(),
            "disk" => value.clone_into(&mut hello.disk),
            "local" => hello.local = value == "1",
            "discard" => hello.discard = value == "1",
            "binfmt" => hello.binfmt = value.split_whitespace().map(str::to_owned).collect(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    #[tokio::test]
    async fn reads_the_greeting_and_leaves_what_follows() {
        let text =
            b"kindlift 1\nmachine x86_64\nfree 1024\ndiscard 1\nbinfmt qemu-aarch64 wasm\n\nPRI";
        let mut reader = BufReader::new(&text[..]);
        let hello = read(&mut reader).await.unwrap();
        assert_eq!(hello.machine, "x86_64");
        assert_eq!(hello.free, Some(1024));
        assert!(hello.discard);
        assert_eq!(hello.binfmt, ["qemu-aarch64", "wasm"]);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "PRI");
    }

    #[tokio::test]
    async fn a_greeting_from_something_else_is_refused() {
        for text in [&b""[..], b"hello\n\n", b"kindlift 1\nmachine x\n"] {
            assert!(read(&mut BufReader::new(text)).await.is_err());
        }
    }
}
