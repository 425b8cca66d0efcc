//! What a request has used: settled once, and handed over to be kept.
//!
//! That happens before its client can know that its answer is over: should the process be killed then, what the client
//! was told is kept all the same. What becomes of the request after that (it may still lose its client) is put right.

use super::Trip;
use crate::telemetry::Cause;
use crate::usage::{Entry, Sums, count, today};
use std::sync::Arc;
use tidegate_plugins::Caller;
use tidegate_plugins::exchange::Outcome;
use tidegate_plugins::usage::Usage;

/// How a request ends, or is about to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// The status the client gets; 499 if it does not wait for one.
    pub(super) status: u16,
    /// Who is to blame, if it is not what was asked for.
    pub(super) cause: Cause,
    /// Whether the answer is complete and what was asked for.
    pub(super) complete: bool,
}

/// What has been handed over of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tally {
    day: u32,
    model: Option<Arc<str>>,
    cause: Cause,
    sums: Sums,
}

/// What becomes of a request once `bytes` more of its answer are written. The same each time, as long as nothing else has
/// become of it.
pub(super) fn settle(trip: &mut Trip<'_>, ending: Ending, bytes: usize) -> Outcome {
    let record = &trip.record;
    let outcome = Outcome {
        status: ending.status,
        gone: ending.cause == Cause::ClientGone,
        asked: record.attempts > 0,
        complete: ending.complete,
        usage: record.usage,
        reported: record.usage,
        source: trip.exchange.source(),
        charged: trip.exchange.is_charged(),
        streamed: trip.streaming,
        events: record.events,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes + bytes as u64,
    };
    if let Some(before) = trip.outcome.filter(|before| Outcome { usage: outcome.usage, ..*before } == outcome) {
        return before;
    }
    let settled = trip.followers.iter().rev().find_map(|follower| follower.settles(&trip.exchange, &outcome));
    *trip.outcome.insert(Outcome { usage: settled.or(outcome.usage), ..outcome })
}

/// Hands over what a request has used once `bytes` more of its answer are written, after which its client may know that it
/// is over.
pub(super) fn hand_over(trip: &mut Trip<'_>, ending: Ending, bytes: usize) {
    if trip.core.usages.is_some() && !trip.shadow {
        let usage = settle(trip, ending, bytes).usage;
        keep(trip, ending.cause, usage);
    }
}

/// Hands over what a request has used, or what of that is not as it was handed over before.
pub(super) fn keep(trip: &mut Trip<'_>, cause: Cause, usage: Option<Usage>) {
    let Some(usages) = &trip.core.usages else { return };
    let before = trip.tally.take();
    // A request that is over after midnight stays where it was.
    let day = before.as_ref().map_or_else(today, |before| before.day);
    let now = Tally { day, model: model_of(trip).cloned(), cause, sums: sums(trip, usage) };
    match &before {
        Some(before) if *before == now => {}
        // Both at once: a line is whole or not at all.
        Some(before) => usages.record(&[entry(trip, &now, 1), entry(trip, before, -1)]),
        None => usages.record(&[entry(trip, &now, 1)]),
    }
    trip.tally = Some(now);
}

fn entry<'a>(trip: &'a Trip<'_>, tally: &'a Tally, sign: i64) -> Entry<'a> {
    let caller = trip.account();
    let name = |of: fn(&Caller) -> &Option<Arc<str>>| caller.and_then(|caller| of(caller).as_deref()).unwrap_or("");
    let names = [
        name(|caller| &caller.org),
        name(|caller| &caller.team),
        name(|caller| &caller.user),
        name(|caller| &caller.service),
        name(|caller| &caller.key),
        tally.model.as_deref().unwrap_or(""),
        tally.cause.label(),
    ];
    Entry { day: tally.day, names, sums: tally.sums.map(|sum| sum * sign) }
}

/// In the order of [`crate::usage::COUNTS`]. What was paid for before is saved.
fn sums(trip: &Trip<'_>, usage: Option<Usage>) -> Sums {
    let charged = trip.exchange.is_charged();
    let used = usage.unwrap_or_default();
    let tokens = [used.prompt, used.cached_prompt, used.completion].map(|tokens| count(tokens.unwrap_or(0)));
    let ([prompt, cached, completion], [saved_prompt, _, saved_completion]) =
        if charged { (tokens, [0; 3]) } else { ([0; 3], tokens) };
    let estimated = used.estimated || trip.record.counted;
    let cost = count(cost(trip, usage));
    let (again, estimated) = (i64::from(!charged), i64::from(estimated));
    [1, again, estimated, prompt, cached, completion, saved_prompt, saved_completion, cost]
}

/// The tokens that are this request's to pay: an answer that was made for another one is that one's.
pub(super) fn charged(trip: &Trip<'_>, usage: Option<Usage>) -> Option<Usage> {
    usage.filter(|_| trip.exchange.is_charged())
}

/// What a request costs that has used this, in billionths.
pub(super) fn cost(trip: &Trip<'_>, usage: Option<Usage>) -> u64 {
    let price = trip.exchange.priced_as().and_then(|model| trip.snapshot.prices.of(model));
    charged(trip, usage).zip(price).map_or(0, |(usage, price)| price.of(&usage))
}

/// The model as the file names it, also of a request that came no farther than a filter.
pub(super) fn model_of<'a>(trip: &'a Trip<'_>) -> Option<&'a Arc<str>> {
    match &trip.route {
        Some(route) => route.model.as_ref().map(|model| &model.name),
        None => trip.snapshot.models.resolve(trip.exchange.model()?).map(|model| &model.name),
    }
}
