//! Images in a registry, read without any engine.
//!
//! Credentials are Docker's and Podman's (`credentials`), the wire is oci-client's. Layers come
//! when a node asks for them (`fetch`); what every node has is never fetched.

mod credentials;
mod fetch;
mod token;
mod trouble;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, RegistryOperation};

pub use fetch::Blobs;

use self::credentials::{Credentials, Search};
use self::trouble::Trouble;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::image::choose::{self, Chooser, Want};
use crate::image::{Image, Platform, refused};
use crate::job::Job;
use crate::reference::Reference;

/// The manifests that we read; a registry gives what it has of these.
const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// One repository of a registry that has let us in.
pub struct Registry {
    client: Client,
    auth: RegistryAuth,
    name: oci_client::Reference,
    trouble: Trouble,
}

/// How to reach a registry.
struct Wire {
    certificates: Vec<Certificate>,
    patience: Duration,
    env: Env,
}

impl Registry {
    /// Reaches the registry of an image and authenticates there.
    ///
    /// TLS, unless plain HTTP was asked for; a registry on this host's loopback may speak either.
    ///
    /// # Errors
    /// Image error, telling what is in the way: no such host, TLS, credentials.
    pub async fn connect(image: &Reference, plain_http: bool, job: &Job) -> Result<Self> {
        let host = image.registry().to_owned();
        let search = credentials::find(&image.repository(), &job.env).await?;
        job.step(|| format!("credentials for {host}: {}", search.looked.join(", ")));
        let Search { found, looked } = search;
        let trouble = Trouble {
            image: image.familiar(),
            host: host.clone(),
            had_credentials: found.is_some(),
            looked,
        };
        // A second call finds the provider that the first has installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let wire = Wire {
            certificates: certificates(&job.env),
            patience: job.patience,
            env: job.env.clone(),
        };
        let protocol = match plain_http {
            true => ClientProtocol::Http,
            false => ClientProtocol::Https,
        };
        let mut tried = wire.open(image, protocol, found.as_ref()).await;
        if !plain_http && is_loopback(&host) && tried.as_ref().is_err_and(trouble::speaks_no_tls) {
            job.step(|| format!("{host} speaks plain HTTP"));
            tried = wire.open(image, ClientProtocol::Http, found.as_ref()).await;
        }
        let (client, auth, name) = tried.map_err(|e| trouble.explain(e))?;
        Ok(Self {
            client,
            auth,
            name,
            trouble,
        })
    }

    /// Reads the image for a platform: its documents, and no layer.
    ///
    /// # Errors
    /// Image error, if it is not there, damaged, an artifact, or for other platforms.
    pub async fn image(&self, platform: &Platform) -> Result<Image> {
        let root = self
            .manifest(&self.name)
            .await?
            .ok_or_else(|| self.trouble.not_found())?;
        if is_schema_1(&root) {
            return Err(refused(format!(
                "{} is in Docker's image format of before 2016 (schema 1)",
                self.trouble.image
            ))
            .hint("push it again with a Docker of this decade"));
        }
        let mut chooser = Chooser::new(&[choose::describe(&root, "")?], platform);
        let mut root = Some(root);
        while let Some(want) = chooser.want()? {
            let document = match root.take() {
                Some(root) => Some(root),
                None => self.document(&want).await?,
            };
            chooser.give(document)?;
        }
        chooser.finish()
    }

    /// Makes a source of the image's layers.
    ///
    /// # Errors
    /// Internal error, if there is no room for what is fetched.
    pub fn blobs(self, image: &Image, job: &Job) -> Result<Blobs> {
        Blobs::new(self, image, job)
    }

    async fn document(&self, want: &Want) -> Result<Option<Vec<u8>>> {
        let descriptor = &want.descriptor;
        if descriptor.size() > want.limit {
            return Err(refused(format!(
                "{} has {} bytes, more than {}",
                descriptor.digest(),
                descriptor.size(),
                want.limit
            )));
        }
        let digest = descriptor.digest().to_string();
        let media_type = descriptor.media_type().to_string();
        if media_type.contains("manifest") || media_type.contains("index") {
            return self.manifest(&self.name.clone_with_digest(digest)).await;
        }
        let size = usize::try_from(descriptor.size()).unwrap_or(usize::MAX);
        let mut document = Vec::new();
        let mut stream = match self
            .client
            .pull_blob_stream(&self.name, digest.as_str())
            .await
        {
            Ok(stream) => stream.stream,
            Err(e) if trouble::is_not_found(&e) => return Ok(None),
            Err(e) => return Err(self.trouble.explain(e)),
        };
        while let Some(piece) = futures_util::StreamExt::next(&mut stream).await {
            let piece = piece.map_err(|e| self.trouble.explain(e.into()))?;
            document.extend_from_slice(&piece);
            if document.len() > size {
                return Err(refused(format!(
                    "{digest} is longer than the manifest says"
                )));
            }
        }
        Ok(Some(document))
    }

    /// Reads a manifest or an index. None, if it is not there.
    async fn manifest(&self, name: &oci_client::Reference) -> Result<Option<Vec<u8>>> {
        match self
            .client
            .pull_manifest_raw(name, &self.auth, &ACCEPTED)
            .await
        {
            Ok((bytes, _)) => Ok(Some(bytes.to_vec())),
            Err(e) if trouble::is_not_found(&e) => Ok(None),
            Err(e) => Err(self.trouble.explain(e)),
        }
    }
}

