//! One backend: where it is, what it is told, how it fares.

use super::breaker::{Breakers, Change, Opened, Verdict};
use super::health::Health;
use super::holdoff::Holdoff;
use super::limiter::Limiter;
use super::pool::model_id;
use super::signals::Signals;
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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tidegate_config as config;
use tidegate_plugins::balancer::{Candidate, Member};

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
    pub max_in_flight: Option<config::MaxInFlight>,
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
    /// Who it is to balancers.
    pub member: Member,
    /// What the file said.
    pub origin: Origin,
    /// Whether it is up.
    pub health: Health,
    /// Whether it is left alone for what it did to requests.
    pub breakers: Breakers,
    /// What its own metrics say.
    pub signals: Signals,
    /// How many requests it takes at once, if that is found out.
    pub limiter: Limiter,
    /// Until when it wants no requests, as it said itself.
    pub holdoff: Holdoff,
    /// Its metrics.
    pub series: Arc<BackendSeries>,
    /// The models it says it serves.
    pub serves: ArcSwap<Served>,
    /// Whether that is another list than the pool knows.
    pub serves_anew: AtomicBool,
    /// Of each of them, what tells its revision.
    pub(super) revisions: ArcSwap<HashMap<Box<str>, u64>>,
    /// When it was last asked for them; held while it is being asked.
    pub asked: tokio::sync::Mutex<Option<Instant>>,
    in_flight: AtomicUsize,
    /// Of all backends of its pool.
    pool_in_flight: Arc<AtomicUsize>,
    /// An operator, or discovery, wants no more requests to go there.
    draining: AtomicBool,
    /// When it came back last, in milliseconds since `epoch`; 0 if it was never away.
    came_back: AtomicU64,
    /// Until when it is not asked to continue what another has begun, likewise; 0 if it never refused.
    continues_after: AtomicU64,
    epoch: Instant,
    drawn: AtomicU64,
    resolved: ArcSwapOption<Resolved>,
}

/// The models a backend serves.
#[derive(Default)]
pub struct Served {
    /// As it describes them.
    pub models: Vec<serde_json::Map<String, serde_json::Value>>,
    ids: Vec<u64>,
}

impl Served {
    /// The models of a list.
    pub fn new(models: Vec<serde_json::Map<String, serde_json::Value>>) -> Self {
        let ids = models.iter().filter_map(|model| Some(model_id(model.get("id")?.as_str()?))).collect();
        Self { models, ids }
    }

    /// Their names, as pools know them.
    pub fn ids(&self) -> &[u64] {
        &self.ids
    }
}

/// The addresses a name stood for when last asked, the one that answered last first.
struct Resolved {
    peers: Vec<Arc<HttpPeer>>,
    good_until: Option<Instant>,
}

/// How long a resolved name is believed. DNS answers carry a TTL that the system's resolver does not tell.
const RESOLUTION: Duration = Duration::from_secs(30);

/// How long a backend that would not continue what another has begun is not asked to again: it may be another by then.
const REFUSAL: Duration = Duration::from_secs(600);

/// What one that has just come back gets at least of its share.
const LEAST_SHARE: f64 = 0.1;

impl Backend {
    /// A backend of which nothing is known yet.
    pub fn new(
        settings: Settings,
        member: Member,
        origin: Origin,
        health: Health,
        series: Arc<BackendSeries>,
        pool_in_flight: Arc<AtomicUsize>,
    ) -> Self {
        if settings.tls.is_some() {
            super::connect::prepare_tls();
        }
        Self {
            settings,
            member,
            origin,
            health,
            holdoff: Holdoff::default(),
            breakers: Breakers::default(),
            signals: Signals::default(),
            limiter: Limiter::default(),
            series,
            serves: ArcSwap::default(),
            revisions: ArcSwap::default(),
            serves_anew: AtomicBool::new(false),
            asked: tokio::sync::Mutex::default(),
            in_flight: AtomicUsize::new(0),
            pool_in_flight,
            draining: AtomicBool::new(false),
            came_back: AtomicU64::new(0),
            continues_after: AtomicU64::new(0),
            epoch: Instant::now(),
            drawn: AtomicU64::new(0),
            resolved: ArcSwapOption::empty(),
        }
    }

    /// It does not continue what another has begun: it is not asked to for a while.
    pub fn refused_to_continue(&self, now: Instant) {
        self.continues_after.store(self.millis(now + REFUSAL), Ordering::Relaxed);
    }

    /// Whether it may be asked to continue what another has begun.
    pub fn may_continue(&self, now: Instant) -> bool {
        self.millis(now) >= self.continues_after.load(Ordering::Relaxed)
    }

