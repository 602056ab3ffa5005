//! `ctr images import`, fed by us.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use containerd_client::tonic::Status;
use futures_util::stream::{BoxStream, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::{CALL, Plain, said, unavailable};
use crate::cluster::{Ended, Exec};
use crate::error::{Error, Result};
use crate::node::discard::Note;
use crate::node::tunnel::content::patiently;
use crate::node::tunnel::snapshot::deadline;
use crate::owner::Owner;

/// Feeds ctr, once it is noted what it would leave if it were killed.
const SCRIPT: &str = include_str!("import.sh");

/// How to import.
pub(super) struct Import<'a> {
    /// What it is for.
    pub what: &'a str,
    /// The lease of the run.
    pub lease: &'a str,
    /// Flags of ctr.
    pub flags: Vec<String>,
    /// How many bytes ctr has to unpack once it has all.
    pub unpacking: u64,
}

impl Plain {
    /// Imports what the tar says. `moved` counts the bytes that went to the node.
    ///
    /// # Errors
    /// The stream's error, or the call's failure.
    pub(super) async fn import(
        &self,
        import: Import<'_>,
        mut tar: BoxStream<'static, Result<Bytes>>,
        moved: &AtomicU64,
    ) -> Result<()> {
        let what = import.what;
        let owner = Owner::this().label();
        // An older ctr unpacks under a second lease.
        let leases = match self.local || import.unpacking == 0 {
            true => "1",
            false => "2",
        };
        let mut args = vec!["sh", "-c", SCRIPT, "sh", import.lease, &owner, leases];
        args.extend(self.local());
        args.extend(import.flags.iter().map(String::as_str));
        let exec = self.race(CALL, what, self.node().exec(&args)).await?;
        let Exec {
            mut stdin,
            stdout,
            mut end,
        } = exec.map_err(|e| self.failure(what, &unavailable(&e)))?;
        let mut stdout = BufReader::new(stdout);
        let mut begun = String::new();
        let ready = async {
            if let Some(first) = tar.next().await {
                // What has ended already says why, below.
                let _ = stdin.write_all(&first?).await;
                let _ = stdin.flush().await;
            }
            Ok::<_, Error>(stdout.read_line(&mut begun).await.is_ok())
        };
        let ready = self.race(CALL, what, ready).await?? && begun == "ready\n";
        let feed = async move {
            let fed = match ready {
                true => feed(&mut stdin, tar, moved).await,
                false => Ok(()),
            };
            // ctr notices only by the end of its input that no more will come.
            let _ = stdin.shutdown().await;
            fed
        };
        let over = async {
            let mut rest = Vec::new();
            let _ = stdout.read_to_end(&mut rest).await;
            (rest, end.wait().await)
        };
        tokio::pin!(over);
        let fed = tokio::select! {
            fed = self.while_moving(moved, what, feed) => fed?,
            // It takes no more, and says why.
            ended = &mut over => return self.ended(what, &begun, ended),
        };
        let wait = match fed {
            Ok(()) => deadline(import.unpacking),
            Err(_) => CALL,
        };
        let ended = self.waiting(wait, what, over).await;
        fed?;
        self.ended(what, &begun, ended?)
    }

    /// Imports a manifest, or names for it. On a node that discards its layers' blobs it does not
    /// hold them afterwards.
    ///
    /// # Errors
    /// As above.
    pub(super) async fn import_manifest(
        &self,
        manifest: &str,
        import: Import<'_>,
        tar: BoxStream<'static, Result<Bytes>>,
        moved: &AtomicU64,
    ) -> Result<()> {
        let note = Note::make(self, import.lease, manifest).await?;
        let imported = self.import(import, tar, moved).await;
        let let_go = match note {
            Some(note) => note.act(self).await,
            None => Ok(()),
        };
        imported?;
        Ok(let_go?)
    }

    async fn waiting<T>(
        &self,
        deadline: Duration,
        what: &str,
        over: impl Future<Output = T>,
    ) -> Result<T> {
        Ok(self.race(deadline, what, over).await?)
    }

    fn ended(&self, what: &str, begun: &str, (rest, ended): (Vec<u8>, Ended)) -> Result<()> {
        if ended.success && begun == "ready\n" {
            return Ok(());
        }
        let stdout = format!("{begun}{}", String::from_utf8_lossy(&rest));
        let words = match (ended.stderr.is_empty(), begun) {
            // ctr was killed, or the exec.
            (true, "ready\n") => Status::unknown(format!("ctr has ended ({})", ended.status)),
            _ => said(&ended.stderr, &stdout),
        };
        Err(self.failure(what, &words).into())
    }
}

async fn feed(
    stdin: &mut crate::cluster::Input,
    mut tar: BoxStream<'static, Result<Bytes>>,
    moved: &AtomicU64,
) -> Result<(), Error> {
    while let Some(piece) = patiently(tar.next(), moved).await {
        let piece = piece?;
        if stdin.write_all(&piece).await.is_err() {
            // It has ended; its own words say why.
            return Ok(());
        }
        moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    let _ = stdin.flush().await;
    Ok(())
}
