//! The local registry that a cluster documents, asked of its API server: by a client certificate
//! as Kind has it, by a token, trusted or not.
//!
//! The servers here are FAKES that serve one path; tests/on_lab/hosting.rs asks a real one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::Sandbox;
use crate::run::Run;

const PATH: &str = "/api/v1/namespaces/kube-public/configmaps/local-registry-hosting";
const DOCUMENTED: &str = "host: localhost:5001\nhostFromContainerRuntime: registry:5000\n";

/// An authority, and what it has vouched for.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn sign(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

/// Answers every request until the test ends, with what a request must carry to be let in.
fn serve(tls: Option<Arc<ServerConfig>>, token: Option<&'static str>, body: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            // A client that turns away is what some tests are about.
            let _ = match &tls {
                Some(config) => {
                    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
                    answer(StreamOwned::new(connection, stream), token, &body)
                }
                None => answer(stream, token, &body),
            };
        }
    });
    port
}

fn answer(mut stream: impl Read + Write, token: Option<&str>, body: &str) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for line in BufReader::new(&mut stream).lines() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        lines.push(line.to_lowercase());
    }
    let bearer = token.map(|token| format!("authorization: bearer {token}"));
    let (status, body) = if bearer.is_some_and(|bearer| !lines.contains(&bearer)) {
        ("403 Forbidden", "{}")
    } else if lines
        .first()
        .is_some_and(|line| *line == format!("get {PATH} http/1.1"))
    {
        ("200 OK", body)
    } else {
        ("404 Not Found", "{}")
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    stream.flush()
}

fn config_map(text: &str) -> String {
    serde_json::json!({"kind": "ConfigMap", "data": {"localRegistryHosting.v1": text}}).to_string()
}

/// A server that wants a certificate of this authority, and has one of it.
fn mutual(authority: &Authority) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let (certificate, key) = authority.sign("127.0.0.1");
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    Arc::new(config)
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// Writes a kubeconfig and asks for a push, which ends for want of an engine.
fn push(sandbox: &Sandbox, name: &str, server: &str, cluster: &str, user: &str) -> Run {
    sandbox.write(
        ".kube/config",
        &format!(
            "current-context: {name}\ncontexts: [{{name: {name}, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{server}', {cluster}}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n"
        ),
    );
    sandbox.run(&["build", "--push", "-v", "-t", "demo/app:dev", "."])
}

const FOUND: &str =
    "kind-dev has a local registry: demo/app:dev goes there as localhost:5001/demo/app:dev\n";

#[test]
fn by_a_client_certificate_as_kind_has_it() {
    let sandbox = Sandbox::new();
    let authority = Authority::new();
    let port = serve(Some(mutual(&authority)), None, config_map(DOCUMENTED));
    let server = format!("https://127.0.0.1:{port}");
    let ca = format!("certificate-authority-data: {}", base64(&authority.0.pem()));
    let (certificate, key) = authority.sign("admin");
    let user = format!(
        "client-certificate-data: {}, client-key-data: {}",
        base64(&certificate.pem()),
        base64(&key.serialize_pem())
    );
    push(&sandbox, "kind-dev", &server, &ca, &user)
        .expect(4)
        .says(FOUND);

    // The same in files beside the kubeconfig, as other tools write them.
    sandbox.write(".kube/ca.pem", &authority.0.pem());
    sandbox.write(".kube/cert.pem", &certificate.pem());
    sandbox.write(".kube/key.pem", &key.serialize_pem());
    let files = "client-certificate: cert.pem, client-key: key.pem";
    let ca_file = "certificate-authority: ca.pem";
    push(&sandbox, "kind-dev", &server, ca_file, files)
        .expect(4)
        .says(FOUND);

    // Neither is a server trusted that another authority vouches for, nor is a stranger let in.
    let refused = |run: Run| {
        run.expect(4)
            .never_says(FOUND)
            .says("warning: no cluster was asked for a local registry: the API server of kind-dev")
            .says("does not answer: ")
    };
    let other = Authority::new();
    let wrong = format!("certificate-authority-data: {}", base64(&other.0.pem()));
    refused(push(&sandbox, "kind-dev", &server, &wrong, &user)).says("invalid peer certificate");
    let (certificate, key) = other.sign("admin");
    let stranger = format!(
        "client-certificate-data: {}, client-key-data: {}",
        base64(&certificate.pem()),
        base64(&key.serialize_pem())
    );
    refused(push(&sandbox, "kind-dev", &server, &ca, &stranger));
    push(
        &sandbox,
        "kind-dev",
        &server,
        &ca,
        "client-certificate-data: '*'",
    )
    .expect(4)
    .says("a certificate or key in the kubeconfig is no base64");
}

#[test]
fn by_a_token() {
    let sandbox = Sandbox::new();
    let port = serve(None, Some("secret"), config_map(DOCUMENTED));
    let server = format!("http://127.0.0.1:{port}");
    push(&sandbox, "kind-dev", &server, "", "token: secret")
        .expect(4)
        .says(FOUND);
    sandbox.write(".kube/token", "secret\n");
    push(&sandbox, "kind-dev", &server, "", "tokenFile: token")
        .expect(4)
        .says(FOUND);
    push(&sandbox, "kind-dev", &server, "", "token: wrong")
        .expect(4)
        .says("says 403 Forbidden to /api/v1/")
        .never_says("wrong");
}

#[test]
fn nothing_documented_and_nonsense_documented() {
    let sandbox = Sandbox::new();
    let port = serve(None, None, config_map("help: somewhere\n"));
    let server = format!("http://127.0.0.1:{port}");
    push(&sandbox, "kind-dev", &server, "", "")
        .expect(4)
        .says("the ConfigMap kube-public/local-registry-hosting cannot be read")
        .says("missing field `host`");
    // Behind a proxy that has it under a path of its own; this one has not.
    let proxy = format!("{server}/clusters/c");
    push(&sandbox, "kind-dev", &proxy, "", "")
        .expect(4)
        .never_says("local registry");
}

/// A push to wherever the current context happens to be would be a surprise.
#[test]
fn a_cluster_elsewhere_is_not_asked() {
    let sandbox = Sandbox::new();
    // Nobody answers there, ever: TEST-NET-1.
    push(&sandbox, "work", "https://192.0.2.1", "", "")
        .expect(4)
        .never_says("local registry");
}

#[test]
fn a_server_that_says_nothing_is_not_waited_for_long() {
    let sandbox = Sandbox::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let held = std::thread::spawn(move || listener.accept().map(|(stream, _)| stream));
    push(
        &sandbox,
        "kind-dev",
        &format!("http://127.0.0.1:{port}"),
        "",
        "",
    )
    .expect(4)
    .says("does not answer within 3 s");
    let _: TcpStream = held.join().unwrap().unwrap();
}
