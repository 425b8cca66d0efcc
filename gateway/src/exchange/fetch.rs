//! From a route to the head of an answer: a place at a backend, a connection, the request, and the head that comes
//! back. What fails before a backend can have run the request moves on to the next one; the client does not notice.

use super::arrive::client_patience;
use super::body::{Body, Reader};
use super::fail::{Fault, Result, Wait};
use super::{Route, Session, Trip, request};
use crate::core::Core;
use crate::telemetry::BackendFault;
use crate::upstream::{Backend, Error, Lease, RequestHead, Upstream};
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_plugins::{Head, Source};

/// A backend that has begun to answer.
pub(super) struct Fetched {
    /// The connection; the answer's head has been read.
    pub upstream: Upstream,
    /// That head.
    pub head: Head,
    /// The place at the backend.
    pub lease: Lease,
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

/// How one attempt ended, if without an answer.
enum Failed {
    /// The request was not run there: another backend may have it.
    Next(Fault),
    /// The connection was an old one, and dead: the same backend on a new connection.
    Stale,
    /// The request may have been run, or nobody else can run it.
    Final(Fault),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Final(fault)
    }
}

/// Gets the head of an answer.
///
/// # Errors
/// Why there is none.
pub(super) async fn fetch(session: &mut Session, trip: &mut Trip<'_>) -> Result<Fetched> {
    let route = trip.route.clone().ok_or_else(|| Fault::ours("fetching without a route"))?;
    let deadline = Deadline::new(trip, &route);
    let mut tried: Vec<Arc<Backend>> = Vec::new();
    let mut failure = None;
    loop {
        let lease = match route.pool.lease(&trip.exchange, &tried) {
            Ok(lease) => lease,
            Err(why) => {
                let model = trip.exchange.model().map_or("this path", |model| &**model);
                return Err(failure.unwrap_or_else(|| Fault::no_backend(why, model)));
            }
        };
        let backend = lease.backend().clone();
        trip.record.attempts += 1;
        trip.record.backend = Some(backend.settings.name.clone());
        trip.backend = Some(backend.clone());
        trip.attempt = Some(lease.attempt().clone());
        let began = Instant::now();
        let mut outcome = attempt(session, trip, &backend, &route, deadline, false).await;
        if matches!(outcome, Err(Failed::Stale)) {
            outcome = attempt(session, trip, &backend, &route, deadline, true).await;
        }
        trip.record.upstream_time += began.elapsed();
        match outcome {
            Ok((upstream, head)) => return Ok(Fetched { upstream, head, lease, deadline }),
            Err(Failed::Next(fault)) if tried.len() < route.pool.retries as usize => {
                lease.attempt().failed();
                failure = Some(fault);
                tried.push(backend);
            }
            Err(Failed::Next(fault) | Failed::Final(fault)) => return Err(fault),
            Err(Failed::Stale) => return Err(Fault::broken("a new connection was called stale")),
        }
    }
}

/// One request to one backend.
async fn attempt(
    session: &mut Session,
    trip: &mut Trip<'_>,
    backend: &Arc<Backend>,
    route: &Route,
    deadline: Deadline,
    fresh: bool,
) -> std::result::Result<(Upstream, Head), Failed> {
    let began = Instant::now();
    let until = deadline.until(Wait::FirstByte, began, route.timeouts.connect, true);
    let connected = wait(trip.core, session, until, trip.core.connector.connect(backend, fresh)).await;
    let mut upstream = match connected {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(error)) => return Err(unreachable(backend, began, BackendFault::Connect, &error.to_string())),
        Err(Fault::ClientGone) => return Err(Failed::Final(Fault::ClientGone)),
        Err(_) if until.1 == Wait::FirstByte => {
            return Err(unreachable(backend, began, BackendFault::ConnectTimeout, "connecting took too long"));
        }
        Err(fault) => return Err(Failed::Final(fault)),
    };
    backend.series.connected(upstream.reused);
    backend.series.attempts.inc();
    let head = request::head_for(backend, trip, request::headers_for_all(trip));
    let sent = send(session, trip, &mut upstream, head, deadline, route).await;
    trip.record.sent = Some(Instant::now());
    if let Err(failed) = sent {
        let head = unsent(session, trip, backend, &mut upstream, failed).await?;
        begun(trip, backend, &head);
        return Ok((upstream, head));
    }
    let until = deadline.until(Wait::FirstByte, Instant::now(), route.timeouts.first_byte, true);
    match wait(trip.core, session, until, upstream.read_head()).await? {
        Ok(head) => {
            begun(trip, backend, &head);
            Ok((upstream, head))
        }
        Err(error) if upstream.reused && error.is_unanswered() && trip.replayable => Err(Failed::Stale),
        Err(error) => {
            let log = format!("{}: {error}", backend.settings.name);
            Err(Failed::Final(if error.is_disconnect() { Fault::broken(log) } else { Fault::malformed(log) }))
        }
    }
}

