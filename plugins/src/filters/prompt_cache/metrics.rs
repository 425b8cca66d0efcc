//! What the cache did, for `/metrics`. Labels are the entries of the file's `models` and words of ours.

use super::memory::Caches;
use crate::usage::Usage;
use moka::notification::RemovalCause;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};
use std::sync::Arc;

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

/// Why requests are not for the cache.
const BYPASS_REASONS: &[&str] =
    &["anonymous", "model", "no-route", "no-store", "not-deterministic", "stateful", "unreadable"];

/// Why answers are not kept.
const UNSTORED_REASONS: &[&str] = &["elsewhere", "error", "flight", "incomplete", "large", "no-store", "resumed"];

/// Counts of all caches of a process.
pub struct Counts {
    requests: IntCounterVec,
    bypasses: IntCounterVec,
    stores: IntCounterVec,
    unstored: IntCounterVec,
    saved: IntCounterVec,
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
        let (unstored, saved) = (vec(UNSTORED), vec(SAVED));
        // A counter that is there from the beginning shows its first step.
        BYPASS_REASONS.iter().for_each(|reason| drop(bypasses.with_label_values(&[*reason])));
        UNSTORED_REASONS.iter().for_each(|reason| drop(unstored.with_label_values(&[*reason])));
        Self { requests, bypasses, stores, unstored, saved, expired, crowded, purged, evictions }
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
        }
    }

    pub(super) fn bypassed(&self, reason: &'static str) {
        self.bypasses.with_label_values(&[reason]).inc();
    }

    pub(super) fn not_stored(&self, reason: &'static str) {
        self.unstored.with_label_values(&[reason]).inc();
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
    pub(super) fn saved(&self, usage: Option<&Usage>) {
        if let Some(usage) = usage {
            self.saved_input.inc_by(usage.prompt.unwrap_or(0));
            self.saved_output.inc_by(usage.completion.unwrap_or(0));
        }
    }
}

/// Collects from the caches of a process. To be registered once.
pub struct CacheMetrics {
    caches: Arc<Caches>,
    bytes: IntGauge,
    entries: IntGauge,
}

impl CacheMetrics {
    /// Collects from `caches`.
    ///
    /// # Errors
    /// Never, unless the names are none.
    pub fn new(caches: Arc<Caches>) -> prometheus::Result<Self> {
        let gauge = |(name, _, help): (&str, &[&str], &str)| IntGauge::with_opts(Opts::new(name, help));
        Ok(Self { caches, bytes: gauge(BYTES)?, entries: gauge(ENTRIES)? })
    }

    fn counters(&self) -> [&IntCounterVec; 6] {
        let counts = self.caches.counts();
        [&counts.requests, &counts.bypasses, &counts.stores, &counts.unstored, &counts.evictions, &counts.saved]
    }
}

impl Collector for CacheMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [self.bytes.desc(), self.entries.desc()].concat();
        self.counters().iter().flat_map(|counter| counter.desc()).chain(gauges).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (bytes, entries) = self.caches.load();
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        let gauges = [self.bytes.collect(), self.entries.collect()].concat();
        self.counters().iter().flat_map(|counter| counter.collect()).chain(gauges).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_collected_once() {
        let metrics = CacheMetrics::new(Arc::default()).expect("good names");
        let counts = metrics.caches.counts();
        counts.route("m").hit.inc();
        let mut names: Vec<_> = metrics.collect().iter().map(|family| family.name().to_owned()).collect();
        names.sort();
        let mut known: Vec<_> = [REQUESTS, BYPASSES, STORES, UNSTORED, EVICTIONS, BYTES, ENTRIES, SAVED]
            .map(|(name, ..)| name.to_owned())
            .into();
        known.sort();
        assert_eq!(names, known);
    }
}
