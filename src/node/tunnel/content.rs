//! Blobs in a node's content store: looking one up, labelling it, writing it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    Info, InfoRequest, ListStatusesRequest, ReadContentRequest, ReadContentResponse, StatusRequest,
    UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
};
use containerd_client::tonic::{Status, Streaming};
use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::frames::{Closed, File};
use super::{CALL, Tunnel};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{AGAIN, Digest};
use crate::node::Failure;
use crate::node::lease::{Held, Lease};
use crate::node::session::Labels;

/// The largest answer that is read, in bytes: containerd's own limit.
const MAX_MESSAGE: usize = 16 << 20;
/// How much of a blob goes to containerd as messages, in bytes, and how little left does.
const BULK: u64 = 2 << 20;
/// How often a source that has nothing yet is taken for a sign of life.
const WAIT: Duration = Duration::from_secs(30);

impl Tunnel {
    /// Looks for blobs. Returns the labels of those that are there.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn blobs(&self, digests: &[&Digest]) -> Result<Vec<Option<Labels>>, Failure> {
        let infos = digests.iter().map(|digest| self.blob_info(digest));
        let infos = try_join_all(infos).await?;
        Ok(infos
            .into_iter()
            .map(|info| info.map(|info| info.labels))
            .collect())
    }

    async fn blob_info(&self, digest: &Digest) -> Result<Option<Info>, Failure> {
        let request = self.request(
            InfoRequest {
                digest: digest.to_string(),
            },
            None,
        );
        let mut client = ContentClient::new(self.channel());
        match self.call("looking for a blob", client.info(request)).await {
            Ok(answer) => Ok(answer.info),
            Err(failure) if failure.not_found() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Looks for a blob, and holds it if it is there. Returns its size in bytes.
    ///
    /// # Errors
    /// A call's failure.
    pub async fn held_blob(&self, lease: &Lease, digest: &Digest) -> Result<Option<u64>, Failure> {
        if self.blob_info(digest).await?.is_none() {
            return Ok(None);
        }
        self.hold(lease, &[Held::Blob(digest.as_str())]).await?;
        // Holding what a collection has just taken succeeds too.
        let info = self.blob_info(digest).await?;
        Ok(info.map(|info| info.size.cast_unsigned()))
    }

    /// Tells whether blobs whose transfers' names begin like this are on their way.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn is_receiving(&self, prefix: &str) -> Result<bool, Failure> {
        let request = self.request(ListStatusesRequest::default(), None);
        let mut client = ContentClient::new(self.channel());
        let answer = self
            .call("looking for transfers", client.list_statuses(request))
            .await?;
        Ok(answer.statuses.iter().any(|s| s.r#ref.starts_with(prefix)))
    }

    /// Returns how many bytes the file of an ingest has.
    async fn ingest_size(&self, reference: &str) -> Result<u64, Failure> {
        let request = self.request(
            StatusRequest {
                r#ref: reference.to_owned(),
            },
            None,
        );
        let mut client = ContentClient::new(self.channel());
        let answer = self.call("looking for a transfer", client.status(request));
        let status = answer.await?.status;
        Ok(status.map_or(0, |status| status.offset.cast_unsigned()))
    }

    /// Adds labels to a blob, at least one, or removes those that are given no value.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn label_blob(&self, digest: &Digest, labels: &Labels) -> Result<(), Failure> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let request = self.request(
            UpdateRequest {
                info: Some(Info {
                    digest: digest.to_string(),
                    labels: labels.clone(),
                    ..Info::default()
                }),
                update_mask: Some(prost_types::FieldMask { paths }),
            },
            None,
        );
        let mut client = ContentClient::new(self.channel());
        self.call("labelling content", client.update(request))
            .await
            .map(|_| ())
    }

    /// Reads a blob.
    pub(crate) fn read(&self, digest: &str) -> BoxStream<'static, Result<Bytes, Failure>> {
        let tunnel = self.clone();
        let what = format!("reading {digest}");
        let digest = digest.to_owned();
        stream::try_unfold(Reading::None, move |reading| {
            let (tunnel, digest, what) = (tunnel.clone(), digest.clone(), what.clone());
            async move {
                let next = async {
                    let mut open = match reading {
                        Some(open) => open,
                        None => {
                            let request = ReadContentRequest {
                                digest,
                                ..ReadContentRequest::default()
                            };
                            let request = tunnel.request(request, None);
                            let mut client = ContentClient::new(tunnel.channel());
                            Box::new(client.read(request).await?.into_inner())
                        }
                    };
                    let piece = open.message().await?;
                    Ok(piece.map(|piece| (Bytes::from(piece.data), Some(open))))
                };
                match tunnel.race(CALL, &what, next).await? {
                    Ok(next) => Ok(next),
                    Err(status) => Err(tunnel.failure(&what, &status)),
                }
            }
        })
        .boxed()
    }
}

