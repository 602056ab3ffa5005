//! What an engine asks of a registry. Pure.
//!
//! Source: the OCI distribution specification. Only what Docker and Podman ask for when they push.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;

use super::{REPOSITORY, USER};
use crate::image::Digest;

/// A request that is for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Is this a registry?
    Base,
    /// Is the blob there?
    Blob(Digest),
    /// Begin an upload.
    Begin,
    /// Bytes of an upload.
    Append(u64),
    /// The last bytes of an upload, perhaps none or all, and what it is.
    Finish(u64, Digest),
    /// Forget an upload.
    Abandon(u64),
    /// Is the manifest there?
    Manifest,
    /// The manifest, by tag or digest.
    PutManifest(String),
}

impl Request {
    /// Reads a request's head. None, if it is nothing that an engine asks of us.
    pub fn parse(method: &Method, path: &str, query: Option<&str>) -> Option<Self> {
        if path == "/v2/" || path == "/v2" {
            return (method == Method::GET).then_some(Self::Base);
        }
        let rest = path
            .strip_prefix("/v2/")?
            .strip_prefix(REPOSITORY)?
            .strip_prefix('/')?;
        if let Some(reference) = rest.strip_prefix("manifests/") {
            return match *method {
                Method::HEAD => Some(Self::Manifest),
                Method::PUT => Some(Self::PutManifest(reference.to_owned())),
                _ => None,
            };
        }
        let rest = rest.strip_prefix("blobs/")?;
        match (method.clone(), rest.strip_prefix("uploads/")) {
            (Method::POST, Some("")) => Some(Self::Begin),
            (Method::PATCH, Some(id)) => id.parse().ok().map(Self::Append),
            (Method::PUT, Some(id)) => Some(Self::Finish(id.parse().ok()?, digest(query?)?)),
            (Method::DELETE, Some(id)) => id.parse().ok().map(Self::Abandon),
            (Method::HEAD, None) => rest.parse().ok().map(Self::Blob),
            _ => None,
        }
    }
}

/// Reads `digest=sha256:…`, whose colon may be escaped.
fn digest(query: &str) -> Option<Digest> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix("digest="))?
        .replace("%3A", ":")
        .replace("%3a", ":")
        .parse()
        .ok()
}

/// Returns what the Authorization header must be for a password.
pub fn authorization(password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "1111111111111111111111111111111111111111111111111111111111111111";

    #[test]
    fn knows_what_engines_ask() {
        let blob: Digest = format!("sha256:{HEX}").parse().unwrap();
        for (method, path, query, expected) in [
            (Method::GET, "/v2/".to_owned(), None, Request::Base),
            (
                Method::HEAD,
                format!("/v2/kindlift/load/blobs/sha256:{HEX}"),
                None,
                Request::Blob(blob.clone()),
            ),
            (
                Method::POST,
                "/v2/kindlift/load/blobs/uploads/".to_owned(),
                Some("mount=x&from=y".to_owned()),
                Request::Begin,
            ),
            (
                Method::PATCH,
                "/v2/kindlift/load/blobs/uploads/7".to_owned(),
                None,
                Request::Append(7),
            ),
            (
                Method::PUT,
                "/v2/kindlift/load/blobs/uploads/7".to_owned(),
                Some(format!("a=b&digest=sha256%3A{HEX}")),
                Request::Finish(7, blob),
            ),
            (
                Method::PUT,
                "/v2/kindlift/load/manifests/now".to_owned(),
                None,
                Request::PutManifest("now".to_owned()),
            ),
        ] {
            let request = Request::parse(&method, &path, query.as_deref());
            assert_eq!(request, Some(expected), "{method} {path}");
        }
    }

    #[test]
    fn anything_else_is_nothing() {
        for (method, path) in [
            (Method::GET, "/"),
            (Method::GET, "/v2/_catalog"),
            (Method::POST, "/v2/"),
            (Method::PUT, "/v2/other/image/manifests/now"),
            (Method::POST, "/v2/other/blobs/uploads/"),
            (Method::POST, "/v2/kindlift/loader/blobs/uploads/"),
            (Method::GET, "/v2/kindlift/load/manifests/now"),
            (Method::DELETE, "/v2/kindlift/load/manifests/now"),
            (Method::PATCH, "/v2/kindlift/load/blobs/uploads/x"),
            (Method::PUT, "/v2/kindlift/load/blobs/uploads/1"),
            (Method::HEAD, "/v2/kindlift/load/blobs/sha256:1"),
            (Method::HEAD, "/v2/kindlift/load/blobs/../x"),
        ] {
            assert_eq!(Request::parse(&method, path, None), None, "{method} {path}");
        }
        let get = format!("/v2/kindlift/load/blobs/sha256:{HEX}");
        assert_eq!(Request::parse(&Method::GET, &get, None), None);
    }
}
