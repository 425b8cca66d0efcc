//! The file as it is meant: parsed, defaulted, every name and address resolved. This is what the gateway is built from.
//!
//! Serialized it is such a file again, with all defaults written out and every secret as `***`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde::Serialize;
use serde_yaml::with::singleton_map_recursive;

use crate::address::Address;
use crate::key_path::KeyPath;
use crate::network::{Clients, Network};
use crate::secret::Secret;
use crate::settings::{
    AskUsage, Auth, Breaker, Drain, FallbackOn, Health, Hedge, Hold, Keys, Limits, Log, MaxInFlight, OtherPaths,
    Prices, Queue, Recent, Reload, Resume, Retries, Signals, Storage, TimeoutOverrides, Timeouts, Traces, Upgrade,
};
use crate::show;
use crate::units;

/// Everything one file says.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// Who may say on whose behalf it connects.
    pub trusted_proxies: Vec<Network>,
    /// Which clients may call, on every listener.
    pub clients: Clients,
    /// The listener for operators.
    pub admin: Admin,
    /// What is logged and how.
    pub log: Log,
    /// Which requests leave a trace, and where that goes; `None`: none does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traces: Option<Traces>,
    /// What is kept of the last requests.
    pub recent: Recent,
    /// What clients may take of the gateway itself.
    pub limits: Limits,
    /// For pools and models that do not override them.
    pub timeouts: Timeouts,
    /// Which browser apps may call; `None`: no CORS headers at all.
    pub cors: Option<Cors>,
    /// Whether answers say `x-tidegate-backend`, `-attempts` and `-overhead-ms`.
    pub answer_headers: bool,
    /// What happens on SIGTERM.
    pub drain: Drain,
    /// What happens on SIGQUIT, and on `tidegate upgrade`.
    pub upgrade: Upgrade,
    /// When files are read again by themselves.
    pub reload: Reload,
    /// Where what must outlive the process is kept; its directory is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// What becomes of unknown `/v1/*` paths.
    pub other_paths: OtherPaths,
    /// How keys are kept.
    pub keys: Keys,
    /// Who may, as the file writes it: what it means is known to those who know filters.
    #[serde(serialize_with = "show::section", skip_serializing_if = "Option::is_none")]
    pub tenants: Option<serde_json::Value>,
    /// What gives requests a class, as the file writes it: what it means is known to those who know filters.
    #[serde(serialize_with = "show::section", skip_serializing_if = "Option::is_none")]
    pub classifiers: Option<serde_json::Value>,
    /// The filters, in the order of the file.
    #[serde(serialize_with = "show::filters")]
    pub filters: Vec<FilterEntry>,
    /// The models, in the order of the file; at least one.
    #[serde(serialize_with = "show::models")]
    pub models: Vec<Model>,
    /// The model of a request that names none; `None`: such a request is refused.
    pub default_model: Option<String>,
    /// What requests cost.
    pub prices: Prices,
    /// The pools, in the order of the file; at least one.
    #[serde(serialize_with = "show::pools")]
    pub pools: Vec<Pool>,
    /// The directory of the file: relative paths in it (also those in filters' settings) start here.
    #[serde(skip)]
    pub directory: PathBuf,
}

impl Config {
    /// The pool of this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The model that answers to `name`: an exact name before any wildcard, then the longest wildcard.
    pub fn model(&self, name: &str) -> Option<&Model> {
        let rank = |model: &&Model| match &model.pattern {
            Pattern::Exact(_) => usize::MAX,
            Pattern::Prefix(prefix) => prefix.len(),
        };
        self.models.iter().filter(|model| model.pattern.matches(name)).max_by_key(rank)
    }

    /// The whole configuration as YAML, defaults written out, secrets as `***`.
    pub fn masked_yaml(&self) -> String {
        let mut text = Vec::new();
        // `{ pool: NAME }` rather than the tag `!pool NAME`, as the file writes it.
        let shown = singleton_map_recursive::serialize(self, &mut serde_yaml::Serializer::new(&mut text));
        match shown {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# cannot be shown: {error}\n"),
        }
    }
}

/// One address clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listen {
    /// Where.
    pub address: Address,
    /// `None`: plain HTTP/1.1 and h2c; otherwise TLS with HTTP/2 and HTTP/1.1 by ALPN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenTls>,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Which clients may call here, of those that may call at all.
    #[serde(skip_serializing_if = "Clients::is_everybody")]
    pub clients: Clients,
    /// Where the file says so, for faults found later (an address in use).
    #[serde(skip)]
    pub path: KeyPath,
}

