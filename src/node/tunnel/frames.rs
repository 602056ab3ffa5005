//! An exec's stdin and stdout, which several share: gRPC to and from containerd's socket, bytes on
//! their way to the files of its ingests, and crictls that the relay runs.
//!
//! A frame has a head of eight bytes, the number of its stream and the length of what follows, both
//! big-endian. Stream 0 is the socket, both ways. On any other the first frame to the node says what
//! it leads to (`file REFERENCE`, an ingest's; `crictl NAME`, which inspects an image), those that
//! follow are appended to that, and an empty one ends it. The relay takes one frame after another:
//! what gRPC asks after a piece was written is answered with that piece in the file. What is appended
//! to a crictl is its configuration: before that has ended it asks nobody anything. Its own frames
//! begin with `1` (what it wrote to stdout), `2` (to stderr) or `?` (its exit status, the last).
//!
//! h2 hands over each frame of its own, of at most 16 kB, by itself. Each piece wakes four programs
//! on its way into a node, which costs more than the bytes do; so what comes in one go becomes one
//! frame here.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::LengthDelimitedCodec;
use tokio_util::io::StreamReader;
use tokio_util::task::AbortOnDropHandle;

use crate::node::crictl::Ran;

/// How many bytes of gRPC wait to become one frame: twice what a pipe holds.
const ENOUGH: usize = 128 * 1024;
const HEAD: usize = 8;
/// More than a frame from the relay holds, which is what it reads in one go: 256 KiB.
const MOST: usize = 1024 * 1024;
/// The stream that leads to containerd's socket.
const SOCKET: u32 = 0;

/// A way to the files of ingests, and to crictls. Copies share one tunnel.
#[derive(Clone)]
pub(super) struct Frames {
    queue: mpsc::Sender<Frame>,
    expect: mpsc::UnboundedSender<(u32, Answers)>,
    streams: Arc<AtomicU32>,
}

/// Takes the frames of one crictl.
type Answers = mpsc::UnboundedSender<Bytes>;

/// The file of one ingest, open to be appended to.
pub(super) struct File(Stream);

/// A crictl that waits on the node until it may ask.
pub(super) struct Crictl {
    stream: Stream,
    answers: mpsc::UnboundedReceiver<Bytes>,
}

struct Stream {
    frames: Frames,
    number: u32,
}

struct Frame {
    stream: u32,
    bytes: Bytes,
    written: oneshot::Sender<()>,
}

/// The tunnel is closed; its session knows why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// An exec's stdin and stdout, shared.
pub(super) struct Shared {
    /// What gRPC reads.
    pub incoming: Pin<Box<dyn AsyncRead + Send>>,
    /// What gRPC writes to. It is the end of the exec's stdin when this is dropped.
    pub outgoing: DuplexStream,
    /// The way to all else.
    pub frames: Frames,
    /// What fills stdin.
    pub filling: AbortOnDropHandle<()>,
}

/// Shares an exec's stdin and stdout.
pub(super) fn share(
    stdin: impl AsyncWrite + Send + Unpin + 'static,
    stdout: impl AsyncRead + Send + 'static,
) -> Shared {
    let (near, far) = tokio::io::duplex(ENOUGH);
    let (queue, frames) = mpsc::channel(1);
    let (expect, expected) = mpsc::unbounded_channel();
    let work = tokio::spawn(async move {
        // Whoever writes finds the tunnel closed; the session tells why.
        if let Err(e) = pass_on(stdin, far, frames).await {
            tracing::debug!(error = %e, "the exec takes no more");
        }
    });
    Shared {
        incoming: Box::pin(take_apart(stdout, expected)),
        outgoing: near,
        frames: Frames {
            queue,
            expect,
            streams: Arc::new(AtomicU32::new(SOCKET)),
        },
        filling: AbortOnDropHandle::new(work),
    }
}

