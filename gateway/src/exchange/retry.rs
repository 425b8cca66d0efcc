//! Whether a request that found no answer may ask again: after what, how often, within the pool's budget, and where.

use super::attempt::Miss;
use super::fail::Result;
use super::fallback::{Chain, Stuck};
use super::fetch::{Deadline, Missed, alongside};
use super::place::{self, NoPlace};
use super::{Route, Session, Trip, headers};
use crate::telemetry::RetryCause;
use crate::upstream::queue::Place;
use crate::upstream::{Backend, NoBackend};
use http::HeaderName;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_config::RetryOn;

/// How often the client's SDK has asked before.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");

/// What one request may still ask of one pool.
pub(super) struct Retrying {
    /// Attempts that are left.
    left: u32,
    /// How often all backends have been asked.
    rounds: u32,
    /// Those that have been asked in this round.
    pub(super) tried: Vec<Arc<Backend>>,
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
            Miss::Malformed => rules.on.contains(&RetryOn::Malformed),
        };
        listed && self.left > 0 && trip.replayable
    }

    /// A place for another attempt after one that ended with `miss`, if the pool's budget has it: at a backend that was not
    /// asked yet, or that was, a moment later. Where all are full, or have said when to come back, it is waited for in the
    /// pool's queue, as those do who come now.
    ///
    /// # Errors
    /// That the client has left, or the process ends.
    pub(super) async fn place(
        &mut self,
        session: &mut Session,
        trip: &mut Trip<'_>,
        route: &Route,
        (deadline, chain): (Deadline, &Chain),
        (miss, missed): (Miss, &mut Missed),
    ) -> Result<Option<Place>> {
        let now = place::now(&route.pool, trip, &self.tried);
        match now {
            Err(NoBackend::Down(_)) => return Ok(None),
            // Who has somewhere else to go does not wait for that.
            Err(NoBackend::Resting(_)) if Stuck::why(miss).is_some_and(|why| chain.has(trip, why)) => return Ok(None),
            _ => {}
        }
        // What no backend has seen is no load on any, and costs the pool nothing.
        let costs = miss != Miss::Unreached;
        if costs && !route.pool.budget.spend() {
            route.series.retries_refused.inc();
            return Ok(None);
        }
        let found = match now {
            Ok(place) => Some(place),
            Err(why) => {
                missed.put_aside(session, trip).await?;
                self.wait(session, trip, route, deadline, why).await?
            }
        };
        match found {
            Some(_) => {
                self.left -= 1;
                trip.record.retried.push(cause(miss));
            }
            None if costs => route.pool.budget.give_back(),
            None => {}
        }
        Ok(found)
    }

    /// Waits for a place, where there is none for this reason.
    async fn wait(
        &mut self,
        session: &mut Session,
        trip: &mut Trip<'_>,
        route: &Route,
        deadline: Deadline,
        why: NoBackend,
    ) -> Result<Option<Place>> {
        if let NoBackend::Resting(_) = why {
            // Whoever is the first to want requests again is asked, tried or not.
            self.tried.clear();
        }
        if why == NoBackend::Tried {
            let (pause, began) = (self.next_round(route.pool.retries.backoff), Instant::now());
            alongside(trip.core, session, tokio::time::sleep(pause)).await?;
            trip.record.upstream_time += began.elapsed();
            trip.record.course.paused(began);
            if let Ok(place) = place::now(&route.pool, trip, &self.tried) {
                return Ok(Some(place));
            }
        }
        match place::take(session, trip, route, deadline, None, &self.tried).await {
            Ok(place) => Ok(Some(place)),
            Err(NoPlace::Fault(fault)) => Err(fault),
            Err(_) => Ok(None),
        }
    }

    /// All backends have been asked: from the first again, after this long. Full jitter: any time up to a bound that
    /// doubles, so that those who failed together do not come back together.
    fn next_round(&mut self, backoff: Duration) -> Duration {
        self.tried.clear();
        let most = backoff.saturating_mul(1 << self.rounds.min(MOST_DOUBLED));
        self.rounds += 1;
        most.mul_f64(random())
    }
}

/// How often the time between rounds is doubled.
const MOST_DOUBLED: u32 = 5;

/// From 0 to 1.
pub(super) fn random() -> f64 {
    let (high, _) = uuid::Uuid::new_v4().as_u64_pair();
    (high >> 32) as f64 / f64::from(u32::MAX)
}

/// How often the client's SDK has sent this request before: what it does itself need not be done for it.
fn made_by_client(trip: &Trip<'_>) -> u32 {
    headers::text(trip.exchange.headers(), RETRY_COUNT).and_then(|count| count.parse().ok()).unwrap_or(0)
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
