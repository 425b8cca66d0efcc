//! What limits did, for `/metrics`: read from the ledgers when somebody scrapes.

use super::local::Local;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

/// The name of the counter of decisions.
pub const DECISIONS: &str = "tidegate_limit_decisions_total";
/// The name of the gauge of subjects.
pub const SUBJECTS: &str = "tidegate_limit_subjects";
/// The name of the counter of estimates.
pub const ESTIMATED: &str = "tidegate_limit_estimated_total";
/// What that counter counts.
pub const ESTIMATED_HELP: &str =
    "Requests settled by an estimate of their tokens or money, because the backend did not say what they cost.";
/// What the counter of decisions counts.
pub const DECISIONS_HELP: &str = "What limits said to requests: granted, refused, would_refuse (a shadow limit), \
     crowded (a subject beyond the most that are kept apart).";
/// What the gauge shows.
pub const SUBJECTS_HELP: &str = "Subjects of a limit that have a bucket now; the idle are forgotten.";

/// Collects from a store. Labels are the limits of the configuration.
pub struct LimitMetrics {
    store: Arc<Local>,
    decisions: IntCounterVec,
    estimated: IntCounterVec,
    subjects: IntGaugeVec,
    /// Two scrapes at a time would add up.
    scrape: Mutex<()>,
}

impl LimitMetrics {
    /// Collects from `store`. To be registered once.
    ///
    /// # Errors
    /// Never, unless the names are none.
    pub fn new(store: Arc<Local>) -> prometheus::Result<Self> {
        Ok(Self {
            store,
            decisions: IntCounterVec::new(Opts::new(DECISIONS, DECISIONS_HELP), &["limit", "outcome"])?,
            estimated: IntCounterVec::new(Opts::new(ESTIMATED, ESTIMATED_HELP), &["limit"])?,
            subjects: IntGaugeVec::new(Opts::new(SUBJECTS, SUBJECTS_HELP), &["limit"])?,
            scrape: Mutex::default(),
        })
    }
}

impl Collector for LimitMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.decisions.desc(), self.estimated.desc(), self.subjects.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.decisions.reset();
        self.estimated.reset();
        self.subjects.reset();
        for book in self.store.books() {
            let (label, counts) = (&book.spec().label, &book.counts);
            for (outcome, count) in counts.outcomes() {
                self.decisions.with_label_values(&[label, outcome]).inc_by(count);
            }
            self.estimated.with_label_values(&[&**label]).inc_by(counts.estimated.load(Relaxed));
            let subjects = i64::try_from(book.subjects()).unwrap_or(i64::MAX);
            self.subjects.with_label_values(&[&**label]).add(subjects);
        }
        let mut families = self.decisions.collect();
        families.extend(self.estimated.collect());
        families.extend(self.subjects.collect());
        families
    }
}
