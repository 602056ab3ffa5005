//! Blobs that lie in files, read in place.
//!
//! What an engine exports is spooled to a file that has no name, so that nothing is left behind
//! whatever happens; archives and folders of the user are read where they are.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};

use super::{CHUNK, Source};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Digest;

/// A piece of a file.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The file.
    pub file: Arc<File>,
    /// Offset from its start, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Extent {
    /// Reads from an offset inside the piece.
    ///
    /// # Errors
    /// If the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, self.offset + offset)
    }
}

/// Blobs in files, by digest.
pub struct FileBlobs {
    extents: HashMap<Digest, Extent>,
}

impl FileBlobs {
    /// Makes a source of the blobs that lie at these places.
    pub fn new(extents: HashMap<Digest, Extent>) -> Self {
        Self { extents }
    }

    /// Tells whether a blob is among them.
    pub fn has(&self, blob: &Digest) -> bool {
        self.extents.contains_key(blob)
    }
}

impl Source for FileBlobs {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        let Some(extent) = self.extents.get(blob).cloned() else {
            let error = Error::new(ErrorKind::Image, format!("the archive has no blob {blob}"));
            return stream::once(async { Err(error) }).boxed();
        };
        stream::try_unfold((extent, 0), |(extent, done)| async move {
            let left = extent.len - done;
            if left == 0 {
                return Ok(None);
            }
            let size = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            let reader = extent.clone();
            let read = tokio::task::spawn_blocking(move || {
                let mut chunk = vec![0; size];
                reader.read_exact_at(&mut chunk, done)?;
                Ok::<_, std::io::Error>(chunk)
            });
            let chunk = read
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "reading was cut off").because(e))?
                .map_err(|e| Error::new(ErrorKind::Image, "cannot read the archive").because(e))?;
            Ok(Some((Bytes::from(chunk), (extent, done + size as u64))))
        })
        .boxed()
    }
}

/// Makes a file without a name for what is too large to hold.
///
/// # Errors
/// Internal error, naming the folder.
pub fn unlinked_file(env: &Env) -> Result<File> {
    let folder = temporary(env);
    tempfile::tempfile_in(&folder).map_err(|e| no_room(&folder, "file", e))
}

/// Returns where what is too large to hold lies: in `TMPDIR`, else in /var/tmp, because /tmp is often
/// memory.
pub(super) fn temporary(env: &Env) -> PathBuf {
    env.path("TMPDIR").unwrap_or_else(|| {
        let var = PathBuf::from("/var/tmp");
        if var.is_dir() {
            var
        } else {
            PathBuf::from("/tmp")
        }
    })
}

/// Makes the error for where nothing can be put.
pub(super) fn no_room(folder: &Path, what: &str, e: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("cannot make a temporary {what} in {}", folder.display()),
    )
    .because(e)
    .hint("set TMPDIR to a folder with room for the image")
}