/// An answer that is being read; none, before the node was asked.
type Reading = Option<Box<Streaming<ReadContentResponse>>>;

/// Adds labels to a blob. Returns false if the blob is not there.
///
/// # Errors
/// The call's failure.
async fn label(tunnel: &Tunnel, digest: &Digest, labels: &Labels) -> Result<bool> {
    if labels.is_empty() {
        // An update without paths would replace all of the blob's labels by none.
        return Ok(tunnel.blob_info(digest).await?.is_some());
    }
    match tunnel.label_blob(digest, labels).await {
        Ok(()) => Ok(true),
        Err(failure) if failure.not_found() => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

/// What a blob must turn out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// When it is known what a blob must be.
pub enum Promise {
    /// From the start.
    Known(Expected),
    /// When its last byte has come. The sender is dropped if the blob never gets complete.
    AtTheEnd(oneshot::Receiver<Expected>),
}

/// One blob on its way to one node.
pub struct Write {
    /// The node.
    pub tunnel: Tunnel,
    /// What holds the blob there.
    pub lease: Lease,
    /// What tells this transfer from others under the same lease.
    pub key: String,
    /// Labels that it gets.
    pub labels: HashMap<String, String>,
    /// Counts the bytes that went to the node.
    pub sent: Arc<AtomicU64>,
}

impl Write {
    /// Sends the blob; containerd hashes it and refuses one that is not what it should be.
    ///
    /// # Errors
    /// The source's error; image error, if the content has another digest; load error otherwise.
    pub async fn run(
        self,
        blob: BoxStream<'static, Result<Bytes>>,
        promise: Promise,
    ) -> Result<()> {
        let what = match &promise {
            Promise::Known(expected) => format!("writing {}", expected.digest),
            Promise::AtTheEnd(_) => "writing a layer".to_owned(),
        };
        let moved = AtomicU64::new(0);
        let mut transfer = Transfer {
            write: &self,
            reference: format!("{}-{}", self.lease.id, self.key),
            blob,
            promise,
            expected: None,
            offset: 0,
            moved: &moved,
        };
        let run = transfer.run();
        let failure = match self.tunnel.while_moving(&moved, &what, run).await? {
            Ok(()) => return Ok(()),
            Err(Stop::Error(e)) => return Err(e),
            Err(Stop::Status(status)) => self.tunnel.failure(&what, &status),
        };
        match transfer.expected {
            Some(expected) if failure.already_exists() => self.adopt(&expected.digest).await,
            Some(expected) if failure.text.contains("unexpected commit") => Err(Error::new(
                ErrorKind::Image,
                format!(
                    "the content of blob {} is not what its digest says",
                    expected.digest
                ),
            )
            .because(failure.text)
            .hint(AGAIN)),
            _ => Err(failure.into()),
        }
    }

    /// Takes a blob that somebody else wrote meanwhile: it is neither leased nor labelled yet.
    async fn adopt(&self, digest: &Digest) -> Result<()> {
        self.tunnel
            .hold(&self.lease, &[Held::Blob(digest.as_str())])
            .await?;
        if label(&self.tunnel, digest, &self.labels).await? {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Load,
            format!(
                "node {}: blob {digest} was there and then collected",
                self.tunnel.node().name,
            ),
        )
        .hint("run the command again"))
    }
}

/// Why a transfer ended early.
enum Stop {
    /// The source's end of it.
    Error(Error),
    /// containerd's.
    Status(Status),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Error(failure.into())
    }
}

