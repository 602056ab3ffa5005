//! Where an image's bytes come from: random-access blobs, whatever stands behind them.

pub mod folder;
pub mod node;
pub mod registry;
pub mod spec;
pub mod spool;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::error::Result;
use crate::image::Digest;

/// The bytes of one piece, at most this many.
pub const CHUNK: usize = 256 * 1024;

/// A place that has the layer blobs of one image.
///
/// Several nodes read the same blob at the same time, each at its own pace.
pub trait Source: Send + Sync {
    /// Opens a blob: its bytes in order, in pieces of at most [`CHUNK`] bytes.
    ///
    /// # Errors
    /// Image error as an item of the stream, if the blob is not there or ends early.
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>>;

    /// Returns how many bytes of the image went to a node before it was loaded.
    fn sent_before(&self, _node: &str) -> u64 {
        0
    }

    /// Notes that a node has lost what it had of the image when the source was made.
    fn lost(&self) {}
}
