//! A gateway, from its configuration to the end of its process.

use crate::admin;
use crate::assemble::{self, Parts};
use crate::core::Core;
use crate::downstream::proxy_protocol::BeforeTls;
use crate::life::{self, Beginning, Signals};
use crate::listeners::{self, Listeners, Listening, Named};
use crate::networks::Lists;
use crate::reload::Reloads;
use crate::reload::certificates::Certificate;
use crate::server::{Listener, Server};
use crate::storage::spent::Spending;
use crate::storage::{self, Storage};
use crate::telemetry::{Format, Log, Metrics};
use crate::upgrade::Predecessor;
use crate::usage::Keeper;
use pingora::listeners::tls::TlsSettings;
use pingora::listeners::{L4BufferSettings, ListenerConfig};
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, Server as PingoraServer};
use pingora::services::background::background_service;
use pingora::services::listening::Service;
use prometheus::core::Collector;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_config::{
    self as config, Address, Admin, Config, Faults, Listen, Loaded, LogFormat, Positions, ProcessEnvironment, Source,
};
use tidegate_plugins::Registry;
use tidegate_plugins::filter::Plugin;
use tidegate_plugins::keys::{KeyMetrics, ManagedKeys};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// A gateway that is not running yet.
pub struct Gateway {
    config: Config,
    positions: Option<Positions>,
    file: Option<PathBuf>,
    registry: Registry,
}

/// Why a gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be meant.
    #[error("{0}")]
    Faults(Faults),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Which.
        address: String,
        /// Why not, and what to do.
        reason: String,
    },
    /// The process before this one has not handed over what it listens on.
    #[error("the process before this one hands nothing over: {0}")]
    Predecessor(std::io::Error),
    /// There can be no thread for the store.
    #[error("the store cannot be opened: {0}")]
    Storage(std::io::Error),
    /// Pingora refuses a certificate.
    #[error("the certificate for {address} cannot be used: {reason}")]
    Certificate {
        /// For which listener.
        address: String,
        /// Why not.
        reason: String,
    },
}

impl Gateway {
    /// A gateway with the built-in filters.
    pub fn new(config: Config) -> Self {
        Self { config, positions: None, file: None, registry: Registry::built_in() }
    }

    /// A gateway from what was loaded, so that faults found later point into the file. SIGHUP reads `file` again.
    pub fn from_loaded(loaded: Loaded, file: impl Into<PathBuf>) -> Self {
        let (positions, file) = (Some(loaded.positions), Some(file.into()));
        Self { config: loaded.config, positions, file, registry: Registry::built_in() }
    }

