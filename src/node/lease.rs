//! Leases: what holds everything that is staged on a node until it has a name, and lets go of it
//! when a run fails or dies.
//!
//! A lease's expiry alone collects nothing on an idle node, so each run sweeps the leases that
//! dead runs left (see `sweep`). Only leases with our own label are touched: containerd keeps
//! one for every pod sandbox.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::time::{Duration, SystemTime};

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};

use super::session::{Failure, Session};
use crate::error::Result;
use crate::owner::Owner;

/// Label of what kindlift made; its value is the [`Owner`].
pub const OWNER: &str = "io.kindlift.owner";
const EXPIRE: &str = "containerd.io/gc.expire";
const LIFETIME: Duration = Duration::from_secs(3600);

/// A lease that this run made on one node.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Its name on the node.
    pub id: String,
}

impl Lease {
    /// Makes a lease.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn create(session: &Session) -> Result<Self, Failure> {
        let random = std::collections::hash_map::RandomState::new()
            .build_hasher()
            .finish();
        let id = format!("kindlift-{}-{random:016x}", std::process::id());
        let expire = prost_types::Timestamp::from(SystemTime::now() + LIFETIME);
        let labels = HashMap::from([
            (OWNER.to_owned(), Owner::this().label()),
            (EXPIRE.to_owned(), expire.to_string()),
        ]);
        let request = session.request(
            CreateRequest {
                id: id.clone(),
                labels,
            },
            None,
        );
        let mut client = LeasesClient::new(session.channel());
        session
            .call("creating a lease", client.create(request))
            .await?;
        Ok(Self { id })
    }

    /// Makes the lease hold something that is there already. Adding what does not exist
    /// succeeds too: look again afterwards.
    ///
    /// # Errors
    /// The call's failure.
    pub async fn hold(&self, session: &Session, kind: &str, id: &str) -> Result<(), Failure> {
        let request = session.request(
            AddResourceRequest {
                id: self.id.clone(),
                resource: Some(Resource {
                    id: id.to_owned(),
                    r#type: kind.to_owned(),
                }),
            },
            None,
        );
        let mut client = LeasesClient::new(session.channel());
        match session
            .call("holding content", client.add_resource(request))
            .await
        {
            Err(failure) if failure.already_exists() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Ends the lease. With `collect`, returns when what only it held is gone.
    ///
    /// # Errors
    /// The call's failure; a lease that is gone already is none.
    pub async fn end(&self, session: &Session, collect: bool) -> Result<(), Failure> {
        end(session, &self.id, collect).await
    }
}

async fn end(session: &Session, id: &str, collect: bool) -> Result<(), Failure> {
    let request = session.request(
        DeleteRequest {
            id: id.to_owned(),
            sync: collect,
        },
        None,
    );
    let mut client = LeasesClient::new(session.channel());
    match session.call("ending a lease", client.delete(request)).await {
        Err(failure) if failure.not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Ends the leases of runs that died, and with them what those runs had staged. Returns how many.
///
/// # Errors
/// A call's failure.
pub async fn sweep(session: &Session) -> Result<usize> {
    let filter = format!("labels.\"{OWNER}\"");
    let request = session.request(
        ListRequest {
            filters: vec![filter],
        },
        None,
    );
    let mut client = LeasesClient::new(session.channel());
    let leases = session
        .call("listing leases", client.list(request))
        .await?
        .leases;
    let here = Owner::this();
    let now = prost_types::Timestamp::from(SystemTime::now());
    let mut dead = leases
        .iter()
        .filter(|lease| {
            let owner = lease
                .labels
                .get(OWNER)
                .and_then(|label| Owner::parse(label));
            let expired = lease
                .labels
                .get(EXPIRE)
                .and_then(|at| at.parse::<prost_types::Timestamp>().ok())
                .is_some_and(|at| at.seconds < now.seconds);
            owner
                .and_then(|owner| owner.is_dead(&here))
                .unwrap_or(expired)
        })
        .map(|lease| lease.id.as_str())
        .peekable();
    let mut count = 0;
    while let Some(id) = dead.next() {
        // One collection, with the last of them, is enough.
        end(session, id, dead.peek().is_none()).await?;
        count += 1;
    }
    if count > 0 {
        tracing::info!(node = %session.node().name, count, "swept what killed runs left");
    }
    Ok(count)
}
