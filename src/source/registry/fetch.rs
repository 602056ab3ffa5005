//! Layers out of a registry: each fetched once, when the first node asks, into a file without a
//! name, behind which all nodes read at their own pace.
//!
//! Handing the stream itself to several nodes would make all of them as slow as the slowest, and
//! two that read two layers in another order would wait for each other for ever.
//!
//! Digests are not checked here: whoever takes the bytes does, once.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use oci_client::client::BlobResponse;
use oci_client::errors::OciDistributionError;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{Registry, failed, trouble};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Digest, Image, refused};
use crate::job::Job;
use crate::report::{Event, Report};
use crate::source::spool::unlinked_file;
use crate::source::{CHUNK, Source};

/// How often a layer that does not move on is asked for again.
const TRIES: u32 = 4;
/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(500);

/// The layers of one image in a registry.
pub struct Blobs {
    registry: Arc<Registry>,
    sizes: HashMap<Digest, u64>,
    fetched: Mutex<HashMap<Digest, Fetched>>,
    env: Env,
    report: Arc<dyn Report>,
}

/// A layer that comes, or has come. Dropping it ends the coming.
struct Fetched {
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    _task: AbortOnDropHandle<()>,
}

/// How far a layer is.
#[derive(Clone, Default)]
struct Progress {
    /// Bytes that are in the file.
    there: u64,
    /// Why no more will come: message, cause and hint, for every reader.
    failure: Option<Arc<Error>>,
}

impl Blobs {
    pub(super) fn new(registry: Registry, image: &Image, job: &Job) -> Result<Self> {
        let sizes = image
            .layers
            .iter()
            .map(|layer| (layer.digest.clone(), layer.size))
            .collect();
        Ok(Self {
            registry: Arc::new(registry),
            sizes,
            fetched: Mutex::default(),
            env: job.env.clone(),
            report: Arc::clone(&job.report),
        })
    }

    /// Returns the layer's file and how far it is; the first call makes it come.
    fn fetch(&self, blob: &Digest) -> Result<(Arc<File>, watch::Receiver<Progress>, u64)> {
        let Some(&size) = self.sizes.get(blob) else {
            return Err(failed(format!("the image has no layer {blob}")));
        };
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = fetched.get(blob) {
            return Ok((Arc::clone(&layer.file), layer.progress.clone(), size));
        }
        let text = format!(
            "fetching {} ({size} bytes) from {}, spooling it to a temporary file",
            blob, self.registry.trouble.host
        );
        self.report.event(&Event::Step(&text));
        let file = Arc::new(unlinked_file(&self.env)?);
        let (told, progress) = watch::channel(Progress::default());
        let coming = come(
            Arc::clone(&self.registry),
            blob.clone(),
            size,
            Arc::clone(&file),
            told,
        );
        let layer = Fetched {
            file: Arc::clone(&file),
            progress: progress.clone(),
            _task: AbortOnDropHandle::new(tokio::spawn(coming)),
        };
        fetched.insert(blob.clone(), layer);
        Ok((file, progress, size))
    }
}

impl Source for Blobs {
    fn open(&self, blob: &Digest) -> BoxStream<'static, Result<Bytes>> {
        match self.fetch(blob) {
            Err(e) => stream::once(async { Err(e) }).boxed(),
            Ok((file, progress, size)) => read(file, progress, size),
        }
    }
}

/// Reads behind what comes.
fn read(
    file: Arc<File>,
    progress: watch::Receiver<Progress>,
    size: u64,
) -> BoxStream<'static, Result<Bytes>> {
    let begin = (file, progress, 0);
    stream::try_unfold(begin, move |(file, mut progress, done)| async move {
        if done == size {
            return Ok(None);
        }
        let there = {
            let ready = |progress: &Progress| progress.there > done || progress.failure.is_some();
            let now = progress
                .wait_for(ready)
                .await
                .map_err(|_| Error::new(ErrorKind::Internal, "fetching was cut off"))?;
            match &now.failure {
                Some(why) if now.there <= done => return Err(again(why)),
                _ => now.there,
            }
        };
        let len = usize::try_from(there - done).map_or(CHUNK, |left| left.min(CHUNK));
        let reader = Arc::clone(&file);
        let chunk = blocking(move || {
            let mut chunk = vec![0; len];
            reader.read_exact_at(&mut chunk, done)?;
            Ok(chunk)
        })
        .await?;
        Ok(Some((
            Bytes::from(chunk),
            (file, progress, done + len as u64),
        )))
    })
    .boxed()
}

