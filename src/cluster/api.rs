//! One question to a cluster's API server, with what the kubeconfig has to prove who asks.
//!
//! Knows GET and nothing more, and runs no command that a kubeconfig names for credentials. Kind
//! writes client certificates; tokens and servers whose certificate is not looked at are known too.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::kubeconfig::{Access, Context};
use crate::error::{Error, ErrorKind, Result};

/// No answer that is read here is larger, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Asks for a path. None, if the server says that there is no such thing.
///
/// # Errors
/// Cluster error, naming the server: not reached in time, not trusted, or not willing.
pub async fn get(
    context: &Context,
    access: &Access,
    path: &str,
    deadline: Duration,
) -> Result<Option<Bytes>> {
    let failed = |why: &str| {
        Error::new(
            ErrorKind::Cluster,
            format!(
                "the API server of {} ({}) {why}",
                context.name, access.server
            ),
        )
    };
    let asking = ask(context, access, path);
    let (status, body) = match tokio::time::timeout(deadline, asking).await {
        Ok(answer) => answer.map_err(|e| failed("does not answer").because(e))?,
        Err(_) => {
            let why = format!("does not answer within {} s", deadline.as_secs());
            return Err(failed(&why));
        }
    };
    match status {
        StatusCode::OK => Ok(Some(body)),
        StatusCode::NOT_FOUND => Ok(None),
        status => Err(failed(&format!("says {status} to {path}"))),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    context: &Context,
    access: &Access,
    path: &str,
) -> std::result::Result<(StatusCode, Bytes), Failure> {
    let (host, port) = context.endpoint().ok_or("its address cannot be read")?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    if !access.server.starts_with("https://") {
        return exchange(stream, access, path).await;
    }
    let name = access.server_name.clone().unwrap_or(host);
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(access)?));
    let stream = connector
        .connect(ServerName::try_from(name)?, stream)
        .await?;
    exchange(stream, access, path).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    access: &Access,
    path: &str,
) -> std::result::Result<(StatusCode, Bytes), Failure> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Behind a proxy, a server's URL may have a path of its own.
    let address = access.server.split("://").nth(1).unwrap_or_default();
    let (host, prefix) = address.split_once('/').unwrap_or((address, ""));
    let path = match prefix.trim_end_matches('/') {
        "" => path.to_owned(),
        prefix => format!("/{prefix}{path}"),
    };
    let mut request = Request::get(path)
        .header(HOST, host)
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())?;
    if let Some(token) = &access.token {
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}"))?;
        bearer.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, bearer);
    }
    let asking = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        Ok((status, body.collect().await?.to_bytes()))
    };
    let mut asking = std::pin::pin!(asking);
    // The connection must be driven until the answer is there, and no longer.
    tokio::select! {
        answer = &mut asking => answer,
        // It may have brought the answer before it ended.
        ended = connection => match (asking.await, ended) {
            (Err(_), Err(broke)) => Err(broke.into()),
            (answer, _) => answer,
        },
    }
}

fn tls(access: &Access) -> std::result::Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = if access.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unlooked(provider)))
    } else {
        let mut roots = RootCertStore::empty();
        let authority = access
            .authority
            .as_ref()
            .ok_or("the kubeconfig names no authority for its certificate")?;
        for certificate in CertificateDer::pem_slice_iter(authority) {
            roots.add(certificate?)?;
        }
        builder.with_root_certificates(roots)
    };
    let Some((certificates, key)) = &access.client else {
        return Ok(builder.with_no_client_auth());
    };
    let certificates =
        CertificateDer::pem_slice_iter(certificates).collect::<std::result::Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key)?;
    Ok(builder.with_client_auth_cert(certificates, key)?)
}

/// Takes any certificate, as `insecure-skip-tls-verify` asks; signatures still have to be its.
#[derive(Debug)]
struct Unlooked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unlooked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
