//! One backend: where it is, what it is told, how it fares.

use super::health::Health;
use super::holdoff::Holdoff;
use crate::telemetry::BackendSeries;
use arc_swap::{ArcSwap, ArcSwapOption};
use http::{HeaderMap, HeaderValue};
use pingora::protocols::ALPN;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::upstreams::peer::HttpPeer;
use pingora::utils::tls::WrappedX509;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_config as config;

/// Where a backend listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or address and a port; names are resolved when connecting.
    Tcp(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

/// How to speak to a backend. Two backends that differ in none of it are the same backend across a reload.
#[derive(Clone)]
pub struct Settings {
    /// Its name in logs, metrics and headers.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// TLS: the server name to ask for and check; none for plain connections.
    pub tls: Option<Tls>,
    /// HTTP/2 instead of HTTP/1.1.
    pub http2: bool,
    /// What goes into `Host` / `:authority`.
    pub authority: Arc<str>,
    /// Comes before every path.
    pub base_path: Arc<str>,
    /// Its credential and further headers, put into every request.
    pub headers: HeaderMap,
    /// The credential's text, so that it can be kept out of answers.
    pub secret: Option<Arc<str>>,
    /// Its share relative to the others of its pool.
    pub weight: u32,
    /// Requests it takes at once.
    pub max_in_flight: Option<usize>,
}

/// How TLS towards a backend is checked.
#[derive(Clone)]
pub struct Tls {
    /// The name to ask for and to check the certificate against. Never empty: Pingora checks nothing then.
    pub server_name: String,
    /// A certificate authority of its own instead of the system's.
    pub ca: Option<Arc<[WrappedX509]>>,
    /// False: any certificate will do.
    pub verify: bool,
}

/// What the file said, to know a backend again after a reload.
#[derive(PartialEq, Eq)]
pub struct Origin {
    backend: config::Backend,
    tls: config::BackendTls,
    health: Option<config::Health>,
    http2: bool,
}

impl Origin {
    /// What `pool` says of `backend`, wherever in the file it stands.
    pub fn new(pool: &config::Pool, backend: &config::Backend) -> Self {
        let backend = config::Backend { path: config::KeyPath::root(), ..backend.clone() };
        Self { backend, tls: pool.tls.clone(), health: pool.health.clone(), http2: pool.http2 }
    }
}

/// A backend and its state, shared by all requests.
pub struct Backend {
    /// How to speak to it.
    pub settings: Settings,
    /// What the file said.
    pub origin: Origin,
    /// Whether it is up.
    pub health: Health,
    /// Until when it wants no requests, as it said itself.
    pub holdoff: Holdoff,
    /// Its metrics.
    pub series: Arc<BackendSeries>,
    /// The models it says it serves, as it describes them.
    pub serves: ArcSwap<Vec<serde_json::Map<String, serde_json::Value>>>,
    /// Of each of them, what tells its revision.
    pub(super) revisions: ArcSwap<HashMap<Box<str>, u64>>,
    /// When it was last asked for them; held while it is being asked.
    pub asked: tokio::sync::Mutex<Option<Instant>>,
    in_flight: AtomicUsize,
    resolved: ArcSwapOption<Resolved>,
}

/// The addresses a name stood for when last asked, the one that answered last first.
struct Resolved {
    peers: Vec<Arc<HttpPeer>>,
    good_until: Option<Instant>,
}

/// How long a resolved name is believed. DNS answers carry a TTL that the system's resolver does not tell.
const RESOLUTION: Duration = Duration::from_secs(30);

impl Backend {
    /// A backend of which nothing is known yet.
    pub fn new(settings: Settings, origin: Origin, health: Health, series: Arc<BackendSeries>) -> Self {
        let (serves, in_flight, resolved) = (ArcSwap::default(), AtomicUsize::new(0), ArcSwapOption::empty());
        let (asked, revisions) = (tokio::sync::Mutex::default(), ArcSwap::default());
        Self {
            settings,
            origin,
            health,
            holdoff: Holdoff::default(),
            series,
            serves,
            revisions,
            asked,
            in_flight,
            resolved,
        }
    }

    /// Requests it is answering now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Takes a place if there is one.
    pub(super) fn enter(&self) -> bool {
        let max = self.settings.max_in_flight.unwrap_or(usize::MAX);
        let entered = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < max).then_some(now + 1))
            .is_ok();
        if entered {
            self.series.in_flight.inc();
        }
        entered
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.series.in_flight.dec();
    }

    /// The peers to connect to, in the order to try them.
    ///
    /// # Errors
    /// What the resolver says, if the name has never been resolved.
    pub async fn peers(&self) -> std::io::Result<Vec<Arc<HttpPeer>>> {
        let known = self.resolved.load_full();
        if let Some(known) = &known
            && known.good_until.is_none_or(|until| Instant::now() < until)
        {
            return Ok(known.peers.clone());
        }
        match self.resolve().await {
            Ok(resolved) => {
                let peers = resolved.peers.clone();
                self.resolved.store(Some(Arc::new(resolved)));
                Ok(peers)
            }
            // A resolver that is away does not take away what it said before.
            Err(error) => known.map(|known| known.peers.clone()).ok_or(error),
        }
    }

    /// Remembers which of several addresses answered, so that the next request tries it first.
    pub fn prefer(&self, peer: &Arc<HttpPeer>) {
        let Some(known) = self.resolved.load_full() else { return };
        if known.peers.first().is_none_or(|first| Arc::ptr_eq(first, peer)) {
            return;
        }
        let mut peers = known.peers.clone();
        peers.sort_by_key(|known| !Arc::ptr_eq(known, peer));
        self.resolved.store(Some(Arc::new(Resolved { peers, good_until: known.good_until })));
    }

    async fn resolve(&self) -> std::io::Result<Resolved> {
        match &self.settings.address {
            Address::Unix(path) => {
                let address = std::os::unix::net::SocketAddr::from_pathname(path)?;
                Ok(Resolved { peers: vec![self.peer(SocketAddr::Unix(address))], good_until: None })
            }
            Address::Tcp(host, port) => {
                let literal = host.parse::<std::net::IpAddr>().is_ok();
                let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
                let peers: Vec<_> = found.map(|address| self.peer(SocketAddr::Inet(address))).collect();
                if peers.is_empty() {
                    return Err(std::io::Error::other("the name has no address"));
                }
                Ok(Resolved { peers, good_until: (!literal).then(|| Instant::now() + RESOLUTION) })
            }
        }
    }

    fn peer(&self, address: SocketAddr) -> Arc<HttpPeer> {
        let tls = self.settings.tls.as_ref();
        // Built by its fields: `HttpPeer::new` resolves names by blocking, and panics when that fails.
        let mut peer = HttpPeer::new("127.0.0.1:0", tls.is_some(), String::new());
        peer._address = address;
        if let Some(tls) = tls {
            peer.sni.clone_from(&tls.server_name);
            peer.options.verify_cert = tls.verify;
            peer.options.verify_hostname = tls.verify;
            peer.options.ca.clone_from(&tls.ca);
        }
        if self.settings.http2 {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = 100;
        }
        debug_assert!(self.settings.http2 || matches!(peer.options.alpn, ALPN::H1));
        Arc::new(peer)
    }
}

/// `Authorization: Bearer …`, marked so that it is not printed.
///
/// # Errors
/// If the key has characters that a header cannot carry.
pub fn bearer(key: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))?;
    value.set_sensitive(true);
    Ok(value)
}
