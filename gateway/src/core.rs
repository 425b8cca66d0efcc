//! What all requests share: the current snapshot, connections to backends, counters.

use crate::exchange::budget::Budget;
use crate::snapshot::Snapshot;
use crate::telemetry::{Log, Metrics};
use crate::upstream::Connector;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    /// Requests that are being answered.
    pub requests: Count,
    /// Client connections that are open.
    pub connections: Count,
    draining: AtomicBool,
}

impl Core {
    /// A core that serves `snapshot`.
    pub fn new(snapshot: Arc<Snapshot>, metrics: Arc<Metrics>, log: Log) -> Self {
        Self {
            snapshot: ArcSwap::new(snapshot),
            connector: Connector::default(),
            bodies: Arc::default(),
            metrics,
            log,
            requests: Count::default(),
            connections: Count::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on `/readyz` says no and connections are closed after the request they carry.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
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
