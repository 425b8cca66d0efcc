//! Who was limited, by what: a counter for the metrics, and an event for the log.
//!
//! A request that is not limited costs nothing here. In a flood of refusals each is counted, and so many a second are
//! written down as say what there is to say: the line of each request names its limit anyway.

use super::Inner;
use super::limit::Limit;
use crate::exchange::Exchange;
use prometheus::{IntCounterVec, Opts};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The name of the counter.
pub const LIMITED: &str = "tidegate_limited_requests_total";
/// What it counts.
pub const LIMITED_HELP: &str = "Requests that a limit refused (refused), refused for good because they are larger than its bucket \
     (larger_than_limit), or would have refused (would_refuse, a shadow limit), by what the limit is per and by model of the file.";
/// Its labels.
pub const LIMITED_LABELS: &[&str] = &["limit", "per", "model", "outcome"];

/// Events a second.
const MOST: u64 = 20;

/// What became of a request at one limit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refused {
    /// It may come again.
    For(Duration),
    /// It could never be admitted.
    ForGood,
    /// It was admitted, since the limit does not bind.
    InShadow,
}

/// Counts, and writes down. One for the process.
#[derive(Debug)]
pub struct Limited {
    counter: IntCounterVec,
    start: Instant,
    /// The second that is now, and events written in it.
    second: AtomicU64,
    written: AtomicU64,
    /// Events that were not written since one was.
    unsaid: AtomicU64,
}

impl Default for Limited {
    fn default() -> Self {
        let counter = IntCounterVec::new(Opts::new(LIMITED, LIMITED_HELP), LIMITED_LABELS);
        let counter = counter.expect("the name, the help and the labels are valid");
        let zero = || AtomicU64::new(0);
        Self { counter, start: Instant::now(), second: zero(), written: zero(), unsaid: zero() }
    }
}

impl Limited {
    /// The counter, to be registered.
    pub fn counter(&self) -> IntCounterVec {
        self.counter.clone()
    }

    /// One of `inner`'s limits refuses the request, or would have.
    pub(super) fn say(&self, inner: &Inner, limit: &Limit, exchange: &Exchange, refused: Refused) {
        let model = inner.model(exchange).1;
        let (label, per, name) = (limit.ledger.label(), limit.per.to_string(), label_of(model));
        let (outcome, wait) = match refused {
            Refused::For(wait) => ("refused", Some(wait)),
            Refused::ForGood => ("larger_than_limit", None),
            Refused::InShadow => ("would_refuse", None),
        };
        self.counter.with_label_values(&[label, &*per, name, outcome]).inc();
        let Some(unsaid) = self.turn(self.start.elapsed().as_secs()) else { return };
        let (id, subject, wait) =
            (exchange.id(), limit.per.named(exchange, model), wait.map(|wait| wait.as_secs_f64()));
        tracing::info!(request_id = %id, limit = %label, per, subject, model = name, outcome, wait, unsaid, "limited");
    }

    /// Whether an event may be written in this second, and how many were not since the last.
    fn turn(&self, second: u64) -> Option<u64> {
        if self.second.swap(second, Relaxed) != second {
            self.written.store(0, Relaxed);
        }
        match self.written.fetch_add(1, Relaxed) < MOST {
            true => Some(self.unsaid.swap(0, Relaxed)),
            false => {
                self.unsaid.fetch_add(1, Relaxed);
                None
            }
        }
    }
}

/// The model as the file has it: nothing that a client made up.
fn label_of(model: Option<&str>) -> &str {
    match model {
        None => "none",
        Some("") => "unknown",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_flood_so_many_events_a_second_are_written_and_the_next_says_how_many_were_not() {
        let limited = Limited::default();
        let written = (0..100).filter(|_| limited.turn(1).is_some()).count();
        assert_eq!(written as u64, MOST);
        assert_eq!((limited.turn(2), limited.turn(2)), (Some(100 - MOST), Some(0)));
    }
}
