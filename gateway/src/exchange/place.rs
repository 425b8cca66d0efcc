//! A place at a backend: taken at once where there is one, waited for in the pool's queue where all are full.

use super::arrive::short;
use super::fail::{Fault, Result};
use super::fallback::Chain;
use super::fetch::{Deadline, alongside};
use super::{Route, Session, Trip, headers, relay};
use crate::upstream::queue::{Claim, NoWait, Place, Queue, Ticket};
use crate::upstream::{Backend, NoBackend, Pool};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_config::FallbackOn;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::{Exchange, Head, Priority};

/// Why there is no place.
pub(super) enum NoPlace {
    /// Nobody takes the request.
    Backend(NoBackend),
    /// The queue does not let it in, or did for too long; come back after this.
    Queue(Refused, Duration),
    /// The client has left, or the process ends.
    Fault(Fault),
}

/// What a queue says to those it does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too many wait.
    Full,
    /// It would have taken, or has taken, longer than the request can wait.
    TooLong,
}

/// Where a request goes that would wait, or has waited, for too long.
#[derive(Clone, Copy)]
struct Overflow<'a> {
    /// For longer than this.
    after: Duration,
    /// Along this.
    chain: &'a Chain,
}

/// A place for an attempt at a pool, at none of the backends in `tried`: now, or when it is this request's turn. Where
/// there is somewhere else to go along `chain` that its caller can pay for, it waits no longer than the model's
/// `overflow_after`, and not at all for backends that have said when to come back.
///
/// # Errors
/// Why there is none.
pub(super) async fn take(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    deadline: Deadline,
    chain: Option<&Chain>,
    tried: &[Arc<Backend>],
) -> std::result::Result<Place, NoPlace> {
    let pool = &route.pool;
    let Some(queue) = &pool.queue else { return now(pool, trip, tried).map_err(NoPlace::Backend) };
    // Who waits already goes before.
    if queue.is_empty() {
        match now(pool, trip, tried) {
            Err(NoBackend::Busy | NoBackend::Resting(_)) => {}
            outcome => return outcome.map_err(NoPlace::Backend),
        }
    }
    let most = patience(trip, queue, deadline);
    let goes_on = |trip: &Trip<'_>, why| chain.filter(|chain| chain.has(trip, why));
    let after = route.model.as_ref().and_then(|model| model.overflow_after);
    let mut overflow = after
        .filter(|after| *after < most)
        .and_then(|after| Some(Overflow { after, chain: goes_on(trip, FallbackOn::Overloaded)? }));
    let rests_elsewhere = after.is_none() && goes_on(trip, FallbackOn::RateLimited).is_some();
    let patience = overflow.map_or(most, |overflow| overflow.after);
    if let Some(rest) = pool.rest()
        && (rest > patience || rests_elsewhere)
    {
        return Err(NoPlace::Backend(NoBackend::Resting(rest)));
    }
    let claim = claim(trip, queue);
    let joined = Instant::now();
    let mut ticket = queue.join(&claim, patience);
    if let (Err((NoWait::Hopeless, _)), Some(Overflow { chain, .. })) = (&ticket, overflow)
        && !chain.affords(trip, FallbackOn::Overloaded).await
    {
        (overflow, ticket) = (None, queue.join(&claim, most));
    }
    let ticket = match ticket {
        Ok(ticket) => ticket,
        Err((why, wait)) => {
            let (refused, outcome) = match why {
                NoWait::Full => (Refused::Full, "full"),
                NoWait::Hopeless => (Refused::TooLong, "hopeless"),
            };
            trip.record.course.queued(&pool.name, joined, outcome);
            return Err(NoPlace::Queue(refused, wait));
        }
    };
    let until = (joined + most, overflow.map(|overflow| (joined + overflow.after, overflow)));
    let place = wait(session, trip, route, ticket, until, tried).await;
    // However it ended: who leaves has waited too.
    trip.record.queued += joined.elapsed();
    trip.record.course.queued(&pool.name, joined, waited_for(&place));
    place
}

/// How a wait has ended, in the words of the metrics.
fn waited_for(place: &std::result::Result<Place, NoPlace>) -> &'static str {
    match place {
        Ok(_) => "served",
        Err(NoPlace::Queue(Refused::Full, _)) => "full",
        Err(NoPlace::Queue(Refused::TooLong, _)) => "expired",
        Err(NoPlace::Backend(_)) => "unavailable",
        Err(NoPlace::Fault(_)) => "left",
    }
}

/// A place now, without waiting. For attempts after the first: their request has had its turn.
pub(super) fn now(pool: &Arc<Pool>, trip: &Trip<'_>, tried: &[Arc<Backend>]) -> std::result::Result<Place, NoBackend> {
    let lease = match &trip.resuming {
        Some(resuming) if resuming.is_under_way() => {
            pool.lease(&trip.exchange, &[tried, &resuming.not_asked(pool)].concat())?
        }
        _ => pool.lease(&trip.exchange, tried)?,
    };
    Ok(Place::new(lease, pool.queue.as_ref()))
}

