//! Where a builder that is no engine puts what it has built: an OCI layout in a private folder.
//!
//! BuildKit does not send a blob for which the folder has a file of that name. So empty files stand
//! there for the blobs of layers that every node has; when the builder is done they are taken away,
//! and what they stood for is never read.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::archive::Archive;
use crate::image::{Blobs, Digest, Image, Platform};
use crate::source::Source;
use crate::source::folder::Folder;
use crate::source::spool::FileBlobs;

/// A folder for one build.
pub(super) struct Outlet {
    folder: Folder,
    held: Blobs,
}

impl Outlet {
    /// Makes one with a placeholder for each blob that is held elsewhere.
    ///
    /// # Errors
    /// Internal error, naming where.
    pub(super) fn make(env: &Env, held: Blobs) -> Result<Self> {
        let outlet = Self {
            folder: Folder::make(env)?,
            held,
        };
        std::fs::create_dir_all(outlet.blobs()).map_err(|e| outlet.failed(e))?;
        for digest in outlet.held.keys() {
            std::fs::write(outlet.blob(digest), "").map_err(|e| outlet.failed(e))?;
        }
        Ok(outlet)
    }

    /// Returns the value of buildx's `--output`: fields of CSV.
    pub(super) fn output(&self) -> String {
        let path = self.folder.path().to_string_lossy().replace('"', "\"\"");
        format!("type=oci,tar=false,\"dest={path}\"")
    }

    /// Reads the image that the builder has put there. The folder goes; what is in it stays open
    /// for as long as the source.
    ///
    /// # Errors
    /// Image error, if what is there does not agree with itself.
    pub(super) fn read(self, platform: &Platform) -> Result<(Image, Sent)> {
        for digest in self.held.keys() {
            let path = self.blob(digest);
            // One that is not empty any more is content, which the nodes check as any other.
            if path.metadata().is_ok_and(|metadata| metadata.len() == 0) {
                std::fs::remove_file(&path).map_err(|e| self.failed(e))?;
            }
        }
        let archive = Archive::folder(self.folder.path())?;
        let (image, blobs) = archive.read_beside(&self.held, platform)?;
        let mut bytes = 0;
        for entry in std::fs::read_dir(self.blobs()).map_err(|e| self.failed(e))? {
            let metadata = entry.and_then(|entry| entry.metadata());
            bytes += metadata.map_err(|e| self.failed(e))?.len();
        }
        let sent = Sent {
            blobs,
            bytes,
            held: self.held,
            asked: AtomicBool::new(false),
        };
        Ok((image, sent))
    }

    fn blobs(&self) -> PathBuf {
        self.folder.path().join("blobs/sha256")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    fn failed(&self, e: std::io::Error) -> Error {
        let what = format!("cannot use the folder {}", self.folder.path().display());
        Error::new(ErrorKind::Internal, what).because(e)
    }
}

/// The source of an image that a builder has sent, but for what the nodes have.
pub struct Sent {
    blobs: FileBlobs,
    bytes: u64,
    held: Blobs,
    asked: AtomicBool,
}

impl Sent {
    /// Returns how many bytes the builder has sent.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tells whether something is missing that the nodes were said to have.
    pub fn was_short(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Source for Sent {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        if self.blobs.has(blob) || !self.held.contains_key(blob) {
            return self.blobs.open(blob);
        }
        self.asked.store(true, Ordering::Relaxed);
        let error = Error::new(ErrorKind::Load, format!("a node does not have {blob}"));
        stream::once(async { Err(error) }).boxed()
    }

    fn lost(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }
}
