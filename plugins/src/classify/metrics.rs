//! What classifiers did, for `/metrics`. Their names and classes come from the file.

use crate::usage::Usage;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use std::sync::Arc;
use std::time::Duration;

/// A metric: its name, its labels and what it says.
type Metric = (&'static str, &'static [&'static str], &'static str);

/// How often a class was wanted.
pub const ASKED: Metric = (
    "tidegate_classifier_requests_total",
    &["classifier", "outcome"],
    "Requests whose class was wanted: asked (the model said it), cached (it had said it before), failed (no answer, or not in \
     time), unreadable (the answer names no class), nothing (there is no text in the request).",
);
/// What they were found to be.
pub const CLASSES: Metric = (
    "tidegate_classifier_classes_total",
    &["classifier", "class"],
    "Classes that requests were given, those that a failure stands for included.",
);
/// How long the model was waited for.
pub const DURATION: Metric = (
    "tidegate_classifier_duration_seconds",
    &["classifier"],
    "How long requests waited for the classifier's model, whether or not it answered.",
);
/// The bounds of that.
pub const DURATIONS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0];
/// What it cost.
pub const TOKENS: Metric = (
    "tidegate_classifier_tokens_total",
    &["classifier", "gen_ai_token_type"],
    "Tokens that the classifier's model read and wrote.",
);

/// How a class was found.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    Asked,
    Cached,
    Failed,
    Unreadable,
    Nothing,
}

const OUTCOMES: [&str; 5] = ["asked", "cached", "failed", "unreadable", "nothing"];

/// Collects what all classifiers count.
#[derive(Clone)]
pub struct ClassMetrics {
    asked: IntCounterVec,
    classes: IntCounterVec,
    duration: HistogramVec,
    tokens: IntCounterVec,
}

impl Default for ClassMetrics {
    fn default() -> Self {
        const VALID: &str = "the names, the helps and the labels are valid";
        let counter = |(name, labels, help): Metric| IntCounterVec::new(Opts::new(name, help), labels).expect(VALID);
        let duration = HistogramOpts::new(DURATION.0, DURATION.2).buckets(DURATIONS.to_vec());
        Self {
            asked: counter(ASKED),
            classes: counter(CLASSES),
            duration: HistogramVec::new(duration, DURATION.1).expect(VALID),
            tokens: counter(TOKENS),
        }
    }
}

impl ClassMetrics {
    pub(super) fn series(&self, name: &str, labels: &[Arc<str>]) -> ClassSeries {
        ClassSeries {
            asked: OUTCOMES.map(|outcome| self.asked.with_label_values(&[name, outcome])),
            classes: labels.iter().map(|label| self.classes.with_label_values(&[name, label])).collect(),
            duration: self.duration.with_label_values(&[name]),
            tokens: ["input", "output"].map(|kind| self.tokens.with_label_values(&[name, kind])),
        }
    }
}

impl Collector for ClassMetrics {
    fn desc(&self) -> Vec<&Desc> {
        [self.asked.desc(), self.classes.desc(), self.duration.desc(), self.tokens.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        [self.asked.collect(), self.classes.collect(), self.duration.collect(), self.tokens.collect()].concat()
    }
}

/// What one classifier counts.
pub(super) struct ClassSeries {
    asked: [IntCounter; OUTCOMES.len()],
    classes: Vec<IntCounter>,
    duration: Histogram,
    tokens: [IntCounter; 2],
}

impl ClassSeries {
    /// A class was given; which one, by its place.
    pub(super) fn gave(&self, outcome: Outcome, class: Option<usize>) {
        self.asked[outcome as usize].inc();
        if let Some(counter) = class.and_then(|class| self.classes.get(class)) {
            counter.inc();
        }
    }

    /// The model was waited for.
    pub(super) fn took(&self, time: Duration) {
        self.duration.observe(time.as_secs_f64());
    }

    /// It read and wrote so many tokens.
    pub(super) fn spent(&self, usage: Option<Usage>) {
        let Some(usage) = usage else { return };
        for (counter, count) in self.tokens.iter().zip([usage.prompt, usage.completion]) {
            counter.inc_by(count.unwrap_or(0));
        }
    }
}
