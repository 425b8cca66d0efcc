//! From a route to the head of an answer: attempts, one after the other, until a backend answers or no other may be
//! asked. What fails before a backend can have run the request moves on to the next one; the client does not notice.

use super::attempt::{Failed, Got, Miss, attempt};
use super::body::Body;
use super::fail::{Fault, Result, Wait};
use super::fallback::{self, Chain, Stuck};
use super::hedge;
use super::opening::{Opened, Opening};
use super::place;
use super::retry::{Retrying, cause};
use super::{Route, Session, Trip};
use crate::core::Core;
use crate::upstream::queue::Place;
use crate::upstream::{self, NoBackend, Upstream};
use bytes::Bytes;
use std::collections::VecDeque;
use std::future::Future;
use std::time::{Duration, Instant};
use tidegate_config::{FallbackOn, Hold};
use tidegate_plugins::{Head, Source};

/// A backend that has begun to answer.
pub(super) struct Fetched {
    /// The connection; the answer's head has been read.
    pub upstream: Upstream,
    /// That head.
    pub head: Head,
    /// The place at the backend.
    pub lease: Place,
    /// What of the answer has been read already.
    pub held: VecDeque<Bytes>,
    /// When this has to be over.
    pub deadline: Deadline,
}

impl Fetched {
    /// The next piece of the answer; none at its end. Nothing is lost if this is not waited for.
    ///
    /// # Errors
    /// If the connection breaks before the answer's end.
    pub(super) async fn read_body(&mut self) -> upstream::error::Result<Option<Bytes>> {
        match self.held.pop_front() {
            Some(data) => Ok(Some(data)),
            None => self.upstream.read_body().await,
        }
    }

    /// Whether the answer has been read to its end.
    pub(super) fn is_done(&self) -> bool {
        self.held.is_empty() && self.upstream.is_done()
    }
}

/// Until when a request may wait, whatever for.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    total: Instant,
    client: Option<Instant>,
    /// When a client that is still in line is told so: it has to hear it before it leaves.
    in_line: Option<Instant>,
}

/// How much before its own deadline a client that waits this long is told that it waited in vain. Its clock began before
/// ours did, and the answer has to get to it.
fn in_time(patience: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(1);
    (patience / 10).clamp(LEAST, MOST).min(patience / 2)
}

impl Deadline {
    fn new(trip: &Trip<'_>, route: &Route) -> Self {
        let (started, patience) = (trip.record.started, trip.patience);
        let client = patience.map(|patience| started + patience);
        let in_line = patience.map(|patience| started + patience - in_time(patience));
        Self { total: started + route.timeouts.total, client, in_line }
    }

    /// How long a client that has got nothing yet may still wait in line.
    pub(super) fn left_in_line(&self) -> Duration {
        self.in_line.map_or(self.total, |client| client.min(self.total)).saturating_duration_since(Instant::now())
    }

    /// The same for a client that has got a part of its answer.
    pub(super) fn of_the_rest(self) -> Self {
        Self { client: None, in_line: None, ..self }
    }

    /// When everything has to be over.
    pub(super) fn total(&self) -> Instant {
        self.total
    }

    /// The earliest of `limit` from `since` and the deadlines of the whole, and which of them it is. The client's own
    /// patience is for the first byte, and for the whole where it gets nothing before.
    pub(super) fn until(&self, wait: Wait, since: Instant, limit: Duration, client_waits: bool) -> (Instant, Wait) {
        let mut earliest = (since + limit, wait);
        if self.total < earliest.0 {
            earliest = (self.total, Wait::Total);
        }
        match self.client.filter(|_| client_waits) {
            Some(client) if client < earliest.0 => (client, Wait::Client),
            _ => earliest,
        }
    }
}

/// Waits for `future`, but not beyond `until`, not for a client that has left, and not beyond the time for draining.
///
/// # Errors
/// Which of these it was.
pub(super) async fn wait<T>(
    core: &Core,
    session: &mut Session,
    until: (Instant, Wait),
    future: impl Future<Output = T>,
) -> Result<T> {
    let patience = until.0.saturating_duration_since(Instant::now());
    tokio::select! {
        // The backend first: what it has sent is passed on even to a client that is about to leave.
        biased;
        outcome = crate::patience::timeout(patience, future) => outcome.map_err(|_| Fault::timed_out(until.1)),
        () = session.left() => Err(Fault::ClientGone),
        () = core.is_cut() => Err(Fault::leaving()),
    }
}

/// Waits for `future` as long as it takes, but not for a client that has left, and not beyond the time for draining.
///
/// # Errors
/// Which of these it was.
pub(super) async fn alongside<T>(core: &Core, session: &mut Session, future: impl Future<Output = T>) -> Result<T> {
    tokio::select! {
        biased;
        outcome = future => Ok(outcome),
        () = session.left() => Err(Fault::ClientGone),
        () = core.is_cut() => Err(Fault::leaving()),
    }
}

