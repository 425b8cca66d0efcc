//! A second backend for an answer that is late: the first that is heard wins, and the other is let go of.

use super::attempt::{Ask, Outcome};
use super::fail::Result;
use super::fetch::{Deadline, alongside, asks};
use super::opening::{self, Opened, Opening, Race, open, race};
use super::{Route, Session, Trip, place};
use crate::telemetry::HedgeOutcome;
use crate::upstream::hedge::Hedging;
use crate::upstream::queue::Place;
use std::time::Instant;

/// Asks the backend of `place`, and reads the opening of its answer; asks another as well when that takes too long. Whose
/// answer it is has the place that comes back.
///
/// # Errors
/// That the client has left, or the process ends.
pub(super) async fn ask(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    deadline: Deadline,
    place: Place,
    opening: Opening,
) -> Result<(Outcome<Opened>, Place)> {
    let (core, began) = (trip.core, Instant::now());
    // Boxed: what both wait in would be several times as large.
    let mut first = Box::pin(open(Ask::new(trip, place.backend(), route, deadline), opening));
    let stream = trip.exchange.wants_stream();
    let hedging = route.hedging.as_deref().filter(|hedging| hedging.is_for(stream));
    let late = hedging.and_then(|hedging| {
        hedging.budget.earn();
        opening::patience(trip, hedging)
    });
    let early = match late {
        Some(late) => alongside(core, session, tokio::time::timeout(late, first.as_mut())).await?.ok(),
        None => Some(alongside(core, session, first.as_mut()).await?),
    };
    let (outcome, place) = match (early, hedging) {
        (Some(outcome), _) => (outcome, place),
        (None, Some(hedging)) if let Some(second) = second(trip, route, hedging, &place) => {
            asks(trip, route, &second);
            let asked = open(Ask::new(trip, second.backend(), route, deadline), opening);
            let Race { outcome, is_second } = alongside(core, session, Box::pin(race(first.as_mut(), asked))).await?;
            let (how, winner) = match is_second {
                true => {
                    // It took at least as long.
                    place.attempt().first_token(Instant::now());
                    (HedgeOutcome::Won, second)
                }
                false => (HedgeOutcome::Lost, place),
            };
            trip.record.hedge = Some(how);
            trip.record.course.won(is_second);
            route.series.hedges(how).inc();
            trip.record.backend = Some(winner.backend().settings.name.clone());
            trip.backend = Some(winner.backend().clone());
            trip.attempt = Some(winner.attempt().clone());
            (outcome, winner)
        }
        (None, _) => (alongside(core, session, first).await?, place),
    };
    // One that was given up took at least as long.
    if let Some(hedging) = hedging.filter(|_| outcome.as_ref().is_ok_and(Opened::is_good)) {
        hedging.took(stream, began.elapsed());
    }
    Ok((outcome, place))
}

/// A place at another backend, if there is one that nobody waits for, and the budget has it.
fn second(trip: &Trip<'_>, route: &Route, hedging: &Hedging, first: &Place) -> Option<Place> {
    // Where requests wait, there is no room for doing things twice.
    if route.pool.queue.as_ref().is_some_and(|queue| !queue.is_empty()) {
        return None;
    }
    let second = place::now(&route.pool, trip, std::slice::from_ref(first.backend())).ok()?;
    if !hedging.budget.spend() {
        route.series.hedges(HedgeOutcome::Refused).inc();
        return None;
    }
    Some(second)
}
