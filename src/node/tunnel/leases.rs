//! Leases by gRPC.

use containerd_client::services::v1::leases_client::LeasesClient;
use containerd_client::services::v1::{
    AddResourceRequest, CreateRequest, DeleteRequest, ListRequest, Resource,
};
use futures_util::future::try_join_all;

use super::Tunnel;
use crate::node::Failure;
use crate::node::lease::{Held, Lease, Listed};
use crate::node::session::Labels;

impl Tunnel {
    /// Makes a lease.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn create_lease(&self, id: &str, labels: &Labels) -> Result<(), Failure> {
        let request = self.request(
            CreateRequest {
                id: id.to_owned(),
                labels: labels.clone(),
            },
            None,
        );
        let mut client = LeasesClient::new(self.channel());
        self.call("creating a lease", client.create(request))
            .await?;
        Ok(())
    }

    /// Lists the leases that have a label.
    ///
    /// # Errors
    /// The call's failure.
    pub(crate) async fn leases(&self, label: &str) -> Result<Vec<Listed>, Failure> {
        let filter = format!("labels.\"{label}\"");
        let request = self.request(
            ListRequest {
                filters: vec![filter],
            },
            None,
        );
        let mut client = LeasesClient::new(self.channel());
        let answer = self.call("listing leases", client.list(request)).await?;
        let listed = answer.leases.into_iter().map(|lease| Listed {
            id: lease.id,
            created: lease.created_at.map_or(0, |at| at.seconds),
            labels: lease.labels,
        });
        Ok(listed.collect())
    }

    /// Makes a lease hold things.
    ///
    /// # Errors
    /// A call's failure.
    pub(crate) async fn hold(&self, lease: &Lease, held: &[Held<'_>]) -> Result<(), Failure> {
        let holding = held.iter().map(|held| async {
            let (id, kind) = match held {
                Held::Blob(digest) => ((*digest).to_owned(), "content".to_owned()),
                Held::Snapshot(chain) => (
                    chain.to_string(),
                    format!("snapshots/{}", self.facts().snapshotter),
                ),
            };
            let request = self.request(
                AddResourceRequest {
                    id: lease.id.clone(),
                    resource: Some(Resource { id, r#type: kind }),
                },
                None,
            );
            let mut client = LeasesClient::new(self.channel());
            match self
                .call("holding content", client.add_resource(request))
                .await
            {
                Err(failure) if failure.already_exists() => Ok(()),
                other => other.map(|_| ()),
            }
        });
        try_join_all(holding).await?;
        Ok(())
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// The call's failure; a lease that is gone already is none.
    pub(crate) async fn end_lease(&self, id: &str, collect: bool) -> Result<(), Failure> {
        let request = self.request(
            DeleteRequest {
                id: id.to_owned(),
                sync: collect,
            },
            None,
        );
        let mut client = LeasesClient::new(self.channel());
        match self.call("ending a lease", client.delete(request)).await {
            Err(failure) if failure.not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}
