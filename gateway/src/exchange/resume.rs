//! The rest of a stream that broke, asked of another backend.
//!
//! Where a pool resumes streams, a stream of plain text keeps its request and what its client has been given of it. When
//! it breaks, the loop of [`super::stream`] comes here for another backend to read on from: [`rest`] goes the road of
//! [`super::fetch`] once more, with those left out that broke it, and with [`body`] in the place of the client's. What comes
//! is joined on by [`Resuming::join`]. Nothing here costs anything where the setting is off.

use super::body::Body;
use super::fail::{Fault, Result};
use super::fetch::{self, Deadline, Fetched, Missed};
use super::{Route, Session, Trip, headers, relay, whole};
use crate::telemetry::ResumeOutcome;
use crate::upstream::too_long::says_too_long;
use crate::upstream::{Backend, Fields, Pool};
use bytes::Bytes;
use http::{HeaderName, StatusCode};
use std::sync::Arc;
use std::time::Instant;
use tidegate_config::{Resume, ResumeStyle};
use tidegate_plugins::events::{Events, StreamWatch};
use tidegate_plugins::json;
use tidegate_plugins::resume::{Continuation, Given, Loss, Seam, continued, is_plain};
use tidegate_plugins::usage::Usage;

/// What a stream is continued with if it breaks.
pub(super) struct Resuming {
    given: Given,
    /// Memory that its text has taken of the budget.
    kept: usize,
    /// How often the rest may still be asked for.
    left: u32,
    /// Whether the stream has broken before.
    under_way: bool,
    /// Who is not asked, and since when.
    broken: Vec<Broken>,
    /// Tokens that were given, as far as that is known.
    before: Usage,
    /// Where the stream at hand is joined to what was given before.
    seam: Option<Seam>,
    /// Whether another backend has been asked, and nothing has come from it yet.
    awaited: bool,
}

/// A backend that broke the stream, or did not go on with it.
struct Broken {
    backend: Arc<Backend>,
    at: Instant,
    /// Whether it said itself that something went wrong: then it is there.
    spoke: bool,
}

/// Keeps what is needed to continue the stream that begins, if it is one that can be.
pub(super) fn begin(trip: &mut Trip<'_>) {
    let Some(settings) = settings(trip) else { return };
    let whole = matches!(trip.body, Body::Whole) && trip.replayable;
    let Some(call) = trip.exchange.call().filter(|_| whole) else { return };
    if is_plain(call, trip.exchange.body()) {
        trip.resuming = Some(Box::new(Resuming {
            given: Given::new(call.endpoint, settings.text),
            kept: 0,
            left: settings.attempts,
            under_way: false,
            broken: Vec::new(),
            before: Usage::default(),
            seam: None,
            awaited: false,
        }));
    }
}

/// How the pool resumes streams, if this one may be: a copy is one attempt, and a client may want none.
fn settings(trip: &Trip<'_>) -> Option<Resume> {
    trip.route.as_ref()?.pool.resume.filter(|_| !trip.shadow && !trip.wishes.no_resume)
}

impl Resuming {
    /// Whether the stream has broken before.
    pub(super) fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Whether a backend has to know how to continue, and is not just asked once more.
    fn continues(&self) -> bool {
        self.is_under_way() && !self.given.sent().is_empty()
    }

    /// Those of a pool that are not asked for the rest.
    pub(super) fn not_asked(&self, pool: &Pool) -> Vec<Arc<Backend>> {
        let now = Instant::now();
        let broken = self.broken.iter().map(|broken| broken.backend.clone());
        if !self.continues() {
            return broken.collect();
        }
        let unable = pool.backends().into_iter().filter(|backend| !backend.may_continue(now));
        broken.chain(unable).collect()
    }

    /// Whether a pool may be asked for the rest at all.
    pub(super) fn may_go_to(&self, pool: &Pool) -> bool {
        !self.continues() || pool.resume.is_some()
    }

    /// A block of the stream at hand, as a part of the one that the client reads.
    ///
    /// # Errors
    /// That it is no continuation.
    pub(super) fn join(&mut self, block: Bytes) -> Result<Bytes> {
        let Some(seam) = &mut self.seam else { return Ok(block) };
        seam.join(&self.given, &block)
            .map_err(|_| Fault::broken("what should continue the stream says again what was given"))
    }

