//! What the cache did, for `/metrics`. Labels are the entries of the file's `models` and words of ours.

use super::memory::Caches;
use super::tier::{TierCounts, Tiers};
use crate::prices::{NANOS, Price};
use crate::usage::Usage;
use moka::notification::RemovalCause;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec, IntGauge, Opts};
use std::sync::{Arc, Mutex, PoisonError};

/// The metrics: name, labels, help.
pub const REQUESTS: (&str, &[&str], &str) = (
    "tidegate_cache_requests_total",
    &["route", "outcome"],
    "Requests that met the cache: hit, stale (given although its time was over), partial (some inputs of an embedding), \
     miss, bypass.",
);
/// Why requests were not for the cache.
pub const BYPASSES: (&str, &[&str], &str) =
    ("tidegate_cache_bypasses_total", &["reason"], "Requests that the cache had nothing to do with, by why.");
/// Answers kept.
pub const STORES: (&str, &[&str], &str) =
    ("tidegate_cache_stores_total", &["route"], "Answers that were kept; of embeddings, each input.");
/// Answers not kept.
pub const UNSTORED: (&str, &[&str], &str) =
    ("tidegate_cache_unstored_total", &["reason"], "Answers that were fetched and not kept, by why.");
/// Answers that have gone.
pub const EVICTIONS: (&str, &[&str], &str) = (
    "tidegate_cache_evictions_total",
    &["cause"],
    "Kept answers that have gone: expired, size (there was no more room), purged.",
);
/// Memory.
pub const BYTES: (&str, &[&str], &str) =
    ("tidegate_cache_bytes", &[], "Memory that kept answers take, what it costs to keep them included.");
/// Answers there are.
pub const ENTRIES: (&str, &[&str], &str) = ("tidegate_cache_entries", &[], "Answers that are kept.");
/// What was not paid for.
pub const SAVED: (&str, &[&str], &str) = (
    "tidegate_cache_saved_tokens_total",
    &["route", "gen_ai_token_type"],
    "Tokens of answers that were given again, and so were not computed.",
);

/// What was not paid for, in money.
pub const SAVED_COST: (&str, &[&str], &str) = (
    "tidegate_cache_saved_cost_total",
    &["route"],
    "What answers that were given again would have cost, by the file's prices, in their currency.",
);
/// Looks into files.
pub const FILE_READS: (&str, &[&str], &str) = (
    "tidegate_cache_file_reads_total",
    &["outcome"],
    "Answers looked for in a file: hit, miss, late (the file did not say so in time), unreadable (not what was written).",
);
/// Writes to files.
pub const FILE_WRITES: (&str, &[&str], &str) = (
    "tidegate_cache_file_writes_total",
    &["outcome"],
    "Writes to the files that answers are kept in: stored, dropped (too many waited), refused (wrong).",
);
/// Failures of files.
pub const FILE_FAULTS: (&str, &[&str], &str) = (
    "tidegate_cache_file_faults_total",
    &[],
    "Times that a file that answers are kept in could not be opened, read or written.",
);
/// What is in files.
pub const FILE_BYTES: (&str, &[&str], &str) =
    ("tidegate_cache_file_bytes", &[], "Bytes of the answers that files have.");
/// How many are in files.
pub const FILE_ENTRIES: (&str, &[&str], &str) = ("tidegate_cache_file_entries", &[], "Answers that files have.");

/// Why requests are not for the cache.
const BYPASS_REASONS: &[&str] =
    &["anonymous", "model", "no-route", "no-store", "not-deterministic", "stateful", "unreadable"];

/// Why answers are not kept.
const UNSTORED_REASONS: &[&str] =
    &["elsewhere", "error", "filtered", "flight", "incomplete", "large", "no-store", "resumed"];

/// What becomes of looking for an answer in a file.
const READ_OUTCOMES: &[&str] = &["hit", "miss", "late", "unreadable"];