/// What an attempt that another may follow has led to, to be told if none does.
pub(super) enum Missed {
    /// A fault.
    Fault(Fault),
    /// An answer: a refusal.
    Answer(Box<Fetched>),
}

impl Missed {
    fn told(self) -> Result<Fetched> {
        match self {
            Self::Fault(fault) => Err(fault),
            Self::Answer(fetched) => Ok(*fetched),
        }
    }

    /// Gives its place back, to wait for another; a refusal is kept to be told if there is none.
    ///
    /// # Errors
    /// That the client has left, or the process ends.
    pub(super) async fn put_aside(&mut self, session: &mut Session, trip: &mut Trip<'_>) -> Result<()> {
        let Self::Answer(fetched) = self else { return Ok(()) };
        if fetched.head.status.as_u16() >= 400 {
            match super::whole::peek(session, trip, fetched).await {
                Ok(_) => {}
                Err(fault) if fault.is_of_the_backend() => {
                    *self = Self::Fault(fault);
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            }
        }
        fetched.lease.give_back();
        Ok(())
    }

    /// Counts it as the backend's, where nobody is told of it.
    pub(super) fn count(&self, trip: &Trip<'_>) {
        let fetched = match self {
            Self::Fault(fault) => return count(trip, fault),
            Self::Answer(fetched) => fetched,
        };
        if let (Some(backend), Some(fault)) = (&trip.backend, super::whole::counted(fetched.head.status)) {
            backend.series.failed(fault);
        }
        if let Some(attempt) = &trip.attempt {
            attempt.refused(fetched.head.status.as_u16());
        }
    }
}

/// Counts a fault as that of the backend that was asked last.
fn count(trip: &Trip<'_>, fault: &Fault) {
    let refusal = match fault {
        Fault::Told { refusal, .. } => Some(&**refusal),
        Fault::ClientGone => None,
    };
    let counted = refusal.and_then(|refusal| super::fail::counted(refusal, trip));
    if let (Some(backend), Some(fault)) = (&trip.backend, counted) {
        backend.series.failed(fault);
    }
    let Some(attempt) = &trip.attempt else { return };
    match refusal {
        Some(refusal) => {
            super::fail::judge(attempt, refusal);
            attempt.failed();
        }
        None => attempt.said_nothing(),
    }
}

/// Counts a fault as that of the backend that was asked last, for good: nothing that comes later is its fault.
pub(super) fn blame(trip: &mut Trip<'_>, fault: &Fault) {
    count(trip, fault);
    trip.record.course.missed("broken");
    (trip.backend, trip.attempt) = (None, None);
}

/// Gets the head of an answer: of the route's pool, or of the next that its model falls back to.
///
/// # Errors
/// Why there is none.
pub(super) async fn fetch(session: &mut Session, trip: &mut Trip<'_>) -> Result<Fetched> {
    let route = trip.route.clone().ok_or_else(|| Fault::ours("fetching without a route"))?;
    let deadline = Deadline::new(trip, &route);
    // Boxed: it is larger than all that comes after it, and would be held for as long as a stream is.
    Box::pin(along(session, trip, route, deadline)).await.or_else(Missed::told)
}

/// Gets the head of an answer by `deadline`: of `route`, or of the next that its model falls back to.
///
/// # Errors
/// What is told if there is none.
pub(super) async fn along(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut route: Route,
    deadline: Deadline,
) -> std::result::Result<Fetched, Missed> {
    let mut chain = Chain::new(trip, &route);
    loop {
        let stuck = match at(session, trip, &route, deadline, &chain).await {
            Ok(At::Answered(fetched)) => return Ok(*fetched),
            Ok(At::Stuck(stuck)) => stuck,
            Err(fault) => return Err(Missed::Fault(fault)),
        };
        route = fallback::turn(session, trip, route, &mut chain, stuck).await?;
    }
}

/// Asks one backend, once, if one has a place now: for a copy, whose answer nobody waits for.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn once(session: &mut Session, trip: &mut Trip<'_>, route: &Route) -> Result<Fetched> {
    // The time that its client waits is no time of the copy's.
    let deadline = Deadline { total: trip.record.started + route.timeouts.total, client: None, in_line: None };
    // Where requests wait, none of them waits for a copy.
    let place = match route.pool.queue.as_ref().is_some_and(|queue| !queue.is_empty()) {
        true => Err(NoBackend::Busy),
        false => place::now(&route.pool, trip, &[]),
    };
    let place = place.map_err(|why| Fault::no_backend(why, route.name()))?;
    match ask(session, trip, route, deadline, place, false).await? {
        Asked::Answered(fetched) => Ok(*fetched),
        Asked::Missed(_, missed) => missed.told(),
    }
}

