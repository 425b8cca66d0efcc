//! How many managed keys there are, for `/metrics`.

use super::managed::{ManagedKeys, State};
use crate::when::When;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};
use std::sync::Arc;

/// The name of the gauge.
pub const KEYS: &str = "tidegate_managed_keys";
/// What it shows.
pub const KEYS_HELP: &str = "Managed keys by state: active, disabled, expired, revoked.";

/// Counts when somebody scrapes.
pub struct KeyMetrics {
    keys: Arc<ManagedKeys>,
    gauge: IntGaugeVec,
}

impl KeyMetrics {
    /// Counts `keys`. To be registered once.
    ///
    /// # Errors
    /// Never, unless the name is none.
    pub fn new(keys: Arc<ManagedKeys>) -> prometheus::Result<Self> {
        Ok(Self { keys, gauge: IntGaugeVec::new(Opts::new(KEYS, KEYS_HELP), &["state"])? })
    }
}

impl Collector for KeyMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        for (state, count) in State::ALL.iter().zip(self.keys.count(When::now())) {
            self.gauge.with_label_values(&[state.name()]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.gauge.collect()
    }
}