/// Counts of all caches of a process.
pub struct Counts {
    requests: IntCounterVec,
    bypasses: IntCounterVec,
    stores: IntCounterVec,
    unstored: IntCounterVec,
    saved: IntCounterVec,
    saved_cost: CounterVec,
    reads: IntCounterVec,
    expired: IntCounter,
    crowded: IntCounter,
    purged: IntCounter,
    evictions: IntCounterVec,
}

/// Counts of one entry of `models`.
#[derive(Clone)]
pub(super) struct RouteCounts {
    pub hit: IntCounter,
    pub stale: IntCounter,
    pub partial: IntCounter,
    pub miss: IntCounter,
    pub bypass: IntCounter,
    pub stores: IntCounter,
    saved_input: IntCounter,
    saved_output: IntCounter,
    saved_cost: Counter,
}

fn vec((name, labels, help): (&str, &[&str], &str)) -> IntCounterVec {
    // The names are ours and in order: see the test.
    IntCounterVec::new(Opts::new(name, help), labels).unwrap_or_else(|error| unreachable!("{name}: {error}"))
}

impl Default for Counts {
    fn default() -> Self {
        let evictions = vec(EVICTIONS);
        let cause = |cause| evictions.with_label_values(&[cause]);
        let (expired, crowded, purged) = (cause("expired"), cause("size"), cause("purged"));
        let (requests, bypasses, stores) = (vec(REQUESTS), vec(BYPASSES), vec(STORES));
        let (unstored, saved, reads) = (vec(UNSTORED), vec(SAVED), vec(FILE_READS));
        let (name, labels, help) = SAVED_COST;
        let saved_cost = CounterVec::new(Opts::new(name, help), labels);
        let saved_cost = saved_cost.unwrap_or_else(|error| unreachable!("{name}: {error}"));
        // A counter that is there from the beginning shows its first step.
        BYPASS_REASONS.iter().for_each(|reason| drop(bypasses.with_label_values(&[*reason])));
        UNSTORED_REASONS.iter().for_each(|reason| drop(unstored.with_label_values(&[*reason])));
        READ_OUTCOMES.iter().for_each(|outcome| drop(reads.with_label_values(&[*outcome])));
        Self { requests, bypasses, stores, unstored, saved, saved_cost, reads, expired, crowded, purged, evictions }
    }
}

impl Counts {
    /// Shows a route's counters, before anything is counted.
    pub fn begin(&self, route: &str) {
        self.route(route);
    }

    /// Those of one route, found once.
    pub(super) fn route(&self, route: &str) -> RouteCounts {
        let request = |outcome| self.requests.with_label_values(&[route, outcome]);
        RouteCounts {
            hit: request("hit"),
            stale: request("stale"),
            partial: request("partial"),
            miss: request("miss"),
            bypass: request("bypass"),
            stores: self.stores.with_label_values(&[route]),
            saved_input: self.saved.with_label_values(&[route, "input"]),
            saved_output: self.saved.with_label_values(&[route, "output"]),
            saved_cost: self.saved_cost.with_label_values(&[route]),
        }
    }

    pub(super) fn bypassed(&self, reason: &'static str) {
        self.bypasses.with_label_values(&[reason]).inc();
    }

    pub(super) fn not_stored(&self, reason: &'static str) {
        self.unstored.with_label_values(&[reason]).inc();
    }

    /// So many answers were looked for in a file.
    pub(super) fn file_read(&self, outcome: &'static str, count: usize) {
        self.reads.with_label_values(&[outcome]).inc_by(count as u64);
    }

    pub(super) fn removed(&self, cause: RemovalCause) {
        match cause {
            RemovalCause::Expired => self.expired.inc(),
            RemovalCause::Size => self.crowded.inc(),
            RemovalCause::Explicit => self.purged.inc(),
            // By a newer answer, or by itself compressed.
            RemovalCause::Replaced => {}
        }
    }
}

