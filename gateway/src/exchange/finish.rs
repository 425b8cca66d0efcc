//! The end of a request: followers are told, and what became of it is counted and logged.

use super::Trip;
use super::answer::Answered;
use crate::telemetry::{Cause, NO_POOL, OTHER_ROUTE, bounded};
use std::time::Instant;
use tidegate_plugins::exchange::Outcome;

/// Longest error text in a log line, in bytes.
const ERROR_LIMIT: usize = 512;

/// Tells the followers, last first, then the metrics, then the log.
pub(super) fn finish(mut trip: Trip<'_>, answered: Answered) {
    let record = &mut trip.record;
    record.ended = Instant::now();
    record.status = answered.status;
    record.cause = answered.cause;
    record.error = answered.log.map(|error| bounded(&error, ERROR_LIMIT));
    if let Some(attempt) = trip.attempt.take() {
        attempt.ended(record.cause, record.upstream_status);
    }
    if let Some(caller) = trip.exchange.caller() {
        record.user.clone_from(&caller.user);
        record.team.clone_from(&caller.team);
        record.org.clone_from(&caller.org);
        record.key_id.clone_from(&caller.key);
    }
    trip.exchange.record(Outcome {
        status: answered.status,
        complete: answered.complete,
        usage: record.usage,
        source: trip.exchange.source(),
        charged: trip.exchange.is_charged(),
        events: record.events,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
    });
    while let Some(follower) = trip.followers.pop() {
        follower.end(&trip.exchange);
    }
    trip.record.notes = trip.exchange.take_notes();
    let series = trip.route.as_ref().map_or(&trip.snapshot.no_route, |route| &route.series);
    trip.core.metrics.observe(series, &trip.record);
    let (route, pool) = trip.route.as_ref().map_or((OTHER_ROUTE, NO_POOL), |route| (route.name(), &*route.pool.name));
    trip.core.log.request(&trip.record, route, pool);
    debug_assert!(answered.status != 499 || answered.cause == Cause::ClientGone);
}
