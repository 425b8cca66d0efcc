//! What the journal of usage tells of itself.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

/// Records by where they went.
pub(crate) const RECORDS: (&str, &str) = (
    "tidegate_usage_records_total",
    "Records of usage by where they went: journal (a killed process does not lose them), memory (it does, there being no \
     journal to write to) or dropped (too much waits for the store).",
);
/// What was written.
pub(crate) const BYTES: (&str, &str) = ("tidegate_usage_bytes_total", "Bytes of records of usage.");
/// What is not in the store yet.
pub(crate) const WAITING: (&str, &str) =
    ("tidegate_usage_waiting_bytes", "Bytes of records of usage that are not in the store yet.");
/// Since when.
pub(crate) const BEHIND: (&str, &str) =
    ("tidegate_usage_behind_seconds", "How long the oldest record of usage that is not in the store has waited.");
/// What went wrong.
pub(crate) const FAILURES: (&str, &str) = (
    "tidegate_usage_failures_total",
    "Times that usage could not be written, by where: journal, store; that of the store is tried again.",
);

const VALID: &str = "the names are valid, each once";

/// The metrics of the journal.
#[derive(Clone)]
pub(crate) struct UsageMetrics {
    families: (IntCounterVec, IntCounterVec),
    pub(super) journal: IntCounter,
    pub(super) memory: IntCounter,
    pub(super) dropped: IntCounter,
    pub(super) bytes: IntCounter,
    pub(super) waiting: IntGauge,
    pub(super) behind: IntGauge,
    pub(super) journal_failed: IntCounter,
    pub(super) store_failed: IntCounter,
}

impl UsageMetrics {
    pub(crate) fn new() -> Self {
        let records = IntCounterVec::new(Opts::new(RECORDS.0, RECORDS.1), &["outcome"]).expect(VALID);
        let failures = IntCounterVec::new(Opts::new(FAILURES.0, FAILURES.1), &["of"]).expect(VALID);
        let gauge = |of: (&str, &str)| IntGauge::new(of.0, of.1).expect(VALID);
        Self {
            journal: records.with_label_values(&["journal"]),
            memory: records.with_label_values(&["memory"]),
            dropped: records.with_label_values(&["dropped"]),
            bytes: IntCounter::new(BYTES.0, BYTES.1).expect(VALID),
            waiting: gauge(WAITING),
            behind: gauge(BEHIND),
            journal_failed: failures.with_label_values(&["journal"]),
            store_failed: failures.with_label_values(&["store"]),
            families: (records, failures),
        }
    }

    /// To be registered, each.
    pub(crate) fn collectors(&self) -> Vec<Box<dyn Collector>> {
        let (records, failures) = self.families.clone();
        let (bytes, waiting, behind) = (self.bytes.clone(), self.waiting.clone(), self.behind.clone());
        vec![Box::new(records), Box::new(failures), Box::new(bytes), Box::new(waiting), Box::new(behind)]
    }
}
