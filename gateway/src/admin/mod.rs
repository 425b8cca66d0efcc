//! The admin listener: whether the process lives, is ready and how it is, on a port of its own.
//!
//! It shares nothing with the listeners for clients, so that probes and scrapers get through when those are full. What
//! it accepts is bounded too: connections, the size of a head and the time it may take, the life of a connection.

pub(crate) mod api;
mod page;
mod routes;
pub(crate) mod tls;

pub use api::shown_key;
#[cfg(test)]
pub(crate) use page::pages;
pub use routes::Doors;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
pub use tls::authorities;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// How long accepting pauses after it failed, most likely for lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// What the admin listener shows of the gateway.
pub trait House: Send + Sync + 'static {
    /// Whether requests should be sent here: the pools without a backend that is up if so, the reason if not.
    fn ready(&self) -> Result<Vec<String>, String>;
    /// Pools and backends as they are.
    fn health(&self) -> serde_json::Value;
    /// All metrics, in Prometheus' text format.
    fn metrics(&self) -> String;
}

/// Who asks: where they are.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) Option<IpAddr>);

/// Who asks has shown a certificate that lets in.
#[derive(Clone, Copy)]
pub(crate) struct Certified;

/// What the listener takes at most.
#[derive(Clone, Copy)]
struct Bounds {
    /// Connections at a time; more wait to be accepted.
    connections: usize,
    /// Bytes of a request head.
    head_size: usize,
    /// How long a head may take, and an idle connection waits for one.
    head_timeout: Duration,
    /// How long a connection lives, busy or not: nobody holds one by reading slowly.
    life: Duration,
    /// How long open requests may take once life, or the listener, is over.
    last_request: Duration,
}

const BOUNDS: Bounds = Bounds {
    connections: 256,
    head_size: 16 << 10,
    head_timeout: Duration::from_secs(10),
    life: Duration::from_secs(120),
    last_request: Duration::from_secs(1),
};

/// Answers on `listener` until `shutdown`; open requests then have a second. `api` is what lies under `/admin`. Whom
/// `doors` do not know is told of `/livez` and `/readyz` only.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    house: Arc<dyn House>,
    api: Router,
    doors: Doors,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(BOUNDS, listener, tls, routes::router(house, api, doors), shutdown).await;
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            stream = accept(&listener), if connections.len() < bounds.connections => {
                connections.spawn(connection(bounds, stream, tls.clone(), router.clone(), stopped.clone()));
            }
        }
    }
    drop(listener);
    drop(stop);
    // Whoever is not done by then is cut off when the set is dropped.
    let _ = timeout(bounds.last_request, async { while connections.join_next().await.is_some() {} }).await;
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(fault) => {
                tracing::warn!(%fault, "the admin listener could not accept a connection");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(
    bounds: Bounds,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    stopped: watch::Receiver<()>,
) {
    let peer = Peer(stream.peer_addr().ok().map(|address| address.ip().to_canonical()));
    let Some(tls) = tls else { return talk(bounds, stream, (peer, None), router, stopped).await };
    // Whose certificate is none of ours, or who speaks no TLS, has been told so by it.
    if let Ok(Ok(stream)) = timeout(bounds.head_timeout, tls.accept(stream)).await {
        let certified = stream.get_ref().1.peer_certificates().map(|_| Certified);
        talk(bounds, stream, (peer, certified), router, stopped).await;
    }
}

async fn talk(
    bounds: Bounds,
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    (peer, certified): (Peer, Option<Certified>),
    router: Router,
    mut stopped: watch::Receiver<()>,
) {
    let answers = TowerToHyperService::new(router);
    let introduced = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(peer);
        if let Some(certified) = certified {
            request.extensions_mut().insert(certified);
        }
        answers.call(request)
    });
    let mut served = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(bounds.head_timeout)
            .max_buf_size(bounds.head_size)
            .serve_connection(TokioIo::new(stream), introduced)
    );
    tokio::select! {
        // Faults here are the other side's: a slow head, a broken connection. It has been told what can be told.
        _ = served.as_mut() => return,
        _ = stopped.changed() => {}
        () = sleep(bounds.life) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(bounds.last_request, served).await;
}

#[cfg(test)]
mod tests;
