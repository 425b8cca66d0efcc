//! What all requests share: the current snapshot, connections to backends, counters.

use crate::exchange::budget::Budget;
use crate::exchange::renew::Renewals;
use crate::snapshot::Snapshot;
use crate::storage::Storage;
use crate::storage::spent::Spending;
use crate::telemetry::{Log, Metrics, Recent, Runtimes};
use crate::upstream::Connector;
use crate::usage::{Keeper, Usages};
use arc_swap::ArcSwap;
use governor::{DefaultDirectRateLimiter, Quota};
use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio::sync::watch;

/// Lines a second about what is counted anyway.
const NUISANCES: NonZeroU32 = NonZeroU32::MIN.saturating_add(19);

/// One per process.
pub struct Core {
    /// The current version of everything.
    pub snapshot: ArcSwap<Snapshot>,
    /// Connections to backends.
    pub connector: Connector,
    /// Memory for bodies in flight.
    pub bodies: Arc<Budget>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The log.
    pub log: Log,
    /// The last requests, to be looked at.
    pub recent: Recent,
    /// Where traces go.
    #[cfg(feature = "otlp")]
    pub traces: crate::telemetry::Exporter,
    /// What outlives the process, if the file has a place for it.
    pub storage: Option<Storage>,
    /// Keeps in it what budgets spend.
    pub(crate) spending: Option<Arc<Spending>>,
    /// Where requests say what they have used, if it is kept, and who keeps it.
    pub(crate) usages: Option<Arc<Usages>>,
    pub(crate) keeper: Option<Keeper>,
    /// Requests that are being answered.
    pub requests: Open,
    /// Client connections that are open.
    pub connections: Count,
    /// What a client connection takes of memory, as the last one did.
    pub connection_size: AtomicUsize,
    /// Where tasks run.
    pub runtimes: Runtimes,
    /// How many lines about heads that cannot be read are worth writing: a flood of them says no more than a few.
    pub nuisances: DefaultDirectRateLimiter,
    /// Answers to be fetched for no client.
    pub(crate) renewals: Renewals,
    draining: AtomicBool,
    /// Who serves.
    pub(crate) stage: watch::Sender<Stage>,
}

/// Who serves, this process or the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// This one.
    Ours,
    /// The next. Connections that wait for their next request are still answered, once each: clients do not notice.
    HandedOver,
    /// The next, and connections that wait for a request are closed.
    Closing,
}

impl Core {
    /// A core that serves `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>, metrics: Arc<Metrics>, log: Log) -> Self {
        Self {
            snapshot: ArcSwap::new(snapshot),
            connector: Connector::default(),
            bodies: Arc::default(),
            recent: Recent::default(),
            #[cfg(feature = "otlp")]
            traces: crate::telemetry::Exporter::new(metrics.traced()),
            metrics,
            log,
            storage: None,
            spending: None,
            usages: None,
            keeper: None,
            requests: Open::default(),
            connections: Count::default(),
            connection_size: AtomicUsize::new(0),
            runtimes: Runtimes::default(),
            nuisances: DefaultDirectRateLimiter::direct(Quota::per_second(NUISANCES)),
            renewals: Renewals::default(),
            draining: AtomicBool::new(false),
            stage: watch::Sender::new(Stage::Ours),
        }
    }

    /// What is kept of requests that are over is what the current snapshot says.
    pub(crate) fn follow_requests(&self) {
        let snapshot = self.snapshot.load();
        self.recent.bound(snapshot.recent);
        #[cfg(feature = "otlp")]
        self.traces.adopt(snapshot.traces.clone());
    }

    /// With a store.
    #[must_use]
    pub fn with_storage(self, storage: Option<Storage>) -> Self {
        Self { storage, ..self }
    }

    /// With what keeps the spending of budgets.
    #[must_use]
    pub(crate) fn with_spending(self, spending: Option<Arc<Spending>>) -> Self {
        Self { spending, ..self }
    }

    /// With who keeps usage.
    #[must_use]
    pub(crate) fn with_keeper(self, keeper: Option<Keeper>) -> Self {
        let usages = keeper.as_ref().map(Keeper::usages).cloned();
        Self { usages, keeper, ..self }
    }

    /// From now on `/readyz` says no and connections are closed after the request they carry.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Another process serves from now on. As [`Core::drain`], but whoever is connected is in no hurry.
    pub(crate) fn hand_over(&self) {
        self.drain();
        self.stage.send_replace(Stage::HandedOver);
    }

    /// Returns once connections that wait for a request are to be closed, given that the process is on its way out.
    pub(crate) async fn closes_idle(&self) {
        // It does not fail: the sender is ours.
        let _ = self.stage.subscribe().wait_for(|stage| *stage != Stage::HandedOver).await;
    }

    /// Returns once another process serves.
    pub(crate) async fn is_handed_over(&self) {
        let _ = self.stage.subscribe().wait_for(|stage| *stage != Stage::Ours).await;
    }

    /// The time for draining is over: requests that are still open end now, each with an honest word.
    pub fn cut(&self) {
        self.requests.cut.store(true, Ordering::Relaxed);
        self.requests.wake_all();
    }

    /// Returns once the time for draining is over. Costs one load when polled: [`Core::cut`] wakes whoever waits.
    pub async fn is_cut(&self) {
        let over = |_: &mut Context<'_>| match self.has_cut() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        };
        std::future::poll_fn(over).await;
    }

    /// Whether the time for draining is over.
    pub fn has_cut(&self) -> bool {
        self.requests.cut.load(Ordering::Relaxed)
    }

    /// Whether the process is on its way out.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// Counts what is open.
#[derive(Debug, Default)]
pub struct Count(AtomicUsize);

/// One that is open; dropping it counts it out.
#[derive(Debug)]
pub struct Counted<'a>(&'a Count);

impl Count {
    /// Counts one in if fewer than `limit` are.
    pub fn enter(&self, limit: usize) -> Option<Counted<'_>> {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < limit).then_some(now + 1))
            .is_ok()
            .then(|| Counted(self))
    }

    /// How many are open.
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests that are open, so that all of them can be woken at once.
#[derive(Debug, Default)]
pub struct Open {
    next: AtomicUsize,
    cut: AtomicBool,
    now: Count,
    // In parts, so that requests that begin and end do not wait for each other.
    tasks: [Mutex<HashMap<usize, Waker>>; PARTS],
}

const PARTS: usize = 32;

/// A request that is open; dropping it counts it out.
#[derive(Debug)]
pub struct OpenRequest<'a> {
    open: &'a Open,
    id: usize,
    _counted: Option<Counted<'a>>,
}

impl Open {
    /// Counts the request in that the current task answers.
    pub async fn enter(&self) -> OpenRequest<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let waker = std::future::poll_fn(|context| Poll::Ready(context.waker().clone())).await;
        self.part(id).insert(id, waker);
        OpenRequest { open: self, id, _counted: self.now.enter(usize::MAX) }
    }

    /// How many are open.
    pub fn now(&self) -> usize {
        self.now.now()
    }

    fn wake_all(&self) {
        for part in &self.tasks {
            part.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(Waker::wake_by_ref);
        }
    }

    fn part(&self, id: usize) -> MutexGuard<'_, HashMap<usize, Waker>> {
        self.tasks[id % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        self.open.part(self.id).remove(&self.id);
    }
}