/// The certificate of a listener; both files were readable when the configuration was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ListenTls {
    /// The certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The listener for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Admin {
    /// Where; loopback, or there is a token, or a `client_ca`.
    pub listen: Address,
    /// What a caller must send as `Authorization: Bearer`.
    pub token: Option<Secret>,
    /// `None`: plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<AdminTls>,
}

/// The certificate of the listener for operators, and whose certificates it lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AdminTls {
    /// What it shows.
    #[serde(flatten)]
    pub shown: ListenTls,
    /// Who has signed the certificates of callers that need no token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<PathBuf>,
}

impl Admin {
    /// Whether it tells callers apart from those who are merely on the same machine.
    pub fn knows_callers(&self) -> bool {
        self.token.is_some() || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }
}

/// Which browser apps may call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cors {
    /// Whose pages may call.
    #[serde(serialize_with = "show::origins")]
    pub origins: Origins,
    /// Which request headers they may send.
    #[serde(serialize_with = "show::allowed_headers")]
    pub headers: AllowedHeaders,
    /// How long a browser may remember the answer.
    #[serde(with = "units::duration")]
    pub max_age: Duration,
}

/// Whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Everybody's: `*`.
    Any,
    /// Those of these origins, as browsers spell them: `https://app.example.com`.
    These(Vec<String>),
}

/// Which request headers a page may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedHeaders {
    /// Whatever the browser asks for: `*`.
    Asked,
    /// These.
    These(Vec<HeaderName>),
}

/// One filter as the file names it; what its settings mean is the filter's own business.
#[derive(Clone, Debug, PartialEq)]
pub struct FilterEntry {
    /// The filter's name.
    pub name: String,
    /// Its settings; an empty object if the file gives none.
    pub settings: serde_json::Value,
    /// Where its settings stand in the file: a fault inside them is at `path` plus the path inside.
    pub path: KeyPath,
}

/// What clients ask for, and who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The names it answers to.
    pub pattern: Pattern,
    /// Who answers; at least one, and the weights are not all 0.
    pub targets: Vec<Target>,
    /// Whether the answer names the model the client asked for, rather than the one that answered.
    pub keep_name: bool,
    /// Over those of the target's pool, over those of the file.
    pub timeouts: TimeoutOverrides,
    /// Who answers when those cannot, in this order.
    pub fallback: Vec<Fallback>,
    /// How long a queue may be before the first fallback for it is taken.
    pub overflow_after: Option<Duration>,
    /// When a second backend is asked; over that of the pool.
    pub hedge: Option<Hedge>,
    /// Where it stands in the file; the root for the implied `"*"`.
    pub path: KeyPath,
}

/// Which names a model answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// This one.
    Exact(String),
    /// All that begin like this: the part before `*`.
    Prefix(String),
}

impl Pattern {
    /// Whether a request for `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix),
        }
    }
}

/// `llama-3.1-8b` or `qwen*`, as the file writes it.
impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
        }
    }
}

/// Who answers for a model when those before cannot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fallback {
    /// Who.
    #[serde(flatten)]
    pub to: FallbackTo,
    /// After what.
    pub on: Vec<FallbackOn>,
    /// How long it may take to begin its answer; `None`: as its pool says.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
    /// Where it stands in the file.
    #[serde(skip)]
    pub path: KeyPath,
}

impl Fallback {
    /// The pool that it is, if it is one.
    pub fn pool(&self) -> Option<&str> {
        match &self.to {
            FallbackTo::Pool { pool, .. } => Some(pool),
            FallbackTo::Model { .. } => None,
        }
    }
}

/// Who a fallback is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FallbackTo {
    /// A pool that exists.
    Pool {
        /// Its name.
        pool: String,
        /// The model's name there; `None`: the one the client asked for.
        #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
        as_model: Option<String>,
    },
    /// A model that somebody answers for.
    Model {
        /// Its name.
        model: String,
    },
}

/// One of those who answer for a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The name of a pool that exists.
    pub pool: String,
    /// The model's name there; `None`: the one the client asked for.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub as_model: Option<String>,
    /// Its share, relative to the other targets' weights; 0 for none.
    pub weight: u32,
}