    /// It may have learned to continue, or be asked in another way.
    pub fn forget_refusals(&self) {
        self.continues_after.store(0, Ordering::Relaxed);
    }

    /// Requests it is answering now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// How it stands, for a balancer.
    pub(super) fn candidate(&self, now: Instant) -> Candidate {
        let (elsewhere, cache_used) = self.signals.now(now);
        let (in_flight, capacity) = (self.in_flight(), self.capacity());
        Candidate { weight: self.member.weight, in_flight, capacity, elsewhere, cache_used }
    }

    /// Requests it takes at once now; none: however many.
    pub fn capacity(&self) -> Option<usize> {
        match self.settings.max_in_flight {
            None => None,
            Some(config::MaxInFlight::Fixed(most)) => Some(most as usize),
            Some(config::MaxInFlight::Auto) => Some(self.limiter.limit()),
        }
    }

    /// A first token came after so long, of one of so many requests.
    pub(super) fn answered(&self, time: Duration, among: usize) {
        if self.settings.max_in_flight == Some(config::MaxInFlight::Auto) {
            self.limiter.answered(time, among);
        }
    }

    /// Whether no more requests go there.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// From now on no requests go there, or they do again; whether that is a change.
    pub fn drain(&self, draining: bool) -> bool {
        let changed = self.draining.swap(draining, Ordering::Relaxed) != draining;
        if changed {
            self.series.draining.set(i64::from(draining));
            tracing::info!(backend = &*self.settings.name, draining, "whether a backend is drained");
            if !draining {
                self.is_back();
            }
        }
        changed
    }

    /// It was away and has come back: it gets its share by and by.
    pub fn is_back(&self) {
        self.came_back.store(self.millis(Instant::now()).max(1), Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it gets this request, as one that came back not long ago: more and more often within `slow_start`.
    pub(super) fn is_warmed_up(&self, now: Instant, slow_start: Duration) -> bool {
        let came_back = self.came_back.load(Ordering::Relaxed);
        if came_back == 0 {
            return true;
        }
        let since = now.saturating_duration_since(self.epoch + Duration::from_millis(came_back));
        if since >= slow_start {
            self.came_back.store(0, Ordering::Relaxed);
            return true;
        }
        let share = (since.as_secs_f64() / slow_start.as_secs_f64()).max(LEAST_SHARE);
        // A golden-ratio walk: of every ten requests it gets as many tenths as it should.
        let drawn = self.drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        (drawn as f64) < share * u64::MAX as f64
    }

    /// Takes in what an attempt says about it.
    pub(super) fn judge(&self, model: u64, verdict: Verdict, probing: bool, settings: &config::Breaker) {
        if matches!(verdict, Verdict::Full | Verdict::Silent) {
            self.limiter.refused();
        }
        match self.breakers.judge(model, verdict, probing, settings) {
            None => {}
            Some(Change::Opened(why)) => {
                self.series.opened(why);
                if why != Opened::Probe {
                    tracing::warn!(backend = &*self.settings.name, reason = why.label(), "backend is left alone");
                }
            }
            Some(Change::Closed) => {
                self.is_back();
                tracing::info!(backend = &*self.settings.name, "backend answers again");
            }
        }
    }

    /// Takes a place if there is one.
    pub(super) fn enter(&self) -> bool {
        let max = self.capacity().unwrap_or(usize::MAX);
        let entered = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < max).then_some(now + 1))
            .is_ok();
        if entered {
            self.pool_in_flight.fetch_add(1, Ordering::Relaxed);
            self.series.in_flight.inc();
        }
        entered
    }

    /// Gives a place back.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool_in_flight.fetch_sub(1, Ordering::Relaxed);
        self.series.in_flight.dec();
    }

    /// How it is, for operators.
    pub fn describe(&self) -> serde_json::Value {
        let state = match () {
            () if self.is_draining() => "draining",
            () if !self.health.is_known() => "unknown",
            () if self.health.is_up() => "up",
            () => "down",
        };
        let (breaker, open) = self.breakers.worst();
        let (elsewhere, cache_used) = self.signals.now(Instant::now());
        serde_json::json!({
            "state": state,
            "in_flight": self.in_flight(),
            "max_in_flight": self.capacity(),
            "breaker": breaker.label(),
            "breakers_open": open,
            "elsewhere": elsewhere,
            "cache_used": cache_used,
        })
    }

    /// From now on it serves these models.
    pub fn learn(&self, models: Vec<serde_json::Map<String, serde_json::Value>>) {
        let served = Served::new(models);
        if served.ids != self.serves.load().ids {
            self.serves_anew.store(true, Ordering::Relaxed);
        }
        self.serves.store(Arc::new(served));
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