    /// A gateway from a file. SIGHUP reads it again.
    ///
    /// # Errors
    /// All faults in the file.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Faults> {
        let path = path.as_ref();
        let loaded = config::load(&Source::read(path)?, &ProcessEnvironment)?;
        Ok(Self::from_loaded(loaded, path))
    }

    /// Adds a filter of your own.
    #[must_use]
    pub fn with<P: Plugin>(mut self) -> Self {
        self.registry = self.registry.with::<P>();
        self
    }

    /// Runs until a signal ends it. Owns its threads: not to be called from within an async runtime.
    ///
    /// # Errors
    /// Why it cannot start. Once it runs, nothing ends it but a signal.
    pub fn run(self) -> Result<(), RunError> {
        let inherited = Predecessor::inherit().map_err(RunError::Predecessor)?;
        let (predecessor, sockets) = inherited.unzip();
        let refusal = predecessor.as_ref().map(Predecessor::refusal).transpose().map_err(RunError::Predecessor)?;
        let ran = self.serve(predecessor, sockets.unwrap_or_default());
        if let (Err(error), Some(refusal)) = (&ran, refusal) {
            refusal.say(&error.to_string());
        }
        ran
    }

    fn serve(self, predecessor: Option<Predecessor>, sockets: Vec<Named>) -> Result<(), RunError> {
        let metrics = Arc::new(Metrics::new());
        let parts = Parts { registry: &self.registry, metrics: &metrics, previous: None };
        let snapshot = assemble::assemble(&self.config, &parts).map_err(|faults| self.placed(faults))?;
        let addresses = self.config.listen.iter().map(|listen| &listen.address).chain([&self.config.admin.listen]);
        let listeners = Arc::new(Listeners::open(addresses, sockets)?);
        let format = match self.config.log.format {
            LogFormat::Json => Format::Json,
            LogFormat::Human => Format::Human,
            LogFormat::Auto => Format::for_stdout(),
        };
        let dropped = metrics.log_lines_dropped_total.clone();
        let left_out = metrics.log_requests_left_out_total.clone();
        let (log, guard) = Log::start(format, self.config.log.level.as_str(), dropped, left_out);
        open_files();
        log.set_sample(self.config.log.sample.as_ref());
        log.set_metadata(&self.config.log.metadata);
        metrics.config_loaded(&snapshot.hash);
        if let Some(predecessor) = &predecessor {
            predecessor.go_on(&metrics, &log);
        }
        let keys = &snapshot.shared.managed_keys;
        let storage = self.config.storage.as_ref().map(|storage| open(&storage.path, &metrics, keys)).transpose()?;
        let shared = predecessor.is_some();
        let begin = |storage: &Storage| Spending::begin(storage.clone(), snapshot.shared.store.clone(), shared);
        let spending = storage.as_ref().map(begin).map(Arc::new);
        if spending.is_none() && snapshot.shared.store.has_budgets() {
            tracing::warn!("budgets begin anew with each start: there is no `storage` to keep what is spent");
        }
        let keeper = storage.clone().zip(self.config.storage.as_ref());
        let keeper = keeper.map(|(storage, config)| Keeper::begin(storage, &config.path, &config.usage));
        measure(&metrics, keeper.iter().flat_map(|keeper| keeper.metrics().collectors()));
        let core = Core::new(Arc::new(snapshot), metrics, log).with_storage(storage).with_spending(spending);
        let core = core.with_keeper(keeper);
        let core = Arc::new(core);
        core.snapshot.load().own.serve(&core);
        core.follow_requests();
        let mut certificates = Vec::new();
        let may_listen = watch::Sender::new(false);
        let services = services(&core, &self.config.listen, &listeners, &may_listen, &mut certificates)?;
        let admin_tls = admin_tls(&self.config.admin, &core.metrics, &mut certificates)?;
        let (config, file, registry) = (self.config, self.file, self.registry);
        let drain = config.drain;
        let reloads = Arc::new(Reloads::new(core.clone(), config.clone(), file, registry));
        let predecessor = Mutex::new(predecessor);
        let beginning = Beginning { listeners: listeners.clone(), may_listen, admin_tls, predecessor };
        let life = life::Life::new(core.clone(), config, reloads, certificates, beginning, guard);
        let mut server = PingoraServer::new_with_opt_and_conf(None, configuration(drain.time.as_secs()));
        for service in services {
            server.add_service(service);
        }
        server.add_service(background_service("house", life));
        server.run(RunArgs { shutdown_signal: Box::new(Signals::new(core.clone(), drain.delay)) });
        // Here only on SIGINT: whoever drains ends in `life`.
        if !core.is_draining() {
            listeners.remove_files();
        }
        Ok(())
    }

    fn placed(&self, mut faults: Vec<config::Fault>) -> RunError {
        if let Some(positions) = &self.positions {
            faults = assemble::place(faults, positions);
        }
        RunError::Faults(Faults(faults))
    }
}

/// Takes as many open files as may be had: a request is two of them, and shells begin with 1,024.
fn open_files() {
    let may = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: may.maximum, ..may }) {
        tracing::warn!(%error, files = ?may.current, "no more files than these may be open");
    }
}

/// How long the start waits for the keys to be read. After that it goes on without: they are read when the store is back.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Opens the store, and has the managed keys follow it; should it be away, it is opened when it is back.
fn open(path: &Path, metrics: &Metrics, keys: &Arc<ManagedKeys>) -> Result<Storage, RunError> {
    let storage = Storage::open(storage::Options::main(path.to_owned())).map_err(RunError::Storage)?;
    let keys_metrics = KeyMetrics::new(keys.clone()).map(|keys| -> Box<dyn Collector> { Box::new(keys) });
    measure(metrics, storage.metrics().collectors().into_iter().chain(keys_metrics));
    let keys = keys.clone();
    storage.watch(move |connection| storage::keys::all(connection).map(|records| keys.replace(records)));
    storage.seen(FIRST_LOOK);
    Ok(storage)
}

