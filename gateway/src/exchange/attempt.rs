//! One request to one backend: a connection, the request on it, the head of the answer.

use super::body::{Body, Reader};
use super::budget::Share;
use super::fail::{Fault, Wait};
use super::fetch::{Deadline, alongside, wait};
use super::{Route, Session, Trip, request, resume};
use crate::core::Core;
use crate::telemetry::BackendFault;
use crate::upstream::{Backend, Error, RequestHead, Upstream};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidegate_config::Timeouts;
use tidegate_plugins::Head;

/// A backend that has begun to answer.
pub(super) struct Got {
    /// The connection; the answer's head has been read.
    pub upstream: Upstream,
    /// That head.
    pub head: Head,
    /// When the request had been sent.
    pub sent: Instant,
    /// When the head had come.
    pub headed: Instant,
}

/// How an attempt ended, if without an answer.
pub(super) enum Failed {
    /// The connection was an old one, and dead: the same backend on a new connection.
    Stale,
    /// Another backend may have it, if the pool says so.
    Missed(Miss, Fault),
    /// Nobody else can have it: the client has left, its time is over, or the fault is ours.
    Final(Fault),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// No connection: the backend has seen nothing of the request.
    Unreached,
    /// The request was not sent whole, or the backend proves that it has not run it.
    Connect,
    /// The connection broke before a byte of the answer.
    Lost,
    /// It took too long to begin.
    Timeout,
    /// What came is no answer.
    Malformed,
    /// It began a stream with an error.
    ErrorEvent,
    /// It answered, with this status.
    Status(u16),
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        Self::Final(fault)
    }
}

pub(super) type Outcome<T> = std::result::Result<T, Failed>;

/// One request to one backend. It knows nothing of the client, so that several can be under way for one request.
#[derive(Clone)]
pub(super) struct Ask<'a> {
    core: &'a Core,
    backend: Arc<Backend>,
    head: RequestHead,
    body: Bytes,
    deadline: Deadline,
    timeouts: Timeouts,
    replayable: bool,
}

/// One request to one backend, watched by the client's side.
///
/// # Errors
/// How it ended.
pub(super) async fn attempt(
    session: &mut Session,
    trip: &mut Trip<'_>,
    backend: &Arc<Backend>,
    route: &Route,
    deadline: Deadline,
    fresh: bool,
) -> Outcome<Got> {
    let ask = Ask::new(trip, backend, route, deadline);
    if let Body::Streamed { .. } = trip.body {
        return streamed(session, trip, ask, fresh).await;
    }
    let core = trip.core;
    alongside(core, session, ask.run(fresh)).await?
}

impl<'a> Ask<'a> {
    /// The request of `trip` as `backend` gets it.
    pub(super) fn new(trip: &Trip<'a>, backend: &Arc<Backend>, route: &Route, deadline: Deadline) -> Self {
        let body = resume::body(trip, route);
        let mut headers = request::headers_for_all(trip, body.len());
        resume::headers(trip, &mut headers);
        Self {
            core: trip.core,
            backend: backend.clone(),
            head: request::head_for(backend, trip, headers),
            body,
            deadline,
            timeouts: route.timeouts,
            replayable: trip.replayable,
        }
    }

    /// Asks, with a body that is there as a whole.
    ///
    /// # Errors
    /// How it ended.
    pub(super) async fn run(mut self, fresh: bool) -> Outcome<Got> {
        let mut upstream = self.connect(fresh).await?;
        let head = std::mem::take(&mut self.head);
        let body = std::mem::take(&mut self.body);
        match self.in_time(Instant::now(), upstream.send(head, body)).await? {
            Ok(()) => self.read(upstream).await,
            Err(error) => self.unsent(upstream, error).await,
        }
    }

    /// Waits for `future` no longer than the first byte of an answer may take.
    async fn in_time<T>(&self, since: Instant, future: impl Future<Output = T>) -> Outcome<T> {
        let (until, limit) = self.deadline.until(Wait::FirstByte, since, self.timeouts.first_byte, true);
        let patience = until.saturating_duration_since(Instant::now());
        crate::patience::timeout(patience, future).await.map_err(|_| match limit {
            Wait::FirstByte => Failed::Missed(Miss::Timeout, Fault::timed_out(limit)),
            limit => Failed::Final(Fault::timed_out(limit)),
        })
    }

    /// How long this wait for an answer that has begun may take, and which limit that is.
    pub(super) fn until(&self, wait: Wait, sent: Instant) -> (Instant, Wait) {
        self.deadline.until(wait, sent, self.timeouts.first_token, true)
    }

    /// How long a wait that begins now may take, if it may take `limit`, and which limit that is.
    pub(super) fn within(&self, wait: Wait, limit: Duration) -> (Instant, Wait) {
        self.deadline.until(wait, Instant::now(), limit, true)
    }

    /// No memory yet, for what is held of the answer.
    pub(super) fn share(&self) -> Share {
        self.core.bodies.share()
    }

    /// The backend has sent something.
    pub(super) fn alive(&self) {
        self.backend.health.alive(Instant::now());
    }

    /// What went wrong, for the log.
    pub(super) fn told(&self, error: impl Display) -> String {
        format!("{}: {error}", self.backend.settings.name)
    }

