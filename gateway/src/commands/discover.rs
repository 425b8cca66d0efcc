//! Asks a backend which models it serves, before there is a gateway that could.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tidegate_config::{Address, Auth, Backend};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::say::in_words;

/// A list of models is small; what is larger is something else.
const LARGEST_LIST: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// What a backend said about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The models it lists.
    Models(Vec<String>),
    /// It answers, but has no list: whatever it is asked for may be there.
    NoList,
}

/// Asks each backend, in the same order; an error is what to tell the user about that backend.
pub(super) fn ask_all(backends: &[Backend]) -> io::Result<Vec<Result<Found, String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asking = backends.iter().map(ask);
    Ok(runtime.block_on(futures_util::future::join_all(asking)))
}

async fn ask(backend: &Backend) -> Result<Found, String> {
    let patience = PATIENCE.as_secs();
    match tokio::time::timeout(PATIENCE, exchange(backend)).await {
        Ok(Ok((status, body))) => read(status, &body),
        Ok(Err(error)) => Err(format!("does not answer ({})", in_words(error.as_ref()))),
        Err(_) => Err(format!("does not answer within {patience} seconds")),
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(backend: &Backend) -> Result<(StatusCode, Bytes), Failed> {
    match &backend.url.address {
        Address::Unix(path) => talk(backend, UnixStream::connect(path).await?).await,
        Address::Ip(address) => secure(backend, TcpStream::connect(address).await?, address.ip().to_string()).await,
        Address::Name { host, port } => {
            secure(backend, TcpStream::connect((host.as_str(), *port)).await?, host.clone()).await
        }
    }
}

async fn secure(backend: &Backend, stream: TcpStream, host: String) -> Result<(StatusCode, Bytes), Failed> {
    if !backend.url.tls {
        return talk(backend, stream).await;
    }
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs()?);
    let client = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    talk(backend, connector.connect(ServerName::try_from(host)?, stream).await?).await
}

async fn talk<S>(backend: &Backend, stream: S) -> Result<(StatusCode, Bytes), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Owns the sender: a connection that is kept alive ends only when nobody can send on it any more.
    let asked = async move {
        let answer = sender.send_request(request(backend)?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LARGEST_LIST).collect().await?;
        Ok::<_, Failed>((status, body.to_bytes()))
    };
    // The connection is driven here and closed with the answer; its own error shows in the answer.
    let (answer, ()) = futures_util::future::join(asked, async { drop(connection.await) }).await;
    answer
}

fn request(backend: &Backend) -> Result<Request<Empty<Bytes>>, http::Error> {
    let mut request = Request::get(format!("{}/v1/models", backend.url.base_path))
        .header(HOST, &backend.url.authority)
        .header(ACCEPT, "application/json");
    if let Some(key) = &backend.key {
        request = match backend.auth {
            Auth::Bearer => request.header(AUTHORIZATION, format!("Bearer {}", key.expose())),
            Auth::XApiKey => request.header("x-api-key", key.expose()),
        };
    }
    for (name, value) in &backend.headers {
        request = request.header(name, value);
    }
    request.body(Empty::new())
}

fn read(status: StatusCode, body: &[u8]) -> Result<Found, String> {
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(format!("wants a key (it answered {status}): give it with --backend-key"))
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => Ok(Found::NoList),
        _ if !status.is_success() => Err(format!("answers {status} when asked for its models")),
        _ => match serde_json::from_slice::<Value>(body) {
            Ok(Value::Object(list)) => Ok(names(list.get("data"))),
            _ => Err("does not look like a model server: its /v1/models is not a JSON object".to_owned()),
        },
    }
}

/// The names in a list of models. They are someone else's text and will stand in a file and on a terminal.
pub(super) fn names(data: Option<&Value>) -> Found {
    let Some(Value::Array(models)) = data else { return Found::NoList };
    let clean =
        |name: &&str| !name.is_empty() && name.len() <= 256 && !name.chars().any(|c| c.is_control() || c == '*');
    let mut names: Vec<String> = Vec::new();
    for name in models.iter().filter_map(|model| model["id"].as_str()).filter(clean) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() { Found::NoList } else { Found::Models(names) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_what_could_harm_a_terminal_is_left_out() {
        let body = br#"{"data":[{"id":"a"},{"id":"\u001b[31mred"},{"id":"a"},{"id":7},{"id":"q*"},{"id":"org/b:7b"}]}"#;
        assert_eq!(read(StatusCode::OK, body), Ok(Found::Models(vec!["a".to_owned(), "org/b:7b".to_owned()])));
    }

    #[test]
    fn a_server_without_a_list_is_still_a_backend() {
        assert_eq!(read(StatusCode::NOT_FOUND, b"nope"), Ok(Found::NoList));
        assert_eq!(read(StatusCode::OK, br#"{"data":[]}"#), Ok(Found::NoList));
    }

    #[test]
    fn what_is_no_model_server_is_named() {
        assert!(read(StatusCode::OK, b"<html>").unwrap_err().contains("not a JSON object"));
        assert!(read(StatusCode::UNAUTHORIZED, b"").unwrap_err().contains("--backend-key"));
        assert!(read(StatusCode::BAD_GATEWAY, b"").unwrap_err().contains("502"));
    }
}