impl Wire {
    async fn open(
        &self,
        image: &Reference,
        protocol: ClientProtocol,
        credentials: Option<&Credentials>,
    ) -> Result<(Client, RegistryAuth, oci_client::Reference), OciDistributionError> {
        let host = image.registry();
        let repository = image.repository();
        let repository = repository
            .strip_prefix(&format!("{host}/"))
            .unwrap_or(&repository)
            .to_owned();
        // Not parsed: oci-client's own parser takes 40 ms to begin.
        let name = match (image.digest(), image.tag()) {
            (Some(digest), _) => {
                oci_client::Reference::with_digest(host.into(), repository, digest.into())
            }
            (None, tag) => oci_client::Reference::with_tag(
                host.into(),
                repository,
                tag.unwrap_or("latest").into(),
            ),
        };
        let auth = match credentials {
            None => RegistryAuth::Anonymous,
            Some(Credentials::Password(user, password)) => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            Some(Credentials::IdentityToken(identity)) => {
                let token = token::exchange(self, &name, &protocol, identity).await?;
                token.map_or(RegistryAuth::Anonymous, RegistryAuth::Bearer)
            }
        };
        let client = Client::try_from(self.config(protocol))?;
        client.auth(&name, &auth, RegistryOperation::Pull).await?;
        Ok((client, auth, name))
    }

    fn config(&self, protocol: ClientProtocol) -> ClientConfig {
        let [https_proxy, http_proxy, no_proxy] = self.proxies();
        ClientConfig {
            protocol,
            tls_certs_only: self.certificates.clone(),
            // A platform is chosen by our own rules.
            platform_resolver: None,
            connect_timeout: Some(self.patience),
            read_timeout: Some(self.patience),
            user_agent: concat!("kindlift/", env!("CARGO_PKG_VERSION")),
            https_proxy,
            http_proxy,
            no_proxy,
            ..ClientConfig::default()
        }
    }

    /// Returns the proxies for HTTPS and HTTP, and what they are not for.
    fn proxies(&self) -> [Option<String>; 3] {
        let either = |upper: &str, lower: &str| {
            let found = self.env.get(lower).or_else(|| self.env.get(upper));
            found.map(str::to_owned)
        };
        let https = either("HTTPS_PROXY", "https_proxy");
        let http = either("HTTP_PROXY", "http_proxy");
        // No proxy leads to this host, as Docker and Go have it.
        let own = "localhost,127.0.0.0/8,::1";
        let not_for = match either("NO_PROXY", "no_proxy") {
            Some(more) => format!("{own},{more}"),
            None => own.to_owned(),
        };
        let any = https.is_some() || http.is_some();
        [https, http, any.then_some(not_for)]
    }
}

/// Returns the certificates to trust: `SSL_CERT_FILE`'s and `SSL_CERT_DIR`'s, else the system's.
fn certificates(env: &Env) -> Vec<Certificate> {
    let (file, folder) = (env.path("SSL_CERT_FILE"), env.path("SSL_CERT_DIR"));
    let found = match (&file, &folder) {
        (None, None) => rustls_native_certs::load_native_certs(),
        (file, folder) => {
            let path = |path: &Option<std::path::PathBuf>| path.clone();
            rustls_native_certs::load_certs_from_paths(
                path(file).as_deref().map(Path::new),
                path(folder).as_deref().map(Path::new),
            )
        }
    };
    for error in &found.errors {
        tracing::warn!(%error, "certificates");
    }
    let certificates = found.certs.into_iter().map(|certificate| Certificate {
        encoding: CertificateEncoding::Der,
        data: certificate.to_vec(),
    });
    certificates.collect()
}

/// Tells whether a registry is on this host's loopback, where engines too take plain HTTP.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Tells a manifest that names no config by digest, but has a history inside.
fn is_schema_1(manifest: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Schema {
        #[serde(rename = "schemaVersion")]
        version: u32,
    }
    serde_json::from_slice(manifest).is_ok_and(|schema: Schema| schema.version == 1)
}

/// Reads an image for a platform out of its registry.
///
/// # Errors
/// As [`Registry::connect`] and [`Registry::image`].
pub async fn read(
    image: &Reference,
    platform: &Platform,
    plain_http: bool,
    job: &Job,
) -> Result<(Arc<Image>, Arc<dyn super::Source>)> {
    let reading = async {
        let registry = Registry::connect(image, plain_http, job).await?;
        let found = registry.image(platform).await?;
        let blobs = registry.blobs(&found, job)?;
        Ok((Arc::new(found), Arc::new(blobs) as Arc<dyn super::Source>))
    };
    job.cancel.unless(reading).await
}

/// Makes the error for what has no better kind.
fn failed(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Image, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_this_host() {
        for (registry, expected) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("[::1]", true),
            ("localhost.example", false),
            ("10.0.0.1:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_loopback(registry), expected, "{registry}");
        }
    }

    #[test]
    fn no_proxy_for_this_host() {
        let wire = |vars: &[(&str, &str)]| Wire {
            certificates: Vec::new(),
            patience: Duration::from_secs(1),
            env: Env::new(vars.iter().copied()),
        };
        assert_eq!(wire(&[]).proxies(), [None, None, None]);
        let [https, http, none] =
            wire(&[("HTTPS_PROXY", "http://p:1"), ("no_proxy", "reg.example")]).proxies();
        assert_eq!(https.as_deref(), Some("http://p:1"));
        assert_eq!(http, None);
        assert_eq!(
            none.as_deref(),
            Some("localhost,127.0.0.0/8,::1,reg.example")
        );
    }

    #[test]
    fn tells_the_oldest_manifests() {
        assert!(is_schema_1(br#"{"schemaVersion": 1, "fsLayers": []}"#));
        assert!(!is_schema_1(br#"{"schemaVersion": 2, "layers": []}"#));
        assert!(!is_schema_1(b"?"));
    }
}