fn measure(metrics: &Metrics, collectors: impl Iterator<Item = Box<dyn Collector>>) {
    for collector in collectors {
        if let Err(error) = metrics.also(collector) {
            tracing::error!(%error, "the store is not measured");
        }
    }
}

fn configuration(drain: u64) -> ServerConf {
    ServerConf {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        // Pingora sleeps for all of it. `life` ends the process as soon as the last request does, or a moment after the
        // time for draining is over.
        grace_period_seconds: Some(drain + 5),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

/// A service for each kind of listener: Pingora tells an application whose connection it gets, not through which
/// listener. Mostly all are alike; each further kind costs threads of its own, which sleep while nothing comes.
fn services(
    core: &Arc<Core>,
    all: &[Listen],
    listeners: &Listeners,
    may_listen: &watch::Sender<bool>,
    certificates: &mut Vec<Arc<Certificate>>,
) -> Result<Vec<Listening<Service<Server>>>, RunError> {
    let mut kinds: Vec<(Listener, Service<Server>, Vec<Named>)> = Vec::new();
    for (place, listen) in all.iter().enumerate() {
        let socket = listeners.copy(place).map_err(|error| listeners::refused(&listen.address, &error))?;
        let (proxy_protocol, clients) = (listen.proxy_protocol, Arc::new(Lists::new(&listen.clients)));
        let kind = Listener { proxy_protocol, clients };
        let at = kinds.iter().position(|(known, ..)| *known == kind).unwrap_or_else(|| {
            let mut service = Service::new("tidegate".to_owned(), Server::new(core.clone(), kind.clone()));
            if proxy_protocol {
                service.endpoints().set_pre_tls_callback(Arc::new(BeforeTls(core.clone())));
            }
            kinds.push((kind, service, Vec::new()));
            kinds.len() - 1
        });
        // What Pingora knows it by; it never looks for it there.
        let name = match &listen.address {
            Address::Unix(path) => path.to_string_lossy().into_owned(),
            Address::Ip(_) | Address::Name { .. } => format!("{}#{place}", listen.address),
        };
        certificates.extend(add_listener(&mut kinds[at].1, listen, &name, &core.metrics)?);
        kinds[at].2.push((name, socket));
    }
    let listening = |(_, service, sockets)| Listening::new(service, sockets, may_listen.subscribe());
    Ok(kinds.into_iter().map(listening).collect())
}

/// How the admin listener speaks TLS, if it does.
fn admin_tls(
    admin: &Admin,
    metrics: &Arc<Metrics>,
    certificates: &mut Vec<Arc<Certificate>>,
) -> Result<Option<TlsAcceptor>, RunError> {
    let Some(tls) = &admin.tls else { return Ok(None) };
    let address = admin.listen.to_string();
    let shown = Certificate::new(&address, &tls.shown, metrics).map(Arc::new);
    let acceptor = shown.and_then(|shown| {
        certificates.push(shown.clone());
        admin::tls::acceptor(shown, tls.client_ca.as_deref())
    });
    acceptor.map(Some).map_err(|reason| RunError::Certificate { address, reason })
}

/// Gives the listener's certificate, if it has one.
fn add_listener(
    service: &mut Service<Server>,
    listen: &Listen,
    name: &str,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<Certificate>>, RunError> {
    let address = listen.address.to_string();
    // Who reads from a connection has a buffer already.
    let unbuffered = L4BufferSettings::unbuffered();
    let (listener, certificate) = match (&listen.address, &listen.tls) {
        (Address::Unix(_), _) => (ListenerConfig::uds(name).l4_buffer(unbuffered), None),
        (_, None) => (ListenerConfig::tcp(name).l4_buffer(unbuffered), None),
        (_, Some(tls)) => {
            let refuse = |reason: String| RunError::Certificate { address: address.clone(), reason };
            let certificate = Arc::new(Certificate::new(&address, tls, metrics).map_err(refuse)?);
            let settings = TlsSettings::intermediate(&tls.cert.to_string_lossy(), &tls.key.to_string_lossy());
            let mut settings = settings.map_err(|error| refuse(error.to_string()))?;
            settings.set_cert_resolver(certificate.clone());
            settings.enable_h2();
            // TLS reads 4 KiB at a time.
            (ListenerConfig::tcp(name).tls(settings).l4_buffer(unbuffered.read(16 << 10)), Some(certificate))
        }
    };
    service.add_listener(listener);
    Ok(certificate)
}