impl From<Status> for Stop {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Closed> for Stop {
    fn from(_: Closed) -> Self {
        // The session knows better words.
        Self::Status(Status::unavailable("the tunnel is closed"))
    }
}

/// A blob under way.
///
/// The first [`BULK`] bytes go as messages. What is left of a larger blob is appended to the
/// ingest's file, past gRPC, which costs a node more than the bytes themselves do. containerd
/// reads such a file from its beginning, to hash it, before it commits it: it proves the same.
struct Transfer<'a> {
    write: &'a Write,
    reference: String,
    blob: BoxStream<'static, Result<Bytes>>,
    promise: Promise,
    /// What it is, once that is known.
    expected: Option<Expected>,
    /// How many bytes have gone.
    offset: u64,
    /// Grows as bytes go, and while the source has none.
    moved: &'a AtomicU64,
}

impl Transfer<'_> {
    async fn run(&mut self) -> Result<(), Stop> {
        if let Promise::Known(expected) = &self.promise {
            self.expected = Some(expected.clone());
        }
        let mut ingest = self.begin().await?;
        let mut asked = false;
        while let Some(piece) = self.next().await? {
            if !asked && self.is_bulk() {
                asked = true;
                if let Some(file) = self.reach_file(&mut ingest, &piece).await? {
                    ingest.end().await?;
                    return self.fill(file, piece).await;
                }
            }
            let write = self.message(WriteAction::Write, piece.clone());
            ingest.send(write).await?;
            self.went(&piece);
        }
        self.settle().await?;
        self.commit(ingest).await
    }

    /// Tells whether so much has gone, and is left, that the file is the better way.
    fn is_bulk(&self) -> bool {
        let left = self
            .expected
            .as_ref()
            .map(|e| e.size.saturating_sub(self.offset));
        self.offset >= BULK && left.is_none_or(|left| left >= BULK)
    }

    /// Appends a piece to the ingest's file. Returns the file if the piece has arrived there; else
    /// nothing has.
    async fn reach_file(
        &mut self,
        ingest: &mut Ingest,
        piece: &Bytes,
    ) -> Result<Option<File>, Stop> {
        ingest.last_answer().await?;
        let file = self.write.tunnel.frames.open(&self.reference).await?;
        file.append(piece.clone()).await?;
        let size = self.write.tunnel.ingest_size(&self.reference).await?;
        let node = &self.write.tunnel.node().name;
        if size == self.offset + piece.len() as u64 {
            tracing::debug!(%node, reference = %self.reference, "appending to the ingest's file");
            return Ok(Some(file));
        }
        tracing::debug!(%node, reference = %self.reference, "the ingest's file is out of reach");
        file.close().await?;
        Ok(None)
    }

    /// Appends what is left to the ingest's file, in which a piece has just arrived.
    async fn fill(&mut self, file: File, first: Bytes) -> Result<(), Stop> {
        self.went(&first);
        let mut last = first;
        while let Some(piece) = self.next().await? {
            file.append(piece.clone()).await?;
            self.went(&piece);
            last = piece;
        }
        file.close().await?;
        self.settle().await?;
        let mut ingest = self.begin().await?;
        let size = ingest.last_answer().await?;
        if size == self.offset {
            return self.commit(ingest).await;
        }
        // The relay could not write all of it. containerd tells why if it cannot, either.
        self.offset = size;
        ingest.send(self.message(WriteAction::Write, last)).await?;
        ingest.last_answer().await?;
        Err(Stop::Status(Status::data_loss(format!(
            "the ingest ended after {size} bytes"
        ))))
    }

    /// Commits the ingest, to which all has gone.
    async fn commit(&mut self, mut ingest: Ingest) -> Result<(), Stop> {
        ingest
            .send(self.message(WriteAction::Commit, Bytes::new()))
            .await?;
        Ok(ingest.end().await?)
    }

    /// Waits for the next bytes.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        patiently(self.blob.next(), self.moved).await.transpose()
    }

    /// Counts bytes that have gone.
    fn went(&mut self, piece: &Bytes) {
        let len = piece.len() as u64;
        self.offset += len;
        self.moved.store(self.offset, Ordering::Relaxed);
        self.write.sent.fetch_add(len, Ordering::Relaxed);
    }

    /// Makes sure that all has gone; waits to be told what it was, if that was not known before.
    async fn settle(&mut self) -> Result<()> {
        if let Promise::AtTheEnd(told) = &mut self.promise {
            self.expected = patiently(told, self.moved).await.ok();
        }
        let Some(expected) = &self.expected else {
            return Err(Error::new(ErrorKind::Image, "an upload was not finished"));
        };
        if self.offset != expected.size {
            return Err(Error::new(
                ErrorKind::Image,
                format!(
                    "blob {} ends after {} of {} bytes",
                    expected.digest, self.offset, expected.size
                ),
            )
            .hint(AGAIN));
        }
        Ok(())
    }

    /// Begins the ingest, or takes it up again.
    async fn begin(&mut self) -> Result<Ingest, Status> {
        let (messages, queue) = mpsc::channel(2);
        // containerd says nothing before it is asked something.
        let stat = self.message(WriteAction::Stat, Bytes::new());
        let _ = messages.try_send(stat);
        let lease = &self.write.lease.id;
        let queue = ReceiverStream::new(queue);
        let request = self.write.tunnel.request(queue, Some(lease));
        let client = ContentClient::new(self.write.tunnel.channel());
        let mut client = client.max_decoding_message_size(MAX_MESSAGE);
        Ok(Ingest {
            messages,
            answers: client.write(request).await?.into_inner(),
            owed: 1,
            size: 0,
        })
    }

    /// Makes a message about the ingest as it is now.
    fn message(&self, action: WriteAction, data: Bytes) -> WriteContentRequest {
        let expected = self.expected.as_ref();
        WriteContentRequest {
            action: action.into(),
            r#ref: self.reference.clone(),
            total: expected.map_or(0, |expected| expected.size.cast_signed()),
            expected: expected.map_or_else(String::new, |e| e.digest.to_string()),
            offset: self.offset.cast_signed(),
            data: data.into(),
            labels: if action == WriteAction::Commit {
                self.write.labels.clone()
            } else {
                HashMap::new()
            },
        }
    }
}

