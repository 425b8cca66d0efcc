//! The file as it is written: one strict type a table, from which the schema and the deserializer both come.
//!
//! What can be judged on its own is parsed right here into its meaning (addresses, URLs, durations, header names), so
//! that a fault is found at the value itself; what depends on other parts of the file is left to `resolve`.

mod forms;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub(crate) use forms::{Listeners, Switch, TextOr};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::meant::BackendUrl;
use crate::network::{Clients, Network};
use crate::secret::Secret;
pub(crate) use crate::settings::Hedge;
use crate::settings::{
    AskUsage, Auth, Breaker, Drain, FallbackStep, Health, Hold, Keys, Limits, Log, MaxInFlight, OtherPaths, Prices,
    Queue, QueueForm, Recent, Reload, Resume, Retries, RetriesForm, Signals, Storage, TimeoutOverrides, Timeouts,
    Traces, Upgrade,
};
use crate::units::{self, DurationText};

/// A Tidegate configuration: what clients may ask for, and which servers answer.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Tidegate configuration", extend("required" = ["pools"]))]
pub(crate) struct File {
    /// Where clients connect: an address, or a list of addresses and tables with `address` and `tls`.
    pub(crate) listen: Listeners,
    /// Who may say on whose behalf it connects, by `X-Forwarded-For`, `Forwarded` or the PROXY protocol: networks,
    /// addresses, or `unix`. From anybody else these count for nothing.
    pub(crate) trusted_proxies: Vec<Network>,
    /// Which clients may call, on every listener.
    pub(crate) clients: Clients,
    /// The listener for operators: `/livez`, `/readyz`, `/healthz`, `/metrics`.
    pub(crate) admin: Admin,
    /// What is logged and how.
    pub(crate) log: Log,
    /// Which requests leave a trace, and where that goes. Absent: none does.
    pub(crate) traces: Option<Traces>,
    /// What is kept of the last requests, to be looked at.
    pub(crate) recent: Recent,
    /// What one client, or all together, may take of the gateway itself.
    pub(crate) limits: Limits,
    /// How long each part of an exchange with a backend may take; a pool and a model may each override any of them.
    pub(crate) timeouts: Timeouts,
    /// Which browser apps may call. Absent: none.
    pub(crate) cors: Option<Cors>,
    /// Whether answers carry `x-tidegate-backend`, `-attempts`, `-overhead-ms`, `-queue-ms` where they waited, and `-fallback`, `-pool`, `-model` where another answered.
    pub(crate) answer_headers: bool,
    /// What happens on SIGTERM.
    pub(crate) drain: Drain,
    /// What happens on SIGQUIT, and on `tidegate upgrade`.
    pub(crate) upgrade: Upgrade,
    /// When files are read again by themselves.
    pub(crate) reload: Reload,
    /// Where what must outlive the process is kept. Absent: nothing does.
    pub(crate) storage: Option<Storage>,
    /// What becomes of a `/v1/*` path that the gateway does not know.
    pub(crate) other_paths: OtherPaths,
    /// How keys are kept, wherever they are kept.
    pub(crate) keys: Keys,
    /// Who may: organisations by name, with their teams, users and services. Absent: names of tenants are labels.
    pub(crate) tenants: Option<serde_json::Value>,
    /// Small models that give requests a class, by name. Absent: none.
    pub(crate) classifiers: Option<serde_json::Value>,
    /// What every request runs through, from the first to the last; answers go back the other way. Each is a name, or
    /// a table with the name as its one key and the settings as its value.
    pub(crate) filters: Vec<TextOr<OneFilter>>,
    /// What clients ask for, and who answers: a name, or the beginning of names with `*` behind it; the exact name is
    /// tried first, then the longest beginning. Absent: everything goes to the only pool.
    pub(crate) models: BTreeMap<String, Model>,
    /// The model that a request without one gets. Absent: such a request is refused (400).
    pub(crate) default_model: Option<String>,
    /// What requests cost, for limits and budgets of `cost`.
    pub(crate) prices: Prices,
    /// Groups of backends that can stand in for each other, by name.
    #[schemars(extend("minProperties" = 1))]
    pub(crate) pools: BTreeMap<String, Pool>,
}

impl Default for File {
    fn default() -> Self {
        let listen = Address::Ip(([127, 0, 0, 1], 8080).into());
        Self {
            listen: Listeners(vec![TextOr::Table(Listen::plain(listen))]),
            trusted_proxies: Vec::new(),
            clients: Clients::default(),
            admin: Admin::default(),
            log: Log::default(),
            traces: None,
            recent: Recent::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            cors: None,
            answer_headers: true,
            drain: Drain::default(),
            upgrade: Upgrade::default(),
            reload: Reload::default(),
            storage: None,
            other_paths: OtherPaths::default(),
            keys: Keys::default(),
            tenants: None,
            classifiers: None,
            filters: Vec::new(),
            models: BTreeMap::new(),
            default_model: None,
            prices: Prices::default(),
            pools: BTreeMap::new(),
        }
    }
}

