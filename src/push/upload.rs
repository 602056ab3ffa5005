//! One blob that an engine uploads, on its way to the nodes that need it.
//!
//! A small one is kept: it may be the image's config, which loading writes later; if it is none, it
//! goes to the nodes at its end. A larger one goes to them as it comes, no faster than the slowest of
//! them takes it. Where the engine compresses as it uploads, nobody knows the digest before the end:
//! the nodes are told then. How they finish, the engine does not wait for.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use super::landing::{Landing, Place};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Compression, Digest};
use crate::node::tunnel::content::{Expected, Promise};
use crate::source::CHUNK;

/// The largest blob that is kept in memory, in bytes.
const KEEP: usize = 2 * CHUNK;
/// Pieces that wait for one node.
const QUEUE: usize = 2;

/// An upload under way.
pub(super) struct Upload {
    id: u64,
    size: u64,
    /// What has come and not gone on.
    buffer: BytesMut,
    /// Where it goes, once it has grown too large to be kept.
    flow: Option<Flow>,
    /// Its right to flow.
    turn: Option<OwnedSemaphorePermit>,
}

struct Flow {
    nodes: Vec<Node>,
    compression: Compression,
}

/// The way to one node.
struct Node {
    place: Arc<Place>,
    pieces: mpsc::Sender<Bytes>,
    /// Where to say what it was, if that was not known before.
    tell: Option<oneshot::Sender<Expected>>,
    writing: AbortOnDropHandle<Result<()>>,
}

/// What a whole upload has come to.
pub(super) struct Finished {
    /// It, if it was small enough to be kept.
    pub kept: Option<Bytes>,
    /// Its way to the nodes, unless it is a document, which is written when the image is known.
    pub arrival: Option<Arrival>,
}

/// A blob of which all has come, and which the nodes do not have yet.
pub(super) struct Arrival {
    flow: Flow,
    blob: Expected,
    /// Others wait for it until this one has landed.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Arrival {
    /// Waits until every node that lacked the blob has it; each unpacks it at once, if that is
    /// possible.
    ///
    /// # Errors
    /// A node's error; image error, if the content is not what it was said to be.
    pub(super) async fn land(self) -> Result<()> {
        let (blob, compression) = (&self.blob, self.flow.compression);
        let nodes = self.flow.nodes.into_iter();
        let landed = try_join_all(nodes.map(|node| node.end(blob, compression)));
        landed.await.map(drop)
    }
}

impl Upload {
    pub(super) fn new(id: u64) -> Self {
        Self {
            id,
            size: 0,
            buffer: BytesMut::new(),
            flow: None,
            turn: None,
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Returns how many bytes have come.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Waits for its turn, if it is to be too large to be kept with so many more bytes. `may_keep`
    /// tells whether there is memory for it; `turns` bounds how many uploads flow at the same time.
    pub(super) async fn wait(&mut self, more: usize, may_keep: bool, turns: &Arc<Semaphore>) {
        if self.turn.is_some() || (may_keep && self.buffer.len() + more <= KEEP) {
            return;
        }
        let turn = Arc::clone(turns).acquire_owned().await;
        self.turn = Some(turn.expect("the semaphore is never closed"));
    }

    /// Takes bytes; returns when there is room for more. `blob` is what it will be, if that is
    /// known.
    ///
    /// # Errors
    /// A node's error.
    pub(super) async fn take(
        &mut self,
        bytes: Bytes,
        blob: Option<&Expected>,
        landing: &Landing,
    ) -> Result<()> {
        self.size += bytes.len() as u64;
        self.buffer.extend_from_slice(&bytes);
        if self.turn.is_none() {
            return Ok(());
        }
        if self.flow.is_none() {
            self.open(blob, landing).await?;
        }
        while self.buffer.len() >= CHUNK {
            self.pass_on(CHUNK).await?;
        }
        Ok(())
    }

    /// Ends the upload.
    ///
    /// # Errors
    /// A node's error; image error, if the content is not what it was said to be, as far as that
    /// is known here.
    pub(super) async fn finish(mut self, blob: Expected, landing: &Landing) -> Result<Finished> {
        if self.size != blob.size {
            return Err(Error::new(
                ErrorKind::Image,
                format!(
                    "blob {} ends after {} of {} bytes",
                    blob.digest, self.size, blob.size
                ),
            ));
        }
        let mut kept = None;
        if self.flow.is_none() {
            let found = Digest::of(&self.buffer);
            if found != blob.digest {
                return Err(Error::new(
                    ErrorKind::Image,
                    format!("what was uploaded as {} is {found}", blob.digest),
                ));
            }
            let bytes = Bytes::copy_from_slice(&self.buffer);
            let is_document = bytes.starts_with(b"{");
            kept = Some(bytes);
            if is_document {
                return Ok(Finished {
                    kept,
                    arrival: None,
                });
            }
            self.open(Some(&blob), landing).await?;
        }
        while !self.buffer.is_empty() {
            self.pass_on(self.buffer.len().min(CHUNK)).await?;
        }
        let arrival = self.flow.map(|flow| Arrival {
            flow,
            blob,
            _turn: self.turn,
        });
        Ok(Finished { kept, arrival })
    }

    /// Opens its flow; `blob` is what it will be, if that is known.
    async fn open(&mut self, blob: Option<&Expected>, landing: &Landing) -> Result<()> {
        let compression = Compression::of(&self.buffer[..self.buffer.len().min(4)]);
        self.flow = Some(Flow::open(self.id, blob, compression, landing).await?);
        Ok(())
    }

    async fn pass_on(&mut self, len: usize) -> Result<()> {
        let piece = self.buffer.split_to(len).freeze();
        let Some(flow) = &mut self.flow else {
            return Ok(());
        };
        for node in &mut flow.nodes {
            if node.pieces.send(piece.clone()).await.is_err() {
                // It has stopped listening: why?
                return Err(node.failure().await);
            }
        }
        Ok(())
    }
}

impl Flow {
    async fn open(
        id: u64,
        blob: Option<&Expected>,
        compression: Compression,
        landing: &Landing,
    ) -> Result<Self> {
        let places = landing.needing(blob).await?;
        let nodes = places.into_iter().map(|place| {
            let (pieces, queue) = mpsc::channel(QUEUE);
            let (tell, promise) = match blob {
                Some(blob) => (None, Promise::Known(blob.clone())),
                None => {
                    let (tell, told) = oneshot::channel();
                    (Some(tell), Promise::AtTheEnd(told))
                }
            };
            let write = place.write(format!("push-{id}"));
            let blob = ReceiverStream::new(queue).map(Ok).boxed();
            Node {
                place,
                pieces,
                tell,
                writing: AbortOnDropHandle::new(tokio::spawn(write.run(blob, promise))),
            }
        });
        Ok(Self {
            nodes: nodes.collect(),
            compression,
        })
    }
}

impl Node {
    async fn end(self, blob: &Expected, compression: Compression) -> Result<()> {
        drop(self.pieces);
        if let Some(tell) = self.tell {
            // Nobody listens after a failure, which comes next.
            let _ = tell.send(blob.clone());
        }
        self.writing.await.map_err(cut_off)??;
        self.place.unpack_early(blob, compression).await;
        Ok(())
    }

    async fn failure(&mut self) -> Error {
        match (&mut self.writing).await {
            Ok(Err(e)) => e,
            Ok(Ok(())) => Error::new(ErrorKind::Internal, "a node took less than it was sent"),
            Err(e) => cut_off(e),
        }
    }
}

fn cut_off(e: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "a transfer was cut off").because(e)
}