/// An ingest that is open at containerd, which gives one answer to each message.
struct Ingest {
    messages: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    /// How many answers are still to come.
    owed: usize,
    /// The size that the last one told, in bytes.
    size: u64,
}

impl Ingest {
    /// Sends a message without waiting for its answer.
    async fn send(&mut self, message: WriteContentRequest) -> Result<(), Status> {
        let sent = loop {
            let answer = tokio::select! {
                permit = self.messages.reserve() => {
                    break permit.map(|permit| permit.send(message)).is_ok();
                }
                answer = self.answers.message() => answer?,
            };
            self.note(answer)?;
        };
        self.owed += 1;
        if !sent {
            // Nobody takes it any more: the answers tell why.
            self.last_answer().await?;
        }
        Ok(())
    }

    /// Waits for the last answer; returns how many bytes the ingest has.
    async fn last_answer(&mut self) -> Result<u64, Status> {
        while self.owed > 0 {
            let answer = self.answers.message().await?;
            self.note(answer)?;
        }
        Ok(self.size)
    }

    fn note(&mut self, answer: Option<WriteContentResponse>) -> Result<(), Status> {
        let Some(answer) = answer else {
            return Err(Status::unavailable("containerd has ended the ingest"));
        };
        self.owed = self.owed.saturating_sub(1);
        self.size = answer.offset.cast_unsigned();
        Ok(())
    }

    /// Closes it, once all is answered.
    async fn end(mut self) -> Result<(), Status> {
        self.last_answer().await?;
        drop(self.messages);
        while self.answers.message().await?.is_some() {}
        Ok(())
    }
}

/// Waits for the source. Its silence is not the node's: it counts as movement.
pub(crate) async fn patiently<T>(source: impl Future<Output = T>, moved: &AtomicU64) -> T {
    tokio::pin!(source);
    loop {
        match tokio::time::timeout(WAIT, &mut source).await {
            Ok(item) => return item,
            Err(_) => moved.fetch_add(1, Ordering::Relaxed),
        };
    }
}
