//! Blobs and unpacked layers: looking for them, reading, labelling.

use std::collections::{HashMap, HashSet};

use bytes::{Bytes, BytesMut};
use containerd_client::tonic::Status;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::io::AsyncReadExt;

use super::{CALL, Plain, said, table, unavailable};
use crate::cluster::Exec;
use crate::image::{Blobs, ChainId, Digest};
use crate::node::Failure;
use crate::node::session::Labels;
use crate::source::CHUNK;

impl Plain {
    /// Looks for blobs. Returns the labels of those that are there.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn blobs(&self, digests: &[&Digest]) -> Result<Vec<Option<Labels>>, Failure> {
        let filters = digests.iter().map(|digest| format!("digest==\"{digest}\""));
        let filters: Vec<String> = filters.collect();
        let mut args = vec!["content", "ls"];
        args.extend(filters.iter().map(String::as_str));
        let listed = self.ctr("looking for blobs", &args).await?;
        let found: HashMap<&str, Labels> = table::tabbed(&listed)
            .filter_map(|row| match row.as_slice() {
                [digest, .., labels] => Some((*digest, table::labels(labels))),
                _ => None,
            })
            .collect();
        let answers = digests
            .iter()
            .map(|digest| found.get(digest.as_str()).cloned());
        Ok(answers.collect())
    }

    /// Tells whether blobs whose transfers' names begin like this are on their way.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn is_receiving(&self, prefix: &str) -> Result<bool, Failure> {
        let what = "looking for transfers";
        let listed = self.ctr(what, &["content", "active"]).await?;
        Ok(listed.lines().skip(1).any(|row| row.starts_with(prefix)))
    }

    /// Adds labels to a blob, or removes those that are given no value.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn label_blob(&self, digest: &Digest, labels: &Labels) -> Result<(), Failure> {
        if labels.is_empty() {
            return Ok(());
        }
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels: Vec<String> = labels.collect();
        let mut args = vec!["content", "label", digest.as_str()];
        args.extend(labels.iter().map(String::as_str));
        self.ctr("labelling content", &args).await.map(|_| ())
    }

    /// Reads a blob.
    pub(crate) fn read(&self, digest: &str) -> BoxStream<'static, Result<Bytes, Failure>> {
        let plain = self.clone();
        let what = format!("reading {digest}");
        let digest = digest.to_owned();
        stream::try_unfold(None::<Exec>, move |reading| {
            let (plain, digest, what) = (plain.clone(), digest.clone(), what.clone());
            async move {
                let next = async {
                    let mut exec = match reading {
                        Some(exec) => exec,
                        None => {
                            let args = ["ctr", "--namespace", "k8s.io", "content", "get", &digest];
                            let started = plain.node().exec(&args).await;
                            started.map_err(|e| unavailable(&e))?
                        }
                    };
                    let mut piece = BytesMut::with_capacity(CHUNK);
                    let read = exec.stdout.read_buf(&mut piece).await;
                    read.map_err(|e| Status::unavailable(e.to_string()))?;
                    if !piece.is_empty() {
                        return Ok(Some((piece.freeze(), Some(exec))));
                    }
                    let ended = exec.end.wait().await;
                    match ended.success {
                        true => Ok(None),
                        false => Err(said(&ended.stderr, "")),
                    }
                };
                let next = plain.race(CALL, &what, next).await?;
                next.map_err(|status| plain.failure(&what, &status))
            }
        })
        .boxed()
    }

    /// Looks for unpacked layers. What blobs they come from is for pushes, which need a tunnel.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn snapshots(
        &self,
        chains: &[&ChainId],
    ) -> Result<Vec<Option<Blobs>>, Failure> {
        let snapshotter = &self.facts().snapshotter;
        let args = ["snapshots", "--snapshotter", snapshotter, "ls"];
        let listed = self.ctr("looking for layers", &args).await?;
        let there: HashSet<&str> = listed
            .lines()
            .filter(|row| row.trim_end().ends_with("Committed"))
            .filter_map(|row| row.split_whitespace().next())
            .collect();
        let found = chains.iter().map(|chain| chain.to_string());
        Ok(found
            .map(|chain| there.contains(chain.as_str()).then(Blobs::new))
            .collect())
    }
}
