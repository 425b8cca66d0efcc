//! What was measured, in histograms that keep their precision at every magnitude.

use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Everything that was seen from outside.
pub(crate) struct Samples {
    /// From when a request was due to the end of its answer.
    pub latency: Histogram<u64>,
    /// From when a request was due to its answer's first event.
    pub first_token: Histogram<u64>,
    /// From one event to the next.
    pub between_tokens: Histogram<u64>,
    /// Answers that came whole.
    pub requests: u64,
    /// Events that came.
    pub events: u64,
    /// Faults, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// What happens before this does not count.
    pub from: Instant,
}

impl Samples {
    /// Nothing yet.
    pub(crate) fn new(from: Instant) -> Self {
        let (latency, first_token, between_tokens) = (histogram(), histogram(), histogram());
        Self { latency, first_token, between_tokens, requests: 0, events: 0, errors: BTreeMap::new(), from }
    }

    /// An answer that came whole.
    pub(crate) fn answered(&mut self, due: Instant, now: Instant) {
        if now >= self.from {
            self.requests += 1;
            record(&mut self.latency, now - due);
        }
    }

    /// Events that came with one read: the first of them after `gap`, the others with it.
    pub(crate) fn events(&mut self, count: u64, gap: Gap, now: Instant) {
        if now < self.from {
            return;
        }
        self.events += count;
        let together = match gap {
            Gap::First(time) => {
                record(&mut self.first_token, time);
                count - 1
            }
            Gap::Next(time) => {
                record(&mut self.between_tokens, time);
                count - 1
            }
        };
        // A histogram that resizes itself takes every value.
        let _ = self.between_tokens.record_n(0, together);
    }

    /// A request that failed. Faults count whenever they happen: there should be none.
    pub(crate) fn failed(&mut self, kind: &'static str) {
        *self.errors.entry(kind).or_default() += 1;
    }
}

/// What the time before an event is.
pub(crate) enum Gap {
    /// The time to the first token.
    First(Duration),
    /// The time since the last.
    Next(Duration),
}

fn histogram() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are a valid precision"));
    histogram.auto(true);
    histogram
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    // As above.
    let _ = histogram.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}
