//! Connections to backends: kept, reused, made. Pingora connects and checks certificates; HTTP/1 on the connections and
//! the keeping of idle ones are ours ([`super::http1`]), HTTP/2 is Pingora's.

use super::backend::Backend;
use super::error::{Error, Result};
use super::http1::{Client, RequestHead};
use super::idle::Idle;
use super::stale::{self, Ending};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Uri, Version};
use pingora::connectors::http::v2;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::protocols::l4::ext;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream as RawStream;
use pingora::protocols::{GetSocketDigest, SocketDigest, Stream};
use pingora::upstreams::peer::{HttpPeer, Peer};
use std::os::fd::AsRawFd;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Duration;
use tidegate_plugins::Head;
use tokio::io::AsyncWriteExt;

/// Idle connections kept over all backends.
const POOL: usize = 1024;

/// Makes connections and keeps the idle ones. One for the whole process.
pub struct Connector {
    idle: Idle,
    // Made when first wanted: it reads the system's certificates a second time.
    http2: OnceLock<v2::Connector>,
}

/// Makes connections with TLS, for all of the process. Made when first wanted: it reads the system's certificates, which
/// takes four times as long as all else that happens at the start. Its own pool stays empty.
static TLS: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(Some(ConnectorOptions::new(1))));

/// Reads the system's certificates, before the first request has to wait for that.
pub(super) fn prepare_tls() {
    LazyLock::force(&TLS);
}

impl Default for Connector {
    fn default() -> Self {
        Self { idle: Idle::new(POOL), http2: OnceLock::new() }
    }
}

/// A connection to a backend on which one request is answered.
pub struct Upstream {
    session: Session,
    peer: Arc<HttpPeer>,
    authority: Arc<str>,
    /// Whether it was used before: then it may have died unnoticed.
    pub reused: bool,
}

enum Session {
    Http1(Client<Stream>),
    // Boxed: large, and seldom there.
    Http2(Box<Http2Session>),
}