    /// Whether some of the tokens were counted by us.
    pub(super) fn has_counted(&self) -> bool {
        self.seam.as_ref().is_some_and(Seam::has_counted)
    }

    fn tokens(&self) -> u64 {
        self.before.completion.filter(|_| !self.before.estimated).unwrap_or(self.given.tokens())
    }

    /// Lets those be asked again that are known to be back.
    fn forgive(&mut self) -> bool {
        let before = self.broken.len();
        self.broken.retain(|broken| !broken.spoke && !broken.backend.health.was_alive_since(broken.at));
        self.broken.len() < before
    }
}

/// A block goes to the client. What cannot be continued any more needs nothing kept.
pub(super) fn given(trip: &mut Trip<'_>, block: &[u8]) {
    let Some(resuming) = &mut trip.resuming else { return };
    if std::mem::take(&mut resuming.awaited) {
        trip.record.resumes.push(ResumeOutcome::Won);
        trip.exchange.resumed();
    }
    if resuming.given.loss().is_some() {
        return;
    }
    resuming.given.take(block);
    let grown = resuming.given.weight().saturating_sub(resuming.kept);
    if grown > 0 && !trip.share.grow(grown, trip.snapshot.limits.bodies_in_flight) {
        resuming.given.let_go();
    }
    resuming.kept += grown;
    if resuming.given.loss().is_some() {
        relay::release_body(trip);
    }
}

/// The body that a backend of `route` gets: the client's, or what asks for the rest.
pub(super) fn body(trip: &Trip<'_>, route: &Route) -> Bytes {
    rest_body(trip, route).unwrap_or_else(|| trip.exchange.body().clone())
}

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// What asks for the rest is not the request that the client's key stands for: a backend that keeps answers by it would
/// give the first one again, or refuse.
pub(super) fn headers(trip: &Trip<'_>, headers: &mut Fields) {
    if trip.resuming.as_ref().is_some_and(|resuming| resuming.continues()) {
        headers.remove(&IDEMPOTENCY_KEY);
    }
}

fn rest_body(trip: &Trip<'_>, route: &Route) -> Option<Bytes> {
    let resuming = trip.resuming.as_ref().filter(|resuming| resuming.continues())?;
    let style = route.pool.resume.unwrap_or_default().style;
    let with_fields = style == ResumeStyle::ContinueFinalMessage;
    let how = Continuation { with_fields, tokens: resuming.tokens() };
    continued(trip.exchange.call()?, trip.exchange.body(), &resuming.given, how).ok()
}

/// Another backend's answer, in the place of `fetched`, whose stream broke with `fault`.
///
/// # Errors
/// The same fault, if nobody goes on; that the client has left; or that the process ends.
pub(super) async fn rest(
    session: &mut Session,
    trip: &mut Trip<'_>,
    fetched: Fetched,
    watch: &StreamWatch,
    fault: Fault,
    spoke: bool,
) -> Result<Fetched> {
    if settings(trip).is_none() || !fault.is_break() {
        return Err(fault);
    }
    let Some(resuming) = &mut trip.resuming else {
        trip.record.resumes.push(ResumeOutcome::NotText);
        return Err(fault);
    };
    resuming.before = watch.usage().unwrap_or_default();
    let mut broken = Some((fetched.lease.backend().clone(), spoke));
    let deadline = fetched.deadline.of_the_rest();
    if let Err(why) = may_ask(trip) {
        trip.record.resumes.push(why);
        return Err(fault);
    }
    // Its place is another's, and its fault is told once, whatever becomes of the rest.
    drop(fetched);
    fetch::blame(trip, &fault);
    loop {
        let failed = match ask(session, trip, deadline, broken.take()).await? {
            Ok(fetched) => return Ok(fetched),
            Err(failed) => failed,
        };
        match failed {
            Some(backend) => {
                trip.record.resumes.push(ResumeOutcome::Failed);
                broken = Some((backend, false));
            }
            None if trip.resuming.as_mut().is_some_and(|resuming| resuming.forgive()) => {}
            None => {
                trip.record.resumes.push(ResumeOutcome::Nobody);
                return Err(fault);
            }
        }
        if let Err(why) = may_ask(trip) {
            trip.record.resumes.push(why);
            return Err(fault);
        }
    }
}

