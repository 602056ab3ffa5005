//! Holding what is staged: ctr makes leases, but adds nothing to them.
//!
//! So each lease has two names of its own. The first stands for an *anchor*, an index of no images
//! that is unlike any other's; labels on it refer to whatever is to be held, there already or still
//! to come. The second stands for the same until the image is staged under it.
//!
//! Both are marked as managed by the CRI plugin before they stand for anything that it could show:
//! else it would make a record of its own for the image, and the image would outlive its names.

use std::sync::atomic::AtomicU64;

use serde_json::json;

use super::import::Import;
use super::{Plain, archive, table};
use crate::error::one_line;
use crate::image::pack::INDEX;
use crate::image::{Digest, Document};
use crate::node::Failure;
use crate::node::lease::{Held, Lease, Listed, STAGING};
use crate::node::name::MANAGED;
use crate::node::session::Labels;

fn held_name(lease: &str) -> String {
    format!("{STAGING}{lease}:held")
}

/// Returns the name under which a lease's image is staged.
pub(super) fn staged_name(lease: &str) -> String {
    format!("{STAGING}{lease}:staged")
}

fn anchor(lease: &str) -> Document {
    let bytes = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [],
        "annotations": {"io.kindlift.lease": lease},
    })
    .to_string()
    .into_bytes();
    Document {
        digest: Digest::of(&bytes),
        media_type: INDEX.to_owned(),
        bytes,
    }
}

impl Plain {
    /// Makes a lease, and its names.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn create_lease(
        &self,
        id: &str,
        labels: &Labels,
    ) -> Result<Vec<String>, Failure> {
        self.create_note(id, labels).await?;
        let names = vec![held_name(id), staged_name(id)];
        if let Err(failure) = self.anchor(id, &names).await {
            for name in &names {
                let _ = self.remove(name).await;
            }
            let _ = self.end_lease(id, true).await;
            return Err(failure);
        }
        Ok(names)
    }

    /// Makes a lease that will hold nothing.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn create_note(&self, id: &str, labels: &Labels) -> Result<(), Failure> {
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels: Vec<String> = labels.collect();
        // When it expires is among the labels.
        let mut args = vec!["leases", "create", "--id", id, "--expires", "0s"];
        args.extend(labels.iter().map(String::as_str));
        self.ctr("creating a lease", &args).await.map(|_| ())
    }

    async fn anchor(&self, lease: &str, names: &[String]) -> Result<(), Failure> {
        let what = "creating a lease";
        let anchor = anchor(lease);
        let size = anchor.bytes.len() as u64;
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let index = archive::index(&names, INDEX, anchor.digest.as_str(), size);
        let members = vec![archive::Member::document(lease, &anchor)];
        let import = Import {
            what,
            lease,
            flags: vec!["--no-unpack".to_owned()],
            unpacking: 0,
        };
        let none = AtomicU64::new(0);
        let done = self
            .import(import, archive::tar(lease, members, index), &none)
            .await;
        done.map_err(|e| {
            let status = containerd_client::tonic::Status::unknown(one_line(&e).to_string());
            self.failure(what, &status)
        })?;
        let managed = format!("{}={}", MANAGED.0, MANAGED.1);
        for name in names {
            self.ctr(what, &["images", "label", name, &managed]).await?;
        }
        Ok(())
    }

    /// Lists the leases that have a label.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn leases(&self, label: &str) -> Result<Vec<Listed>, Failure> {
        let listed = self.ctr("listing leases", &["leases", "ls"]).await?;
        let rows = table::columns(&listed, ["ID", "CREATED AT", "LABELS"]);
        let leases = rows.into_iter().map(|[id, created, labels]| Listed {
            id,
            created: created
                .parse()
                .map_or(0, |at: prost_types::Timestamp| at.seconds),
            labels: table::labels(&labels),
        });
        Ok(leases
            .filter(|lease| lease.labels.contains_key(label))
            .collect())
    }

    /// Makes a lease hold things.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn hold(&self, lease: &Lease, held: &[Held<'_>]) -> Result<(), Failure> {
        let labels = held.iter().map(|held| match held {
            Held::Blob(digest) => {
                let hex = digest.rsplit(':').next().unwrap_or(digest);
                (
                    format!("containerd.io/gc.ref.content.{hex}"),
                    (*digest).to_owned(),
                )
            }
            Held::Snapshot(chain) => {
                let snapshotter = &self.facts().snapshotter;
                let hex = chain.0.hex();
                let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}/{hex}");
                (key, chain.to_string())
            }
        });
        let anchor = anchor(&lease.id).digest;
        self.label_blob(&anchor, &labels.collect()).await
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// The call's failure; a lease that is gone already is none.
    pub(crate) async fn end_lease(&self, id: &str, collect: bool) -> Result<(), Failure> {
        let mut args = vec!["leases", "rm"];
        args.extend(collect.then_some("--sync"));
        args.push(id);
        match self.ctr("ending a lease", &args).await {
            Err(failure) if failure.not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
