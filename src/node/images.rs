//! Removing names that are not needed any more.

use containerd_client::services::v1::Image as Record;

use super::session::Session;
use crate::error::Result;

/// Removes a name where it still stands for the same content.
///
/// Returns whether it was removed.
///
/// # Errors
/// The call's failure.
pub async fn remove(session: &Session, record: &Record) -> Result<bool> {
    // containerd before 2.0 does not compare the target itself.
    let now = super::name::get(session, &record.name).await?;
    if now.and_then(|now| now.target).map(|target| target.digest)
        != record.target.as_ref().map(|target| target.digest.clone())
    {
        return Ok(false);
    }
    Ok(session.remove(&record.name, record.target.as_ref()).await?)
}
