//! From a route to the head of an answer: attempts, one after the other, until a backend answers or no other may be
//! asked. What fails before a backend can have run the request moves on to the next one; the client does not notice.

use super::arrive::client_patience;
use super::attempt::{Failed, Got, Miss, attempt};
use super::fail::{Fault, Result, Wait};
use super::place::{self, NoPlace};
use super::retry::Retrying;
use super::{Route, Session, Trip};
use crate::core::Core;
use crate::upstream::queue::Place;
use crate::upstream::{NoBackend, Upstream};
use std::future::Future;
use std::time::{Duration, Instant};
use tidegate_plugins::Head;

/// A backend that has begun to answer.
pub(super) struct Fetched {
    /// The connection; the answer's head has been read.
    pub upstream: Upstream,
    /// That head.
    pub head: Head,
    /// The place at the backend.
    pub lease: Place,
    /// When this has to be over.
    pub deadline: Deadline,
}

/// Until when a request may wait, whatever for.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    total: Instant,
    client: Option<Instant>,
}

impl Deadline {
    fn new(trip: &Trip<'_>, route: &Route) -> Self {
        let started = trip.record.started;
        let client = client_patience(trip).map(|patience| started + patience);
        Self { total: started + route.timeouts.total, client }
    }

    /// How long a client that has got nothing yet may still wait.
    pub(super) fn left(&self) -> Duration {
        self.client.map_or(self.total, |client| client.min(self.total)).saturating_duration_since(Instant::now())
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
        outcome = pingora::time::timeout(patience, future) => outcome.map_err(|_| Fault::timed_out(until.1)),
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
enum Missed {
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

    /// Counts it as the backend's, where nobody is told of it.
    fn count(&self, trip: &Trip<'_>) {
        let fault = match self {
            Self::Fault(Fault::Told { refusal, .. }) => super::fail::counted(refusal, trip),
            Self::Fault(Fault::ClientGone) => None,
            Self::Answer(fetched) => super::whole::counted(fetched.head.status),
        };
        if let (Some(backend), Some(fault)) = (&trip.backend, fault) {
            backend.series.failed(fault);
        }
        let Some(attempt) = &trip.attempt else { return };
        match self {
            Self::Fault(Fault::Told { refusal, .. }) => {
                super::fail::judge(attempt, refusal);
                attempt.failed();
            }
            Self::Fault(Fault::ClientGone) => attempt.said_nothing(),
            Self::Answer(fetched) => attempt.refused(fetched.head.status.as_u16()),
        }
    }
}

/// Gets the head of an answer.
///
/// # Errors
/// Why there is none.
pub(super) async fn fetch(session: &mut Session, trip: &mut Trip<'_>) -> Result<Fetched> {
    let route = trip.route.clone().ok_or_else(|| Fault::ours("fetching without a route"))?;
    let deadline = Deadline::new(trip, &route);
    let mut retrying = Retrying::new(trip, &route);
    let mut place = match place::take(session, trip, &route, deadline).await {
        Ok(place) => place,
        Err(NoPlace::Fault(fault)) => return Err(fault),
        Err(NoPlace::Queue(why, wait)) => return Err(place::refusal(trip, &route, why, wait)),
        Err(NoPlace::Backend(why)) => {
            let model = trip.exchange.model().map_or("this path", |model| &**model);
            return Err(Fault::no_backend(why, model));
        }
    };
    loop {
        let backend = place.backend().clone();
        let (miss, missed) = match ask(session, trip, &route, deadline, place).await? {
            Asked::Answered(fetched) => return Ok(*fetched),
            Asked::Missed(miss, missed) => (miss, missed),
        };
        if !retrying.allows(trip, &route, miss) {
            return missed.told();
        }
        retrying.tried.push(backend);
        match next(session, trip, &route, &mut retrying).await? {
            Some(next) if retrying.spend(trip, &route, miss) => {
                missed.count(trip);
                place = next;
            }
            _ => return missed.told(),
        }
    }
}

/// A place for another attempt: at a backend that was not asked yet, or, a moment later, at one that was.
async fn next(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    retrying: &mut Retrying,
) -> Result<Option<Place>> {
    match place::now(&route.pool, trip, Some(retrying)) {
        Ok(place) => return Ok(Some(place)),
        Err(NoBackend::Tried) => {}
        Err(_) => return Ok(None),
    }
    let pause = retrying.next_round(route.pool.retries.backoff);
    let began = Instant::now();
    alongside(trip.core, session, tokio::time::sleep(pause)).await?;
    trip.record.upstream_time += began.elapsed();
    Ok(place::now(&route.pool, trip, Some(retrying)).ok())
}

/// What became of an attempt.
enum Asked {
    Answered(Box<Fetched>),
    Missed(Miss, Missed),
}

/// Asks the backend of `lease`; an idle connection to it that turns out to be dead is replaced by a new one.
async fn ask(
    session: &mut Session,
    trip: &mut Trip<'_>,
    route: &Route,
    deadline: Deadline,
    lease: Place,
) -> Result<Asked> {
    let backend = lease.backend().clone();
    trip.record.attempts += 1;
    trip.record.backend = Some(backend.settings.name.clone());
    trip.backend = Some(backend.clone());
    trip.attempt = Some(lease.attempt().clone());
    let began = Instant::now();
    let mut outcome = attempt(session, trip, &backend, route, deadline, false).await;
    if matches!(outcome, Err(Failed::Stale)) {
        outcome = attempt(session, trip, &backend, route, deadline, true).await;
    }
    trip.record.upstream_time += began.elapsed();
    let Got { upstream, head, sent, headed } = match outcome {
        Ok(got) => got,
        Err(Failed::Missed(miss, fault)) => return Ok(Asked::Missed(miss, Missed::Fault(fault))),
        Err(Failed::Final(fault)) => return Err(fault),
        Err(Failed::Stale) => return Err(Fault::broken("a new connection was called stale")),
    };
    trip.record.sent = Some(sent);
    trip.record.head = Some(headed);
    let status = head.status.as_u16();
    trip.record.upstream_status = Some(status);
    if matches!(status, 429 | 503 | 529) {
        backend.holdoff.refused(&head.headers);
    }
    let fetched = Box::new(Fetched { upstream, head, lease, deadline });
    Ok(match status {
        400.. => Asked::Missed(Miss::Status(status), Missed::Answer(fetched)),
        _ => Asked::Answered(fetched),
    })
}