async fn pass_on(
    mut stdin: impl AsyncWrite + Unpin,
    mut socket: DuplexStream,
    mut frames: mpsc::Receiver<Frame>,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.clear();
        buffer.reserve(HEAD + ENOUGH);
        buffer.put_bytes(0, HEAD);
        let (stream, written) = tokio::select! {
            read = socket.read_buf(&mut buffer) => match read? {
                0 => return stdin.shutdown().await,
                _ => (SOCKET, None),
            },
            Some(frame) = frames.recv() => {
                buffer.put(frame.bytes);
                (frame.stream, Some(frame.written))
            }
        };
        let len = u32::try_from(buffer.len() - HEAD).map_err(io::Error::other)?;
        buffer[..4].copy_from_slice(&stream.to_be_bytes());
        buffer[4..HEAD].copy_from_slice(&len.to_be_bytes());
        // Whole frames only: the task is not cut off in one but with its tunnel.
        stdin.write_all(&buffer).await?;
        stdin.flush().await?;
        if let Some(written) = written {
            // Nobody waits any more where a load was given up.
            let _ = written.send(());
        }
    }
}

/// Takes stdout apart: returns what gRPC reads, and hands all other frames to those who expect them
/// as gRPC reads.
fn take_apart(
    stdout: impl AsyncRead + Send + 'static,
    mut expected: mpsc::UnboundedReceiver<(u32, Answers)>,
) -> impl AsyncRead {
    let frames = LengthDelimitedCodec::builder()
        .length_field_offset(size_of::<u32>())
        .length_field_type::<u32>()
        // The head stays with what follows.
        .length_adjustment(HEAD.cast_signed())
        .num_skip(0)
        .max_frame_length(MOST)
        .new_read(stdout);
    let mut waiting = HashMap::new();
    let sockets = frames.filter_map(move |frame| {
        let frame = frame.map(|mut frame| {
            let stream = frame.get_u32();
            frame.advance(HEAD - size_of::<u32>());
            let frame = frame.freeze();
            if stream == SOCKET {
                return Some(frame);
            }
            while let Ok((stream, answers)) = expected.try_recv() {
                waiting.insert(stream, answers);
            }
            let last = frame.first() == Some(&b'?');
            if let Some(answers) = waiting.get(&stream) {
                // Nobody waits any more where a load was given up.
                let _ = Answers::send(answers, frame);
            }
            if last {
                waiting.remove(&stream);
            }
            None
        });
        std::future::ready(frame.transpose())
    });
    StreamReader::new(sockets)
}

