//! What goes on beside the requests: the admin listener, the probes, reloads, and the end.

use crate::admin::{self, Doors};
use crate::core::{Core, Stage};
use crate::exchange::renew;
use crate::listeners::Listeners;
use crate::outbound;
use crate::reload::certificates::{self, Certificate};
use crate::reload::{Refused, Reloads, watch};
use crate::service_manager;
use crate::snapshot::Snapshot;
use crate::telemetry::{LogGuard, NO_POOL, ReloadBy, Runtime};
use crate::upgrade::{Predecessor, Succeeded, Upgrades};
use crate::upstream::discovery::{self, Discovery};
use crate::upstream::{Pool, probe};
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::BackgroundService;
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_config::Config;
use tidegate_plugins::records::State;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch::Sender;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// How often the sums of spenders are brought together.
const GATHER: Duration = Duration::from_secs(1);

/// How often the drain looks whether the last request is over.
const LOOK: Duration = Duration::from_millis(20);

/// How long connections get to take their last bytes once the last request is over.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How long the end waits for a collector to take the last traces.
#[cfg(feature = "otlp")]
const LAST_TRACES: Duration = Duration::from_secs(2);

/// How long the end waits for what is still to be written to the store.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// How the process comes to serve.
pub(crate) struct Beginning {
    /// What it listens on, the admin listener's last.
    pub(crate) listeners: Arc<Listeners>,
    /// True once it may.
    pub(crate) may_listen: Sender<bool>,
    /// How the admin listener speaks TLS, if it does.
    pub(crate) admin_tls: Option<TlsAcceptor>,
    /// Who serves until then; taken when the runtime is there.
    pub(crate) predecessor: Mutex<Option<Predecessor>>,
}

/// Everything beside the requests.
pub(crate) struct Life {
    core: Arc<Core>,
    config: Config,
    reloads: Arc<Reloads>,
    certificates: Vec<Arc<Certificate>>,
    beginning: Beginning,
    upgrades: Arc<Upgrades>,
    /// Flushes the log when dropped.
    guard: Mutex<Option<LogGuard>>,
}

impl Life {
    /// The life of the gateway that was started with `config`, and with these certificates.
    pub(crate) fn new(
        core: Arc<Core>,
        config: Config,
        reloads: Arc<Reloads>,
        certificates: Vec<Arc<Certificate>>,
        beginning: Beginning,
        guard: LogGuard,
    ) -> Self {
        let upgrades = Upgrades::new(core.clone(), reloads.clone(), beginning.listeners.clone());
        let guard = Mutex::new(Some(guard));
        Self { core, config, reloads, certificates, beginning, upgrades: Arc::new(upgrades), guard }
    }

    /// Serves at once, or when the process before this one says so.
    async fn begin(&self) {
        let predecessor = self.beginning.predecessor.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(predecessor) = predecessor else {
            self.beginning.may_listen.send_replace(true);
            service_manager::ready("serving");
            return;
        };
        match predecessor.succeed(&self.core, &self.beginning.may_listen).await {
            Ok(Succeeded::Alone) => {}
            Ok(Succeeded::Never) => self.never("the process before this one goes on"),
            Err(error) => self.never(&error.to_string()),
        }
    }