impl Connector {
    /// A connection to `backend`: an idle one unless `fresh`, else a new one to the first of its addresses that
    /// takes it. The caller bounds the time.
    ///
    /// # Errors
    /// Why the last address could not be connected to.
    pub async fn connect(&self, backend: &Backend, fresh: bool) -> Result<Upstream> {
        let peers = backend.peers().await.map_err(|error| {
            let route = pingora::ErrorType::ConnectNoRoute;
            Error::Connect(pingora::Error::because(route, "resolving the backend's name", error))
        })?;
        let upstream = |peer: &Arc<HttpPeer>, session, reused| {
            let authority = backend.settings.authority.clone();
            Upstream { session, peer: peer.clone(), authority, reused }
        };
        if !fresh && !backend.settings.http2 {
            for peer in &peers {
                if let Some(stream) = self.idle.take(peer.reuse_hash()) {
                    return Ok(upstream(peer, Session::Http1(Client::new(stream)), true));
                }
            }
        }
        let mut failure = None;
        for peer in &peers {
            // Boxed: seldom waited for, and so large that every request's future would be moved around with it.
            match Box::pin(self.open(peer, backend.settings.http2, fresh)).await {
                Ok((session, reused)) => {
                    backend.prefer(peer);
                    return Ok(upstream(peer, session, reused));
                }
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or_else(|| pingora::Error::new(pingora::ErrorType::ConnectNoRoute));
        Err(Error::Connect(failure))
    }

    /// Keeps `stream` as an idle connection to `backend`; none if that has no address.
    pub(crate) async fn lay_by(&self, backend: &Backend, stream: Stream, idle: Duration) -> Option<()> {
        let peers = backend.peers().await.ok()?;
        self.idle.put(peers.first()?.reuse_hash(), stream, idle);
        Some(())
    }

    async fn open(
        &self,
        peer: &Arc<HttpPeer>,
        http2: bool,
        fresh: bool,
    ) -> std::result::Result<(Session, bool), Box<pingora::Error>> {
        if !http2 {
            let stream = if peer.tls() { TLS.new_stream(&**peer).await? } else { plain(peer).await? };
            return Ok((Session::Http1(Client::new(stream)), false));
        }
        // Boxed: rarely taken, and large enough to be felt in every request's future.
        let connector = self.http2.get_or_init(|| v2::Connector::new(Some(ConnectorOptions::new(POOL))));
        Box::pin(async {
            if !fresh && let Some(session) = connector.reused_http_session(&**peer).await? {
                return Ok((Session::Http2(Box::new(session)), true));
            }
            match connector.new_http_session(&**peer).await? {
                HttpSession::H2(session) => Ok((Session::Http2(Box::new(session)), false)),
                // The backend would not have HTTP/2.
                HttpSession::H1(session) => Ok((Session::Http1(Client::new(session.into_inner())), false)),
                HttpSession::Custom(()) => Err(pingora::Error::new(pingora::ErrorType::H2Downgrade)),
            }
        })
        .await
    }

    /// Closes connections that have been idle for too long. To be called now and then.
    pub fn sweep(&self) {
        self.idle.sweep();
    }

    /// Takes back a connection whose answer has been read to its end; any that cannot be used again is closed.
    pub fn release(&self, upstream: Upstream, idle: Duration) {
        match upstream.session {
            Session::Http1(client) => {
                if let Some(stream) = client.reuse() {
                    self.idle.put(upstream.peer.reuse_hash(), stream, idle);
                }
            }
            Session::Http2(session) => {
                if let Some(connector) = self.http2.get() {
                    connector.release_http_session(*session, &*upstream.peer, Some(idle));
                }
            }
        }
    }
}

impl Upstream {
    /// Sends a whole request.
    ///
    /// # Errors
    /// If the connection breaks, or the request cannot be sent.
    pub async fn send(&mut self, head: RequestHead, body: Bytes) -> Result<()> {
        match &mut self.session {
            Session::Http1(client) => client.send(&head, &self.authority, &body).await,
            Session::Http2(session) => {
                session.write_request_header(over_http2(head, &self.peer, &self.authority)?, body.is_empty())?;
                if body.is_empty() { Ok(()) } else { Ok(session.write_request_body(body, true).await?) }
            }
        }
    }

    /// Sends the head of a request whose body follows.
    ///
    /// # Errors
    /// If the connection breaks, or the request cannot be sent.
    pub async fn send_head(&mut self, head: RequestHead) -> Result<()> {
        match &mut self.session {
            Session::Http1(client) => client.send(&head, &self.authority, b"").await,
            Session::Http2(session) => {
                Ok(session.write_request_header(over_http2(head, &self.peer, &self.authority)?, false)?)
            }
        }
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send_body(&mut self, data: Bytes) -> Result<()> {
        match &mut self.session {
            Session::Http1(client) => client.send_body(&data).await,
            Session::Http2(session) => Ok(session.write_request_body(data, false).await?),
        }
    }

    /// Ends the request.
    ///
    /// # Errors
    /// If the connection breaks, or less was sent than the head declares.
    pub async fn send_end(&mut self) -> Result<()> {
        match &mut self.session {
            Session::Http1(client) => client.send_end().await,
            Session::Http2(session) => Ok(session.finish_request_body()?),
        }
    }

    /// Reads the answer's head, leaving out what only announces one (100, 103). At most [`MAX_INFORMATIONAL`].
    ///
    /// # Errors
    /// If the connection breaks, or what comes is not HTTP.
    pub async fn read_head(&mut self) -> Result<Head> {
        for _ in 0..MAX_INFORMATIONAL {
            let head = match &mut self.session {
                Session::Http1(client) => client.read_head().await?,
                Session::Http2(session) => {
                    session.read_response_header().await?;
                    let head = session.response_header().ok_or(Error::Malformed("an answer without a head"))?;
                    Head { status: head.status, headers: head.headers.clone() }
                }
            };
            if !head.status.is_informational() || head.status == 101 {
                return Ok(head);
            }
        }
        Err(Error::Malformed("too many informational answers"))
    }

    /// The next piece of the answer; none at its end. Nothing is lost if this is not waited for.
    ///
    /// # Errors
    /// If the connection breaks before the answer's end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.session {
            Session::Http1(client) => client.read_body().await,
            Session::Http2(session) => Ok(session.read_response_body().await?),
        }
    }

    /// Whether the answer has been read to its end.
    pub fn is_done(&self) -> bool {
        match &self.session {
            Session::Http1(client) => client.is_done(),
            Session::Http2(session) => session.response_finished(),
        }
    }

    /// What followed the body, which has been read to its end. Once.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        match &mut self.session {
            Session::Http1(client) => Ok(client.take_trailers()),
            Session::Http2(session) => Ok(session.read_trailers().await?),
        }
    }

    /// Whether `error`, seen `since` the request was sent whole, shows that the backend had closed this connection before
    /// it could see the request: it was used before, and is stale.
    pub fn was_closed_before(&mut self, error: &Error, since: Duration) -> bool {
        self.reused && stale::was_closed_before(error, since, self.ending())
    }

    #[cfg(target_os = "linux")]
    fn ending(&mut self) -> Option<Ending> {
        let Session::Http1(client) = &mut self.session else { return None };
        client.stream().get_socket_digest()?.tcp_info().as_ref().map(Ending::read)
    }

    #[cfg(not(target_os = "linux"))]
    fn ending(&mut self) -> Option<Ending> {
        None
    }

    /// After a 101: from now on bytes go both ways as they are.
    pub fn tunnel(&mut self) {
        if let Session::Http1(client) = &mut self.session {
            client.tunnel();
        }
    }

    /// Closes the connection at once, without waiting for the backend to take what is left.
    pub fn close(&mut self) {
        match &mut self.session {
            Session::Http1(client) => {
                let _ = AsyncWriteExt::shutdown(client.stream()).now_or_never();
            }
            Session::Http2(session) => session.shutdown(),
        }
    }
}

/// A connection without TLS, as Pingora makes them.
async fn plain(peer: &HttpPeer) -> std::result::Result<Stream, Box<pingora::Error>> {
    let address = peer.address();
    let mut stream: RawStream = match address {
        SocketAddr::Inet(address) => ext::connect(address, None).await?.into(),
        SocketAddr::Unix(address) => {
            let nameless = || pingora::Error::explain(pingora::ErrorType::ConnectError, "the socket has no path");
            ext::connect_uds(address.as_pathname().ok_or_else(nameless)?).await?.into()
        }
    };
    stream.set_nodelay()?;
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // It is new: nothing is known yet.
    let _ = digest.peer_addr.set(Some(address.clone()));
    stream.set_socket_digest(digest);
    Ok(Box::new(stream))
}

/// The head as HTTP/2 has it: the authority is part of the URI, and bodies have no framing of their own.
fn over_http2(head: RequestHead, peer: &HttpPeer, authority: &str) -> Result<Box<RequestHeader>> {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    let scheme = if peer.tls() { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(head.target);
    parts.uri = uri.build().map_err(|_| Error::Unsendable("its target is no part of a URI"))?;
    (parts.method, parts.version, parts.headers) = (head.method, Version::HTTP_2, head.headers.into());
    parts.headers.remove(http::header::TRANSFER_ENCODING);
    Ok(Box::new(parts.into()))
}

/// 1xx answers accepted before the real one.
const MAX_INFORMATIONAL: usize = 8;
