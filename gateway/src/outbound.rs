//! What is asked of other servers beside the requests: documents for filters, fetched on a thread of its own, which is only
//! there once something is to be fetched; and what is posted to collectors, on a thread of theirs.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, HOST, RETRY_AFTER, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidegate_plugins::outbound::{Bounds, Outbound};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio_rustls::TlsConnector;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Fetches over HTTP/1.1, with the system's certificate authorities.
#[derive(Default)]
pub struct Fetcher {
    thread: OnceLock<Option<Handle>>,
    tls: OnceLock<Arc<ClientConfig>>,
}

#[async_trait]
impl Outbound for Fetcher {
    async fn get(&self, url: &str, bounds: Bounds) -> Result<Bytes, String> {
        let url: Uri = url.parse().map_err(|_| "this is not a URL".to_owned())?;
        let json = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json"))]);
        let asked = Asked { method: Method::GET, headers: json, body: Bytes::new(), size: bounds.size };
        let answer = in_time(bounds.time, self.ask(&url, asked)).await?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            status => Err(format!("it answered {status}")),
        }
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) {
        match self.thread.get_or_init(|| thread("outbound", &mut Builder::new_current_thread())) {
            Some(handle) => drop(handle.spawn(work)),
            None => tracing::error!("no thread can be had to fetch documents on"),
        }
    }
}

/// What is asked of another server, and how long an answer may be.
struct Asked {
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    size: usize,
}

/// What was answered, whatever it was.
pub struct Answered {
    /// The status.
    pub status: StatusCode,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// What was said.
    pub body: Bytes,
}

/// A thread that does nothing but what it is given.
pub(crate) fn thread(name: &str, builder: &mut Builder) -> Option<Handle> {
    let runtime = builder.enable_all().build().ok()?;
    let handle = runtime.handle().clone();
    let work = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name(name.to_owned()).spawn(work).ok()?;
    Some(handle)
}

impl Fetcher {
    /// One that trusts, and shows, what this says.
    pub fn with(tls: ClientConfig) -> Self {
        Self { thread: OnceLock::new(), tls: OnceLock::from(Arc::new(tls)) }
    }

    /// Asks this of another server.
    ///
    /// # Errors
    /// Why there is no answer, for the log.
    pub async fn send(
        &self,
        method: Method,
        url: &Uri,
        headers: HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answered, String> {
        let asked = Asked { method, headers, body, size: bounds.size };
        let answer = in_time(bounds.time, self.ask(url, asked)).await?;
        let (parts, body) = answer.into_parts();
        let seconds = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Ok(Answered { status: parts.status, retry_after: seconds.map(Duration::from_secs), body })
    }

    async fn ask(&self, url: &Uri, asked: Asked) -> Result<Response<Bytes>, Failed> {
        let host = url.host().ok_or("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let secure = url.scheme() == Some(&Scheme::HTTPS);
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        if !secure {
            return talk(url, stream, asked).await;
        }
        let connector = TlsConnector::from(self.tls()?);
        talk(url, connector.connect(ServerName::try_from(host)?, stream).await?, asked).await
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, Failed> {
        if let Some(tls) = self.tls.get() {
            return Ok(tls.clone());
        }
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs()?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(self.tls.get_or_init(|| Arc::new(config)).clone())
    }
}

async fn in_time(
    time: Duration,
    asked: impl Future<Output = Result<Response<Bytes>, Failed>>,
) -> Result<Response<Bytes>, String> {
    match tokio::time::timeout(time, asked).await {
        Ok(answered) => answered.map_err(|error| in_full(error.as_ref())),
        Err(_) => Err(format!("no answer within {} seconds", time.as_secs())),
    }
}

async fn talk<S>(url: &Uri, stream: S, asked: Asked) -> Result<Response<Bytes>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let target = url.path_and_query().map_or("/", |target| target.as_str());
    let Asked { method, headers, body, size } = asked;
    let mut request = Request::new(Full::new(body));
    (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, target.parse()?, headers);
    let authority = url.authority().ok_or("the URL has no host")?;
    request.headers_mut().insert(HOST, authority.as_str().parse()?);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(concat!("tidegate/", env!("CARGO_PKG_VERSION"))));
    // Owns the sender: a connection that is kept alive ends only when nobody can send on it any more.
    let asked = async move {
        let answer = sender.send_request(request).await?;
        let (parts, body) = answer.into_parts();
        Ok::<_, Failed>(Response::from_parts(parts, Limited::new(body, size).collect().await?.to_bytes()))
    };
    // The connection is driven here and closed with the answer; its own error shows in the answer.
    let mut asked = std::pin::pin!(asked);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        answer = &mut asked => answer,
        _ = &mut connection => asked.await,
    }
}

/// What an error says, and what was behind it.
fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        text += &format!(": {error}");
        inner = error.source();
    }
    text
}
