//! Identity tokens: exchanged for an access token, which oci-client does not do.
//!
//! Clouds' `docker login` leaves them. The exchange is that of
//! <https://distribution.github.io/distribution/spec/auth/oauth/>.

use http_auth::ChallengeRef;
use oci_client::client::ClientProtocol;
use oci_client::errors::OciDistributionError;
use serde::Deserialize;

use super::Wire;

#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token: Option<String>,
}

/// Returns an access token for reading the repository; none, where the registry asks for none.
pub(super) async fn exchange(
    wire: &Wire,
    name: &oci_client::Reference,
    protocol: &ClientProtocol,
    identity: &str,
) -> Result<Option<String>, OciDistributionError> {
    let client = client(wire)?;
    let scheme = match protocol {
        ClientProtocol::Http => "http",
        _ => "https",
    };
    let host = name.resolve_registry();
    let answer = client.get(format!("{scheme}://{host}/v2/")).send().await?;
    let header = answer.headers().get(reqwest::header::WWW_AUTHENTICATE);
    let Some(header) = header.and_then(|header| header.to_str().ok()) else {
        return Ok(None);
    };
    let challenges = http_auth::parse_challenges(header).unwrap_or_default();
    let bearer = challenges
        .iter()
        .find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
    let Some(realm) = bearer.and_then(|bearer| parameter(bearer, "realm")) else {
        let why = format!("{host} takes no identity token, and that is what there is for it");
        return Err(OciDistributionError::AuthenticationFailure(why));
    };
    let service = bearer.and_then(|bearer| parameter(bearer, "service"));
    let scope = format!("repository:{}:pull", name.repository());
    let form = [
        ("grant_type", "refresh_token"),
        ("service", service.as_deref().unwrap_or_default()),
        ("scope", &scope),
        ("client_id", "kindlift"),
        ("refresh_token", identity),
    ];
    let answer = client.post(realm).form(&form).send().await?;
    if !answer.status().is_success() {
        let why = format!("the identity token was refused ({})", answer.status());
        return Err(OciDistributionError::AuthenticationFailure(why));
    }
    let answer: Answer = serde_json::from_slice(&answer.bytes().await?)?;
    Ok(answer.access_token.or(answer.token))
}

fn parameter(challenge: &ChallengeRef<'_>, wanted: &str) -> Option<String> {
    let found = challenge
        .params
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    found.map(|(_, value)| value.to_unescaped())
}

fn client(wire: &Wire) -> Result<reqwest::Client, OciDistributionError> {
    let roots = wire
        .certificates
        .iter()
        .map(|certificate| reqwest::Certificate::from_der(&certificate.data))
        .collect::<Result<Vec<_>, _>>()?;
    let mut builder = reqwest::Client::builder()
        .tls_certs_only(roots)
        .connect_timeout(wire.patience)
        .read_timeout(wire.patience);
    let [https, http, none] = wire.proxies();
    let none = none.and_then(|none| reqwest::NoProxy::from_string(&none));
    if let Some(https) = https {
        builder = builder.proxy(reqwest::Proxy::https(https)?.no_proxy(none.clone()));
    }
    if let Some(http) = http {
        builder = builder.proxy(reqwest::Proxy::http(http)?.no_proxy(none));
    }
    Ok(builder.build()?)
}