impl RouteCounts {
    /// An answer was given again that had cost this much.
    pub(super) fn saved(&self, usage: Option<&Usage>, price: Option<&Price>) {
        let usage = usage.copied().unwrap_or_default();
        self.saved_input.inc_by(usage.prompt.unwrap_or(0));
        self.saved_output.inc_by(usage.completion.unwrap_or(0));
        if let Some(price) = price {
            self.saved_cost.inc_by(price.of(&usage) as f64 / NANOS as f64);
        }
    }
}

/// Collects from the caches of a process. To be registered once.
pub struct CacheMetrics {
    caches: Arc<Caches>,
    tiers: Arc<dyn Tiers>,
    gauges: [IntGauge; 4],
    /// What the files say of themselves, as it was when they were last looked at.
    writes: IntCounterVec,
    faults: IntCounter,
    /// Two scrapes at a time would add up.
    scrape: Mutex<()>,
}

impl CacheMetrics {
    /// Collects from `caches` and the files behind them.
    ///
    /// # Errors
    /// Never, unless the names are none.
    pub fn new(caches: Arc<Caches>, tiers: Arc<dyn Tiers>) -> prometheus::Result<Self> {
        let gauge = |(name, _, help): (&str, &[&str], &str)| IntGauge::with_opts(Opts::new(name, help));
        let gauges = [gauge(BYTES)?, gauge(ENTRIES)?, gauge(FILE_BYTES)?, gauge(FILE_ENTRIES)?];
        let faults = IntCounter::with_opts(Opts::new(FILE_FAULTS.0, FILE_FAULTS.2))?;
        Ok(Self { caches, tiers, gauges, writes: vec(FILE_WRITES), faults, scrape: Mutex::default() })
    }

    fn collectors(&self) -> impl Iterator<Item = &dyn Collector> {
        let counts = self.caches.counts();
        let counters: [&dyn Collector; 10] = [
            &counts.requests,
            &counts.bypasses,
            &counts.stores,
            &counts.unstored,
            &counts.evictions,
            &counts.saved,
            &counts.saved_cost,
            &counts.reads,
            &self.writes,
            &self.faults,
        ];
        counters.into_iter().chain(self.gauges.iter().map(|gauge| gauge as &dyn Collector))
    }

    fn look(&self) {
        let mut files = TierCounts::default();
        for tier in self.tiers.all() {
            let one = tier.counts();
            files.bytes += one.bytes;
            files.entries += one.entries;
            files.stored += one.stored;
            files.dropped += one.dropped;
            files.refused += one.refused;
            files.faults += one.faults;
        }
        self.writes.reset();
        for (outcome, count) in [("stored", files.stored), ("dropped", files.dropped), ("refused", files.refused)] {
            self.writes.with_label_values(&[outcome]).inc_by(count);
        }
        self.faults.reset();
        self.faults.inc_by(files.faults);
        let (bytes, entries) = self.caches.load();
        for (gauge, now) in self.gauges.iter().zip([bytes, entries, files.bytes, files.entries]) {
            gauge.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for CacheMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.collectors().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.look();
        self.collectors().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tier::NoTiers;
    use super::*;

    #[test]
    fn every_metric_is_collected_once() {
        let metrics = CacheMetrics::new(Arc::default(), Arc::new(NoTiers)).expect("good names");
        let counts = metrics.caches.counts();
        counts.route("m").hit.inc();
        let mut names: Vec<_> = metrics.collect().iter().map(|family| family.name().to_owned()).collect();
        names.sort();
        let memory = [REQUESTS, BYPASSES, STORES, UNSTORED, EVICTIONS, BYTES, ENTRIES, SAVED, SAVED_COST];
        let files = [FILE_READS, FILE_WRITES, FILE_FAULTS, FILE_BYTES, FILE_ENTRIES];
        let mut known: Vec<_> = memory.into_iter().chain(files).map(|(name, ..)| name.to_owned()).collect();
        known.sort();
        assert_eq!(names, known);
    }
}