/// An address with what belongs to it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    /// Where: `IP:PORT`, `HOST:PORT` or `unix:PATH`.
    pub(crate) address: Address,
    /// TLS with this certificate. Absent: plain HTTP.
    pub(crate) tls: Option<ListenTls>,
    /// Whether each connection begins with a header of the PROXY protocol (version 1 or 2), which says where the client
    /// is. Only `trusted_proxies` may connect then.
    #[serde(default)]
    pub(crate) proxy_protocol: bool,
    /// Which clients may call on this listener, of those that may call at all.
    #[serde(default, skip_serializing_if = "Clients::is_everybody")]
    pub(crate) clients: Clients,
}

impl Listen {
    /// An address with nothing belonging to it.
    pub(crate) fn plain(address: Address) -> Self {
        Self { address, tls: None, proxy_protocol: false, clients: Clients::default() }
    }
}

/// A certificate and its key.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenTls {
    /// The certificate chain in PEM; relative to the directory of this file.
    pub(crate) cert: PathBuf,
    /// Its private key in PEM; relative to the directory of this file.
    pub(crate) key: PathBuf,
}

/// The listener for operators.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Admin {
    /// Where: `IP:PORT`, `HOST:PORT` or `unix:PATH`.
    pub(crate) listen: Address,
    /// What a caller must send as `Authorization: Bearer`. If `listen` is not loopback there has to be one, or a
    /// `tls.client_ca`.
    pub(crate) token: Option<Secret>,
    /// TLS with this certificate. Absent: plain HTTP.
    pub(crate) tls: Option<AdminTls>,
}

/// The certificate of the listener for operators, and whose certificates it lets in.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminTls {
    /// The certificate chain in PEM; relative to the directory of this file.
    pub(crate) cert: PathBuf,
    /// Its private key in PEM; relative to the directory of this file.
    pub(crate) key: PathBuf,
    /// Who shows a certificate that one of these authorities has signed needs no token: certificates in PEM, relative to
    /// the directory of this file. Absent: nobody is asked for one.
    pub(crate) client_ca: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: Address::Ip(([127, 0, 0, 1], 9090).into()), token: None, tls: None }
    }
}

/// Which browser apps may call.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cors {
    /// Whose pages may call, as browsers spell it: `https://app.example.com`; `"*"` for everybody's.
    #[schemars(length(min = 1))]
    pub(crate) origins: Vec<String>,
    /// Which request headers they may send; `"*"` for whatever the browser asks for.
    #[serde(default = "any_header")]
    pub(crate) headers: Vec<String>,
    /// How long a browser may remember the answer.
    #[serde(default = "one_hour", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub(crate) max_age: Duration,
}

fn any_header() -> Vec<String> {
    vec!["*".to_owned()]
}

fn one_hour() -> Duration {
    Duration::from_secs(3600)
}

/// A filter's name as the one key, its settings as the value.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(crate) struct OneFilter(pub(crate) BTreeMap<String, serde_json::Value>);

/// Who answers for a model: one pool, or several by weight.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Model {
    /// The pool that answers.
    pub(crate) pool: Option<String>,
    /// The model's name in that pool. Absent: the name the client asked for.
    #[serde(rename = "as")]
    pub(crate) as_model: Option<String>,
    /// Several pools by weight, instead of `pool`.
    pub(crate) split: Option<Vec<Share>>,
    /// Whether the answer names the model the client asked for, rather than the one that answered.
    pub(crate) keep_name: bool,
    /// Over those of the pool, which go over those of the file.
    pub(crate) timeouts: TimeoutOverrides,
    /// Who answers when those cannot, one after the other: the name of a pool or of a model, or a table.
    pub(crate) fallback: Vec<TextOr<FallbackStep>>,
    /// When a request would wait longer than this in the queue, it goes to the first fallback that is for `overloaded`.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub(crate) overflow_after: Option<Duration>,
    /// When a second backend is asked because the first is slow. Over that of the pool.
    pub(crate) hedge: Option<Hedge>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            pool: None,
            as_model: None,
            split: None,
            keep_name: true,
            timeouts: TimeoutOverrides::default(),
            fallback: Vec::new(),
            overflow_after: None,
            hedge: None,
        }
    }
}

/// One pool's share of a model's requests.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Share {
    /// The pool that answers.
    pub(crate) pool: String,
    /// The model's name in that pool. Absent: the name the client asked for.
    #[serde(rename = "as")]
    pub(crate) as_model: Option<String>,
    /// The share, relative to the other weights; 0 for none.
    #[serde(default = "one")]
    pub(crate) weight: u32,
}

fn one() -> u32 {
    1
}

