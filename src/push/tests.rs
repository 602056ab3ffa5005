//! The registry without nodes, spoken to as engines and strangers do.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::landing::Landing;
use super::registry::{Registry, TLS_HANDSHAKE};
use super::request::authorization;
use super::{Listener, Target};
use crate::engine::{EngineId, ImageRecord};
use crate::error::{Error, ErrorKind};
use crate::image::{DiffId, Digest, ImageId, Platform};
use crate::source::Source;

/// An image of one layer that is stored as it is.
struct Sample {
    layer: Vec<u8>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

impl Sample {
    fn new(layer: &[u8]) -> Self {
        let config = serde_json::json!({
            "os": "linux", "architecture": "amd64",
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(layer)]},
        });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                       "digest": Digest::of(&config), "size": config.len()},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar",
                        "digest": Digest::of(layer), "size": layer.len()}],
        });
        Self {
            layer: layer.to_vec(),
            config,
            manifest: manifest.to_string().into_bytes(),
        }
    }

    fn record(&self) -> ImageRecord {
        let id = Digest::of(&self.config);
        ImageRecord {
            platform: Platform::linux("amd64", None),
            diff_ids: vec![DiffId(Digest::of(&self.layer))],
            image_id: Some(ImageId(id.clone())),
            manifest: None,
            oci: true,
            id: EngineId(id),
            found: std::time::SystemTime::now(),
            local: None,
        }
    }
}

/// A listener on any port: the user's own are for real runs.
async fn listener() -> Arc<Listener> {
    Arc::new(Listener::bind_one_of(0..1).await.unwrap())
}

/// A registry of which nobody knows yet where uploads go.
async fn unready() -> (Registry, Target) {
    let listener = listener().await;
    let target = listener.target().clone();
    (Registry::start(listener), target)
}

/// A registry without nodes: what is small is kept, what is large goes nowhere.
async fn registry() -> (Registry, Target) {
    let (registry, target) = unready().await;
    let record = Sample::new(b"").record();
    registry.land(Landing::begin(Vec::new(), &record).await);
    (registry, target)
}