    fn never(&self, reason: &str) -> ! {
        tracing::error!(reason, "this process was to take over, and does not");
        drop(self.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
        std::process::exit(1)
    }

    async fn admin(&self) {
        let mut may = self.beginning.may_listen.subscribe();
        if may.wait_for(|may| *may).await.is_err() {
            return;
        }
        let settings = &self.config.admin;
        let token = settings.token.as_ref().map(|token| token.expose().into());
        let certificates = settings.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let (doors, tls) = (Doors { token, certificates }, self.beginning.admin_tls.clone());
        let api = admin::api::router(self.core.clone(), &self.reloads, &self.upgrades, settings.knows_callers());
        let socket = self.beginning.listeners.copy(self.config.listen.len());
        match socket.and_then(|socket| TcpListener::from_std(socket.into())) {
            Ok(listener) => {
                admin::serve(listener, tls, self.core.clone(), api, doors, self.core.is_handed_over()).await;
            }
            Err(error) => tracing::error!(%error, "the admin listener cannot be used"),
        }
    }

    /// On SIGQUIT another process takes over.
    async fn upgrade(&self) {
        let Ok(mut quit) = signal(SignalKind::quit()) else { return };
        while quit.recv().await.is_some() {
            let upgrades = self.upgrades.clone();
            // What came of it has been told.
            let _ = spawn_blocking(move || upgrades.run()).await;
        }
    }

    /// What budgets spend is handed to the store all along.
    async fn spend(&self) {
        if let Some(spending) = self.core.spending.clone() {
            spending.run().await;
        }
    }

    /// What is used is kept all along, on a thread of its own: to add it up takes a while.
    fn keep(&self) {
        if self.core.keeper.is_none() {
            return;
        }
        let core = self.core.clone();
        let keep = async move {
            if let Some(keeper) = &core.keeper {
                keeper.run().await;
            }
        };
        match outbound::thread("usage", &mut Builder::new_current_thread()) {
            Some(thread) => drop(thread.spawn(keep)),
            None => tracing::error!("no thread can be had to keep usage on: it stays in its journal"),
        }
    }

    /// A file that may not grow is a full disk to whoever writes it, and no reason to end: once somebody listens, the signal
    /// that says so ends nothing.
    fn outlive_full_files() {
        const SIGXFSZ: i32 = 25;
        if let Err(error) = signal(SignalKind::from_raw(SIGXFSZ)) {
            tracing::warn!(%error, "a limit on the size of files will end the gateway");
        }
    }

    /// On SIGHUP the file is read again.
    async fn reload(&self) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        while hangup.recv().await.is_some() {
            let reloads = self.reloads.clone();
            let read = spawn_blocking(move || reloads.read(ReloadBy::Signal)).await;
            if let Ok(Err(Refused::NoFile)) = read {
                tracing::warn!("SIGHUP: there is no file to read again");
            }
        }
    }

    /// Brings together what the threads that answer requests have added up, and forgets who has been idle.
    async fn gather(&self) {
        loop {
            sleep(GATHER).await;
            let shared = self.core.snapshot.load().shared.clone();
            shared.spenders.gather();
            shared.store.tidy();
        }
    }