    async fn connect(&self, fresh: bool) -> Outcome<Upstream> {
        let (began, backend) = (Instant::now(), &self.backend);
        let (until, limit) = self.deadline.until(Wait::FirstByte, began, self.timeouts.connect, true);
        let patience = until.saturating_duration_since(began);
        let upstream = match crate::patience::timeout(patience, self.core.connector.connect(backend, fresh)).await {
            Ok(Ok(upstream)) => upstream,
            Ok(Err(error)) => return Err(unreachable(backend, began, BackendFault::Connect, &error.to_string())),
            Err(_) if limit == Wait::FirstByte => {
                return Err(unreachable(backend, began, BackendFault::ConnectTimeout, "connecting took too long"));
            }
            Err(_) => return Err(Failed::Final(Fault::timed_out(limit))),
        };
        backend.series.connected(upstream.reused);
        backend.series.attempts.inc();
        Ok(upstream)
    }

    /// Reads the head of the answer to a request that has been sent.
    async fn read(&self, mut upstream: Upstream) -> Outcome<Got> {
        let sent = Instant::now();
        let error = match self.in_time(sent, upstream.read_head()).await? {
            Ok(head) => return Ok(self.got(upstream, head, sent)),
            Err(error) => error,
        };
        if self.replayable && upstream.was_closed_before(&error, sent.elapsed()) {
            return Err(Failed::Stale);
        }
        let log = self.told(&error);
        Err(match () {
            () if error.is_refused() => Failed::Missed(Miss::Connect, Fault::broken(log)),
            () if error.is_disconnect() => Failed::Missed(Miss::Lost, Fault::broken(log)),
            () => Failed::Missed(Miss::Malformed, Fault::malformed(log)),
        })
    }

    /// The request could not be sent whole. A backend that refuses early (413, 429) answers and closes: its answer
    /// counts. Otherwise it cannot have run what it has not got, so another may.
    async fn unsent(&self, mut upstream: Upstream, error: Error) -> Outcome<Got> {
        if let Error::Unsendable(why) = error {
            return Err(Failed::Final(Fault::ours(why)));
        }
        let sent = Instant::now();
        let unanswered = match crate::patience::timeout(EARLY_ANSWER, upstream.read_head()).await {
            Ok(Ok(head)) => return Ok(self.got(upstream, head, sent)),
            Ok(Err(error)) => error.is_unanswered(),
            Err(_) => true,
        };
        if upstream.reused && unanswered && self.replayable {
            return Err(Failed::Stale);
        }
        self.backend.series.failed(BackendFault::Broken);
        let fault = Fault::broken(format!("{}: while sending the request: {error}", self.backend.settings.name));
        Err(if self.replayable { Failed::Missed(Miss::Connect, fault) } else { Failed::Final(fault) })
    }

    /// The backend has begun to answer.
    fn got(&self, upstream: Upstream, head: Head, sent: Instant) -> Got {
        let headed = Instant::now();
        self.backend.health.alive(headed);
        self.backend.holdoff.answered(&head);
        self.backend.series.requests.inc();
        Got { upstream, head, sent, headed }
    }
}

/// How long an answer is waited for from a backend that has stopped reading.
const EARLY_ANSWER: Duration = Duration::from_millis(200);

fn unreachable(backend: &Backend, began: Instant, fault: BackendFault, why: &str) -> Failed {
    backend.series.failed(fault);
    if backend.health.failed(began) {
        backend.series.up.set(0);
        tracing::warn!(backend = &*backend.settings.name, reason = why, "backend is down");
    }
    Failed::Missed(Miss::Unreached, Fault::unreachable(format!("{}: {why}", backend.settings.name)))
}

/// Asks with a body that the client is still sending.
async fn streamed(session: &mut Session, trip: &mut Trip<'_>, mut ask: Ask<'_>, fresh: bool) -> Outcome<Got> {
    let core = trip.core;
    let mut upstream = alongside(core, session, ask.connect(fresh)).await??;
    let head = std::mem::take(&mut ask.head);
    let sent = send(session, trip, &mut upstream, head, &ask).await;
    ask.replayable = trip.replayable;
    let outcome = match sent {
        Ok(()) => alongside(core, session, ask.read(upstream)).await?,
        Err(Unsent::Ours(fault)) => return Err(Failed::Final(fault)),
        Err(Unsent::Backend(error)) => alongside(core, session, ask.unsent(upstream, error)).await?,
    };
    match outcome {
        // What has gone out piece by piece is not there any more.
        Err(Failed::Missed(_, fault)) if !trip.replayable => Err(Failed::Final(fault)),
        outcome => outcome,
    }
}

enum Unsent {
    /// The client's side, or a deadline.
    Ours(Fault),
    /// The backend's side.
    Backend(Error),
}

/// Sends the head, what is held, then what the client sends, as it comes. A backend that takes nothing for as long as
/// it may take to begin an answer has stopped reading.
async fn send(
    session: &mut Session,
    trip: &mut Trip<'_>,
    upstream: &mut Upstream,
    head: RequestHead,
    ask: &Ask<'_>,
) -> std::result::Result<(), Unsent> {
    let (deadline, limit) = (ask.deadline, ask.timeouts.first_byte);
    let until = deadline.until(Wait::FirstByte, Instant::now(), limit, true);
    let sent = wait(trip.core, session, until, upstream.send_head(head)).await.map_err(Unsent::Ours)?;
    sent.map_err(Unsent::Backend)?;
    let Body::Streamed { held, more } = &trip.body else { return Ok(()) };
    let more = *more;
    let patience = || deadline.until(Wait::FirstByte, Instant::now(), limit, false);
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
