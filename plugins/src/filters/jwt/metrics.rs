//! What tokens and issuers did, for `/metrics`.

use super::reason::Reason;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use std::time::{SystemTime, UNIX_EPOCH};

/// The name of the counter of tokens.
pub const TOKENS: &str = "tidegate_jwt_tokens_total";
/// What it counts.
pub const TOKENS_HELP: &str =
    "Tokens that were presented: good, remembered (good, and seen before), or why they were not taken.";
/// The name of the counter of fetches.
pub const FETCHES: &str = "tidegate_jwks_fetches_total";
/// What it counts.
pub const FETCHES_HELP: &str = "Fetches of an issuer's public keys, by what became of them.";
/// The name of the gauge of keys.
pub const KEYS: &str = "tidegate_jwks_keys";
/// What it shows.
pub const KEYS_HELP: &str = "Public keys that are known of an issuer.";
/// The name of the gauge of the last good fetch.
pub const FETCHED: &str = "tidegate_jwks_last_fetch_timestamp_seconds";
/// What it shows.
pub const FETCHED_HELP: &str = "When an issuer's public keys were last fetched, in seconds since 1970.";

/// Registered by whoever serves them; issuers are those of the configuration.
#[derive(Clone)]
pub struct Metrics {
    tokens: IntCounterVec,
    fetches: IntCounterVec,
    keys: IntGaugeVec,
    fetched: IntGaugeVec,
}

const VALID: &str = "the names are valid";

impl Default for Metrics {
    fn default() -> Self {
        let counters = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels).expect(VALID);
        let gauges = |name, help| IntGaugeVec::new(Opts::new(name, help), &["issuer"]).expect(VALID);
        Self {
            tokens: counters(TOKENS, TOKENS_HELP, &["issuer", "outcome"]),
            fetches: counters(FETCHES, FETCHES_HELP, &["issuer", "outcome"]),
            keys: gauges(KEYS, KEYS_HELP),
            fetched: gauges(FETCHED, FETCHED_HELP),
        }
    }
}

impl Metrics {
    /// The counters of one issuer's tokens.
    pub(super) fn tokens(&self, issuer: &str) -> Tokens {
        let of = |outcome: &str| self.tokens.with_label_values(&[issuer, outcome]);
        Tokens { good: of("good"), remembered: of("remembered"), refused: Reason::ALL.map(|reason| of(reason.label())) }
    }

    /// The counters of one issuer's keys.
    pub(super) fn fetches(&self, issuer: &str) -> Fetches {
        let of = |outcome| self.fetches.with_label_values(&[issuer, outcome]);
        Fetches {
            good: of("good"),
            failed: of("failed"),
            keys: self.keys.with_label_values(&[issuer]),
            fetched: self.fetched.with_label_values(&[issuer]),
        }
    }
}

impl Collector for Metrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.tokens.desc(), self.fetches.desc(), self.keys.desc(), self.fetched.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [self.tokens.collect(), self.fetches.collect(), self.keys.collect(), self.fetched.collect()].concat()
    }
}

/// What became of tokens.
pub(super) struct Tokens {
    pub(super) good: IntCounter,
    pub(super) remembered: IntCounter,
    refused: [IntCounter; Reason::ALL.len()],
}

impl Tokens {
    pub(super) fn refused(&self, reason: Reason) {
        self.refused[reason as usize].inc();
    }
}

/// What became of fetches.
pub(super) struct Fetches {
    good: IntCounter,
    failed: IntCounter,
    keys: IntGauge,
    fetched: IntGauge,
}

impl Fetches {
    /// One is over: with so many keys, or it failed.
    pub(super) fn over(&self, keys: Option<usize>) {
        let Some(keys) = keys else { return self.failed.inc() };
        self.good.inc();
        self.keys.set(i64::try_from(keys).unwrap_or(i64::MAX));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.fetched.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    }
}