    /// After another process has taken over nobody is in a hurry: connections that wait for a request are answered once
    /// more, and those that came last may take their time to say something.
    async fn linger(&self, terminate: &mut io::Result<Signal>, interrupt: &mut io::Result<Signal>) {
        let limits = self.core.snapshot.load().limits.clone();
        let least = limits.head_timeout.min(self.config.drain.time);
        let over = async {
            sleep(least).await;
            while self.core.connections.now() > 0 {
                sleep(LOOK).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout(self.config.drain.time, over) => {}
            () = received(terminate) => tracing::info!("SIGTERM: idle connections are closed"),
            () = received(interrupt) => std::process::exit(0),
        }
        self.core.stage.send_replace(Stage::Closing);
    }

    /// Ends the process as soon as the last request is over: Pingora would sleep for the whole drain time.
    async fn end(&self, mut shutdown: ShutdownWatch) {
        // From the beginning, so that none is missed that comes right after another process has taken over.
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        let _ = shutdown.wait_for(|leaving| *leaving).await;
        self.beginning.listeners.close();
        let begun = Instant::now();
        let is_ours = *self.core.stage.borrow() == Stage::Ours;
        if is_ours {
            self.beginning.listeners.remove_files();
        } else {
            self.linger(&mut terminate, &mut interrupt).await;
        }
        // Requests that are on their way to us when the listener closes are still taken.
        sleep(LOOK).await;
        let answered = async {
            while self.core.requests.now() > 0 {
                sleep(LOOK).await;
            }
        };
        let mut answered = pin!(answered);
        let left = self.config.drain.time.saturating_sub(begun.elapsed());
        if tokio::time::timeout(left, &mut answered).await.is_err() {
            tracing::warn!(open = self.core.requests.now(), "the time for draining is over");
            self.core.cut();
            let _ = tokio::time::timeout(LAST_BYTES, answered).await;
        }
        // The last answer is written; HTTP/2 connections still have to send it.
        let closed = async {
            while self.core.connections.now() > 0 {
                sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(LAST_BYTES, closed).await;
        // Nothing is reserved any more: what is spent is exact.
        if let Some(spending) = &self.core.spending {
            spending.write_down();
        }
        if let Some(keeper) = &self.core.keeper
            && !matches!(tokio::time::timeout(LAST_WRITES, keeper.end(LAST_WRITES)).await, Ok(true))
        {
            tracing::warn!("what was used last is not in the store; the next process finds it in the journal");
        }
        if let Some(storage) = &self.core.storage
            && !storage.flush(LAST_WRITES)
        {
            tracing::error!("the store could not be written to the end");
        }
        for file in self.core.snapshot.load().shared.tiers.all() {
            if !file.flush(LAST_WRITES) {
                tracing::warn!("not all answers that were to be kept are in the cache's file");
            }
        }
        #[cfg(feature = "otlp")]
        self.core.traces.flush(LAST_TRACES).await;
        self.write_records();
        tracing::info!("drained");
        drop(self.guard.lock().unwrap_or_else(PoisonError::into_inner).take());
        std::process::exit(0);
    }

    /// Writes the records that wait, in all places at once.
    fn write_records(&self) {
        let sinks = self.core.snapshot.load().shared.records.all();
        sinks.iter().for_each(|sink| sink.close());
        let until = Instant::now() + LAST_WRITES;
        for sink in sinks {
            let State { name, waiting, fault, .. } = sink.flush(until.saturating_duration_since(Instant::now()));
            if waiting > 0 {
                tracing::error!(sink = &*name, records = waiting, fault, "not all records could be written");
            }
        }
    }
}

/// Drops the metrics of routes and backends that are gone.
pub(crate) fn forget(core: &Core, snapshot: &Snapshot) {
    let of_models = snapshot.models.iter().flat_map(|model| {
        let fallbacks = model.fallback.iter().flat_map(|step| &step.serves.targets);
        let pools = model.targets.iter().chain(fallbacks).map(|target| &*target.pool.name);
        pools.chain([NO_POOL]).map(|pool| (&*model.name, pool))
    });
    let other = snapshot.other_paths.iter().map(|other| ("other_paths", &*other.pool.name));
    let routes: Vec<_> = of_models.chain(other).collect();
    let leaving = |pool: &Pool| pool.discovery.as_ref().map(Discovery::leaving).unwrap_or_default();
    let all = |pool: &Arc<Pool>| {
        pool.backends().into_iter().chain(leaving(pool)).map(|one| (pool.clone(), one)).collect::<Vec<_>>()
    };
    let backends: Vec<_> = snapshot.pools.iter().flat_map(all).collect();
    let backends: Vec<_> = backends.iter().map(|(pool, backend)| (&*pool.name, &*backend.settings.name)).collect();
    core.metrics.retain(&routes, &backends);
    let filters: Vec<_> = snapshot.early.iter().chain(&snapshot.late).map(|named| &*named.series.name).collect();
    core.metrics.retain_filters(&filters);
}

#[async_trait]
impl BackgroundService for Life {
    async fn start(&self, shutdown: ShutdownWatch) {
        Self::outlive_full_files();
        self.keep();
        self.core.runtimes.add(Runtime::House, Handle::current());
        let signals = async { tokio::join!(self.begin(), self.reload(), self.upgrade()) };
        let beside = async { tokio::join!(self.admin(), self.gather(), self.spend()) };
        let upstream =
            async { tokio::join!(probe::run(&self.core), discovery::run(&self.core), renew::run(&self.core)) };
        let files =
            async { tokio::join!(watch::run(&self.reloads), certificates::run(&self.certificates, &self.reloads)) };
        tokio::join!(signals, beside, upstream, files, self.end(shutdown));
    }
}

/// SIGTERM ends gracefully, SIGINT at once.
pub(crate) struct Signals {
    core: Arc<Core>,
    delay: Duration,
}

impl Signals {
    /// On SIGTERM, `core` says that it is not ready for `delay` before the listeners close.
    pub(crate) fn new(core: Arc<Core>, delay: Duration) -> Self {
        Self { core, delay }
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
        tokio::select! {
            () = received(&mut terminate) => {
                tracing::info!("SIGTERM: draining");
                service_manager::stopping();
                self.core.drain();
                sleep(self.delay).await;
                ShutdownSignal::GracefulTerminate
            }
            () = received(&mut interrupt) => {
                service_manager::stopping();
                ShutdownSignal::FastShutdown
            }
            () = self.core.is_handed_over() => ShutdownSignal::GracefulTerminate,
        }
    }
}

async fn received(signal: &mut io::Result<Signal>) {
    match signal {
        Ok(signal) => {
            signal.recv().await;
        }
        Err(_) => pending().await,
    }
}
