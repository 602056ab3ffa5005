//! What a registry answers. Pure.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE};
use hyper::{Response, StatusCode};

use super::REPOSITORY;

/// An answer: a head and perhaps a few words.
pub(super) type Answer = Response<Full<Bytes>>;

pub(super) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");

pub(super) fn status(code: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = code;
    let version = HeaderValue::from_static("registry/2.0");
    let name = HeaderName::from_static("docker-distribution-api-version");
    answer.headers_mut().insert(name, version);
    answer
}

pub(super) fn with(mut answer: Answer, headers: &[(HeaderName, String)]) -> Answer {
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).expect("digests, paths and numbers are ASCII");
        answer.headers_mut().insert(name, value);
    }
    answer
}

pub(super) fn location(id: u64) -> String {
    format!("/v2/{REPOSITORY}/blobs/uploads/{id}")
}

pub(super) fn accepted(id: u64, size: u64) -> Answer {
    with(
        status(StatusCode::ACCEPTED),
        &[
            (LOCATION, location(id)),
            (RANGE, format!("0-{}", size.saturating_sub(1))),
            (UPLOAD, id.to_string()),
        ],
    )
}

pub(super) fn refusal(code: StatusCode, name: &str, why: &str) -> Answer {
    let text = serde_json::json!({"errors": [{"code": name, "message": why}]}).to_string();
    let mut answer = with(
        status(code),
        &[(CONTENT_TYPE, "application/json".to_owned())],
    );
    *answer.body_mut() = Full::from(text);
    answer
}