/// Whether the rest may be asked for (once more), which is taken out of what the request and its pool have left.
fn may_ask(trip: &mut Trip<'_>) -> std::result::Result<(), ResumeOutcome> {
    let (Some(resuming), Some(route)) = (&mut trip.resuming, &trip.route) else { return Err(ResumeOutcome::NotText) };
    if std::mem::take(&mut resuming.awaited) {
        trip.record.resumes.push(ResumeOutcome::Failed);
    }
    match resuming.given.loss() {
        Some(Loss::NotText) => return Err(ResumeOutcome::NotText),
        Some(Loss::TooLong) => return Err(ResumeOutcome::TooLong),
        None if resuming.left == 0 => return Err(ResumeOutcome::Attempts),
        None => {}
    }
    if !route.pool.budget.spend() {
        return Err(ResumeOutcome::Budget);
    }
    resuming.left -= 1;
    Ok(())
}

/// Asks for the rest, of anybody but `broken` and those before it. If nobody begins to tell it: who was asked last.
async fn ask(
    session: &mut Session,
    trip: &mut Trip<'_>,
    deadline: Deadline,
    broken: Option<(Arc<Backend>, bool)>,
) -> Result<std::result::Result<Fetched, Option<Arc<Backend>>>> {
    let (Some(resuming), Some(route)) = (&mut trip.resuming, trip.route.clone()) else { return Ok(Err(None)) };
    resuming.under_way = true;
    resuming.broken.extend(broken.map(|(backend, spoke)| Broken { backend, at: Instant::now(), spoke }));
    if resuming.continues() && rest_body(trip, &route).is_none() {
        return Ok(Err(None));
    }
    let missed = match fetch::along(session, trip, route, deadline).await {
        Ok(fetched) if is_stream(&fetched) => {
            joins(trip);
            return Ok(Ok(fetched));
        }
        Ok(fetched) => Missed::Answer(Box::new(fetched)),
        Err(missed) => missed,
    };
    let asked = trip.backend.clone();
    match missed {
        Missed::Fault(fault) if !fault.is_of_the_backend() => return Err(fault),
        Missed::Fault(fault) => fetch::blame(trip, &fault),
        Missed::Answer(mut fetched) => {
            let status = fetched.head.status;
            let odd = matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
            let learns = odd && trip.resuming.as_ref().is_some_and(|resuming| resuming.continues());
            if learns && !says_too_long(&whole::peek(session, trip, &mut fetched).await?) {
                fetched.lease.backend().refused_to_continue(Instant::now());
            }
            Missed::Answer(fetched).count(trip);
            trip.record.course.missed("malformed");
            (trip.backend, trip.attempt) = (None, None);
        }
    }
    Ok(Err(asked))
}

/// The stream that begins is joined to what was given.
fn joins(trip: &mut Trip<'_>) {
    let most = trip.exchange.call().and_then(|call| call.max_tokens);
    let Some(resuming) = &mut trip.resuming else { return };
    let seam = || Seam::new(&resuming.given, resuming.before, most);
    resuming.seam = resuming.given.has_begun().then(seam);
    resuming.awaited = true;
}

fn is_stream(fetched: &Fetched) -> bool {
    let head = &fetched.head;
    let encoded = head.headers.get(http::header::CONTENT_ENCODING).is_some_and(|value| value != "identity");
    head.status == StatusCode::OK && !encoded && headers::media_type(&head.headers) == "text/event-stream"
}

/// Whether the client knows already whose words the stream is.
pub(super) fn has_begun(trip: &Trip<'_>) -> bool {
    trip.resuming.as_ref().is_some_and(|resuming| resuming.given.has_begun())
}

/// Whether an error event says that the request is wrong: then it is so everywhere.
pub(super) fn is_clients(event: &[u8]) -> bool {
    let code = |data: &[u8]| {
        let error = json::member(data, "error")?;
        let code = json::member(&data[error.clone()], "code")?;
        std::str::from_utf8(&data[error][code]).ok()?.trim_matches('"').parse().ok()
    };
    let code = Events::new(event).next().and_then(|event| code(&event.payload()));
    code.is_some_and(|code: u16| (400..500).contains(&code) && !matches!(code, 408 | 429))
}

/// Whether a stream that broke is whole all the same: its text has come to its end. The backend's fault is counted.
pub(super) fn is_whole(trip: &mut Trip<'_>, watch: &StreamWatch, fault: &Fault) -> bool {
    let whole = trip.resuming.is_some() && watch.complete() && fault.is_break();
    if whole {
        fetch::blame(trip, fault);
    }
    whole
}