/// What became of a request at one pool.
enum At {
    Answered(Box<Fetched>),
    Stuck(Stuck),
}

/// Asks one pool, as often as it may.
async fn at(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    deadline: Deadline,
    chain: &Chain,
) -> Result<At> {
    let mut retrying = Retrying::new(trip, route);
    let mut place = match place::take(session, trip, route, deadline, Some(chain), &[]).await {
        Ok(place) => place,
        Err(why) => return Ok(At::Stuck(Stuck::without_place(trip, route, why))),
    };
    loop {
        let backend = place.backend().clone();
        let may = |miss| retrying.allows(trip, route, miss);
        let elsewhere = [FallbackOn::Error, FallbackOn::ContextTooLong].map(|why| chain.has(trip, why));
        let again = [Miss::Lost, Miss::ErrorEvent, Miss::Malformed].into_iter().any(may) || elsewhere.contains(&true);
        let (miss, mut missed) = match ask(session, trip, route, deadline, place, again).await? {
            Asked::Answered(fetched) => return Ok(At::Answered(fetched)),
            Asked::Missed(miss, missed) => (miss, missed),
        };
        if !retrying.allows(trip, route, miss) {
            return Ok(At::Stuck(Stuck::after(miss, missed)));
        }
        retrying.tried.push(backend);
        place = match retrying.place(session, trip, route, (deadline, chain), (miss, &mut missed)).await? {
            Some(next) => next,
            None => return Ok(At::Stuck(Stuck::after(miss, missed))),
        };
        missed.count(trip);
    }
}

/// What became of an attempt.
enum Asked {
    Answered(Box<Fetched>),
    Missed(Miss, Missed),
}

/// Asks the backend of `place`; an idle connection to it that turns out to be dead is replaced by a new one. Where it may
/// be asked `again` after an answer that breaks off, the answer's opening is read before it is one.
async fn ask(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    deadline: Deadline,
    place: Place,
    again: bool,
) -> Result<Asked> {
    asks(trip, route, &place);
    let began = Instant::now();
    let stream = trip.exchange.wants_stream();
    let hedges = route.hedging.as_ref().is_some_and(|hedging| hedging.is_for(stream));
    let holds = route.pool.hold == Hold::Content && stream;
    let opens = matches!(trip.body, Body::Whole) && (again || holds || hedges);
    let (outcome, place) = match Opening::new(trip, route).filter(|_| opens) {
        Some(opening) => hedge::ask(session, trip, route, deadline, place, opening).await?,
        None => {
            let backend = place.backend().clone();
            let mut outcome = attempt(session, trip, &backend, route, deadline, false).await;
            if matches!(outcome, Err(Failed::Stale)) {
                outcome = attempt(session, trip, &backend, route, deadline, true).await;
            }
            let share = trip.core.bodies.share();
            (outcome.map(|got| Opened { got, held: VecDeque::new(), is_error: false, share }), place)
        }
    };
    trip.record.upstream_time += began.elapsed();
    // Held pieces are counted anew by whoever takes them out.
    let Opened { got, held, is_error, share: _ } = match outcome {
        Ok(opened) => opened,
        Err(Failed::Missed(miss, fault)) => {
            trip.record.course.missed(cause(miss).label());
            return Ok(Asked::Missed(miss, Missed::Fault(fault)));
        }
        Err(Failed::Final(fault)) => return Err(fault),
        Err(Failed::Stale) => return Err(Fault::broken("a new connection was called stale")),
    };
    let Got { upstream, head, sent, headed } = got;
    trip.record.sent = Some(sent);
    trip.record.head = Some(headed);
    let status = head.status.as_u16();
    trip.record.upstream_status = Some(status);
    trip.record.course.answered(sent, headed, status);
    trip.record.source = Source::Backend;
    trip.exchange.answer_from(Source::Backend, true);
    let fetched = Box::new(Fetched { upstream, head, lease: place, held, deadline });
    let miss = match status {
        400.. => Miss::Status(status),
        _ if is_error => Miss::ErrorEvent,
        _ => return Ok(Asked::Answered(fetched)),
    };
    trip.record.course.missed(cause(miss).label());
    Ok(Asked::Missed(miss, Missed::Answer(fetched)))
}

/// A backend is asked.
pub(super) fn asks(trip: &mut Trip<'_>, route: &Route, place: &Place) {
    trip.record.attempts += 1;
    trip.record.course.asks(trip.record.attempts, &place.backend().settings.name, &route.pool.name);
    trip.record.backend = Some(place.backend().settings.name.clone());
    trip.backend = Some(place.backend().clone());
    trip.attempt = Some(place.attempt().clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_in_vain_hears_of_it_before_it_leaves() {
        let millis = |patience| in_time(Duration::from_millis(patience)).as_millis();
        assert_eq!([40, 200, 1000, 5000, 600_000].map(millis), [20, 50, 100, 500, 1000]);
    }
}