/// Backends that can stand in for each other.
#[derive(Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Pool {
    /// How a backend is picked: the name of a balancer, or a table with the name as its one key and the settings as its
    /// value.
    pub(crate) balance: TextOr<OneFilter>,
    /// Over those of the file.
    pub(crate) timeouts: TimeoutOverrides,
    /// How the pool finds out which backends can take requests, or `off`.
    pub(crate) health: Switch<Health>,
    /// When a backend that fails requests is left alone, or `off`.
    pub(crate) breaker: Switch<Breaker>,
    /// How TLS to the backends is verified.
    pub(crate) tls: BackendTls,
    /// HTTP/2 to the backends: with prior knowledge on `http://`, by ALPN on `https://`.
    pub(crate) http2: bool,
    /// How long an idle connection to a backend is kept: less than the backend keeps it (uvicorn: 5s).
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub(crate) idle_connections: Duration,
    /// For backends that take `cache_salt` (vLLM): a secret, from which each tenant's salt is made, so that none can find
    /// out by timing what another has asked. Gateways before the same backends have the same. Absent: requests pass as
    /// they came.
    pub(crate) cache_salt: Option<Secret>,
    /// When a second backend is asked because the first has not sent the first token of a stream. Absent: never.
    pub(crate) hedge: Option<Hedge>,
    /// How much of a stream is held before its client gets any: the head until the first `event`, or everything until
    /// the first with `content`, so that a stream that begins with an error can be tried elsewhere.
    pub(crate) hold: Hold,
    /// Where requests wait while all backends are at their `max_in_flight`, or `off`: then they are refused at once.
    pub(crate) queue: QueueForm,
    /// When a stream breaks after its client has seen a part of it: the rest is asked of another backend, and the client
    /// reads one unbroken stream. Absent: it ends with an error event.
    pub(crate) resume: Option<Resume>,
    /// What is tried again, and how often: a number, or a table.
    pub(crate) retries: RetriesForm,
    /// What is read of the backends' own metrics, so that the load that others put on them counts; or `off`.
    pub(crate) signals: Switch<Signals>,
    /// Whether the backends are asked what a stream has cost where the client did not ask: `auto` (where a limit counts
    /// tokens or money), `ask`, or `off`, for backends that refuse `stream_options`. The client sees nothing of it.
    pub(crate) usage: AskUsage,
    /// The servers: each a URL, `unix:PATH`, or a table with `url` and what belongs to it.
    #[schemars(length(min = 1))]
    pub(crate) backends: Vec<TextOr<Backend>>,
    /// Where to find the servers, instead of `backends`: they may come and go.
    pub(crate) discover: Option<Discover>,
}

/// Where to find the servers of a pool: `dns`, `srv`, or `file`. One that is gone is sent no more requests; those it has
/// end by themselves.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Discover {
    /// Every address (A, AAAA) of this host name is a server: a URL, or a table with `url` and what belongs to it.
    pub(crate) dns: Option<TextOr<Backend>>,
    /// The SRV records of this name say where the servers are, their ports and their weights; of their priorities the
    /// lowest counts that has a server that is up: a URL without a port, or a table with `url` and what belongs to it.
    pub(crate) srv: Option<TextOr<Backend>>,
    /// Who is asked, `ADDRESS` or `ADDRESS:PORT`. Absent: who the system asks.
    pub(crate) server: Option<String>,
    /// A YAML or JSON file with a list of servers, written as under `backends`; relative to the directory of this file.
    pub(crate) file: Option<PathBuf>,
    /// How often the file is looked at, or the name is asked for at most: an answer is good for as long as it says itself,
    /// up to a minute, if that is longer.
    #[serde(default = "five_seconds", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub(crate) every: Duration,
}

fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            balance: TextOr::Text("round_robin".to_owned()),
            timeouts: TimeoutOverrides::default(),
            health: Switch::On(Health::default()),
            breaker: Switch::On(Breaker::default()),
            tls: BackendTls::default(),
            http2: false,
            idle_connections: Duration::from_secs(4),
            cache_salt: None,
            hedge: None,
            hold: Hold::default(),
            queue: QueueForm::On(Queue::default()),
            resume: None,
            retries: RetriesForm(Retries::default()),
            signals: Switch::Off,
            usage: AskUsage::Auto,
            backends: Vec::new(),
            discover: None,
        }
    }
}

/// How TLS to a pool's backends is verified.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct BackendTls {
    /// Trust these certificate authorities (PEM, relative to the directory of this file) instead of the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The name the certificate must be for. Absent: the host of the URL.
    pub(crate) server_name: Option<String>,
    /// Whether the certificate is verified at all.
    pub(crate) verify: bool,
}

impl Default for BackendTls {
    fn default() -> Self {
        Self { ca: None, server_name: None, verify: true }
    }
}

/// One server of a pool.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Backend {
    /// Where it is: `http://HOST:PORT`, `https://HOST/BASE`, or `unix:PATH`; paths of requests go behind it.
    pub(crate) url: BackendUrl,
    /// Its own key, sent with every request and probe.
    pub(crate) key: Option<Secret>,
    /// How it wants its key.
    #[serde(default)]
    pub(crate) auth: Auth,
    /// Headers set on every request to it, over what the client sent.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// Its share of the requests, relative to the others' in the pool; 0 for none.
    #[serde(default = "one")]
    pub(crate) weight: u32,
    /// The most requests at once, or `auto`: as many as it answers without getting slower. Absent: no bound.
    pub(crate) max_in_flight: Option<MaxInFlight>,
    /// Its name in logs, metrics and answer headers. Absent: host and port of its URL.
    pub(crate) name: Option<String>,
}
