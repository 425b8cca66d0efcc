//! Connections to backends: kept, reused, made.

use super::backend::Backend;
use bytes::Bytes;
use http::HeaderMap;
use pingora::connectors::http::v2;
use pingora::connectors::{ConnectorOptions, TransportConnector};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1;
use pingora::upstreams::peer::{HttpPeer, Peer};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Idle connections kept over all backends.
const POOL: usize = 1024;

/// Makes connections and keeps the idle ones. One for the whole process.
pub struct Connector {
    http1: TransportConnector,
    // Made when first wanted: it reads the system's certificates a second time.
    http2: OnceLock<v2::Connector>,
}

impl Default for Connector {
    fn default() -> Self {
        Self { http1: TransportConnector::new(Some(ConnectorOptions::new(POOL))), http2: OnceLock::new() }
    }
}

/// A connection to a backend on which one request is answered.
pub struct Upstream {
    session: HttpSession,
    peer: Arc<HttpPeer>,
    /// Whether it was used before: then it may have died unnoticed.
    pub reused: bool,
}

/// What an upstream call returns.
pub type Result<T> = std::result::Result<T, Box<pingora::Error>>;

impl Connector {
    /// A connection to `backend`: an idle one unless `fresh`, else a new one to the first of its addresses that
    /// takes it. The caller bounds the time.
    ///
    /// # Errors
    /// Why the last address could not be connected to.
    pub async fn connect(&self, backend: &Backend, fresh: bool) -> Result<Upstream> {
        let peers = backend.peers().await.map_err(|error| {
            pingora::Error::because(pingora::ErrorType::ConnectNoRoute, "resolving the backend's name", error)
        })?;
        if !fresh && !backend.settings.http2 {
            for peer in &peers {
                if let Some(stream) = self.http1.reused_stream(&**peer).await {
                    let session = HttpSession::H1(Http1::new_with_options(stream, &**peer));
                    return Ok(Upstream { session, peer: peer.clone(), reused: true });
                }
            }
        }
        let mut failure = None;
        for peer in &peers {
            match self.open(peer, backend.settings.http2, fresh).await {
                Ok(upstream) => {
                    backend.prefer(peer);
                    return Ok(upstream);
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| pingora::Error::new(pingora::ErrorType::ConnectNoRoute)))
    }

    async fn open(&self, peer: &Arc<HttpPeer>, http2: bool, fresh: bool) -> Result<Upstream> {
        if !http2 {
            let stream = self.http1.new_stream(&**peer).await?;
            let session = HttpSession::H1(Http1::new_with_options(stream, &**peer));
            return Ok(Upstream { session, peer: peer.clone(), reused: false });
        }
        // Boxed: rarely taken, and large enough to be felt in every request's future.
        let connector = self.http2.get_or_init(|| v2::Connector::new(Some(ConnectorOptions::new(POOL))));
        Box::pin(async {
            if !fresh && let Some(session) = connector.reused_http_session(&**peer).await? {
                return Ok(Upstream { session: HttpSession::H2(session), peer: peer.clone(), reused: true });
            }
            let session = connector.new_http_session(&**peer).await?;
            Ok(Upstream { session, peer: peer.clone(), reused: false })
        })
        .await
    }

    /// Takes back a connection whose answer has been read to its end; any other is closed.
    pub async fn release(&self, upstream: Upstream, idle: Duration) {
        match upstream.session {
            HttpSession::H1(mut session) => {
                session.respect_keepalive();
                if let Some(stream) = session.reuse().await {
                    self.http1.release_stream(stream, upstream.peer.reuse_hash(), Some(idle));
                }
            }
            HttpSession::H2(session) => {
                if let Some(connector) = self.http2.get() {
                    connector.release_http_session(session, &*upstream.peer, Some(idle));
                }
            }
            HttpSession::Custom(()) => {}
        }
    }
}

impl Upstream {
    /// Whether this is HTTP/2.
    pub fn is_http2(&self) -> bool {
        matches!(self.session, HttpSession::H2(_))
    }

    /// Sends the head.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send_head(&mut self, head: Box<RequestHeader>) -> Result<()> {
        self.session.write_request_header(head).await
    }

    /// Sends a piece of the body.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send_body(&mut self, data: Bytes, last: bool) -> Result<()> {
        self.session.write_request_body(data, last).await
    }

    /// Ends the request.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn send_end(&mut self) -> Result<()> {
        self.session.finish_request_body().await
    }

    /// Reads the answer's head, leaving out what only announces one (100, 103). At most [`MAX_INFORMATIONAL`].
    ///
    /// # Errors
    /// If the connection breaks, or what comes is not HTTP.
    pub async fn read_head(&mut self) -> Result<()> {
        for _ in 0..MAX_INFORMATIONAL {
            self.session.read_response_header().await?;
            let informational =
                self.session.response_header().is_some_and(|head| head.status.is_informational() && head.status != 101);
            if !informational {
                return Ok(());
            }
        }
        pingora::Error::e_explain(pingora::ErrorType::InvalidHTTPHeader, "too many informational answers")
    }

    /// The answer's head, once read.
    pub fn head(&self) -> Option<&ResponseHeader> {
        self.session.response_header()
    }

    /// The next piece of the answer; none at its end.
    ///
    /// # Errors
    /// If the connection breaks before the answer's end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.session.read_response_body().await
    }

    /// Whether the answer has been read to its end.
    pub fn is_done(&mut self) -> bool {
        self.session.response_done()
    }

    /// What follows the body. HTTP/2 only: Pingora's HTTP/1 reader drops trailers.
    ///
    /// # Errors
    /// If the connection breaks.
    pub async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        match &mut self.session {
            HttpSession::H2(session) => session.read_trailers().await,
            _ => Ok(None),
        }
    }

    /// After a 101: from now on bytes go both ways as they are.
    pub fn tunnel(&mut self) {
        if let HttpSession::H1(session) = &mut self.session {
            session.maybe_upgrade_body_writer();
        }
    }

    /// Closes the connection at once.
    pub async fn close(&mut self) {
        self.session.shutdown().await;
    }
}

/// 1xx answers accepted before the real one.
const MAX_INFORMATIONAL: usize = 8;
