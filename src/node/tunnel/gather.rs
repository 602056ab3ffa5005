//! Writes that gather what comes in one go.
//!
//! h2 hands over each frame of at most 16 kB by itself and flushes after it. On its way into a node
//! each piece wakes four programs, one after the other, and waking them costs more than the bytes do.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncWrite, BufWriter};

/// How many bytes do not wait for more: twice what a pipe holds.
const ENOUGH: usize = 128 * 1024;

/// A writer that passes bytes on when there are many, or when no more come.
pub(super) struct Gather<W> {
    inner: BufWriter<W>,
    /// Whether something has come since the last flush.
    grown: bool,
}

impl<W: AsyncWrite + Unpin> Gather<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner: BufWriter::with_capacity(ENOUGH, inner),
            grown: false,
        }
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Gather<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.grown = true;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    /// Where something has come since the last flush, more may come: whoever writes is woken to flush
    /// once again.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.grown) {
            cx.waker().wake_by_ref();
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Notes what it gets at once; takes a piece only every second time, and no more than a limit.
    #[derive(Clone)]
    struct Slow {
        got: Arc<Mutex<Vec<Vec<u8>>>>,
        limit: usize,
        ready: bool,
    }

    impl Slow {
        fn new(limit: usize) -> Self {
            Self {
                got: Arc::default(),
                limit,
                ready: false,
            }
        }

        fn pieces(&self) -> Vec<usize> {
            self.got.lock().unwrap().iter().map(Vec::len).collect()
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.ready = !self.ready;
            if self.ready {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = &bytes[..bytes.len().min(self.limit)];
            self.got.lock().unwrap().push(taken.to_vec());
            Poll::Ready(Ok(taken.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn frames_that_come_together_go_together() {
        let slow = Slow::new(usize::MAX);
        let mut gather = Gather::new(slow.clone());
        for n in 0..4 {
            gather.write_all(&[n; 1000]).await.unwrap();
            gather.flush().await.unwrap();
        }
        assert!(slow.pieces().is_empty());
        // Nothing has come since the last one.
        gather.flush().await.unwrap();
        assert_eq!(slow.pieces(), [4000]);
    }

    #[tokio::test]
    async fn many_bytes_do_not_wait() {
        let slow = Slow::new(50_000);
        let mut gather = Gather::new(slow.clone());
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for frame in bytes.chunks(16_384) {
            gather.write_all(frame).await.unwrap();
            gather.flush().await.unwrap();
        }
        assert!(slow.pieces().iter().sum::<usize>() >= 300_000 - ENOUGH);
        gather.shutdown().await.unwrap();
        assert_eq!(slow.got.lock().unwrap().concat(), bytes);
    }

    /// Whoever writes is not left waiting: a flush with news comes back at once and is asked again.
    #[tokio::test]
    async fn the_last_frame_is_not_forgotten() {
        let slow = Slow::new(usize::MAX);
        let mut gather = Gather::new(slow.clone());
        gather.write_all(b"last").await.unwrap();
        // As h2's connection does: each time it is woken, it flushes, and then waits.
        let mut polls = 0;
        let connection = std::future::poll_fn(|cx| {
            polls += 1;
            let _ = Pin::new(&mut gather).poll_flush(cx);
            match slow.pieces().is_empty() {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        });
        let within = std::time::Duration::from_secs(10);
        tokio::time::timeout(within, connection).await.unwrap();
        assert_eq!(slow.pieces(), [4]);
        assert!(polls < 5, "{polls}");
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_an_error() {
        let (near, far) = tokio::io::duplex(10);
        let mut gather = Gather::new(near);
        gather.write_all(b"something").await.unwrap();
        drop(far);
        gather.flush().await.unwrap();
        assert_eq!(
            gather.flush().await.unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
    }
}
