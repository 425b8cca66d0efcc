//! Client connections: taken in within limits, read strictly, and answered one request after the other (HTTP/1) or
//! side by side (HTTP/2).
//!
//! This is an application of Pingora's listeners and sessions, but not of its `ProxyHttp`: see
//! docs/decisions/0002-our-own-server-loop.md for why.

use crate::core::Core;
use crate::downstream::http1::{Http1, Refused, Unreadable};
use crate::downstream::proxy_protocol;
use crate::downstream::{Session, Wire};
use crate::exchange;
use crate::networks::Lists;
use crate::telemetry::{BadHead, InFlight, Runtime};
use async_trait::async_trait;
use futures_util::FutureExt;
use http::StatusCode;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::protocols::l4::stream::Stream as RawStream;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};
use tokio::io::DuplexStream;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// The application behind client listeners that are alike.
pub(crate) struct Server {
    core: Arc<Core>,
    listener: Listener,
    options: HttpServerOptions,
    /// Its connections run on a runtime of its own, which is known once there is one.
    begun: Once,
}

/// What is special about a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listener {
    /// Whether proxies introduce each connection, by the PROXY protocol.
    pub proxy_protocol: bool,
    /// Which clients may call here, of those that may call at all.
    pub clients: Arc<Lists>,
}

/// One HTTP/2 connection: what Pingora's loop calls for each of its streams.
struct Http2 {
    core: Arc<Core>,
    clients: Arc<Lists>,
    options: HttpServerOptions,
    /// Whether a request has come yet.
    used: AtomicBool,
}

/// Bytes of a request body that an HTTP/2 client may send before we have read any: a long way at once, since the
/// default of 64 KiB makes uploads over distance crawl.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same for all requests of a connection together.
const CONNECTION_WINDOW: u32 = 8 << 20;

impl Server {
    /// A server that answers from `core`.
    pub(crate) fn new(core: Arc<Core>, listener: Listener) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(core.snapshot.load().limits.keep_alive);
        Self { core, listener, options, begun: Once::new() }
    }

    /// Answers one request after the other until either side has had enough. The first head is due at a time, a later
    /// one within the time for a head from its first byte, which may be awaited for as long as a connection may idle.
    async fn http1(&self, mut connection: Box<Http1<Stream>>, due: Instant, shutdown: &ShutdownWatch) {
        let mut due = Some(due);
        loop {
            let refused = match self.next(&mut connection, due.take(), shutdown).await {
                Next::Request => None,
                Next::Refused(refused) => Some(refused),
                Next::Closed => return connection.close().await,
                Next::Gone => return,
            };
            let mut session = Session::new(Wire::Http1(connection));
            if let Some(refused) = refused {
                self.core.metrics.bad_request(refused.reason);
                exchange::unreadable_head(&self.core, &mut session, refused.status, refused.message).await;
            } else {
                self.core.answer(&mut session, &self.listener.clients).await;
            }
            let Some(Wire::Http1(answered)) = session.into_wire() else { return };
            connection = answered;
            if !connection.is_reusable() {
                return connection.close().await;
            }
        }
    }
}

impl Server {
    /// Reads the head of the next request on a connection; of its first one by `due`.
    async fn next(&self, connection: &mut Http1<Stream>, due: Option<Instant>, shutdown: &ShutdownWatch) -> Next {
        let limits = self.core.snapshot.load().limits.clone();
        let first = due.map(|due| due.saturating_duration_since(Instant::now()));
        let mut leaving = shutdown.clone();
        let leaving = async {
            drop(leaving.wait_for(|leaving| *leaving).await);
            self.core.closes_idle().await;
        };
        let idle = first.unwrap_or(limits.keep_alive);
        let came = tokio::select! {
            biased;
            came = crate::patience::timeout(idle, connection.await_request()) => came,
            () = leaving => return Next::Closed,
        };
        match came {
            Ok(true) => {}
            Ok(false) => return Next::Gone,
            Err(_) => {
                if first.is_some() {
                    self.core.metrics.bad_request(BadHead::Timeout);
                }
                return Next::Closed;
            }
        }
        let patience = first.map_or(limits.head_timeout, |first| first.min(limits.head_timeout));
        match crate::patience::timeout(patience, connection.read_head(&limits)).await {
            Ok(Ok(())) => Next::Request,
            Ok(Err(Unreadable::Refused(refused))) => Next::Refused(refused),
            Ok(Err(Unreadable::Gone)) => Next::Gone,
            Err(_) => {
                self.core.metrics.bad_request(BadHead::Timeout);
                Next::Gone
            }
        }
    }

    /// Answers on a connection that nobody made over a network; who may call is settled.
    pub(crate) async fn in_memory(core: Arc<Core>, stream: DuplexStream, client: Option<IpAddr>) {
        let due = Instant::now() + core.snapshot.load().limits.head_timeout;
        let server = Self::new(core, Listener { proxy_protocol: false, clients: Arc::default() });
        // The listener for operators stays to the end: this connection is not told when the others' close.
        let (_stays, shutdown) = watch::channel(false);
        server.http1(Box::new(Http1::new(Box::new(stream), client)), due, &shutdown).await;
    }