/// The backend has begun to answer.
fn begun(trip: &mut Trip<'_>, backend: &Backend, head: &Head) {
    let now = Instant::now();
    backend.health.alive(now);
    backend.series.requests.inc();
    trip.record.head = Some(now);
    trip.record.source = Source::Backend;
    trip.exchange.answer_from(Source::Backend, true);
    trip.record.upstream_status = Some(head.status.as_u16());
}

fn unreachable(backend: &Backend, began: Instant, fault: BackendFault, why: &str) -> Failed {
    backend.series.failed(fault);
    if backend.health.failed(began) {
        backend.series.up.set(0);
        tracing::warn!(backend = &*backend.settings.name, reason = why, "backend is down");
    }
    Failed::Next(Fault::unreachable(format!("{}: {why}", backend.settings.name)))
}

/// The request could not be sent whole. A backend that refuses early (413, 429) answers and closes: its answer counts.
/// Otherwise it cannot have run what it has not got, so another may.
async fn unsent(
    session: &mut Session,
    trip: &Trip<'_>,
    backend: &Backend,
    upstream: &mut Upstream,
    failed: Unsent,
) -> std::result::Result<Head, Failed> {
    let error = match failed {
        Unsent::Ours(fault) => return Err(Failed::Final(fault)),
        Unsent::Backend(Error::Unsendable(why)) => return Err(Failed::Final(Fault::ours(why))),
        Unsent::Backend(error) => error,
    };
    let until = (Instant::now() + EARLY_ANSWER, Wait::FirstByte);
    let unanswered = match wait(trip.core, session, until, upstream.read_head()).await {
        Err(Fault::ClientGone) => return Err(Failed::Final(Fault::ClientGone)),
        Ok(Ok(head)) => return Ok(head),
        Ok(Err(error)) => error.is_unanswered(),
        Err(_) => true,
    };
    if upstream.reused && unanswered && trip.replayable {
        return Err(Failed::Stale);
    }
    backend.series.failed(BackendFault::Broken);
    let fault = Fault::broken(format!("{}: while sending the request: {error}", backend.settings.name));
    Err(if trip.replayable { Failed::Next(fault) } else { Failed::Final(fault) })
}

/// How long an answer is waited for from a backend that has stopped reading.
const EARLY_ANSWER: Duration = Duration::from_millis(200);

enum Unsent {
    /// The client's side, or a deadline.
    Ours(Fault),
    /// The backend's side.
    Backend(Error),
}

/// Sends head and body.
async fn send(
    session: &mut Session,
    trip: &mut Trip<'_>,
    upstream: &mut Upstream,
    head: RequestHead,
    deadline: Deadline,
    route: &Route,
) -> std::result::Result<(), Unsent> {
    let until = deadline.until(Wait::FirstByte, Instant::now(), route.timeouts.first_byte, true);
    if let Body::Streamed { .. } = trip.body {
        let sent = wait(trip.core, session, until, upstream.send_head(head)).await.map_err(Unsent::Ours)?;
        sent.map_err(Unsent::Backend)?;
        return stream(session, trip, upstream, deadline, route).await;
    }
    let body = trip.exchange.body().clone();
    match wait(trip.core, session, until, upstream.send(head, body)).await {
        Ok(sent) => sent.map_err(Unsent::Backend),
        Err(fault) => Err(Unsent::Ours(fault)),
    }
}

/// Sends what is held, then what the client sends, as it comes. A backend that takes nothing for as long as it may take
/// to begin an answer has stopped reading.
async fn stream(
    session: &mut Session,
    trip: &mut Trip<'_>,
    upstream: &mut Upstream,
    deadline: Deadline,
    route: &Route,
) -> std::result::Result<(), Unsent> {
    let Body::Streamed { held, more } = &trip.body else { return Ok(()) };
    let more = *more;
    let patience = || deadline.until(Wait::FirstByte, Instant::now(), route.timeouts.first_byte, false);
    for data in held.clone() {
        let sent = wait(trip.core, session, patience(), upstream.send_body(data)).await.map_err(Unsent::Ours)?;
        sent.map_err(Unsent::Backend)?;
    }
    if more {
        let mut reader = Reader::resume(trip);
        while let Some(data) = reader.next(session, trip).await.map_err(Unsent::Ours)? {
            // From here on the body cannot be sent a second time.
            trip.body = Body::Streamed { held: VecDeque::new(), more: true };
            trip.replayable = false;
            if let Some(form) = &mut trip.form {
                form.feed(&data).map_err(|fault| Unsent::Ours(super::body::bad_form(fault)))?;
            }
            let sent = wait(trip.core, session, patience(), upstream.send_body(data)).await.map_err(Unsent::Ours)?;
            sent.map_err(Unsent::Backend)?;
        }
    }
    // Before the end is sent: a backend must not get to run what we would not have let pass.
    if more && let Some(form) = trip.form.take() {
        form.finish().map_err(|fault| Unsent::Ours(super::body::bad_form(fault)))?;
    }
    upstream.send_end().await.map_err(Unsent::Backend)
}
