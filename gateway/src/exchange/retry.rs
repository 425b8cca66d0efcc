//! Whether a request that found no answer may ask again: after what, how often, and within the pool's budget.

use super::attempt::Miss;
use super::{Route, Trip, headers};
use crate::telemetry::RetryCause;
use crate::upstream::Backend;
use std::sync::Arc;
use std::time::Duration;
use tidegate_config::RetryOn;

/// What one request may still ask of one pool.
pub(super) struct Retrying {
    /// Attempts that are left.
    left: u32,
    /// How often all backends have been asked.
    rounds: u32,
    /// Those that have been asked in this round.
    pub tried: Vec<Arc<Backend>>,
}

impl Retrying {
    /// For a request that comes to the pool of `route`.
    pub(super) fn new(trip: &Trip<'_>, route: &Route) -> Self {
        // Asking for the rest of a stream is no request of its own.
        if trip.resuming.as_ref().is_none_or(|resuming| !resuming.is_under_way()) {
            route.pool.budget.earn();
        }
        Self { left: route.pool.retries.most.saturating_sub(made_by_client(trip)), rounds: 0, tried: Vec::new() }
    }

    /// Whether another attempt may follow one that ended with `miss`, if somebody has a place for it and the pool's
    /// budget has it.
    pub(super) fn allows(&self, trip: &Trip<'_>, route: &Route, miss: Miss) -> bool {
        let rules = &route.pool.retries;
        let listed = match miss {
            Miss::Unreached | Miss::Connect => rules.on.contains(&RetryOn::Connect),
            Miss::Lost => rules.on.contains(&RetryOn::Lost),
            Miss::Timeout => rules.on.contains(&RetryOn::Timeout),
            Miss::Status(status) => rules.on.contains(&RetryOn::Status(status)),
            Miss::ErrorEvent => rules.on.contains(&RetryOn::ErrorEvent),
            Miss::Malformed => false,
        };
        listed && self.left > 0 && trip.replayable
    }

    /// Takes one more attempt out of what this request and the pool have left. False if that is nothing. What no backend
    /// has seen is no load on any, and costs the pool nothing.
    pub(super) fn spend(&mut self, trip: &mut Trip<'_>, route: &Route, miss: Miss) -> bool {
        if miss != Miss::Unreached && !route.pool.budget.spend() {
            route.series.retries_refused.inc();
            return false;
        }
        self.left -= 1;
        trip.record.retried.push(cause(miss));
        true
    }

    /// All backends have been asked: from the first again, after this long. Full jitter: any time up to a bound that
    /// doubles, so that those who failed together do not come back together.
    pub(super) fn next_round(&mut self, backoff: Duration) -> Duration {
        self.tried.clear();
        let most = backoff.saturating_mul(1 << self.rounds.min(MOST_DOUBLED));
        self.rounds += 1;
        most.mul_f64(random())
    }
}

/// How often the time between rounds is doubled.
const MOST_DOUBLED: u32 = 5;

/// From 0 to 1.
fn random() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    (high >> 32) as f64 / f64::from(u32::MAX)
}

/// How often the client's SDK has sent this request before: what it does itself need not be done for it.
fn made_by_client(trip: &Trip<'_>) -> u32 {
    headers::text(trip.exchange.headers(), "x-stainless-retry-count").and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// What a miss counts as.
pub(super) fn cause(miss: Miss) -> RetryCause {
    match miss {
        Miss::Unreached | Miss::Connect => RetryCause::Connect,
        Miss::Lost => RetryCause::Lost,
        Miss::Timeout => RetryCause::Timeout,
        Miss::ErrorEvent => RetryCause::ErrorEvent,
        Miss::Malformed => RetryCause::Malformed,
        Miss::Status(429) => RetryCause::RateLimited,
        Miss::Status(503 | 529) => RetryCause::Overloaded,
        Miss::Status(_) => RetryCause::Status,
    }
}
