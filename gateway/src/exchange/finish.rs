//! The end of a request: followers are told, and what became of it is counted and logged.

use super::Trip;
use super::answer::Answered;
use super::tally::{self, Ending};
use crate::telemetry::{Finished, NO_POOL, OTHER_ROUTE, Series, bounded};
use std::sync::Arc;
use std::time::Instant;
use tidegate_plugins::keys::mask;
use tidegate_plugins::spenders::Spent;

/// Longest error text in a log line, in bytes.
const ERROR_LIMIT: usize = 512;

/// Settles what became of a request, and what that shows of its backend.
pub(super) fn close(trip: &mut Trip<'_>, answered: Answered) {
    let record = &mut trip.record;
    record.ended = Instant::now();
    record.status = answered.status;
    record.cause = answered.cause;
    record.error = answered.log.map(|error| bounded(&mask(&error), ERROR_LIMIT));
    if let Some(attempt) = trip.attempt.take() {
        attempt.ended(record.cause, record.upstream_status);
    }
}

/// Tells the followers, last first, then the metrics, then the log.
pub(super) fn finish(mut trip: Trip<'_>, answered: Answered) {
    let (status, complete) = (answered.status, answered.complete);
    close(&mut trip, answered);
    let record = &mut trip.record;
    if let Some(caller) = trip.exchange.caller().filter(|_| !trip.renewal) {
        record.user.clone_from(&caller.user);
        record.service.clone_from(&caller.service);
        record.team.clone_from(&caller.team);
        record.org.clone_from(&caller.org);
        record.key_id.clone_from(&caller.key);
        record.metadata = Some(caller.metadata.clone());
    }
    let ending = Ending { status, cause: record.cause, complete };
    // From here on whoever counts has the same: budgets, spenders, metrics, log, and what is kept of usage.
    let outcome = tally::settle(&mut trip, ending, 0);
    trip.record.usage = outcome.usage;
    trip.exchange.record(outcome);
    while let Some(follower) = trip.followers.pop() {
        follower.end(&trip.exchange);
    }
    add_to_spenders(&trip);
    report(trip);
}

/// Counts what became of a request, and writes its line.
pub(super) fn report(mut trip: Trip<'_>) {
    let (cause, usage) = (trip.record.cause, trip.record.usage);
    tally::keep(&mut trip, cause, usage);
    trip.record.notes = trip.exchange.take_notes();
    let (series, route, pool) = place(&trip);
    let cost = tally::cost(&trip, trip.record.usage);
    if cost > 0 {
        series.cost.add(cost);
    }
    trip.core.metrics.observe(series, &trip.record);
    trip.core.log.request(&trip.record, route, pool);
    keep(trip, cost);
}

/// Where a request is counted: at its route. One that came no farther than a filter is counted at that of its model, and at
/// no pool.
fn place<'a>(trip: &'a Trip<'_>) -> (&'a Series, &'a str, &'a str) {
    if let Some(route) = &trip.route {
        return (&route.series, route.name(), &route.pool.name);
    }
    match trip.exchange.model().and_then(|name| trip.snapshot.models.resolve(name)) {
        Some(model) => {
            let series = model.unrouted.get_or_init(|| trip.core.metrics.series(&model.name, NO_POOL));
            (series, &model.name, NO_POOL)
        }
        None => (&trip.snapshot.no_route, OTHER_ROUTE, NO_POOL),
    }
}

/// Keeps what became of a client's request, to be looked at, and has its trace sent.
fn keep(trip: Trip<'_>, cost: u64) {
    let (core, snapshot) = (trip.core, &trip.snapshot);
    let recent = snapshot.recent.requests > 0;
    #[cfg(feature = "otlp")]
    let traced = snapshot.traces.as_ref().is_some_and(|rule| rule.keeps(&trip.record));
    #[cfg(not(feature = "otlp"))]
    let traced = false;
    if trip.record.event != "request" || !(recent || traced) {
        return;
    }
    let (_, route, pool) = place(&trip);
    let (route, pool): (Box<str>, Box<str>) = (route.into(), pool.into());
    let finished = Arc::new(Finished::new(trip.record, route, pool, cost));
    #[cfg(feature = "otlp")]
    if traced {
        core.traces.offer(&finished, trip.content);
    }
    if recent {
        core.recent.push(finished);
    }
}

fn add_to_spenders(trip: &Trip<'_>) {
    let caller = trip.account();
    let tokens = tally::charged(trip, trip.record.usage)
        .map_or(0, |usage| usage.prompt.unwrap_or(0).saturating_add(usage.completion.unwrap_or(0)));
    trip.snapshot.shared.spenders.record(&Spent {
        org: caller.and_then(|caller| caller.org.as_deref()),
        user: caller.and_then(|caller| caller.user.as_deref()),
        key: caller.and_then(|caller| caller.key.as_deref()),
        model: tally::model_of(trip).map(|model| &**model),
        tokens,
        cost: tally::cost(trip, trip.record.usage),
        limited: trip.exchange.is_limited(),
    });
}
