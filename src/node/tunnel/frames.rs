//! The exec's stdin, which several share: gRPC on its way to containerd's socket, and bytes on
//! their way to the files of its ingests.
//!
//! A frame has a head of eight bytes, the number of its stream and the length of what follows, both
//! big-endian. Stream 0 is the socket. On any other the first frame names an ingest, those that
//! follow are appended to its file, and an empty one ends it. The relay takes one frame after
//! another: what gRPC asks after a piece was written is answered with that piece in the file.
//!
//! h2 hands over each frame of its own, of at most 16 kB, by itself. Each piece wakes four programs
//! on its way into a node, which costs more than the bytes do; so what comes in one go becomes one
//! frame here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

/// How many bytes of gRPC wait to become one frame: twice what a pipe holds.
const ENOUGH: usize = 128 * 1024;
const HEAD: usize = 8;
/// The stream that leads to containerd's socket.
const SOCKET: u32 = 0;

/// A way to the files of ingests. Copies share one tunnel.
#[derive(Clone)]
pub(super) struct Frames {
    queue: mpsc::Sender<Frame>,
    streams: Arc<AtomicU32>,
}

/// The file of one ingest, open to be appended to.
pub(super) struct File {
    frames: Frames,
    stream: u32,
}

struct Frame {
    stream: u32,
    bytes: Bytes,
    written: oneshot::Sender<()>,
}

/// The tunnel is closed; its session knows why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

/// Shares an exec's stdin: returns the end for gRPC, the way to files, and what does the work,
/// until the end for gRPC is dropped.
pub(super) fn share(
    stdin: impl AsyncWrite + Send + Unpin + 'static,
) -> (DuplexStream, Frames, AbortOnDropHandle<()>) {
    let (near, far) = tokio::io::duplex(ENOUGH);
    let (queue, frames) = mpsc::channel(1);
    let work = tokio::spawn(async move {
        // Whoever writes finds the tunnel closed; the session tells why.
        if let Err(e) = pass_on(stdin, far, frames).await {
            tracing::debug!(error = %e, "the exec takes no more");
        }
    });
    let frames = Frames {
        queue,
        streams: Arc::new(AtomicU32::new(SOCKET)),
    };
    (near, frames, AbortOnDropHandle::new(work))
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

impl Frames {
    /// Opens the file of an ingest, by the ingest's reference. Whether there is such a file is not
    /// told: the status of the ingest shows whether what is appended arrives.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn open(&self, reference: &str) -> Result<File, Closed> {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let name = Bytes::copy_from_slice(reference.as_bytes());
        self.write(stream, name).await?;
        Ok(File {
            frames: self.clone(),
            stream,
        })
    }

    /// Writes a frame; returns once it is on its way.
    async fn write(&self, stream: u32, bytes: Bytes) -> Result<(), Closed> {
        let (written, on_its_way) = oneshot::channel();
        let frame = Frame {
            stream,
            bytes,
            written,
        };
        self.queue.send(frame).await.map_err(|_| Closed)?;
        on_its_way.await.map_err(|_| Closed)
    }
}

