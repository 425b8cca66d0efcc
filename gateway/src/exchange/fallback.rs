//! Where a request goes when those who should answer cannot: the next step of its model that is for the reason.

use super::attempt::Miss;
use super::fail::Fault;
use super::fetch::{Fetched, Missed};
use super::place::{self, NoPlace};
use super::resume::Resuming;
use super::{Route, Session, Trip, admit, whole};
use crate::models::Step;
use crate::telemetry::InFlight;
use crate::upstream::NoBackend;
use crate::upstream::too_long::says_too_long;
use http::StatusCode;
use std::sync::Arc;
use tidegate_config::FallbackOn;
use tidegate_plugins::keys::mask;

/// A pool that has not answered: why, and what is told if nobody else does.
pub(super) struct Stuck {
    /// None: it is the client's own, and nobody's to mend.
    pub why: Option<FallbackOn>,
    /// What is told.
    pub missed: Missed,
}

impl Stuck {
    /// No attempt was made.
    pub(super) fn without_place(trip: &Trip<'_>, route: &Route, why: NoPlace) -> Self {
        let model = trip.exchange.model().map_or("this path", |model| super::arrive::short(model));
        let (why, fault) = match why {
            NoPlace::Fault(fault) => (None, fault),
            NoPlace::Queue(refused, wait) => (Some(FallbackOn::Overloaded), place::refusal(trip, route, refused, wait)),
            NoPlace::Backend(none) => {
                let why = match none {
                    NoBackend::Busy => FallbackOn::Overloaded,
                    NoBackend::Resting(_) => FallbackOn::RateLimited,
                    NoBackend::Down(_) | NoBackend::Tried => FallbackOn::Unavailable,
                };
                (Some(why), Fault::no_backend(none, model))
            }
        };
        Self { why, missed: Missed::Fault(fault) }
    }

    /// An attempt was made, and no other may be at this pool.
    pub(super) fn after(miss: Miss, missed: Missed) -> Self {
        Self { why: Self::why(miss), missed }
    }

    /// What an attempt that ended so is to those who come after.
    pub(super) fn why(miss: Miss) -> Option<FallbackOn> {
        match miss {
            Miss::Unreached | Miss::Connect => Some(FallbackOn::Unavailable),
            Miss::Timeout => Some(FallbackOn::Timeout),
            Miss::Lost | Miss::Malformed | Miss::ErrorEvent => Some(FallbackOn::Error),
            Miss::Status(429) => Some(FallbackOn::RateLimited),
            Miss::Status(503 | 529) => Some(FallbackOn::Overloaded),
            Miss::Status(500..) => Some(FallbackOn::Error),
            Miss::Status(_) => None,
        }
    }

    /// It is stuck for its length, which is nobody's fault, also where a stream said so.
    fn too_long(&mut self, trip: &Trip<'_>) {
        self.why = Some(FallbackOn::ContextTooLong);
        if let Some(attempt) = &trip.attempt {
            attempt.refused(StatusCode::BAD_REQUEST.as_u16());
        }
    }
}

/// The steps that a request has not taken yet.
pub(super) struct Chain {
    steps: Arc<[Step]>,
    next: usize,
}

impl Chain {
    /// All steps of the model of `route`, if this request may take them.
    pub(super) fn new(trip: &Trip<'_>, route: &Route) -> Self {
        // A body that comes in pieces cannot be sent twice, nor its model be changed.
        let whole = trip.exchange.call().is_some() && trip.replayable;
        let steps =
            route.model.as_ref().filter(|_| whole && !trip.wishes.no_fallback).map(|model| model.fallback.clone());
        Self { steps: steps.unwrap_or_default(), next: 0 }
    }

    /// Whether a step is left for this.
    pub(super) fn has(&self, trip: &Trip<'_>, why: FallbackOn) -> bool {
        self.steps[self.next..].iter().any(|step| step.on.contains(&why) && may(trip, step))
    }

