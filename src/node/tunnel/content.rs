//! Blobs in a node's content store: looking one up, labelling it, writing it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::{
    Info, InfoRequest, ListStatusesRequest, ReadContentRequest, ReadContentResponse, UpdateRequest,
    WriteAction, WriteContentRequest,
};
use containerd_client::tonic::{Status, Streaming};
use futures_util::future::try_join_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::{CALL, Tunnel};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{AGAIN, Digest};
use crate::node::Failure;
use crate::node::lease::{Held, Lease};
use crate::node::session::Labels;

/// The largest answer that is read, in bytes: containerd's own limit.
const MAX_MESSAGE: usize = 16 << 20;
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
pub(super) async fn label(tunnel: &Tunnel, digest: &Digest, labels: &Labels) -> Result<bool> {
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
        let (messages, queue) = mpsc::channel(2);
        let request = self
            .tunnel
            .request(ReceiverStream::new(queue), Some(&self.lease.id));
        let mut client =
            ContentClient::new(self.tunnel.channel()).max_decoding_message_size(MAX_MESSAGE);
        let answers = async {
            let mut stream = client.write(request).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok::<_, Status>(())
        };
        let what = match &promise {
            Promise::Known(expected) => format!("writing {}", expected.digest),
            Promise::AtTheEnd(_) => "writing a layer".to_owned(),
        };
        let moved = AtomicU64::new(0);
        let mut expected = None;
        let feed = self.feed(blob, messages, promise, &moved, &mut expected);
        let both = async { tokio::join!(feed, answers) };
        let (fed, answered) = self.tunnel.while_moving(&moved, &what, both).await?;
        // A broken source ends the stream early; its error says why, containerd's does not.
        fed?;
        let failure = match answered {
            Ok(()) => return Ok(()),
            Err(status) => self.tunnel.failure(&what, &status),
        };
        match expected {
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

    async fn feed(
        &self,
        mut blob: BoxStream<'static, Result<Bytes>>,
        messages: mpsc::Sender<WriteContentRequest>,
        promise: Promise,
        moved: &AtomicU64,
        known: &mut Option<Expected>,
    ) -> Result<()> {
        let reference = format!("{}-{}", self.lease.id, self.key);
        let told = match promise {
            Promise::Known(expected) => {
                *known = Some(expected);
                None
            }
            Promise::AtTheEnd(told) => Some(told),
        };
        let message = |action: WriteAction, expected: Option<&Expected>, offset: u64, data| {
            WriteContentRequest {
                action: action.into(),
                r#ref: reference.clone(),
                total: expected.map_or(0, |expected| expected.size.cast_signed()),
                expected: expected.map_or_else(String::new, |e| e.digest.to_string()),
                offset: offset.cast_signed(),
                data,
                labels: if action == WriteAction::Commit {
                    self.labels.clone()
                } else {
                    HashMap::new()
                },
            }
        };
        // Nobody listens once containerd has answered with an error: that error is the result.
        let stat = message(WriteAction::Stat, known.as_ref(), 0, Vec::new());
        if messages.send(stat).await.is_err() {
            return Ok(());
        }
        let mut offset = 0;
        while let Some(piece) = patiently(blob.next(), moved).await {
            let piece = piece?;
            let len = piece.len() as u64;
            let write = message(WriteAction::Write, known.as_ref(), offset, piece.into());
            if messages.send(write).await.is_err() {
                return Ok(());
            }
            offset += len;
            moved.store(offset, Ordering::Relaxed);
            self.sent.fetch_add(len, Ordering::Relaxed);
        }
        if let Some(told) = told {
            *known = patiently(told, moved).await.ok();
        }
        let Some(expected) = known.as_ref() else {
            return Err(Error::new(ErrorKind::Image, "an upload was not finished"));
        };
        if offset != expected.size {
            return Err(Error::new(
                ErrorKind::Image,
                format!(
                    "blob {} ends after {offset} of {} bytes",
                    expected.digest, expected.size
                ),
            )
            .hint(AGAIN));
        }
        let _ = messages
            .send(message(
                WriteAction::Commit,
                Some(expected),
                offset,
                Vec::new(),
            ))
            .await;
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