impl File {
    /// Appends bytes, at least one; returns once they are on their way, before what is asked of
    /// containerd from then on.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn append(&self, bytes: Bytes) -> Result<(), Closed> {
        self.frames.write(self.stream, bytes).await
    }

    /// Closes it.
    ///
    /// # Errors
    /// That the tunnel is closed.
    pub(super) async fn close(self) -> Result<(), Closed> {
        self.frames.write(self.stream, Bytes::new()).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::AsyncRead;
    use tokio::time::timeout;

    use super::super::open::RELAY;
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Reads one frame, as the relay does.
    async fn frame(exec: &mut (impl AsyncRead + Unpin)) -> (u32, Vec<u8>) {
        let stream = exec.read_u32().await.unwrap();
        let mut bytes = vec![0; exec.read_u32().await.unwrap() as usize];
        exec.read_exact(&mut bytes).await.unwrap();
        (stream, bytes)
    }

    #[tokio::test]
    async fn what_comes_together_goes_together() {
        let (stdin, mut exec) = tokio::io::duplex(1 << 20);
        let (mut socket, _frames, _work) = share(stdin);
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
        let (mut socket, frames, _work) = share(stdin);
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
        assert_eq!(file[0], b"the-ingest");
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
        let (mut socket, frames, _work) = share(stdin);
        let file = frames.open("a").await.unwrap();
        for n in 0..100_u8 {
            file.append(Bytes::from(vec![n; 10])).await.unwrap();
            socket.write_all(&[n]).await.unwrap();
        }
        assert_eq!(frame(&mut exec).await, (1, b"a".to_vec()));
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
        let (_socket, frames, _work) = share(stdin);
        let (a, b) = (
            frames.open("a").await.unwrap(),
            frames.clone().open("b").await.unwrap(),
        );
        b.append(Bytes::from_static(b"to b")).await.unwrap();
        a.append(Bytes::from_static(b"to a")).await.unwrap();
        for expected in [(1, "a"), (2, "b"), (2, "to b"), (1, "to a")] {
            assert_eq!(frame(&mut exec).await, (expected.0, expected.1.into()));
        }
    }

    #[tokio::test]
    async fn an_exec_that_is_gone_closes_the_tunnel() {
        let (stdin, exec) = tokio::io::duplex(10);
        let (mut socket, frames, _work) = share(stdin);
        drop(exec);
        let open = timeout(SOON, frames.open("a")).await.unwrap();
        assert_eq!(open.err(), Some(Closed));
        assert!(socket.write_all(b"something").await.is_err());
    }

    #[tokio::test]
    async fn a_file_given_up_half_way_leaves_whole_frames() {
        let (stdin, mut exec) = tokio::io::duplex(10);
        let (mut socket, frames, _work) = share(stdin);
        let file = frames.open("a");
        let (file, opened) = tokio::join!(file, frame(&mut exec));
        assert_eq!(opened, (1, b"a".to_vec()));
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
            let child = tokio::process::Command::new("perl")
                .args(["-e", RELAY])
                .args([socket, folder.path().join("ingest")])
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

        fn data(&self, name: &str) -> Vec<u8> {
            std::fs::read(self.folder.path().join("ingest").join(name).join("data")).unwrap()
        }

        /// Returns what came back after the greeting, once the relay has ended.
        async fn echoed(&mut self) -> Vec<u8> {
            let mut stdout = self.child.stdout.take().unwrap();
            let mut all = Vec::new();
            timeout(SOON, stdout.read_to_end(&mut all))
                .await
                .unwrap()
                .unwrap();
            timeout(SOON, self.child.wait()).await.unwrap().unwrap();
            timeout(SOON, &mut self.echo).await.unwrap().unwrap();
            let greeting = all.windows(2).position(|end| end == b"\n\n").unwrap();
            all.split_off(greeting + 2)
        }
    }

    #[tokio::test]
    async fn the_relay_takes_frames_apart() {
        let mut relay = Relay::start(&["a", "b"]);
        let (mut socket, frames, _work) = share(relay.child.stdin.take().unwrap());
        let (a, none, b) = (
            frames.open("a").await.unwrap(),
            frames.open("none").await.unwrap(),
            frames.open("b").await.unwrap(),
        );
        let large = Bytes::from(vec![b'x'; 700_000]);
        a.append(large.clone()).await.unwrap();
        socket.write_all(b"one ").await.unwrap();
        none.append(large.clone()).await.unwrap();
        b.append(Bytes::from_static(b"to b")).await.unwrap();
        socket.write_all(b"two").await.unwrap();
        a.append(Bytes::from_static(b"!")).await.unwrap();
        for file in [a, none, b] {
            file.close().await.unwrap();
        }
        drop(socket);
        assert_eq!(relay.echoed().await, b"one two");
        assert!(relay.data("a") == [b"before ", &large[..], b"!"].concat());
        assert_eq!(relay.data("b"), b"before to b");
    }

    #[tokio::test]
    async fn the_relay_takes_frames_in_any_pieces() {
        let mut frames = Vec::new();
        for (stream, bytes) in [
            (0_u32, "grpc "),
            (1, "a"),
            (1, "xy"),
            (0, "more"),
            (1, "z"),
            (1, ""),
        ] {
            frames.extend(stream.to_be_bytes());
            frames.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
            frames.extend(bytes.as_bytes());
        }
        let mut relay = Relay::start(&["a"]);
        let mut stdin = relay.child.stdin.take().unwrap();
        for byte in frames {
            stdin.write_all(&[byte]).await.unwrap();
            stdin.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(stdin);
        assert_eq!(relay.echoed().await, b"grpc more");
        assert_eq!(relay.data("a"), b"before xyz");
    }

    /// A longer reference that ends like another, and one from another namespace.
    #[tokio::test]
    async fn the_relay_opens_what_was_named_and_nothing_else() {
        let mut relay = Relay::start(&["a", "b-a", "c"]);
        let other = relay.folder.path().join("ingest/c/ref");
        std::fs::write(other, "moby/1/c").unwrap();
        let (socket, frames, _work) = share(relay.child.stdin.take().unwrap());
        for name in ["a", "c", "../ingest/b-a"] {
            let file = frames.open(name).await.unwrap();
            file.append(Bytes::from_static(b"x")).await.unwrap();
        }
        drop(socket);
        assert_eq!(relay.echoed().await, b"");
        for (name, data) in [("a", "before x"), ("b-a", "before "), ("c", "before ")] {
            assert_eq!(relay.data(name), data.as_bytes(), "{name}");
        }
    }
}
