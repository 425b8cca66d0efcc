//! Client connections: taken in within limits, read strictly, and answered one request after the other (HTTP/1) or
//! side by side (HTTP/2).
//!
//! This is an application of Pingora's listeners and sessions, but not of its `ProxyHttp`: see
//! docs/decisions/0002-our-own-server-loop.md for why.

use crate::core::Core;
use crate::exchange::{self, Session};
use crate::framing;
use crate::telemetry::BadHead;
use async_trait::async_trait;
use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use pingora::ErrorType;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The application behind every client listener.
pub(crate) struct Server {
    core: Arc<Core>,
    http2: Arc<Http2>,
}

/// The part of it that Pingora's HTTP/2 loop calls for each stream.
struct Http2 {
    core: Arc<Core>,
    options: HttpServerOptions,
}

/// How an HTTP/2 connection begins (RFC 9113 section 3.4). No HTTP/1 method begins like this.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a request body that an HTTP/2 client may send before we have read any: a long way at once, since the
/// default of 64 KiB makes uploads over distance crawl.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all requests of a connection together.
const CONNECTION_WINDOW: u32 = 8 << 20;

impl Server {
    /// A server that answers from `core`.
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(core.snapshot.load().limits.keep_alive);
        Self { http2: Arc::new(Http2 { core: core.clone(), options }), core }
    }

    /// Whether a connection speaks HTTP/2. Looks at the first bytes where TLS has not settled it, within the time a
    /// head may take; none if nothing came.
    async fn is_http2(&self, stream: &mut Stream, patience: Duration) -> Option<bool> {
        if stream.get_ssl_digest().is_some() {
            return Some(matches!(stream.selected_alpn_proto(), Some(ALPN::H2)));
        }
        let look = async {
            let mut begin = [0; 3];
            stream.try_peek(&mut begin).await.ok()?;
            if begin != PREFACE[..3] {
                return Some(false);
            }
            let mut all = [0; PREFACE.len()];
            stream.try_peek(&mut all).await.ok()?;
            Some(&all == PREFACE)
        };
        match pingora::time::timeout(patience, look).await {
            Ok(looked) => looked,
            Err(_) => {
                self.core.metrics.bad_request(BadHead::Timeout);
                None
            }
        }
    }

    /// Answers one request after the other until either side has had enough.
    async fn http1(&self, mut stream: Stream, shutdown: &ShutdownWatch) {
        let mut prefix = None;
        let mut first = true;
        loop {
            let limits = self.core.snapshot.load().limits.clone();
            let mut session = Session::new_http1(stream);
            session.set_keepalive(Some(limits.keep_alive.as_secs().max(1)));
            session.set_pipelining_enabled(true);
            if let Some(prefix) = prefix.take() {
                session.set_pipelined_prefix(prefix);
            }
            // The first head is due at once; a later one after at most the idle time. Each is bounded as a whole.
            let patience = if first { limits.head_timeout } else { limits.keep_alive + limits.head_timeout };
            first = false;
            let mut leaving = shutdown.clone();
            let read = tokio::select! {
                biased;
                read = pingora::time::timeout(patience, session.read_request()) => read,
                _ = leaving.wait_for(|leaving| *leaving) => return,
            };
            match read {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Err(_) => return self.core.metrics.bad_request(BadHead::Timeout),
                Ok(Err(error)) => return self.unreadable(&mut session, &error).await,
            }
            if let Err(refused) = framing::judge(&session.to_h1_raw(), &limits) {
                self.core.metrics.bad_request(refused.reason);
                return exchange::unreadable_head(&mut session, refused.status, refused.message).await;
            }
            let trailers = self.core.answer(&mut session).await;
            match finish(session, trailers, limits.write_timeout).await {
                Some(reusable) => (stream, prefix) = reusable,
                None => return,
            }
        }
    }

    /// A head that could not be read at all.
    async fn unreadable(&self, session: &mut Session, error: &pingora::Error) {
        let malformed = matches!(error.etype(), ErrorType::InvalidHTTPHeader);
        if !malformed {
            // The connection broke: there is nobody to be told.
            return;
        }
        self.core.metrics.bad_request(BadHead::Malformed);
        let message = "The request's head is not valid HTTP.";
        exchange::unreadable_head(session, StatusCode::BAD_REQUEST, message).await;
    }
}

#[async_trait]
impl ServerApp for Server {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let limits = self.core.snapshot.load().limits.clone();
        self.core.metrics.connections_total.inc();
        let Some(_counted) = self.core.connections.enter(limits.connections) else {
            self.core.metrics.connections_refused_total.inc();
            return None;
        };
        match self.is_http2(&mut stream, limits.head_timeout).await {
            Some(true) => ServerApp::process_new(&self.http2, stream, shutdown).await,
            Some(false) => {
                self.http1(stream, shutdown).await;
                None
            }
            None => None,
        }
    }
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(self: &Arc<Self>, mut session: Session, _: &ShutdownWatch) -> Option<ReusedHttpStream> {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(_) => {
                self.core.metrics.bad_request(BadHead::Malformed);
                session.shutdown().await;
                return None;
            }
        }
        if session.req_header().headers.len() > self.core.snapshot.load().limits.headers {
            self.core.metrics.bad_request(BadHead::TooManyHeaders);
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let message = "The request has more headers than this gateway accepts.";
            exchange::unreadable_head(&mut session, status, message).await;
            return None;
        }
        self.core.answer(&mut session).await;
        // The stream ends with its answer; an error here means that the client has left.
        let _ = session.finish().await;
        None
    }

    fn h2_options(&self) -> Option<H2Options> {
        let limits = &self.core.snapshot.load().limits;
        let mut options = default_h2_options();
        options.max_concurrent_streams(limits.streams_per_connection);
        options.max_header_list_size(u32::try_from(limits.head).unwrap_or(u32::MAX));
        options.initial_window_size(STREAM_WINDOW);
        options.initial_connection_window_size(CONNECTION_WINDOW);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// Ends an HTTP/1 answer, with its trailers if it has any: Pingora's session cannot write them, but gives the connection
/// back without having ended the body. Returns the connection if it can be used again, with what has come on it.
async fn finish(
    session: Session,
    trailers: Option<HeaderMap>,
    patience: Duration,
) -> Option<(Stream, Option<BytesMut>)> {
    let (session, trailers) = match (session, trailers) {
        (Session::H1(session), Some(trailers)) => (session, trailers),
        (session, _) => return session.finish().await.ok()?.map(|reusable| reusable.into_parts()),
    };
    let keeps_alive = session.will_keepalive();
    let (mut stream, prefix) = match keeps_alive {
        true => session.reuse().await.ok()??.into_parts(),
        false => (session.into_inner(), None),
    };
    let end = exchange::encode_trailers(&trailers);
    let sending = async {
        stream.write_all(&end).await?;
        stream.flush().await
    };
    pingora::time::timeout(patience, sending).await.ok()?.ok()?;
    if !keeps_alive {
        let _ = stream.shutdown().await;
    }
    keeps_alive.then_some((stream, prefix))
}

impl Core {
    /// Answers one request, counted as being in flight.
    async fn answer(&self, session: &mut Session) -> Option<HeaderMap> {
        let _open = self.requests.enter().await;
        self.metrics.in_flight.inc();
        let trailers = exchange::serve(self, session).await;
        self.metrics.in_flight.dec();
        trailers
    }
}
