//! What is in the way of a registry, in words with a next step.

use oci_client::errors::{OciDistributionError, OciErrorCode};
use std::error::Error as StdError;

use super::failed;
use crate::error::Error;

/// What an error's text needs to know.
pub(super) struct Trouble {
    /// The image, as a user writes it.
    pub(super) image: String,
    pub(super) host: String,
    pub(super) had_credentials: bool,
    /// Where credentials were looked for.
    pub(super) looked: Vec<String>,
}

impl Trouble {
    /// Makes the error for an image that the registry does not have.
    pub(super) fn not_found(&self) -> Error {
        failed(format!("{} has no image {}", self.host, self.image))
            .hint("check the name and the tag, or push it first")
    }

    /// Turns what oci-client says into an error with a next step.
    pub(super) fn explain(&self, e: OciDistributionError) -> Error {
        if is_not_found(&e) {
            return self.not_found();
        }
        if is_denied(&e) {
            return self.denied().because(short(&e));
        }
        let host = &self.host;
        let all = chain(&e);
        if let Some(tls) = tls(&e) {
            return match tls {
                rustls::Error::InvalidMessage(_) => failed(format!("{host} does not speak TLS"))
                    .because(tls.to_string())
                    .hint("if it is meant to speak plain HTTP, say --plain-http"),
                _ => failed(format!("{host} cannot be trusted"))
                    .because(tls.to_string())
                    .hint(
                        "if its certificate is by an authority of your own, name that in \
                         SSL_CERT_FILE",
                    ),
            };
        }
        if all.contains("dns error") || all.contains("failed to lookup address") {
            return failed(format!("there is no host {host}"))
                .because(innermost(&e))
                .hint("check the name; an image of an engine is named without docker://");
        }
        match &e {
            OciDistributionError::RequestError(request) if request.is_timeout() => {
                failed(format!("{host} does not answer"))
                    .because(innermost(&e))
                    .hint("try again, or be more patient with --stall-timeout")
            }
            OciDistributionError::RequestError(request) if request.is_connect() => {
                failed(format!("{host} cannot be reached"))
                    .because(innermost(&e))
                    .hint("check that the registry is up, and the proxy variables")
            }
            _ => failed(format!("reading {} from {host} failed", self.image)).because(short(&e)),
        }
    }

    fn denied(&self) -> Error {
        let host = &self.host;
        let looked = self.looked.join(", ");
        if self.had_credentials {
            return failed(format!(
                "{host} does not let these credentials read {}: {looked}",
                self.image
            ))
            .hint(format!(
                "check that the image exists, and log in anew: `docker login {host}`"
            ));
        }
        failed(format!(
            "{host} wants credentials for {}, or has no such image; looked in {looked}",
            self.image
        ))
        .hint(format!(
            "check the name, or log in: `docker login {host}` or `podman login {host}`"
        ))
    }
}

/// Tells whether the registry does not have what was asked for.
pub(super) fn is_not_found(e: &OciDistributionError) -> bool {
    match e {
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => true,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| {
                matches!(
                    error.code,
                    OciErrorCode::ManifestUnknown
                        | OciErrorCode::NameUnknown
                        | OciErrorCode::NotFound
                        | OciErrorCode::BlobUnknown
                        | OciErrorCode::ManifestBlobUnknown
                )
            })
        }
        _ => false,
    }
}

fn is_denied(e: &OciDistributionError) -> bool {
    match e {
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::ServerError {
            code: 401 | 403, ..
        } => true,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| {
                matches!(
                    error.code,
                    OciErrorCode::Unauthorized | OciErrorCode::Denied
                )
            })
        }
        _ => false,
    }
}

/// Tells whether trying again may help.
pub(super) fn may_pass(e: &OciDistributionError) -> bool {
    match e {
        OciDistributionError::ServerError { code, .. } => *code >= 500 || *code == 429,
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
            tls(e).is_none()
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| error.code == OciErrorCode::Toomanyrequests),
        _ => false,
    }
}

/// Tells whether what answered is no TLS server.
pub(super) fn speaks_no_tls(e: &OciDistributionError) -> bool {
    matches!(tls(e), Some(rustls::Error::InvalidMessage(_)))
}

/// Finds what TLS said below an error.
fn tls<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(e);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // An I/O error hides what it was made of from `source`.
        let hidden = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        next = match hidden {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

fn chain(e: &(dyn StdError + 'static)) -> String {
    crate::error::one_line(e).to_string()
}

fn innermost(e: &(dyn StdError + 'static)) -> String {
    let mut last = e;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

/// What a registry said, cut to a line: some answer with a page.
fn short(e: &OciDistributionError) -> String {
    let text: String = chain(e).split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(400).collect()
}
