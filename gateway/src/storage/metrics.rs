//! What a store tells of itself.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Whether it can be read and written.
pub(crate) const UP: &str = "tidegate_store_up";
/// What that is.
pub(crate) const UP_HELP: &str = "Whether the store can be read and written (1) or is locked, full or gone (0).";
/// Writes that wait.
pub(crate) const QUEUE: &str = "tidegate_store_queue";
/// What that is.
pub(crate) const QUEUE_HELP: &str = "Writes that wait for the store.";
/// Writes by what became of them.
pub(crate) const WRITES: &str = "tidegate_store_writes_total";
/// What that is.
pub(crate) const WRITES_HELP: &str = "Writes by what became of them: stored, refused (the write itself was wrong), \
     dropped (the queue was full), expired (who waited for it has been told that it failed).";
/// Failures.
pub(crate) const ERRORS: &str = "tidegate_store_errors_total";
/// What that is.
pub(crate) const ERRORS_HELP: &str = "Times that the store could not be opened, read or written; all are tried again.";

const VALID: &str = "the names are valid, each once";

/// The metrics of one store.
#[derive(Clone)]
pub struct StorageMetrics {
    families: (IntGaugeVec, IntGaugeVec, IntCounterVec, IntCounterVec),
    up: IntGauge,
    /// Whether it can be read, and whether it can be written.
    can: Arc<[AtomicBool; 2]>,
    pub(super) queue: IntGauge,
    pub(super) stored: IntCounter,
    pub(super) refused: IntCounter,
    pub(super) dropped: IntCounter,
    pub(super) expired: IntCounter,
    pub(super) errors: IntCounter,
}

impl StorageMetrics {
    pub(crate) fn new(name: &str) -> Self {
        let opts = |name, help: &str| Opts::new(name, help);
        let up = IntGaugeVec::new(opts(UP, UP_HELP), &["store"]).expect(VALID);
        let queue = IntGaugeVec::new(opts(QUEUE, QUEUE_HELP), &["store"]).expect(VALID);
        let writes = IntCounterVec::new(opts(WRITES, WRITES_HELP), &["store", "outcome"]).expect(VALID);
        let errors = IntCounterVec::new(opts(ERRORS, ERRORS_HELP), &["store"]).expect(VALID);
        let outcome = |outcome| writes.with_label_values(&[name, outcome]);
        Self {
            up: up.with_label_values(&[name]),
            can: Arc::default(),
            queue: queue.with_label_values(&[name]),
            stored: outcome("stored"),
            refused: outcome("refused"),
            dropped: outcome("dropped"),
            expired: outcome("expired"),
            errors: errors.with_label_values(&[name]),
            families: (up, queue, writes, errors),
        }
    }

    pub(super) fn can_be_read(&self, can: bool) {
        self.can[0].store(can, Relaxed);
        self.measure();
    }

    pub(super) fn can_be_written(&self, can: bool) {
        self.can[1].store(can, Relaxed);
        self.measure();
    }

    fn measure(&self) {
        self.up.set(i64::from(self.can.iter().all(|can| can.load(Relaxed))));
    }

    /// Writes that are stored, were dropped and were refused, and failures: for stores whose keepers tell it themselves.
    pub(crate) fn totals(&self) -> [u64; 4] {
        [&self.stored, &self.dropped, &self.refused, &self.errors].map(IntCounter::get)
    }

    /// To be registered, each.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let (up, queue, writes, errors) = self.families.clone();
        vec![Box::new(up), Box::new(queue), Box::new(writes), Box::new(errors)]
    }
}

/// A length for a column or a gauge.
pub(super) fn whole(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