    /// Whether there is a step for this, and the caller can pay for it; what that takes is held.
    pub(super) async fn affords(&self, trip: &mut Trip<'_>, why: FallbackOn) -> bool {
        let left = &self.steps[self.next..];
        let Some(step) = left.iter().find(|step| step.on.contains(&why) && may(trip, step)) else { return false };
        let Some(model) = step.priced_as.as_ref().or(trip.exchange.model()) else { return true };
        for follower in &mut trip.followers {
            if !follower.affords(&trip.exchange, model).await {
                let key = if why == FallbackOn::Overloaded { "overflow" } else { "fallback" };
                trip.exchange.note(key, "unaffordable");
                return false;
            }
        }
        true
    }

    /// The next step for this. Those before it are passed by.
    fn take(&mut self, trip: &Trip<'_>, why: FallbackOn) -> Option<Step> {
        let left = &self.steps[self.next..];
        let ahead = left.iter().position(|step| step.on.contains(&why) && may(trip, step))?;
        self.next += ahead + 1;
        self.steps.get(self.next - 1).cloned()
    }
}

/// Whether the caller may ask for the model that the step is, and it can be asked for this.
fn may(trip: &Trip<'_>, step: &Step) -> bool {
    let goes_on = |resuming: &Resuming| resuming.may_go_to(&step.serves.target().pool);
    if !trip.resuming.as_deref().is_none_or(goes_on) {
        return false;
    }
    let Some(model) = &step.model else { return true };
    trip.exchange.caller().is_none_or(|caller| caller.may_use(model))
}

/// Turns the request to the next step that is for why it is stuck.
///
/// # Errors
/// The same again, if there is none.
pub(super) async fn turn(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: Route,
    chain: &mut Chain,
    mut stuck: Stuck,
) -> std::result::Result<Route, Missed> {
    if let Missed::Answer(fetched) = &mut stuck.missed
        && chain.has(trip, FallbackOn::ContextTooLong)
    {
        match is_too_long(session, trip, fetched).await {
            Ok(true) => stuck.too_long(trip),
            Ok(false) => {}
            Err(fault) => return Err(Missed::Fault(fault)),
        }
    }
    let Some(why) = stuck.why else { return Err(stuck.missed) };
    // A limit of money that each outage lifts would be none.
    if !chain.affords(trip, why).await {
        return Err(stuck.missed);
    }
    let Some(step) = chain.take(trip, why) else { return Err(stuck.missed) };
    stuck.missed.count(trip);
    route.series.fallbacks(why).inc();
    trip.record.fallback.push(why.as_str());
    let target = step.serves.target();
    let mut timeouts = target.timeouts;
    if let Some(within) = step.within {
        (timeouts.first_byte, timeouts.first_token) = (within, within);
    }
    let (pool, series) = (target.pool.clone(), target.series.clone());
    let send_as = target.send_as.clone();
    let route = Route { pool, series, send_as, timeouts, hedging: target.hedging.clone(), ..route };
    admit::rename(trip, &route);
    // What keeps answers must not take this one for that of the pool that did not answer.
    if let Some(model) = trip.exchange.model().cloned().filter(|_| trip.exchange.answerer().is_some()) {
        trip.exchange.settle_on(Arc::new(route.answerer(&model)));
    }
    trip.exchange.price_as(step.priced_as.clone());
    let name = route.send_as.as_ref().or(trip.exchange.model());
    trip.record.model_served = name.map(|name| mask(name.as_ref()).into());
    trip.under_way = Some(InFlight::new(&route.series.in_flight));
    trip.route = Some(route.clone());
    Ok(route)
}

/// Whether a refusal says that the prompt is too long, or the event that a stream opens with. It is kept for being told.
async fn is_too_long(session: &mut Session, trip: &mut Trip<'_>, fetched: &mut Fetched) -> super::fail::Result<bool> {
    Ok(match fetched.head.status.as_u16() {
        400 | 413 | 422 => says_too_long(&whole::peek(session, trip, fetched).await?),
        // What has been read of it, and no more: the rest comes when it likes.
        200 => says_too_long(&fetched.held.iter().flatten().copied().collect::<Vec<_>>()),
        _ => false,
    })
}