/// A balancer as the file names it; what its settings mean is its own business.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// Its name.
    pub name: String,
    /// Its settings; an empty object if the file gives none.
    pub settings: serde_json::Value,
    /// Where its settings stand in the file.
    pub path: KeyPath,
}

/// Backends that can stand in for each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// The balancer that picks one.
    pub balance: Balance,
    /// Over those of the file.
    #[serde(skip_serializing_if = "TimeoutOverrides::is_empty")]
    pub timeouts: TimeoutOverrides,
    /// `None`: no probes.
    #[serde(serialize_with = "show::or_off")]
    pub health: Option<Health>,
    /// `None`: no backend is left alone for what it does to requests.
    #[serde(serialize_with = "show::or_off")]
    pub breaker: Option<Breaker>,
    /// How TLS to the backends is verified.
    pub tls: BackendTls,
    /// HTTP/2 to the backends: with prior knowledge on `http://`, by ALPN on `https://`.
    pub http2: bool,
    /// How long an idle connection to a backend is kept.
    #[serde(with = "units::duration")]
    pub idle_connections: Duration,
    /// What tenants' salts are made from; none: requests are not salted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<Secret>,
    /// When a second backend is asked; `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedge: Option<Hedge>,
    /// How much of a stream is held before its client gets any.
    pub hold: Hold,
    /// Where requests wait while all backends are full; `None`: they are refused at once.
    #[serde(serialize_with = "show::or_off")]
    pub queue: Option<Queue>,
    /// When the rest of a stream that broke is asked of another backend; `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
    /// What is tried again, and how often.
    pub retries: Retries,
    /// `None`: the backends' own metrics are not read.
    #[serde(serialize_with = "show::or_off")]
    pub signals: Option<Signals>,
    /// Whether its backends are asked what a stream has cost where the client did not ask.
    pub usage: AskUsage,
    /// At least one, unless they are discovered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// Where to find them instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discover: Option<Discover>,
    /// Where it stands in the file.
    #[serde(skip)]
    pub path: KeyPath,
}

/// Where the backends of a pool are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Discover {
    /// Where.
    #[serde(flatten)]
    pub from: Discovered,
    /// Who is asked for names; `None`: who the system asks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<SocketAddr>,
    /// How often it is looked, at most.
    #[serde(with = "units::duration")]
    pub every: Duration,
}

/// Where backends come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovered {
    /// Every address of its host name is such a backend.
    Dns(Box<Backend>),
    /// Whatever the SRV records of its host name tell of is such a backend.
    Srv(Box<Backend>),
    /// This file has a list of them.
    File(PathBuf),
}

/// How TLS to a pool's backends is verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendTls {
    /// Trust these certificate authorities (PEM) instead of the system's; readable when the configuration was loaded.
    pub ca: Option<PathBuf>,
    /// The name the certificate must be for; `None`: the host of the URL.
    pub server_name: Option<String>,
    /// Whether the certificate is verified at all.
    pub verify: bool,
}

/// One server of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its name in logs, metrics and answer headers; unique in its pool.
    pub name: String,
    /// Where it is.
    pub url: BackendUrl,
    /// Its own key, sent with every request and probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// How it wants its key.
    pub auth: Auth,
    /// Headers that are set on every request to it, over what the client sent.
    #[serde(serialize_with = "show::headers", skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its share of the requests, relative to the others' in the pool; 0 for none.
    pub weight: u32,
    /// The most requests at once; `None`: no bound.
    pub max_in_flight: Option<MaxInFlight>,
    /// Where it stands in the file.
    #[serde(skip)]
    pub path: KeyPath,
}

/// The parts of a backend's URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendUrl {
    /// Whether it is spoken to over TLS (`https://`).
    pub tls: bool,
    /// Where to connect; the port is the scheme's own if the URL has none.
    pub address: Address,
    /// What goes into `Host` / `:authority`: as the URL says, `localhost` for a Unix socket.
    pub authority: String,
    /// What goes before every path, without a slash at its end: empty or `/base`.
    pub base_path: String,
}

/// As the file writes it: `https://api.example.com/base`, `unix:/run/vllm.sock`.
impl std::fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.address {
            Address::Unix(_) => self.address.fmt(f),
            _ => write!(f, "{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.base_path),
        }
    }
}

impl Serialize for BackendUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
