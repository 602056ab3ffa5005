//! Docker endpoints that are no local socket (TCP with TLS, ssh): reached through
//! `docker system dial-stdio`, so that certificates, keys and contexts are the docker command's.

use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use bollard::{BollardRequest, Docker};
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;

use crate::env::Env;
use crate::process::{self, Orphan};

type Answer =
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, bollard::errors::Error>> + Send>>;

/// How long a command that has lost its connection may take to say why, and to end.
const GRACE: Duration = Duration::from_secs(5);

/// Makes an API client whose every request travels over one `docker system dial-stdio`.
pub fn connect(env: &Env, deadline: Duration) -> Result<Docker, bollard::errors::Error> {
    let env = env.clone();
    Docker::connect_with_custom_transport(
        move |request: BollardRequest| -> Answer { Box::pin(send(env.clone(), request)) },
        Some("http://docker"),
        deadline.as_secs(),
        bollard::API_DEFAULT_VERSION,
    )
}

async fn send(
    env: Env,
    mut request: BollardRequest,
) -> Result<Response<Incoming>, bollard::errors::Error> {
    let mut command = process::command("docker", &env, Orphan::Kill);
    command.args(["system", "dial-stdio"]).stdin(Stdio::piped());
    let mut child = process::spawn(&mut command).map_err(std::io::Error::other)?;
    let stdin = child.stdin.take().expect("stdin is piped");
    let stdout = child.stdout.take().expect("stdout is piped");
    let stderr = child.stderr.take().expect("stderr is piped");
    let io = TokioIo::new(tokio::io::join(stdout, stdin));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let ended = tokio::spawn(async move {
        let life = async {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "the connection to Docker broke");
            }
            // Its stdin is closed now, so it ends; killed at once, it could not say what was wrong.
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                let _ = child.kill().await;
            }
        };
        tokio::join!(life, process::tail(stderr)).1
    });
    // A direct connection takes the path alone, and the host as a header.
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |p| p.as_str())
        .to_owned();
    *request.uri_mut() = path.parse().map_err(std::io::Error::other)?;
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_static("docker"));
    match sender.send_request(request).await {
        Ok(response) => Ok(response),
        // The command's own words (a refused key, a bad certificate) say more.
        Err(e) => {
            drop(sender);
            match tokio::time::timeout(2 * GRACE, ended).await {
                Ok(Ok(said)) if !said.is_empty() => Err(std::io::Error::other(format!(
                    "`docker system dial-stdio` says: {said}"
                ))
                .into()),
                _ => Err(e.into()),
            }
        }
    }
}
