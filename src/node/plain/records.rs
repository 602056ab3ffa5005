//! Names: containerd's image records, by ctr.
//!
//! An import of an index alone moves names in one step each, on every version; `tag --force` would
//! remove them first. A name that was not there is copied from one that the CRI plugin manages
//! already, label and all, so that the plugin has nothing to write back.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use containerd_client::services::v1::Image as Record;
use containerd_client::types::Descriptor;
use futures_util::StreamExt;
use serde::Deserialize;

use super::import::Import;
use super::{Plain, archive, run, table};
use crate::error::{Error, ErrorKind, Result};
use crate::node::Failure;
use crate::node::lease;
use crate::node::name::MANAGED;
use crate::node::session::Labels;

/// How often others may move or remove a name while it is given.
const TRIES: usize = 10;

#[derive(Deserialize)]
struct Containers {
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    image: Spec,
    #[serde(default)]
    image_ref: String,
}

#[derive(Deserialize, Default)]
struct Spec {
    #[serde(default)]
    image: String,
}

impl Plain {
    /// Looks names up.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn records(&self, names: &[&str]) -> Result<Vec<Option<Record>>, Failure> {
        let filters = names.iter().map(|name| format!("name=={}", quoted(name)));
        let listed = self.list(&filters.collect::<Vec<_>>()).await?;
        let find = |name: &&str| listed.iter().find(|record| record.name == *name).cloned();
        Ok(names.iter().map(find).collect())
    }

    /// Lists all names, or those that begin with something.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn all_records(&self, prefix: Option<&str>) -> Result<Vec<Record>, Failure> {
        let mut listed = self.list(&[]).await?;
        listed.retain(|record| prefix.is_none_or(|prefix| record.name.starts_with(prefix)));
        Ok(listed)
    }

    async fn list(&self, filters: &[String]) -> Result<Vec<Record>, Failure> {
        let mut args = vec!["images", "ls"];
        args.extend(filters.iter().map(String::as_str));
        let listed = self.ctr("listing images", &args).await?;
        let titles = ["REF", "TYPE", "DIGEST", "SIZE", "LABELS"];
        let rows = table::columns(&listed, titles).into_iter();
        let records = rows.map(|[name, media_type, digest, _, labels]| Record {
            name,
            labels: table::labels(&labels),
            // Its size is not told.
            target: Some(Descriptor {
                media_type,
                digest,
                ..Descriptor::default()
            }),
            ..Record::default()
        });
        Ok(records.collect())
    }

    /// Points names at a document.
    ///
    /// # Errors
    /// A call's failure; some of the names may have moved then.
    pub(crate) async fn point(
        &self,
        names: &[&str],
        to: &Descriptor,
        labels: &Labels,
    ) -> Result<()> {
        let mut labels = labels.clone();
        labels.insert(MANAGED.0.to_owned(), MANAGED.1.to_owned());
        for _ in 0..TRIES {
            let found = self.records(names).await?;
            let wrong: Vec<(&str, &Option<Record>)> = names
                .iter()
                .zip(&found)
                .filter(|(_, record)| record.as_ref().is_none_or(|r| !is(r, to, &labels)))
                .map(|(name, record)| (*name, record))
                .collect();
            if wrong.is_empty() {
                return Ok(());
            }
            let (mut there, mut absent) = (Vec::new(), Vec::new());
            for (name, record) in wrong {
                // First what tells whose the name is, then what it stands for.
                match record {
                    None => absent.push(name),
                    Some(record) if self.label(name, &labels).await? => {
                        if digest_of(record) != to.digest {
                            there.push(name);
                        }
                    }
                    // It has just gone; it is looked up again.
                    Some(_) => {}
                }
            }
            if !there.is_empty() {
                self.move_names(&there, to).await?;
            }
            if !absent.is_empty() {
                self.create_names(&absent, to).await?;
            }
        }
        Err(Error::new(
            ErrorKind::Load,
            format!(
                "node {}: {} is moved by others all the time",
                self.node().name,
                names.join(", ")
            ),
        ))
    }

    /// Labels a name. Returns false if it is not there.
    async fn label(&self, name: &str, labels: &Labels) -> Result<bool, Failure> {
        let labels = labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels: Vec<String> = labels.collect();
        let mut args = vec!["images", "label", name];
        args.extend(labels.iter().map(String::as_str));
        match self.ctr(&format!("naming {name}"), &args).await {
            Err(failure) if failure.not_found() => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Copies a name that stands for the document, labels and all.
    async fn create_names(&self, names: &[&str], to: &Descriptor) -> Result<()> {
        let filter = format!("target.digest=={}", quoted(&to.digest));
        let alike = self.list(&[filter]).await?;
        let managed = |record: &&Record| {
            let label = record.labels.get(MANAGED.0).map(String::as_str);
            label == Some(MANAGED.1)
        };
        let Some(like) = alike.iter().find(managed) else {
            return self.move_names(names, to).await;
        };
        for name in names {
            let args = [&["images", "tag"], self.local(), &[&like.name, name]].concat();
            match self.ctr(&format!("naming {name}"), &args).await {
                Err(failure) if failure.already_exists() => {}
                other => other.map(|_| ())?,
            }
        }
        Ok(())
    }

    /// Moves names in one step each; creates those that are not there.
    async fn move_names(&self, names: &[&str], to: &Descriptor) -> Result<()> {
        let what = format!("naming {}", names.join(", "));
        let size = match u64::try_from(to.size) {
            Ok(0) | Err(_) => self.size_of(&to.digest).await?,
            Ok(size) => size,
        };
        // A run of its own: what a kill leaves of it goes with the next.
        let run = lease::unique();
        let index = archive::index(names, &to.media_type, &to.digest, size);
        let import = Import {
            what: &what,
            lease: &run,
            // Of an index only one platform may be there.
            flags: vec![
                "--no-unpack".to_owned(),
                format!("--platform={}", self.facts().platform),
            ],
            unpacking: 0,
        };
        let none = AtomicU64::new(0);
        let tar = archive::tar(&run, Vec::new(), index);
        self.import_manifest(&to.digest, import, tar, &none).await
    }

    async fn size_of(&self, digest: &str) -> Result<u64> {
        let mut size = 0;
        let mut pieces = self.read(digest);
        while let Some(piece) = pieces.next().await {
            size += piece?.len() as u64;
        }
        Ok(size)
    }

    /// Removes a name. Returns false if it was not there.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn remove(&self, name: &str) -> Result<bool, Failure> {
        // ctr does not tell whether it was there.
        let removed = self
            .ctr(&format!("removing {name}"), &["images", "rm", name])
            .await;
        match removed {
            Err(failure) if failure.not_found() => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Lists what the node's containers were made of.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn used(&self) -> Result<BTreeSet<String>, Failure> {
        let what = "listing containers";
        let args = ["crictl", "--timeout", "60s", "ps", "--all", "-o", "json"];
        let by_cri = run(self, what, &args).await?;
        let by_cri: Containers = serde_json::from_slice(&by_cri).map_err(|e| {
            let status = containerd_client::tonic::Status::unknown(e.to_string());
            self.failure(what, &status)
        })?;
        let by_containerd = self.ctr(what, &["containers", "ls"]).await?;
        let rows = table::columns(&by_containerd, ["CONTAINER", "IMAGE", "RUNTIME"]);
        let by_cri = by_cri.containers.into_iter();
        let by_cri = by_cri.flat_map(|container| [container.image_ref, container.image.image]);
        let by_containerd = rows.into_iter().map(|[_, image, _]| image);
        Ok(by_cri
            .chain(by_containerd)
            .filter(|image| !image.is_empty() && image != "-")
            .collect())
    }
}

fn digest_of(record: &Record) -> &str {
    let target = record.target.as_ref();
    target.map_or("", |target| &target.digest)
}

/// Tells whether a record stands for a document and has these labels; those without a value it
/// must not have.
fn is(record: &Record, to: &Descriptor, labels: &Labels) -> bool {
    digest_of(record) == to.digest
        && labels.iter().all(|(key, value)| {
            let has = record.labels.get(key).map_or("", String::as_str);
            has == value
        })
}

/// Quotes a value for a filter of containerd's.
fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