    /// Answers requests side by side. Pingora waits for the first as long as it takes: it is due as any head is.
    async fn http2(&self, stream: Stream, due: Duration, shutdown: &ShutdownWatch) -> Option<Stream> {
        let (core, clients, options) = (self.core.clone(), self.listener.clients.clone(), self.options.clone());
        let connection = Arc::new(Http2 { core, clients, options, used: AtomicBool::new(false) });
        let unused = async {
            tokio::time::sleep(due).await;
            if connection.used.load(Ordering::Relaxed) {
                std::future::pending().await
            }
        };
        tokio::select! {
            left = ServerApp::process_new(&connection, stream, shutdown) => left,
            () = unused => {
                self.core.metrics.bad_request(BadHead::Timeout);
                None
            }
        }
    }
}

#[async_trait]
impl ServerApp for Server {
    /// Answers on a task of its own: Pingora's has room for a TLS handshake, and would be kept for as long as the
    /// connection is.
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        self.begun.call_once(|| self.core.runtimes.add(Runtime::Clients, Handle::current()));
        let (server, shutdown) = (self.clone(), shutdown.clone());
        let served = async move { server.serve(stream, &shutdown).await };
        let size = size_of_val(&served) + size_of::<Http1<Stream>>();
        self.core.connection_size.store(size, Ordering::Relaxed);
        tokio::spawn(served);
        None
    }
}

impl Server {
    /// Answers what comes over a connection, to its end.
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        self.core.metrics.connections_total.inc();
        let (most, patience) = {
            let snapshot = self.core.snapshot.load();
            (snapshot.limits.connections, snapshot.limits.head_timeout)
        };
        let Some(_counted) = self.core.connections.enter(most) else {
            return self.core.metrics.connections_refused_total.inc();
        };
        let due = Instant::now() + patience;
        match Box::pin(self.begin(stream, patience)).await {
            Some(Begun::Http1(connection)) => self.http1(connection, due, shutdown).await,
            Some(Begun::Http2(stream)) => {
                Box::pin(self.http2(stream, patience, shutdown)).await;
            }
            None => {}
        }
    }

    /// Finds out what is spoken on a connection; none if it ends before that can be told.
    async fn begin(&self, mut stream: Stream, patience: Duration) -> Option<Begun> {
        // In front of TLS it has been read already.
        if self.listener.proxy_protocol && stream.get_ssl_digest().is_none() {
            let mut plain = stream.into_any().downcast::<RawStream>().ok()?;
            proxy_protocol::introduce(&self.core, &mut plain).await.ok()?;
            stream = plain;
        }
        let address = stream.get_socket_digest();
        let client = address.and_then(|digest| Some(digest.peer_addr()?.as_inet()?.ip().to_canonical()));
        let alpn = stream.get_ssl_digest().map(|_| matches!(stream.selected_alpn_proto(), Some(ALPN::H2)));
        if alpn == Some(true) {
            return Some(Begun::Http2(stream));
        }
        let mut connection = Box::new(Http1::new(stream, client));
        // Where TLS has not settled it, the first bytes do.
        if alpn.is_none() {
            match crate::patience::timeout(patience, connection.is_http2()).await {
                Ok(Ok(true)) => return rewound(*connection).map(Begun::Http2),
                Ok(Ok(false)) => {}
                Ok(Err(_)) => return None,
                Err(_) => {
                    self.core.metrics.bad_request(BadHead::Timeout);
                    return None;
                }
            }
        }
        Some(Begun::Http1(connection))
    }
}

/// What comes next on a connection.
enum Next {
    /// A request, whose head has been read.
    Request,
    /// One that is not to be answered but with this.
    Refused(Refused),
    /// Nothing, for long enough: it is to be closed.
    Closed,
    /// Nothing: it has ended, or is of no use.
    Gone,
}

/// A connection on which it is known what is spoken.
enum Begun {
    Http1(Box<Http1<Stream>>),
    Http2(Stream),
}

/// The connection as it was before we looked.
fn rewound(connection: Http1<Stream>) -> Option<Stream> {
    let (stream, seen) = connection.into_parts();
    let mut stream = stream.into_any().downcast::<RawStream>().ok()?;
    stream.rewind(&seen);
    Some(stream)
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(self: &Arc<Self>, session: ServerSession, _: &ShutdownWatch) -> Option<ReusedHttpStream> {
        self.used.store(true, Ordering::Relaxed);
        let mut session = Box::new(session);
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(_) => {
                self.core.metrics.bad_request(BadHead::Malformed);
                session.shutdown().await;
                return None;
            }
        }
        let many = session.req_header().headers.len() > self.core.snapshot.load().limits.headers;
        let mut session = Session::new(Wire::Http2(session));
        if many {
            self.core.metrics.bad_request(BadHead::TooManyHeaders);
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            let message = "The request has more headers than this gateway accepts.";
            exchange::unreadable_head(&self.core, &mut session, status, message).await;
            session.shutdown().await;
            return None;
        }
        self.core.answer(&mut session, &self.clients).await;
        // The stream ends with its answer; an error here means that the client has left.
        let _ = session.finish(None).await;
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

impl Core {
    /// Answers one request, counted as being in flight.
    async fn answer(&self, session: &mut Session, clients: &Lists) {
        let _open = self.requests.enter().await;
        let _in_flight = InFlight::new(&self.metrics.in_flight);
        // The road has its own, which answers: this is for what comes after it.
        if AssertUnwindSafe(exchange::serve(self, session, clients)).catch_unwind().await.is_err() {
            self.metrics.panics_total.inc();
            session.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests;