/// Sends bytes over a connection of their own and returns all that comes back.
async fn raw(target: &Target, bytes: &[u8]) -> String {
    let address = (Ipv4Addr::LOCALHOST, target.port);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn ask(target: &Target, authorization: &str, line: &str, body: &[u8]) -> String {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{authorization}\
         Content-Type: application/vnd.oci.image.manifest.v1+json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    raw(target, &[head.as_bytes(), body].concat()).await
}

async fn granted(target: &Target, line: &str, body: &[u8]) -> String {
    let header = format!("Authorization: {}\r\n", authorization(&target.password));
    ask(target, &header, line, body).await
}

/// Uploads a blob as Docker's overlay2 store does; returns the last answer.
async fn upload(target: &Target, blob: &[u8], digest: &Digest) -> String {
    let begun = granted(target, "POST /v2/kindlift/load/blobs/uploads/", b"").await;
    assert!(begun.starts_with("HTTP/1.1 202 "), "{begun}");
    let place = begun
        .lines()
        .find_map(|line| line.strip_prefix("location: "))
        .unwrap();
    for half in blob.chunks(blob.len().div_ceil(2).max(1)) {
        let taken = granted(target, &format!("PATCH {place}"), half).await;
        assert!(taken.starts_with("HTTP/1.1 202 "), "{taken}");
    }
    granted(target, &format!("PUT {place}?digest={digest}"), b"").await
}

async fn push(target: &Target, sample: &Sample) -> String {
    for blob in [&sample.layer, &sample.config] {
        let done = upload(target, blob, &Digest::of(blob)).await;
        assert!(done.starts_with("HTTP/1.1 201 "), "{done}");
    }
    let line = format!("PUT /v2/kindlift/load/manifests/{}", target.tag);
    granted(target, &line, &sample.manifest).await
}

#[tokio::test]
async fn takes_the_image_and_gives_its_layers() {
    let (registry, target) = registry().await;
    let sample = Sample::new(b"a layer");
    let lines = granted(&target, "GET /v2/", b"").await;
    assert!(lines.starts_with("HTTP/1.1 200 "), "{lines}");
    let done = push(&target, &sample).await;
    assert!(done.starts_with("HTTP/1.1 201 "), "{done}");
    // overlay2 asks whether what it has uploaded is there, and takes the size for true.
    let line = format!("HEAD /v2/kindlift/load/blobs/{}", Digest::of(&sample.layer));
    let there = granted(&target, &line, b"").await;
    assert!(there.starts_with("HTTP/1.1 200 "), "{there}");
    assert!(there.contains("\r\ncontent-length: 7\r\n"), "{there}");

    let (image, landed) = registry.pushed(&sample.record()).unwrap();
    assert_eq!(image.id().0, Digest::of(&sample.config));
    let layer = landed.open(&Digest::of(&sample.layer));
    let pieces: Vec<_> = layer.map(Result::unwrap).collect().await;
    assert_eq!(pieces.concat(), sample.layer);
    assert!(!landed.was_short());
    let unknown = landed.open(&Digest::of(b"other")).next().await.unwrap();
    assert!(unknown.is_err() && landed.was_short());
    registry.stop().await;
}

#[tokio::test]
async fn the_image_is_whole_with_the_manifest_that_has_its_tag() {
    let (registry, target) = registry().await;
    let sample = Sample::new(b"a layer");
    for blob in [&sample.layer, &sample.config] {
        upload(&target, blob, &Digest::of(blob)).await;
    }
    let digest = Digest::of(&sample.manifest);
    // Part of an index, which would come last.
    let by_digest = format!("PUT /v2/kindlift/load/manifests/{digest}");
    granted(&target, &by_digest, &sample.manifest).await;
    assert!(registry.whole().now_or_never().is_none());
    let by_tag = format!("PUT /v2/kindlift/load/manifests/{}", target.tag);
    let done = granted(&target, &by_tag, &sample.manifest).await;
    assert!(done.starts_with("HTTP/1.1 201 "), "{done}");
    assert!(registry.whole().now_or_never().is_some());
    registry.pushed(&sample.record()).unwrap();
    registry.stop().await;
}

#[tokio::test]
async fn questions_wait_until_the_nodes_are_ready() {
    let (registry, target) = unready().await;
    let blob = Digest::of(b"a layer");
    let line = format!("HEAD /v2/kindlift/load/blobs/{blob}");
    let ready = Cell::new(false);
    let asking = async {
        let answer = granted(&target, &line, b"").await;
        assert!(ready.get(), "answered without the nodes: {answer}");
        answer
    };
    let landing = async {
        // What does not depend on the nodes is answered meanwhile.
        let base = granted(&target, "GET /v2/", b"").await;
        assert!(base.starts_with("HTTP/1.1 200 "), "{base}");
        ready.set(true);
        let record = Sample::new(b"").record();
        registry.land(Landing::begin(Vec::new(), &record).await);
    };
    let (answer, ()) = tokio::join!(asking, landing);
    // Of no node, nobody knows how large it is.
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    registry.stop().await;
}

#[tokio::test]
async fn nodes_that_cannot_get_ready_end_the_push() {
    let (registry, target) = unready().await;
    let line = format!("HEAD /v2/kindlift/load/blobs/{}", Digest::of(b"a layer"));
    let asking = granted(&target, &line, b"");
    let failing = async {
        // The question is waiting by now: this one came after it.
        granted(&target, "GET /v2/", b"").await;
        registry.land(Err(Error::new(ErrorKind::Load, "node a is gone")));
    };
    let (answer, ()) = tokio::join!(asking, failing);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let later = granted(&target, "GET /v2/", b"").await;
    assert!(later.starts_with("HTTP/1.1 403 "), "{later}");
    assert!(later.contains("node a is gone"), "{later}");
    let failure = registry.failure().unwrap();
    assert_eq!(failure.to_string(), "node a is gone");
    registry.stop().await;
}

#[tokio::test]
async fn nobody_gets_anything_without_the_password() {
    let (registry, target) = registry().await;
    let sample = Sample::new(b"a layer");
    push(&target, &sample).await;
    let blob = Digest::of(&sample.layer);
    let wrong = format!("Authorization: {}\r\n", authorization("wrong"));
    let bearer = format!("Authorization: Bearer {}\r\n", target.password);
    for authorization in ["", &wrong, &bearer] {
        for line in [
            "GET /v2/".to_owned(),
            "GET /".to_owned(),
            format!("HEAD /v2/kindlift/load/blobs/{blob}"),
            format!("GET /v2/kindlift/load/blobs/{blob}"),
            "POST /v2/kindlift/load/blobs/uploads/".to_owned(),
            "PATCH /v2/kindlift/load/blobs/uploads/1".to_owned(),
            format!("PUT /v2/kindlift/load/blobs/uploads/1?digest={blob}"),
            "DELETE /v2/kindlift/load/blobs/uploads/1".to_owned(),
            format!("HEAD /v2/kindlift/load/manifests/{}", target.tag),
            format!("PUT /v2/kindlift/load/manifests/{}", target.tag),
        ] {
            let answer = ask(&target, authorization, &line, b"{}").await;
            let refused = answer.starts_with("HTTP/1.1 401 Unauthorized\r\n");
            assert!(refused, "{authorization}{line}: {answer}");
            assert!(answer.contains("www-authenticate: Basic "), "{answer}");
        }
    }
    // None of that has done anything.
    assert!(registry.failure().is_none());
    registry.pushed(&sample.record()).unwrap();
    registry.stop().await;
}

#[tokio::test]
async fn another_image_is_refused() {
    let (registry, target) = registry().await;
    let wanted = Sample::new(b"a layer").record();
    for line in [
        "PUT /v2/other/image/manifests/now",
        "PUT /v2/kindlift/load/manifests/later",
        "POST /v2/other/blobs/uploads/",
        "GET /v2/_catalog",
    ] {
        let answer = granted(&target, line, &Sample::new(b"x").manifest).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{line}: {answer}");
        assert!(answer.contains(r#""code":"DENIED""#), "{answer}");
    }
    assert!(registry.pushed(&wanted).is_err());
    let done = push(&target, &Sample::new(b"another layer")).await;
    assert!(done.starts_with("HTTP/1.1 201 "), "{done}");
    let error = registry.pushed(&wanted).map(drop).unwrap_err();
    assert!(error.to_string().contains("another image"), "{error}");
    registry.stop().await;
}

#[tokio::test]
async fn an_index_is_no_image() {
    let (registry, target) = registry().await;
    let index = br#"{"schemaVersion":2,"manifests":[]}"#;
    let line = format!("PUT /v2/kindlift/load/manifests/{}", target.tag);
    let answer = granted(&target, &line, index).await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    registry.stop().await;
}

#[tokio::test]
async fn after_a_failure_everything_is_refused_with_its_words() {
    let (registry, target) = registry().await;
    let lie = upload(&target, b"a layer", &Digest::of(b"another")).await;
    assert!(lie.starts_with("HTTP/1.1 403 "), "{lie}");
    assert!(lie.contains("what was uploaded as sha256:"), "{lie}");
    registry.failed().await;
    let line = "POST /v2/kindlift/load/blobs/uploads/";
    let later = granted(&target, line, b"").await;
    assert!(later.starts_with("HTTP/1.1 403 "), "{later}");
    assert!(later.contains("what was uploaded as sha256:"), "{later}");
    assert_eq!(registry.failure().unwrap().kind(), ErrorKind::Image);
    registry.stop().await;
}

#[tokio::test]
async fn a_tls_client_is_told_in_the_words_that_docker_looks_for() {
    let (registry, target) = registry().await;
    let hello = [TLS_HANDSHAKE, 3, 1, 0, 1, 0];
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, target.port))
        .await
        .unwrap();
    stream.write_all(&hello).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "HTTP/1.0 400 Bad Request\r\n\r\n");
    registry.stop().await;
}

