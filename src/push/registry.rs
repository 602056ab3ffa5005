//! The registry itself: connections, the password, and the answers.
//!
//! Every failure is answered by 403 DENIED, also to all that comes later: the one answer at which
//! all engines give up at once instead of trying again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::StatusCode;
use hyper::body::{Body, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, WWW_AUTHENTICATE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SetOnce};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{Answer, DIGEST, accepted, location, refusal, status, with};
use super::landing::{Landed, Landing};
use super::request::{Request, authorization};
use super::upload::{Finished, Upload};
use super::{Listener, REPOSITORY};
use crate::engine::ImageRecord;
use crate::error::{Error, ErrorKind, Result, one_line};
use crate::image::{Digest, Image, MAX_CONFIG, MAX_MANIFEST};
use crate::node::tunnel::content::Expected;

/// Uploads that flow to the nodes at the same time; others wait with what they have.
const FLOWS: usize = 3;
/// How many bytes of small blobs are kept in memory.
const KEEP_ALL: usize = 8 << 20;
/// How long a connection may stay without a request.
const IDLE: Duration = Duration::from_secs(60);
/// How long a TLS client may take to see that this is none.
const GRACE: Duration = Duration::from_secs(5);
/// The most bytes of a connection that hyper reads ahead.
const READ_AHEAD: usize = 128 * 1024;
/// The first byte of a TLS ClientHello's record.
pub(super) const TLS_HANDSHAKE: u8 = 0x16;

/// A registry that answers.
pub struct Registry {
    shared: Arc<Shared>,
    serving: AbortOnDropHandle<()>,
}

struct Shared {
    authorization: String,
    /// The one tag.
    tag: String,
    /// Where uploads go: set when the nodes are ready, for which the engine's first questions wait.
    landing: SetOnce<Landing>,
    turns: Arc<Semaphore>,
    state: Mutex<State>,
    next: AtomicU64,
    /// What waits for the nodes to be done with those uploads.
    arrivals: tokio::sync::Mutex<JoinSet<()>>,
    /// Requests of which our side is at work; the engine waits for us then.
    busy: AtomicUsize,
    failed: CancellationToken,
    whole: CancellationToken,
    closing: CancellationToken,
}

struct State {
    uploads: HashMap<u64, Upload>,
    kept: HashMap<Digest, Bytes>,
    /// Uploads of which all has come, and which the nodes are still busy with.
    arriving: HashSet<Digest>,
    /// Uploads that went to the nodes, and their sizes.
    landed: HashMap<Digest, u64>,
    image: Option<Image>,
    failure: Option<Error>,
    heard: Instant,
}