/// Fetches a layer into a file, telling how far it is.
async fn come(
    registry: Arc<Registry>,
    blob: Digest,
    size: u64,
    file: Arc<File>,
    told: watch::Sender<Progress>,
) {
    let mut tries = 0;
    loop {
        let before = told.borrow().there;
        if before == size {
            return;
        }
        let error = match attempt(&registry, &blob, size, &file, &told).await {
            Ok(()) => return,
            Err(End::Final(error)) => error,
            Err(End::Wire(e)) => {
                tries = match told.borrow().there > before {
                    true => 1,
                    false => tries + 1,
                };
                if tries < TRIES && trouble::may_pass(&e) {
                    tracing::info!(%blob, error = %e, "asking again");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                match trouble::is_not_found(&e) {
                    true => failed(format!(
                        "{} has the image, but lacks its layer {blob}",
                        registry.trouble.host
                    ))
                    .hint("push the image again"),
                    false => registry.trouble.explain(e),
                }
            }
        };
        told.send_modify(|progress| progress.failure = Some(Arc::new(error)));
        return;
    }
}

/// Why an attempt ended.
enum End {
    /// The wire failed; another attempt may go on from there.
    Wire(OciDistributionError),
    /// For good.
    Final(Error),
}

impl From<OciDistributionError> for End {
    fn from(e: OciDistributionError) -> Self {
        Self::Wire(e)
    }
}

/// Fetches what is still missing of a layer.
async fn attempt(
    registry: &Registry,
    blob: &Digest,
    size: u64,
    file: &Arc<File>,
    told: &watch::Sender<Progress>,
) -> Result<(), End> {
    let from = told.borrow().there;
    let answer = registry
        .client
        .pull_blob_stream_partial(&registry.name, blob.as_str(), from, None)
        .await?;
    // A registry that knows no ranges begins anew.
    let (mut stream, mut skip) = match answer {
        BlobResponse::Partial(stream) => (stream.stream, 0),
        BlobResponse::Full(stream) => (stream.stream, from),
    };
    let mut held = BytesMut::new();
    let mut at = from;
    loop {
        let next = stream.next().await.transpose();
        if let Ok(Some(piece)) = &next {
            let skipped = piece.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
            skip -= skipped as u64;
            held.extend_from_slice(&piece[skipped..]);
        }
        if at + held.len() as u64 > size {
            return Err(End::Final(refused(format!(
                "layer {blob} is longer than the {size} bytes that the manifest says"
            ))));
        }
        let more = matches!(next, Ok(Some(_)));
        if !held.is_empty() && (!more || held.len() >= CHUNK) {
            let (file, bytes, offset) = (Arc::clone(file), held.split().freeze(), at);
            at += bytes.len() as u64;
            blocking(move || file.write_all_at(&bytes, offset))
                .await
                .map_err(End::Final)?;
            told.send_modify(|progress| progress.there = at);
        }
        match next.map_err(|e| End::Wire(e.into()))? {
            Some(_) => {}
            None if at == size => return Ok(()),
            None => {
                let why = format!("it ended after {at} of {size} bytes");
                return Err(End::Wire(std::io::Error::other(why).into()));
            }
        }
    }
}

/// Does what may wait for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, "fetching was cut off").because(e))?
        .map_err(|e| {
            Error::new(ErrorKind::Internal, "a temporary file failed")
                .because(e)
                .hint("set TMPDIR to a folder with room for the image")
        })
}

/// Makes a copy of an error, for another reader.
fn again(error: &Error) -> Error {
    let mut copy = Error::new(error.kind(), error.to_string());
    let causes = error.causes();
    if !causes.is_empty() {
        copy = copy.because(causes.join(": "));
    }
    match error.next_step() {
        Some(hint) => copy.hint(hint),
        None => copy,
    }
}