#[tokio::test]
async fn it_listens_on_loopback_and_nowhere_else() {
    let (registry, target) = registry().await;
    let port = target.port;
    let listening = |address: &str| {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let row = format!(" {address}:{port:04X} 00000000:0000 0A ");
        table.contains(&row)
    };
    assert!(listening("0100007F"));
    assert!(!listening("00000000"));
    let six = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
    assert!(!six.contains(&format!(
        ":{port:04X} 00000000000000000000000000000000:0000 0A "
    )));
    registry.stop().await;
}

#[tokio::test]
async fn a_port_that_is_taken_gives_way_to_the_next() {
    let one = listener().await;
    let first = one.target().port;
    let range = first..first.saturating_add(100);
    let other = Listener::bind_one_of(range.clone()).await.unwrap();
    assert_ne!(other.target().port, first);
    assert!(range.contains(&other.target().port));
    assert_ne!(one.target().password, other.target().password);
    assert_ne!(one.target().tag, other.target().tag);
}

#[tokio::test]
async fn when_all_ports_are_taken_any_other_will_do() {
    let one = listener().await;
    let first = one.target().port;
    let other = Listener::bind_one_of(first..first + 1).await.unwrap();
    assert_ne!(other.target().port, first);
    assert_ne!(other.target().port, 0);
}