impl Frames {
    /// Opens the file of an ingest, by the ingest's reference. Whether there is such a file is not
    /// told: the status of the ingest shows whether what is appended arrives.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn open(&self, reference: &str) -> Result<File, Closed> {
        let stream = self.stream();
        stream.write(format!("file {reference}").into()).await?;
        Ok(File(stream))
    }

    /// Starts a crictl that will inspect an image. It asks nobody anything yet.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn crictl(&self, name: &str) -> Result<Crictl, Closed> {
        let stream = self.stream();
        let (expect, answers) = mpsc::unbounded_channel();
        let expected = self.expect.send((stream.number, expect));
        expected.map_err(|_| Closed)?;
        stream.write(format!("crictl {name}").into()).await?;
        Ok(Crictl { stream, answers })
    }

    fn stream(&self) -> Stream {
        Stream {
            frames: self.clone(),
            number: self.streams.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

impl Stream {
    /// Writes a frame; returns once it is on its way.
    async fn write(&self, bytes: Bytes) -> Result<(), Closed> {
        let (written, on_its_way) = oneshot::channel();
        let frame = Frame {
            stream: self.number,
            bytes,
            written,
        };
        self.frames.queue.send(frame).await.map_err(|_| Closed)?;
        on_its_way.await.map_err(|_| Closed)
    }
}

impl Crictl {
    /// Lets it ask, and waits for its end.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn ask(mut self) -> Result<Ran, Closed> {
        self.stream.write(Bytes::new()).await?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        while let Some(mut frame) = self.answers.recv().await {
            match frame.try_get_u8() {
                Ok(b'1') => stdout.extend(frame),
                Ok(b'2') => stderr.extend(frame),
                Ok(b'?') => {
                    return Ok(Ran {
                        stdout,
                        stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
                        success: frame == "0",
                        status: format!("exit status: {}", String::from_utf8_lossy(&frame)),
                    });
                }
                _ => {}
            }
        }
        Err(Closed)
    }
}

impl File {
    /// Appends bytes, at least one; returns once they are on their way, before what is asked of
    /// containerd from then on.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn append(&self, bytes: Bytes) -> Result<(), Closed> {
        self.0.write(bytes).await
    }

    /// Closes it.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn close(self) -> Result<(), Closed> {
        self.0.write(Bytes::new()).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::BufReader;
    use tokio::time::timeout;

    use super::super::open::RELAY;
    use super::*;
    use crate::node::hello;

    const SOON: Duration = Duration::from_secs(10);

    /// Reads one frame, as the relay does.
    async fn frame(exec: &mut (impl AsyncRead + Unpin)) -> (u32, Vec<u8>) {
        let stream = exec.read_u32().await.unwrap();
        let mut bytes = vec![0; exec.read_u32().await.unwrap() as usize];
        exec.read_exact(&mut bytes).await.unwrap();
        (stream, bytes)
    }

    /// Shares a stdin whose program never says anything.
    fn writing(
        stdin: impl AsyncWrite + Send + Unpin + 'static,
    ) -> (DuplexStream, Frames, AbortOnDropHandle<()>) {
        let shared = share(stdin, tokio::io::empty());
        (shared.outgoing, shared.frames, shared.filling)
    }

    #[tokio::test]
    async fn what_comes_together_goes_together() {
        let (stdin, mut exec) = tokio::io::duplex(1 << 20);
        let (mut socket, _frames, _work) = writing(stdin);
        for n in 0..4 {
            socket.write_all(&[n; 1000]).await.unwrap();
            socket.flush().await.unwrap();
        }
        let (stream, bytes) = timeout(SOON, frame(&mut exec)).await.unwrap();
        assert_eq!((stream, bytes.len()), (SOCKET, 4000));
    }

    #[tokio::test]
    async fn nothing_is_lost_on_a_slow_way() {
        let (stdin, mut exec) = tokio::io::duplex(1000);
        let (mut socket, frames, _work) = writing(stdin);
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let piece = Bytes::from(sent.clone());
        let write = async {
            for frame in sent.chunks(16_384) {
                socket.write_all(frame).await.unwrap();
            }
        };
        let append = async {
            let file = frames.open("the-ingest").await.unwrap();
            for at in (0..piece.len()).step_by(100_000) {
                file.append(piece.slice(at..at + 100_000)).await.unwrap();
            }
            file.close().await.unwrap();
        };
        let read = async {
            let (mut grpc, mut file) = (Vec::new(), Vec::new());
            while grpc.len() < sent.len() || file.last().is_none_or(|f: &Vec<_>| !f.is_empty()) {
                match frame(&mut exec).await {
                    (SOCKET, bytes) => grpc.extend(bytes),
                    (1, bytes) => file.push(bytes),
                    (stream, _) => panic!("stream {stream}"),
                }
            }
            (grpc, file)
        };
        let ((), (), (grpc, file)) = timeout(SOON, async { tokio::join!(write, append, read) })
            .await
            .unwrap();
        assert!(grpc == sent, "gRPC's bytes");
        assert_eq!(file[0], b"file the-ingest");
        assert!(file[1..].concat() == sent, "the file's bytes");
        // The end of gRPC is the end of it all.
        drop(socket);
        let mut rest = Vec::new();
        timeout(SOON, exec.read_to_end(&mut rest))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(rest, b"");
    }

    /// What is asked of containerd after a piece was appended comes after the piece.
    #[tokio::test]
    async fn a_piece_is_there_before_what_is_asked_next() {
        let (stdin, mut exec) = tokio::io::duplex(1 << 20);
        let (mut socket, frames, _work) = writing(stdin);
        let file = frames.open("a").await.unwrap();
        for n in 0..100_u8 {
            file.append(Bytes::from(vec![n; 10])).await.unwrap();
            socket.write_all(&[n]).await.unwrap();
        }
        assert_eq!(frame(&mut exec).await, (1, b"file a".to_vec()));
        let (mut pieces, mut asked) = (0, 0);
        while asked < 100 {
            match timeout(SOON, frame(&mut exec)).await.unwrap() {
                (SOCKET, bytes) => {
                    asked += bytes.len();
                    assert!(asked <= pieces, "{asked} of {pieces}");
                }
                (_, _) => pieces += 1,
            }
        }
    }

    #[tokio::test]
    async fn files_have_streams_of_their_own() {
        let (stdin, mut exec) = tokio::io::duplex(1 << 20);
        let (_socket, frames, _work) = writing(stdin);
        let (a, b) = (
            frames.open("a").await.unwrap(),
            frames.clone().open("b").await.unwrap(),
        );
        b.append(Bytes::from_static(b"to b")).await.unwrap();
        a.append(Bytes::from_static(b"to a")).await.unwrap();
        for expected in [(1, "file a"), (2, "file b"), (2, "to b"), (1, "to a")] {
            assert_eq!(frame(&mut exec).await, (expected.0, expected.1.into()));
        }
    }

    #[tokio::test]
    async fn an_exec_that_is_gone_closes_the_tunnel() {
        let (stdin, exec) = tokio::io::duplex(10);
        let (mut socket, frames, _work) = writing(stdin);
        drop(exec);
        let open = timeout(SOON, frames.open("a")).await.unwrap();
        assert_eq!(open.err(), Some(Closed));
        assert!(socket.write_all(b"something").await.is_err());
    }

    #[tokio::test]
    async fn a_file_given_up_half_way_leaves_whole_frames() {
        let (stdin, mut exec) = tokio::io::duplex(10);
        let (mut socket, frames, _work) = writing(stdin);
        let file = frames.open("a");
        let (file, opened) = tokio::join!(file, frame(&mut exec));
        assert_eq!(opened, (1, b"file a".to_vec()));
        let file = file.unwrap();
        // Nobody reads: the frame stops half way, and nobody waits for it any more.
        let append = file.append(Bytes::from(vec![7; 1000]));
        assert!(append.now_or_never().is_none());
        socket.write_all(b"gRPC").await.unwrap();
        // Either may be first; both are whole.
        let mut got = [frame(&mut exec).await, frame(&mut exec).await];
        got.sort();
        assert_eq!(got, [(SOCKET, b"gRPC".to_vec()), (1, vec![7; 1000])]);
    }

    /// The relay itself, with a folder of ingests and somebody at the socket who sends back what comes.
    struct Relay {
        folder: tempfile::TempDir,
        child: tokio::process::Child,
        echo: AbortOnDropHandle<()>,
    }

    impl Relay {
        fn start(ingests: &[&str]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ingests {
                let ingest = folder.path().join("ingest").join(name);
                std::fs::create_dir_all(&ingest).unwrap();
                std::fs::write(ingest.join("ref"), format!("k8s.io/12/{name}")).unwrap();
                std::fs::write(ingest.join("data"), "before ").unwrap();
            }
            let socket = folder.path().join("socket");
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let echo = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.unwrap();
            });
            let bin = folder.path().join("bin");
            std::fs::create_dir(&bin).unwrap();
            let config = folder.path().join("crictl.yaml");
            std::fs::write(&config, "the node's own").unwrap();
            let child = tokio::process::Command::new("perl")
                .args(["-e", RELAY])
                .args([socket, folder.path().join("ingest")])
                .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
                .env("CRI_CONFIG_FILE", config)
                .current_dir(folder.path())
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            Self {
                folder,
                child,
                echo: AbortOnDropHandle::new(echo),
            }
        }

        /// Puts a fake crictl, a script, onto the relay's PATH.
        fn with_crictl(self, script: &str) -> Self {
            use std::os::unix::fs::PermissionsExt;
            let path = self.folder.path().join("bin/crictl");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            self
        }

        /// Shares its stdin and stdout, after the greeting.
        async fn share(&mut self) -> Shared {
            let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
            hello::read(&mut stdout).await.unwrap();
            share(self.child.stdin.take().unwrap(), stdout)
        }

        fn file(&self, name: &str) -> std::path::PathBuf {
            self.folder.path().join(name)
        }

        fn data(&self, name: &str) -> Vec<u8> {
            std::fs::read(self.file("ingest").join(name).join("data")).unwrap()
        }

        /// Returns what came back from the socket, once the relay has ended.
        async fn echoed(&mut self, mut incoming: impl AsyncRead + Unpin) -> Vec<u8> {
            let mut all = Vec::new();
            let read = incoming.read_to_end(&mut all);
            timeout(SOON, read).await.unwrap().unwrap();
            timeout(SOON, self.child.wait()).await.unwrap().unwrap();
            timeout(SOON, &mut self.echo).await.unwrap().unwrap();
            all
        }

        /// The same for frames that the test has written itself.
        async fn echoed_after(&mut self, stdin: tokio::process::ChildStdin) -> Vec<u8> {
            drop(stdin);
            let mut stdout = BufReader::new(self.child.stdout.take().unwrap());
            hello::read(&mut stdout).await.unwrap();
            self.echoed(share(tokio::io::sink(), stdout).incoming).await
        }
    }

    #[tokio::test]
    async fn the_relay_takes_frames_apart() {
        let mut relay = Relay::start(&["a", "b"]);
        let mut shared = relay.share().await;
        let frames = &shared.frames;
        let (a, none, b) = (
            frames.open("a").await.unwrap(),
            frames.open("none").await.unwrap(),
            frames.open("b").await.unwrap(),
        );
        let large = Bytes::from(vec![b'x'; 700_000]);
        a.append(large.clone()).await.unwrap();
        shared.outgoing.write_all(b"one ").await.unwrap();
        none.append(large.clone()).await.unwrap();
        b.append(Bytes::from_static(b"to b")).await.unwrap();
        shared.outgoing.write_all(b"two").await.unwrap();
        a.append(Bytes::from_static(b"!")).await.unwrap();
        for file in [a, none, b] {
            file.close().await.unwrap();
        }
        drop(shared.outgoing);
        assert_eq!(relay.echoed(shared.incoming).await, b"one two");
        assert!(relay.data("a") == [b"before ", &large[..], b"!"].concat());
        assert_eq!(relay.data("b"), b"before to b");
    }

    #[tokio::test]
    async fn the_relay_takes_frames_in_any_pieces() {
        let mut frames = Vec::new();
        for (stream, bytes) in [
            (0_u32, "grpc "),
            (1, "file a"),
            (1, "xy"),
            (0, "more"),
            (1, "z"),
            (1, ""),
        ] {
            frames.extend(framed(stream, bytes.as_bytes()));
        }
        let mut relay = Relay::start(&["a"]);
        let mut stdin = relay.child.stdin.take().unwrap();
        for byte in frames {
            stdin.write_all(&[byte]).await.unwrap();
            stdin.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(relay.echoed_after(stdin).await, b"grpc more");
        assert_eq!(relay.data("a"), b"before xyz");
    }

    fn framed(stream: u32, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap();
        [&stream.to_be_bytes(), &length.to_be_bytes(), bytes].concat()
    }

    /// The relay lets pieces gather, but not until the frame is whole.
    #[tokio::test]
    async fn the_relay_writes_a_large_frame_while_the_rest_is_late() {
        let mut relay = Relay::start(&["a"]);
        let mut stdin = relay.child.stdin.take().unwrap();
        let (early, late) = (vec![b'x'; 100_000], vec![b'y'; 300_000]);
        let mut first = framed(1, b"file a");
        first.extend(framed(1, &[&early[..], &late].concat()));
        first.truncate(first.len() - late.len());
        stdin.write_all(&first).await.unwrap();
        stdin.flush().await.unwrap();
        let written = [b"before ", &early[..]].concat();
        let wait = async {
            while relay.data("a").len() < written.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, wait).await.unwrap();
        assert_eq!(relay.data("a"), written);
        let rest = [&late[..], &framed(1, b"")].concat();
        stdin.write_all(&rest).await.unwrap();
        assert_eq!(relay.echoed_after(stdin).await, b"");
        assert_eq!(relay.data("a"), [written, late].concat());
    }

    /// A longer reference that ends like another, and one from another namespace.
    #[tokio::test]
    async fn the_relay_opens_what_was_named_and_nothing_else() {
        let mut relay = Relay::start(&["a", "b-a", "c"]);
        std::fs::write(relay.file("ingest/c/ref"), "moby/1/c").unwrap();
        let shared = relay.share().await;
        for name in ["a", "c", "../ingest/b-a"] {
            let file = shared.frames.open(name).await.unwrap();
            file.append(Bytes::from_static(b"x")).await.unwrap();
        }
        drop(shared.outgoing);
        assert_eq!(relay.echoed(shared.incoming).await, b"");
        for (name, data) in [("a", "before x"), ("b-a", "before "), ("c", "before ")] {
            assert_eq!(relay.data(name), data.as_bytes(), "{name}");
        }
    }

    /// Waits for work while gRPC reads, to which nothing is said.
    async fn while_grpc_reads<T>(
        incoming: &mut (impl AsyncRead + Unpin),
        work: impl Future<Output = T>,
    ) -> T {
        let mut bytes = [0];
        tokio::select! {
            done = timeout(SOON, work) => done.unwrap(),
            _ = incoming.read(&mut bytes) => panic!("nothing was said to the socket"),
        }
    }

    /// Writes down that it has started, and what it was given once its configuration is whole.
    const WAITS: &str =
        "touch started; cat \"$CRI_CONFIG_FILE\" >config; printf '<%s>' \"$@\" >asked
        cat asked; echo why >&2; exit 3";

    #[tokio::test]
    async fn a_crictl_waits_until_it_may_ask() {
        let mut relay = Relay::start(&[]).with_crictl(WAITS);
        let mut shared = relay.share().await;
        let read = async {
            let crictl = shared.frames.crictl("a name; $(touch x)").await.unwrap();
            while !relay.file("started").exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(!relay.file("asked").exists(), "it asks too early");
            crictl.ask().await.unwrap()
        };
        let ran = while_grpc_reads(&mut shared.incoming, read).await;
        assert_eq!(
            (&*ran.stdout, &*ran.stderr, ran.success, &*ran.status),
            (
                &b"<--timeout><60s><inspecti><-o><json><a name; $(touch x)>"[..],
                "why",
                false,
                "exit status: 3"
            )
        );
        let config = std::fs::read_to_string(relay.file("config")).unwrap();
        assert_eq!(config.trim_end(), "the node's own");
        drop(shared.outgoing);
        relay.echoed(shared.incoming).await;
    }

    #[tokio::test]
    async fn everybody_gets_answers_of_their_own() {
        let script = "cat \"$CRI_CONFIG_FILE\" >/dev/null
            for last; do :; done; head -c 300000 /dev/zero | tr '\\0' \"$last\"";
        let mut relay = Relay::start(&[]).with_crictl(script);
        let mut shared = relay.share().await;
        let frames = &shared.frames;
        let ask = async |name: &str| frames.crictl(name).await.unwrap().ask().await.unwrap();
        let grpc = vec![b'g'; 2_000_000];
        let crictls = async {
            let write = async { shared.outgoing.write_all(&grpc).await.unwrap() };
            let (a, b, ()) = tokio::join!(ask("a"), ask("b"), write);
            drop(shared.outgoing);
            (a, b)
        };
        let asked = timeout(SOON, async {
            tokio::join!(crictls, relay.echoed(shared.incoming))
        });
        let ((a, b), echoed) = asked.await.unwrap();
        assert!(
            a.success && a.stdout == [b'a'; 300_000],
            "{}",
            a.stdout.len()
        );
        assert!(
            b.success && b.stdout == [b'b'; 300_000],
            "{}",
            b.stdout.len()
        );
        assert!(echoed == grpc, "{}", echoed.len());
    }

    #[tokio::test]
    async fn how_a_crictl_ended_is_told() {
        for (script, status, stderr) in [
            ("exit 0", "0", ""),
            ("kill -KILL $$", "137", ""),
            ("", "127", "cannot start crictl: No such file or directory"),
        ] {
            let mut relay = Relay::start(&[]);
            if !script.is_empty() {
                relay = relay.with_crictl(script);
            }
            let mut shared = relay.share().await;
            let ask = async { shared.frames.crictl("a").await.unwrap().ask().await };
            let ran = while_grpc_reads(&mut shared.incoming, ask).await.unwrap();
            assert_eq!(ran.status, format!("exit status: {status}"));
            assert_eq!((ran.success, &*ran.stderr), (status == "0", stderr));
        }
    }

    /// Where kindlift is gone, nothing waits on the node.
    #[tokio::test]
    async fn a_crictl_that_waits_does_not_outlive_the_relay() {
        let mut relay = Relay::start(&[]).with_crictl(WAITS);
        let shared = relay.share().await;
        let crictl = shared.frames.crictl("a").await.unwrap();
        drop(shared.outgoing);
        relay.echoed(shared.incoming).await;
        let ended = async {
            while !relay.file("asked").exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, ended).await.unwrap();
        assert_eq!(crictl.ask().await.err(), Some(Closed));
    }
}
