//! What shared flights and idempotency keys did, for `/metrics`: read when somebody scrapes.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGauge, Opts};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// The counter of what requests had to do with flights, and what it counts.
pub const FLIGHTS: (&str, &str) = (
    "tidegate_flight_requests_total",
    "Requests that could share an answer: led (asked the backend), followed (got the answer of one that did), took_over \
     (led after another had failed), alone (came too late, or could not be told in the form it asked for), failed (led, and \
     had no whole answer for others).",
);
/// The gauge of those who wait for another's answer.
pub const WAITING: (&str, &str) = (
    "tidegate_flight_waiting",
    "Requests that wait for an answer that another has asked for: for its beginning, or for all of it where they want it \
     in one piece.",
);
/// The counter of what became of requests with an idempotency key.
pub const KEYS: (&str, &str) = (
    "tidegate_idempotency_requests_total",
    "Requests with an Idempotency-Key: executed, replayed, joined (waited for the one under way), refused (409), mismatched \
     (422), malformed (400), unkept (their answer was not one to keep, or too large), evicted (kept for less than their \
     time, for want of memory).",
);
/// The gauge of what is kept for idempotency keys.
pub const KEPT: (&str, &str) = ("tidegate_idempotency_bytes", "Memory held by answers kept for idempotency keys.");

/// What requests had to do with flights.
#[derive(Debug, Default)]
pub struct FlightCounts {
    pub(crate) led: AtomicU64,
    pub(crate) followed: AtomicU64,
    pub(crate) took_over: AtomicU64,
    pub(crate) alone: AtomicU64,
    pub(crate) failed: AtomicU64,
    /// Bytes of the recordings there are.
    pub(crate) recorded: Arc<AtomicU64>,
    pub(crate) waiting: AtomicU64,
}

/// One that waits, for as long as this lives.
pub(crate) struct Waits(Arc<Counts>);

impl Waits {
    pub(crate) fn new(counts: &Arc<Counts>) -> Self {
        count(&counts.flights.waiting);
        Self(counts.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.flights.waiting.fetch_sub(1, Relaxed);
    }
}

/// What became of requests with an idempotency key.
#[derive(Debug, Default)]
pub struct KeyCounts {
    pub(crate) executed: AtomicU64,
    pub(crate) replayed: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) mismatched: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) unkept: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// All of it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Of flights.
    pub flights: FlightCounts,
    /// Of idempotency keys.
    pub keys: KeyCounts,
}

impl Counts {
    /// Bytes of the answers that several requests share now.
    pub fn recorded(&self) -> u64 {
        self.flights.recorded.load(Relaxed)
    }
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Collects from [`Counts`].
pub struct FlightMetrics {
    counts: Arc<Counts>,
    flights: IntCounterVec,
    waiting: IntGauge,
    keys: IntCounterVec,
    kept: IntGauge,
    /// Two scrapes at a time would add up.
    scrape: Mutex<()>,
}

impl FlightMetrics {
    /// Collects from `counts`. To be registered once.
    ///
    /// # Errors
    /// Never, unless the names are none.
    pub fn new(counts: Arc<Counts>) -> prometheus::Result<Self> {
        Ok(Self {
            counts,
            flights: IntCounterVec::new(Opts::new(FLIGHTS.0, FLIGHTS.1), &["outcome"])?,
            waiting: IntGauge::new(WAITING.0, WAITING.1)?,
            keys: IntCounterVec::new(Opts::new(KEYS.0, KEYS.1), &["outcome"])?,
            kept: IntGauge::new(KEPT.0, KEPT.1)?,
            scrape: Mutex::default(),
        })
    }
}

impl Collector for FlightMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.flights.desc(), self.waiting.desc(), self.keys.desc(), self.kept.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        let Counts { flights, keys } = &*self.counts;
        let of_flights = [
            ("led", &flights.led),
            ("followed", &flights.followed),
            ("took_over", &flights.took_over),
            ("alone", &flights.alone),
            ("failed", &flights.failed),
        ];
        let of_keys = [
            ("executed", &keys.executed),
            ("replayed", &keys.replayed),
            ("joined", &keys.joined),
            ("refused", &keys.refused),
            ("mismatched", &keys.mismatched),
            ("malformed", &keys.malformed),
            ("unkept", &keys.unkept),
            ("evicted", &keys.evicted),
        ];
        let fill = |family: &IntCounterVec, counters: &[(&str, &AtomicU64)]| {
            family.reset();
            for (outcome, counter) in counters {
                family.with_label_values(&[*outcome]).inc_by(counter.load(Relaxed));
            }
        };
        fill(&self.flights, &of_flights);
        fill(&self.keys, &of_keys);
        let whole = |count: &AtomicU64| i64::try_from(count.load(Relaxed)).unwrap_or(i64::MAX);
        self.waiting.set(whole(&flights.waiting));
        self.kept.set(whole(&keys.bytes));
        [self.flights.collect(), self.waiting.collect(), self.keys.collect(), self.kept.collect()].concat()
    }
}