impl Registry {
    /// Begins to answer.
    pub fn start(listener: Arc<Listener>) -> Self {
        let target = listener.target();
        let shared = Arc::new(Shared {
            authorization: authorization(&target.password),
            tag: target.tag.clone(),
            landing: SetOnce::new(),
            turns: Arc::new(Semaphore::new(FLOWS)),
            state: Mutex::new(State {
                uploads: HashMap::new(),
                kept: HashMap::new(),
                arriving: HashSet::new(),
                landed: HashMap::new(),
                image: None,
                failure: None,
                heard: Instant::now(),
            }),
            next: AtomicU64::new(1),
            arrivals: tokio::sync::Mutex::default(),
            busy: AtomicUsize::new(0),
            failed: CancellationToken::new(),
            whole: CancellationToken::new(),
            closing: CancellationToken::new(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self {
            shared,
            serving: AbortOnDropHandle::new(serving),
        }
    }

    /// Tells where uploads go, or why they cannot go anywhere. Until then the engine waits for an
    /// answer.
    pub fn land(&self, landing: Result<Landing>) {
        match landing {
            // It is told once.
            Ok(landing) => drop(self.shared.landing.set(landing)),
            Err(e) => self.shared.fail(e),
        }
    }

    /// Waits until something has gone wrong on our side. From then on the engine is refused.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Waits until all of the image is here. What the engine does then is not about the image.
    pub async fn whole(&self) {
        self.shared.whole.cancelled().await;
    }

    /// Waits until the engine has said nothing for so long, while nothing kept it waiting.
    pub async fn silent(&self, silence: Duration) {
        loop {
            let heard = self.shared.lock().heard;
            let idle = heard.elapsed();
            if idle >= silence && self.shared.busy.load(Ordering::Relaxed) == 0 {
                return;
            }
            let rest = silence.saturating_sub(idle);
            tokio::time::sleep(rest.max(Duration::from_millis(100))).await;
        }
    }

    /// Returns why it has failed, if it has.
    pub fn failure(&self) -> Option<Error> {
        self.shared.lock().failure.take()
    }

    /// Returns the image that the engine has pushed, and the source of its layers.
    ///
    /// # Errors
    /// Engine error, if there is no manifest; image error, if it is another image than the one
    /// that the engine described.
    pub fn pushed(&self, record: &ImageRecord) -> Result<(Image, Landed)> {
        let state = self.shared.lock();
        let pushed = state.image.clone().zip(self.shared.landing.get());
        let (image, landing) = pushed
            .ok_or_else(|| Error::new(ErrorKind::Engine, "it has pushed no manifest here"))?;
        let diff_ids = image.layers.iter().map(|layer| &layer.diff_id);
        let same_id = record.image_id.as_ref().is_none_or(|id| *id == image.id());
        if !same_id || !diff_ids.eq(&record.diff_ids) {
            return Err(Error::new(
                ErrorKind::Image,
                format!("it has pushed {}, which is another image", image.id()),
            ));
        }
        let (kept, landed) = (state.kept.clone(), state.landed.keys().cloned().collect());
        Ok((image, landing.landed(kept, landed)))
    }

    /// Stops answering; what was on its way is given up.
    pub async fn stop(self) {
        self.shared.closing.cancel();
        // It has no result of its own.
        let _ = self.serving.await;
        self.shared.arrivals.lock().await.shutdown().await;
    }
}

/// Accepts connections until it is told to stop.
async fn serve(listener: Arc<Listener>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.socket.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, Arc::clone(&shared)));
                }
                // Out of file descriptors, perhaps: one may be free in a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            },
            Some(_) = connections.join_next() => {}
            () = shared.closing.cancelled() => break,
        }
    }
    connections.shutdown().await;
}

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    match tokio::time::timeout(IDLE, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == TLS_HANDSHAKE => {
            let _ = tokio::time::timeout(GRACE, refuse_tls(stream)).await;
        }
        Ok(Ok(1)) => {
            let service = service_fn(|request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, std::convert::Infallible>(shared.answer(request).await) }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(READ_AHEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(e) = served.await {
                tracing::debug!(error = %e, "a push's connection broke");
            }
        }
        _ => {}
    }
}

/// Tells a TLS client that plain HTTP is spoken here. Docker's containerd store looks for exactly
/// these words; what it still sends is read, so that they are not lost in a reset.
async fn refuse_tls(mut stream: TcpStream) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
        .await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// Counts a request as ours to work at, as long as it lives.
struct Busy<'a>(&'a Shared);

