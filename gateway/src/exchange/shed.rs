//! Who is refused first when the gateway's own limits are near: so many requests at once, so much memory for bodies.
//!
//! What is left above the share of the less urgent is for those who are more so. Judged once it is known who calls, and
//! mostly before anything of a body is read; while it is read, the memory that it may fill is that of its urgency.

use super::arrive::Plan;
use super::fail::{Fault, Result};
use super::retry::random;
use super::{Trip, body, place};
use std::time::Duration;
use tidegate_config::Urgency;
use tidegate_plugins::Priority;

pub(super) use crate::telemetry::ShedReason as Reason;

/// Judges a request behind the filters that need no body. Whether who calls is known by now, as far as it will be:
/// otherwise only what holds for everybody is judged, and [`late`] does the rest.
///
/// # Errors
/// 503: it is not urgent enough, or there is no room for anybody.
pub(super) fn early(trip: &mut Trip<'_>, plan: &Plan) -> Result<bool> {
    let known = trip.exchange.caller().is_some() || !trip.snapshot.identifies_late;
    let priority = if known { place::priority(trip) } else { Priority::MOST };
    // Only the bodies of calls are held whole.
    let declared = body::declared_length(trip.exchange.headers()).filter(|_| matches!(plan, Plan::Call));
    judge(trip, Urgency::of(priority.get()), declared.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))?;
    Ok(known)
}

/// Judges a request of which only a filter that needs the body has found out who sends it.
///
/// # Errors
/// As [`early`].
pub(super) fn late(trip: &mut Trip<'_>) -> Result<()> {
    judge(trip, Urgency::of(place::priority(trip).get()), 0)
}

fn judge(trip: &mut Trip<'_>, urgency: Urgency, more: usize) -> Result<()> {
    let limits = &trip.snapshot.limits;
    let (requests, memory) = (limits.requests_for(urgency), limits.bodies_for(urgency));
    trip.memory = memory;
    // The request itself is one of them.
    if trip.core.requests.now() > requests {
        return Err(refuse(trip, urgency, Reason::Requests));
    }
    if trip.core.bodies.taken().saturating_add(more) > memory {
        return Err(refuse(trip, urgency, Reason::Bodies));
    }
    Ok(())
}

fn refuse(trip: &mut Trip<'_>, urgency: Urgency, reason: Reason) -> Fault {
    count_as(trip, urgency, reason);
    let what = if urgency == Urgency::Interactive { "more requests" } else { "a request of this priority" };
    Fault::no_room(&format!("The gateway is too busy for {what} now. Try again shortly."), wait(urgency))
}

/// When to come back: the more urgent first, and not all at once. Any time from half of it to one and a half.
fn wait(urgency: Urgency) -> Duration {
    let about = match urgency {
        Urgency::Batch => 10.0,
        Urgency::Normal => 4.0,
        Urgency::Interactive => 2.0,
    };
    Duration::from_secs_f64(about * (0.5 + random()))
}

/// Refuses a request for the body of which there is no memory.
pub(super) fn no_memory(trip: &mut Trip<'_>, message: &str) -> Fault {
    let urgency = Urgency::of(place::priority(trip).get());
    count_as(trip, urgency, Reason::Bodies);
    Fault::no_room(message, wait(urgency))
}

fn count_as(trip: &mut Trip<'_>, urgency: Urgency, reason: Reason) {
    trip.core.metrics.shed(urgency, reason);
    trip.exchange.note("shed", reason.label());
}