/// Waits until it is this request's turn and there is a place, no longer than until the first of the two; from the second
/// on it may go elsewhere, if its caller can pay for that.
async fn wait(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    mut ticket: Ticket,
    (last, mut overflow): (Instant, Option<(Instant, Overflow<'_>)>),
    tried: &[Arc<Backend>],
) -> std::result::Result<Place, NoPlace> {
    let told = |trip: &Trip<'_>| route.pool.queue.as_ref()?.settings.tell.filter(|_| trip.exchange.wants_stream());
    let mut tells = told(trip).map(|every| Instant::now() + every);
    loop {
        let until = overflow.map_or(last, |(until, _)| until);
        let next = tells.map_or(until, |tells| tells.min(until));
        let core = trip.core;
        let turn = async {
            tokio::select! {
                biased;
                called = ticket.called() => Some(called),
                () = tokio::time::sleep_until(next.into()) => None,
            }
        };
        let called = alongside(core, session, turn).await.map_err(NoPlace::Fault)?;
        if called == Some(false) {
            return Err(NoPlace::Queue(Refused::Full, ticket.displaced()));
        }
        if called.is_some() {
            match now(&route.pool, trip, tried) {
                Ok(place) => {
                    ticket.served();
                    return Ok(place);
                }
                Err(NoBackend::Busy | NoBackend::Resting(_)) => ticket.not_yet(),
                Err(why @ (NoBackend::Down(_) | NoBackend::Tried)) => return Err(NoPlace::Backend(why)),
            }
        } else if Instant::now() >= until {
            if let Some((_, Overflow { chain, .. })) = overflow.take()
                && !chain.affords(trip, FallbackOn::Overloaded).await
            {
                // It keeps its place in line.
                continue;
            }
            let wait = ticket.outlook().1.unwrap_or(UNKNOWN).max(route.pool.rest().unwrap_or_default());
            ticket.expired();
            return Err(NoPlace::Queue(Refused::TooLong, wait));
        } else {
            tell(session, trip, &ticket).await.map_err(NoPlace::Fault)?;
            tells = told(trip).map(|every| Instant::now() + every);
        }
    }
}

/// When to come back if nothing is known of how fast the queue moves.
const UNKNOWN: Duration = Duration::from_secs(1);

/// Tells a stream how it stands, in a comment that clients skip. The head goes out with the first.
async fn tell(session: &mut Session, trip: &mut Trip<'_>, ticket: &Ticket) -> Result<()> {
    let (before, wait) = ticket.outlook();
    if !trip.head_sent {
        let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        let fresh = (header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let mut head = Head { status: StatusCode::OK, headers: HeaderMap::from_iter([kind, fresh]) };
        trip.streaming = true;
        trip.record.stream = true;
        trip.in_line = ticket.waited();
        relay::start(session, trip, &mut head).await?;
        trip.in_line = Duration::ZERO;
    }
    let about = wait.map_or(String::new(), |wait| format!(", about {:.1} s", wait.as_secs_f64()));
    relay::write(session, trip, Bytes::from(format!(": queue: position {}{about}\n\n", before + 1))).await?;
    session.flush().await.map_err(|_| Fault::ClientGone)
}

/// How long this request can wait: what the queue allows, what the client says, and what is left of its time.
fn patience(trip: &Trip<'_>, queue: &Queue, deadline: Deadline) -> Duration {
    let asked = trip.wishes.max_wait.unwrap_or(Duration::MAX);
    queue.settings.max_wait.min(asked).min(deadline.left_in_line())
}

/// What this request waits in line for.
fn claim(trip: &Trip<'_>, queue: &Queue) -> Claim {
    let caller = trip.exchange.caller();
    let names = caller.map(|caller| [&caller.org, &caller.team, &caller.user, &caller.key]);
    let named = names.and_then(|names| names.into_iter().find_map(Clone::clone));
    let weight = named.as_deref().and_then(|name| queue.settings.weights.get(name)).copied().unwrap_or(1);
    // Who says nothing of itself shares with whoever comes from the same address.
    let tenant = named.unwrap_or_else(|| trip.exchange.client().map_or_else(String::new, |ip| ip.to_string()).into());
    Claim { priority: priority(trip).get(), tenant, weight, cost: cost(&trip.exchange) }
}

/// The caller's priority, or a lower one that the request asks for.
pub(super) fn priority(trip: &Trip<'_>) -> Priority {
    let own = trip.exchange.caller().map_or_else(Priority::default, |caller| caller.priority);
    trip.wishes.priority.unwrap_or(own).min(own)
}

/// Tokens it is expected to cost: a quarter of its bytes, and what the answer may have.
fn cost(exchange: &Exchange) -> u64 {
    let declared =
        || headers::text(exchange.headers(), http::header::CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let bytes = match exchange.body().len() as u64 {
        0 => declared().unwrap_or(0),
        bytes => bytes,
    };
    let answers = match exchange.endpoint() {
        Endpoint::Chat | Endpoint::Completions | Endpoint::Messages | Endpoint::Responses => {
            let call = exchange.call();
            let each = call.and_then(|call| call.max_tokens).unwrap_or(ANSWER).min(LONGEST);
            each * call.and_then(|call| call.n).unwrap_or(1).clamp(1, 128)
        }
        _ => 0,
    };
    bytes / 4 + answers
}

/// Tokens of an answer that may have as many as it likes.
const ANSWER: u64 = 512;

/// More tokens than answers have, whatever is asked for.
const LONGEST: u64 = 32_768;

/// Says a refusal of the queue to a client.
pub(super) fn refusal(trip: &Trip<'_>, route: &Route, why: Refused, wait: Duration) -> Fault {
    let model = trip.exchange.model().map_or("this path", |model| short(model));
    let status = route.pool.queue.as_ref().map_or(503, |queue| queue.settings.refuse_with.status());
    Fault::queue(why == Refused::Full, model, status, wait.min(LONGEST_WAIT))
}

/// The longest that anybody is told to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