impl<'a> Busy<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.busy.fetch_add(1, Ordering::Relaxed);
        Self(shared)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.lock().heard = Instant::now();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(self: &Arc<Self>, request: hyper::Request<Incoming>) -> Answer {
        if !self.is_authorized(&request) {
            let mut answer = refusal(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "not for you");
            let basic = HeaderValue::from_static("Basic realm=\"kindlift\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, basic);
            return answer;
        }
        self.lock().heard = Instant::now();
        let work = async {
            tokio::select! {
                biased;
                () = self.failed.cancelled() => None,
                done = self.handle(request) => Some(done),
            }
        };
        match work.await {
            Some(Ok(answer)) => answer,
            Some(Err(Refused::Ours(error))) => {
                self.fail(error);
                self.denied()
            }
            Some(Err(Refused::Theirs(why))) => refusal(StatusCode::FORBIDDEN, "DENIED", why),
            None => self.denied(),
        }
    }

    /// Compares digests, so that the time tells nothing of the password.
    fn is_authorized(&self, request: &hyper::Request<Incoming>) -> bool {
        let given = request.headers().get(AUTHORIZATION);
        given.is_some_and(|given| {
            Digest::of(given.as_bytes()) == Digest::of(self.authorization.as_bytes())
        })
    }

    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.failed.cancel();
    }

    fn denied(&self) -> Answer {
        let why = match &self.lock().failure {
            Some(error) => one_line(error).to_string(),
            None => "kindlift has stopped".to_owned(),
        };
        refusal(StatusCode::FORBIDDEN, "DENIED", &why)
    }

    async fn handle(
        self: &Arc<Self>,
        request: hyper::Request<Incoming>,
    ) -> Result<Answer, Refused> {
        let uri = request.uri();
        let Some(asked) = Request::parse(request.method(), uri.path(), uri.query()) else {
            return Err(Refused::Theirs("this registry takes one image only"));
        };
        match asked {
            Request::Base => Ok(status(StatusCode::OK)),
            Request::Blob(digest) => {
                let size = self.find(&digest).await?;
                tracing::debug!(%digest, ?size, "the engine asks for a blob");
                Ok(match size {
                    Some(size) => with(
                        status(StatusCode::OK),
                        &[
                            (CONTENT_LENGTH, size.to_string()),
                            (DIGEST, digest.to_string()),
                        ],
                    ),
                    None => status(StatusCode::NOT_FOUND),
                })
            }
            Request::Begin => {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                self.lock().uploads.insert(id, Upload::new(id));
                Ok(accepted(id, 0))
            }
            Request::Append(id) => {
                let mut upload = self.upload(id)?;
                self.receive(&mut upload, request.into_body(), None).await?;
                let answer = accepted(id, upload.size());
                self.lock().uploads.insert(id, upload);
                Ok(answer)
            }
            Request::Finish(id, digest) => {
                let upload = self.upload(id)?;
                self.finish(upload, digest, request.into_body()).await
            }
            Request::Abandon(id) => {
                self.lock().uploads.remove(&id);
                Ok(status(StatusCode::NO_CONTENT))
            }
            Request::Manifest => Ok(status(StatusCode::NOT_FOUND)),
            Request::PutManifest(reference) => self.manifest(&reference, request).await,
        }
    }

    async fn find(&self, digest: &Digest) -> Result<Option<u64>, Refused> {
        let _busy = Busy::new(self);
        if self.lock().arriving.contains(digest) {
            self.have_landed().await?;
        }
        let here = {
            let state = self.lock();
            let kept = state.kept.get(digest).map(|bytes| bytes.len() as u64);
            kept.or_else(|| state.landed.get(digest).copied())
        };
        match here {
            Some(size) => Ok(Some(size)),
            None => Ok(self.landing.wait().await.find(digest).await?),
        }
    }

    /// Waits until the nodes have what has come so far.
    async fn have_landed(&self) -> Result<(), Refused> {
        let mut arrivals = self.arrivals.lock().await;
        while let Some(done) = arrivals.join_next().await {
            if let Err(e) = done {
                self.fail(Error::new(ErrorKind::Internal, "a transfer was cut off").because(e));
            }
        }
        match self.failed.is_cancelled() {
            true => Err(Refused::Theirs("kindlift has stopped")),
            false => Ok(()),
        }
    }

    /// Notes what has become of an upload of which all had come.
    fn has_landed(&self, blob: Expected, landed: Result<()>) {
        if let Err(e) = landed {
            return self.fail(e);
        }
        let mut state = self.lock();
        state.arriving.remove(&blob.digest);
        state.landed.insert(blob.digest, blob.size);
    }

    fn upload(&self, id: u64) -> Result<Upload, Refused> {
        let upload = self.lock().uploads.remove(&id);
        upload.ok_or(Refused::Theirs("there is no such upload"))
    }

    async fn receive(
        &self,
        upload: &mut Upload,
        mut body: Incoming,
        blob: Option<&Expected>,
    ) -> Result<(), Refused> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Refused::Theirs("the upload broke off"))?;
            let Ok(bytes) = frame.into_data() else {
                continue;
            };
            let may_keep = self.lock().kept.values().map(Bytes::len).sum::<usize>() < KEEP_ALL;
            // Whoever waits for its turn waits for other uploads, and those for the engine.
            upload.wait(bytes.len(), may_keep, &self.turns).await;
            let _busy = Busy::new(self);
            let landing = self.landing.wait().await;
            upload.take(bytes, blob, landing).await?;
        }
        Ok(())
    }

    async fn finish(
        self: &Arc<Self>,
        mut upload: Upload,
        digest: Digest,
        body: Incoming,
    ) -> Result<Answer, Refused> {
        let id = upload.id();
        // All at once: then it is known from the start what it will be.
        let blob = body.size_hint().exact().map(|rest| Expected {
            digest: digest.clone(),
            size: upload.size() + rest,
        });
        self.receive(&mut upload, body, blob.as_ref()).await?;
        let blob = Expected {
            digest: digest.clone(),
            size: upload.size(),
        };
        let _busy = Busy::new(self);
        let landing = self.landing.wait().await;
        let Finished { kept, arrival } = upload.finish(blob.clone(), landing).await?;
        tracing::debug!(%digest, size = blob.size, "the engine has uploaded a blob");
        if let Some(bytes) = kept {
            self.lock().kept.insert(digest.clone(), bytes);
        }
        // The engine goes on meanwhile; its manifest waits for the nodes.
        if let Some(arrival) = arrival {
            self.lock().arriving.insert(digest.clone());
            // The task is among what it would keep alive.
            let shared = Arc::downgrade(self);
            self.arrivals.lock().await.spawn(async move {
                let landed = arrival.land().await;
                if let Some(shared) = shared.upgrade() {
                    shared.has_landed(blob, landed);
                }
            });
        }
        Ok(with(
            status(StatusCode::CREATED),
            &[(LOCATION, location(id)), (DIGEST, digest.to_string())],
        ))
    }

    async fn manifest(
        &self,
        reference: &str,
        request: hyper::Request<Incoming>,
    ) -> Result<Answer, Refused> {
        let media_type = request.headers().get(CONTENT_TYPE);
        let media_type = media_type.and_then(|value| value.to_str().ok());
        let media_type = media_type.unwrap_or_default().to_owned();
        let limit = usize::try_from(MAX_MANIFEST).unwrap_or(usize::MAX);
        let bytes = Limited::new(request.into_body(), limit).collect().await;
        let bytes =
            bytes.map_err(|_| Refused::Theirs("the manifest broke off, or is too large"))?;
        let bytes = bytes.to_bytes().to_vec();
        let digest = Digest::of(&bytes);
        if reference != self.tag && reference != digest.as_str() {
            return Err(Refused::Theirs("this registry takes one image only"));
        }
        tracing::debug!(%digest, "the engine has uploaded a manifest");
        let _busy = Busy::new(self);
        let image = self.read(bytes, &media_type).await.map_err(|refused| {
            let Refused::Ours(e) = refused else {
                return refused;
            };
            tracing::debug!(error = %one_line(&e), media_type, "a manifest is refused");
            Refused::Theirs("this is no manifest of a whole image")
        })?;
        let documents = async {
            if reference == self.tag {
                let landing = self.landing.wait().await;
                landing.write_documents(&image).await?;
            }
            Ok(())
        };
        tokio::try_join!(self.have_landed(), documents)?;
        self.lock().image = Some(image);
        if reference == self.tag {
            self.whole.cancel();
        }
        Ok(with(
            status(StatusCode::CREATED),
            &[
                (LOCATION, format!("/v2/{REPOSITORY}/manifests/{digest}")),
                (DIGEST, digest.to_string()),
            ],
        ))
    }

    /// Makes an image of a manifest, with its config from what came or from a node.
    async fn read(&self, manifest: Vec<u8>, media_type: &str) -> Result<Image, Refused> {
        let config = Image::config_of(&manifest)?;
        let kept = self.lock().kept.get(&config).map(|bytes| bytes.to_vec());
        let config = match kept {
            Some(bytes) => bytes,
            // It was too large to be kept: the nodes have it.
            None => {
                self.have_landed().await?;
                let landing = self.landing.wait().await;
                let read = landing.read(&config, MAX_CONFIG).await?;
                read.ok_or_else(|| Error::new(ErrorKind::Image, "its config did not come"))?
            }
        };
        Ok(Image::from_documents(manifest, media_type, config)?)
    }
}

/// Why a request is not granted.
enum Refused {
    /// Something went wrong here or on a node: the push is over.
    Ours(Error),
    /// The request makes no sense here.
    Theirs(&'static str),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}
