//! What classifiers have said, and what they count: the same for every version of the configuration.

use super::metrics::{ClassMetrics, ClassSeries};
use moka::sync::Cache;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Classes that were given.
pub(super) struct Known {
    entries: u64,
    time: Duration,
    classes: Cache<[u8; 32], usize>,
}

impl Known {
    fn new(entries: u64, time: Duration) -> Self {
        let classes = Cache::builder().max_capacity(entries).time_to_live(time).build();
        Self { entries, time, classes }
    }

    pub(super) fn get(&self, key: &[u8; 32]) -> Option<usize> {
        self.classes.get(key)
    }

    pub(super) fn keep(&self, key: [u8; 32], class: usize) {
        self.classes.insert(key, class);
    }
}

/// What all classifiers have said.
#[derive(Default)]
pub struct Classes {
    known: Mutex<HashMap<Arc<str>, Arc<Known>>>,
    metrics: ClassMetrics,
}

impl Classes {
    /// What they count, to be registered.
    pub fn metrics(&self) -> ClassMetrics {
        self.metrics.clone()
    }

    /// What the classifier of this name has said, as long as its settings for that are the same.
    pub(super) fn known(&self, name: &Arc<str>, entries: u64, time: Duration) -> Arc<Known> {
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.entry(name.clone()).or_insert_with(|| Arc::new(Known::new(entries, time)));
        if (known.entries, known.time) != (entries, time) {
            *known = Arc::new(Known::new(entries, time));
        }
        known.clone()
    }

    pub(super) fn series(&self, name: &str, labels: &[Arc<str>]) -> Arc<ClassSeries> {
        Arc::new(self.metrics.series(name, labels))
    }
}
