//! What an image is: its digests, its manifest, its config and its stack of layers, checked
//! against one another before a node hears of them.
//!
//! Five digests are easily mistaken for one another, so each has its own type: [`Digest`] of a
//! blob as stored, [`DiffId`] of an uncompressed layer, [`ChainId`] of a stack of layers,
//! [`ImageId`] of the config, and the engine's own [`crate::engine::EngineId`].

pub mod archive;
pub mod choose;
mod json;
pub mod pack;
pub mod platform;
mod validate;

pub(crate) use validate::wrong_diff_id;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

pub use platform::Platform;
pub use validate::{MAX_CONFIG, MAX_MANIFEST};

use crate::error::{Error, ErrorKind};

/// The most characters of a message that may come out of an archive.
const MAX_MESSAGE: usize = 1000;

/// What to do about an image that does not agree with itself.
pub(crate) const AGAIN: &str =
    "it is damaged, or the tool that wrote it is at fault: build, save or pull it again";

/// Makes the error for an image that must not get in.
pub(crate) fn refused(why: impl AsRef<str>) -> Error {
    Error::new(ErrorKind::Image, tame(why.as_ref()))
}

/// Makes text safe to print that may quote what is in an archive: it moves no cursor, and ends.
fn tame(text: &str) -> String {
    let mut tame = String::new();
    for (i, c) in text.chars().enumerate() {
        if i == MAX_MESSAGE {
            tame.push('…');
            break;
        }
        match c.is_control() {
            true => tame.extend(c.escape_default()),
            false => tame.push(c),
        }
    }
    tame
}

/// The sha256 digest of a blob as it is stored, `sha256:` and 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(String);

/// Blobs by digest, with their sizes in bytes.
pub type Blobs = HashMap<Digest, u64>;

/// The digest of an uncompressed layer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DiffId(pub Digest);

/// The digest of a stack of layers; names the unpacked snapshot on a node.
///
/// Source: the OCI image specification, "Layer ChainID".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChainId(pub Digest);

/// The digest of the config: the ID that crictl and the kubelet know an image by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ImageId(pub Digest);

impl Digest {
    /// Computes the digest of bytes in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_hash(&Sha256::digest(bytes))
    }

    /// Makes a digest of a finished sha256.
    pub(crate) fn of_hash(hash: &[u8]) -> Self {
        Self(format!("sha256:{}", hex(hash)))
    }

    /// Returns the 64 hex digits.
    pub fn hex(&self) -> &str {
        self.0.strip_prefix("sha256:").unwrap_or(&self.0)
    }

    /// Returns `sha256:` and the hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first twelve hex digits, for messages.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        let good = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() == 64 && hex.bytes().all(good) {
            Ok(Self(text.to_owned()))
        } else {
            Err(refused(format!("`{text:.100}` is not a sha256 digest")).hint(AGAIN))
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

macro_rules! shown_as_digest {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.0.serialize(serializer)
            }
        }
    )*};
}
shown_as_digest!(DiffId, ChainId, ImageId);

/// Returns the chain ID of each layer's stack, bottom first.
pub fn chain_ids(diff_ids: &[DiffId]) -> Vec<ChainId> {
    let mut chain: Vec<ChainId> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.0.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        chain.push(ChainId(next));
    }
    chain
}

/// How a layer blob is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

impl Compression {
    /// Tells by the first four bytes of a blob how it is stored.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// Returns OCI's media type of a layer that is stored so.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Digest of the blob as stored.
    pub digest: Digest,
    /// Size of the blob as stored, in bytes.
    pub size: u64,
    /// The manifest's media type for it.
    pub media_type: String,
    /// How the blob is stored.
    pub compression: Compression,
    /// Digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Digest of the stack up to and with this layer.
    pub chain_id: ChainId,
}

/// A manifest or config: small enough to hold.
#[derive(Debug, Clone)]
pub struct Document {
    /// Digest of the bytes.
    pub digest: Digest,
    /// Media type, as the manifest or the index names it.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Vec<u8>,
}

/// An image of one platform whose manifest, config and layer list agree with one another.
///
/// Layer bytes are not here: a [`crate::source::Source`] has them.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub manifest: Document,
    /// The config.
    pub config: Document,
    /// The platform that the config names.
    pub platform: Platform,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
}

impl Image {
    /// Returns the ID that crictl shows: the config's digest.
    pub fn id(&self) -> ImageId {
        ImageId(self.config.digest.clone())
    }

    /// Returns the diff IDs of all layers, bottom first.
    pub fn diff_ids(&self) -> Vec<DiffId> {
        let diff_ids = self.layers.iter().map(|layer| layer.diff_id.clone());
        diff_ids.collect()
    }

    /// Returns the chain ID of the whole stack; none for an image without layers.
    pub fn top(&self) -> Option<&ChainId> {
        self.layers.last().map(|layer| &layer.chain_id)
    }

    /// Returns the size of all blobs as stored, in bytes.
    pub fn size(&self) -> u64 {
        // Their sum fits: validation has seen to it.
        let layers: u64 = self.layers.iter().map(|layer| layer.size).sum();
        layers + (self.manifest.bytes.len() + self.config.bytes.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(c: char) -> DiffId {
        DiffId(
            format!("sha256:{}", c.to_string().repeat(64))
                .parse()
                .unwrap(),
        )
    }

    #[test]
    fn chains_follow_the_oci_specification() {
        // Computed with: printf 'sha256:aa… sha256:bb…' | sha256sum
        let chain = chain_ids(&[diff('a'), diff('b')]);
        assert_eq!(chain[0].0, diff('a').0);
        assert_eq!(
            chain[1].0.as_str(),
            "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"
        );
    }

    #[test]
    fn digest_of_known_bytes() {
        assert_eq!(
            Digest::of(b"abc").as_str(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn messages_cannot_write_to_the_terminal_what_they_like() {
        let error = refused(format!("a \x1b[2J {}", "x".repeat(5000))).to_string();
        assert!(error.starts_with("a \\u{1b}[2J x"), "{error}");
        assert!(error.len() < 1100, "{}", error.len());
    }

    #[test]
    fn refuses_other_digests() {
        for text in [
            "",
            "sha256:",
            "sha256:ABC",
            "md5:00",
            &format!("sha256:{}", "G".repeat(64)),
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }
}
