//! What the gateway says itself.

use super::body::{self, Body};
use super::fail::{Fault, Result, Wait};
use super::headers::REQUEST_ID;
use super::tally::{self, Ending};
use super::{Session, Trip, fetch, relay};
use crate::core::Core;
use crate::telemetry::{Cause, Record, TraceContext};
use bytes::Bytes;
use http::header;
use http::{Method, StatusCode};
use std::sync::PoisonError;
use std::time::{Duration, Instant};
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::json;
use tidegate_plugins::{Head, Pieces, Refusal, Reply, Source};

/// How a request was answered.
pub(super) struct Answered {
    /// The status the client got; 499 if it did not wait for one.
    pub status: u16,
    /// Who is to blame, if it is not what was asked for.
    pub cause: Cause,
    /// For the log.
    pub log: Option<String>,
    /// Whether the answer was complete and what was asked for.
    pub complete: bool,
}

impl Answered {
    /// As it should be.
    pub(super) fn ok(status: StatusCode) -> Self {
        Self { status: status.as_u16(), cause: Cause::None, log: None, complete: true }
    }

    /// Not as it should be.
    pub(super) fn failed(status: StatusCode, cause: Cause, log: impl Into<String>) -> Self {
        Self { status: status.as_u16(), cause, log: Some(log.into()), complete: false }
    }

    /// What is handed over of it.
    pub(super) fn ending(&self) -> Ending {
        Ending { status: self.status, cause: self.cause, complete: self.complete }
    }

    /// The client has left before.
    pub(super) fn gone(self) -> Self {
        Self { status: 499, cause: Cause::ClientGone, ..self }
    }
}

/// Unread request bytes up to which a refused request's body is read, so that the connection can be used again.
const DRAIN: u64 = 256 << 10;

/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// Sends an answer that a filter or the gateway gives.
///
/// # Errors
/// That the client has left.
pub(super) async fn reply(session: &mut Session, trip: &mut Trip<'_>, reply: Reply) -> Result<Answered> {
    let blame = Blame { source: reply.source, asked_for: reply.asked_for, cause: None };
    say(session, trip, reply, blame).await
}

/// What tells who is to blame for an answer of this status.
#[derive(Clone, Copy)]
struct Blame {
    source: Source,
    /// Whether a failure is what was asked for.
    asked_for: bool,
    /// Who, if that is known without.
    cause: Option<Cause>,
}

impl Blame {
    fn ending(self, status: StatusCode) -> Ending {
        let cause = self.cause.unwrap_or(match (status.as_u16(), self.source) {
            (401 | 403, Source::Gateway) => Cause::Auth,
            (429, Source::Gateway) => Cause::Limit,
            (400..=499, Source::Gateway) => Cause::Validation,
            (500.., Source::Gateway) if self.asked_for => Cause::Validation,
            (500.., Source::Gateway) => Cause::Gateway,
            (400..=499, _) => Cause::Client,
            (500.., _) => Cause::UpstreamError,
            _ => Cause::None,
        });
        Ending { status: status.as_u16(), cause, complete: cause == Cause::None }
    }
}

async fn say(session: &mut Session, trip: &mut Trip<'_>, reply: Reply, blame: Blame) -> Result<Answered> {
    settle_body(session, trip).await;
    trip.exchange.answer_from(reply.source, reply.charged);
    trip.record.source = reply.source;
    trip.record.usage = reply.usage;
    trip.exchange.spend(reply.usage);
    let mut head = Head { status: reply.status, headers: reply.headers };
    let log = is_refusal(reply.status, reply.source).then(|| words(reply.body.whole()?)).flatten();
    match reply.body {
        tidegate_plugins::Body::Whole(body) => whole(session, trip, &mut head, body, blame).await?,
        tidegate_plugins::Body::Pieces(pieces) => piecewise(session, trip, &mut head, pieces, blame).await?,
    }
    let Ending { status, cause, complete } = blame.ending(head.status);
    let answered = Answered { status, cause, log, complete };
    relay::end(session, trip, &answered).await?;
    Ok(answered)
}

/// Whether the gateway itself says no.
fn is_refusal(status: StatusCode, source: Source) -> bool {
    source == Source::Gateway && (status.is_client_error() || status.is_server_error())
}

/// What a refusal says, for the log: its code, by which docs/faults.md is searched, and its message.
fn words(refusal: &[u8]) -> Option<String> {
    let error = &refusal[json::member(refusal, "error")?];
    let text = |name| {
        let value = error[json::member(error, name)?].strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        json::unquoted(value)
    };
    // Anthropic's shape has no code.
    Some(format!("{}: {}", text("code").or_else(|| text("type"))?, text("message")?))
}

/// Sends a body whose length is known.
async fn whole(
    session: &mut Session,
    trip: &mut Trip<'_>,
    head: &mut Head,
    mut body: Bytes,
    blame: Blame,
) -> Result<()> {
    if head.status != StatusCode::NO_CONTENT {
        head.headers.insert(header::CONTENT_LENGTH, super::headers::number(body.len() as u64));
    }
    if trip.record.source != Source::Gateway {
        trip.record.first_token = Some(Instant::now());
    }
    relay::start(session, trip, head).await?;
    relay::follow(trip, &mut body, false)?;
    if trip.exchange.head().method != Method::HEAD {
        tally::hand_over(trip, blame.ending(head.status), body.len());
        relay::write(session, trip, body).await?;
    }
    Ok(())
}

/// Sends a body as it comes. As with a backend's stream, the head is held until there is something to send.
async fn piecewise(
    session: &mut Session,
    trip: &mut Trip<'_>,
    head: &mut Head,
    mut pieces: Box<dyn Pieces>,
    blame: Blame,
) -> Result<()> {
    trip.streaming = super::headers::media_type(&head.headers) == "text/event-stream";
    trip.record.stream = trip.streaming;
    relay::release_body(trip);
    let total = trip.route.as_ref().map_or(A_DAY, |route| route.timeouts.total);
    let until = (trip.record.started + total, Wait::Total);
    loop {
        let began = Instant::now();
        let next = fetch::wait(trip.core, session, until, pieces.next()).await;
        if !trip.head_sent {
            trip.record.upstream_time += began.elapsed();
        }
        let told = pieces.usage().filter(|usage| !usage.estimated && Some(*usage) != trip.record.usage);
        trip.record.usage = pieces.usage();
        trip.exchange.spend(trip.record.usage);
        let piece = next?.transpose().map_err(Fault::of_pieces)?;
        if !trip.head_sent {
            relay::start(session, trip, head).await?;
        }
        let Some(mut piece) = piece else { return Ok(()) };
        trip.record.first_token.get_or_insert_with(Instant::now);
        relay::follow(trip, &mut piece, false)?;
        if told.is_some() {
            tally::hand_over(trip, blame.ending(head.status), piece.len());
        }
        relay::write(session, trip, piece).await?;
    }
}

/// How long an answer may take whose request has no route to say so.
const A_DAY: Duration = Duration::from_secs(86_400);

/// Turns a fault into an answer: with its status if the client has no head yet, as the last event of its stream if it
/// has, and by cutting the transfer where nothing else can tell it.
pub(super) async fn fault(session: &mut Session, trip: &mut Trip<'_>, fault: Fault) -> Answered {
    let Fault::Told { refusal, cause, log, close } = fault else {
        session.shutdown().await;
        return Answered { status: 499, cause: Cause::ClientGone, log: None, complete: false };
    };
    let log = Some(log.unwrap_or_else(|| refusal.message.clone()));
    if let Some(offer) = offered(trip, refusal.status, cause) {
        if let (Some(backend), Some(fault)) = (&trip.backend, super::fail::counted(&refusal, trip)) {
            backend.series.failed(fault);
        }
        return match reply(session, trip, offer).await {
            Ok(answered) => Answered { log, ..answered },
            Err(_) => {
                session.shutdown().await;
                Answered { status: 499, cause: Cause::ClientGone, log, complete: false }
            }
        };
    }
    for follower in trip.followers.iter_mut().rev() {
        follower.fault(&trip.exchange, &refusal);
    }
    if let (Some(backend), Some(fault)) = (&trip.backend, super::fail::counted(&refusal, trip)) {
        backend.series.failed(fault);
    }
    if let Some(attempt) = &trip.attempt {
        super::fail::judge(attempt, &refusal);
    }
    if trip.head_sent {
        let answered = Answered { status: trip.record.upstream_status.unwrap_or(200), cause, log, complete: false };
        let told = trip.streaming && tell_in_stream(session, trip, &refusal, &answered).await.is_ok();
        if !told {
            session.close_after();
            session.shutdown().await;
        }
        return answered;
    }
    if close {
        session.close_after();
    }
    let status = refusal.status.as_u16();
    let answer = refusal.reply(trip.voice, trip.exchange.id());
    // It is not what was asked for, whatever its status.
    let blame = Blame { source: answer.source, asked_for: false, cause: Some(cause) };
    match say(session, trip, answer, blame).await {
        Ok(_) => {
            if close && session.is_http2() {
                linger(session).await;
            }
            Answered { status, cause, log, complete: false }
        }
        Err(_) => {
            session.shutdown().await;
            Answered { status: 499, cause: Cause::ClientGone, log, complete: false }
        }
    }
}

/// What a follower offers in the place of a backend's failure that the client has seen nothing of.
pub(super) fn offered(trip: &mut Trip<'_>, status: StatusCode, cause: Cause) -> Option<Reply> {
    let failed = matches!(cause, Cause::UpstreamError | Cause::UpstreamTimeout | Cause::UpstreamOverload);
    if trip.head_sent || !failed {
        return None;
    }
    let said = trip.record.upstream_status.and_then(|status| StatusCode::from_u16(status).ok());
    let offer = |trip: &mut Trip<'_>| {
        let exchange = &mut trip.exchange;
        trip.followers.iter_mut().rev().find_map(|follower| follower.instead(exchange, status, said))
    };
    let found = trip.instead.get_mut().unwrap_or_else(PoisonError::into_inner).take();
    found.or_else(|| offer(trip))
}

async fn tell_in_stream(
    session: &mut Session,
    trip: &mut Trip<'_>,
    refusal: &Refusal,
    answered: &Answered,
) -> Result<()> {
    let event = refusal.event(trip.voice, trip.exchange.id());
    tally::hand_over(trip, answered.ending(), event.len());
    relay::write(session, trip, event).await?;
    session.finish(None).await.map_err(|_| Fault::ClientGone)
}

/// Reads what is left of a body that nobody wants, if that is little; else the connection ends with the answer.
async fn settle_body(session: &mut Session, trip: &Trip<'_>) {
    if matches!(trip.body, Body::None | Body::Whole) || session.is_body_done() {
        return;
    }
    let waits = super::arrive::expects_continue(trip) && matches!(trip.body, Body::Unread);
    let small = body::declared_length(trip.exchange.headers()).is_some_and(|length| length <= DRAIN);
    let drained = small
        && session.keeps_alive()
        && !waits
        && crate::patience::timeout(DRAIN_TIME, session.drain_body()).await.is_ok_and(|drained| drained.is_ok());
    if !drained {
        session.close_after();
    }
}

/// A client that is still sending is listened to for a moment, without keeping what it says: a reset of the stream could
/// overtake the answer. An HTTP/1 connection sees to that itself when it is closed.
async fn linger(session: &mut Session) {
    let discard = async {
        let mut left = LINGER;
        while let Ok(Some(data)) = session.read_body().await {
            left = left.saturating_sub(data.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = crate::patience::timeout(DRAIN_TIME, discard).await;
}

/// Bytes listened to before hanging up: enough for what is under way.
const LINGER: usize = 4 << 20;

/// `/v1/models`, or one of them.
///
/// # Errors
/// 404 if there is no such model, or not for this caller.
pub(super) async fn models(session: &mut Session, trip: &mut Trip<'_>, id: Option<String>) -> Result<Answered> {
    let caller = trip.exchange.caller().cloned();
    let may_use = |model: &str| caller.as_ref().is_none_or(|caller| caller.may_use(model));
    let backends = trip.snapshot.pools.iter().flat_map(|pool| pool.backends());
    crate::upstream::probe::refresh(&trip.core.connector, backends).await;
    let catalogue = crate::catalogue::list(&trip.snapshot);
    let body = match id {
        None => {
            let data: Vec<_> = catalogue.into_iter().filter(|(id, _)| may_use(id)).map(|(_, model)| model).collect();
            serde_json::json!({ "object": "list", "data": data })
        }
        Some(id) => {
            let found = catalogue.into_iter().find(|(known, _)| *known == id && may_use(known));
            found.map(|(_, model)| model).ok_or_else(|| {
                let message = format!("The model '{}' does not exist here.", super::arrive::short(&id));
                let refusal = Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message);
                Fault::refused(refusal.param("model"))
            })?
        }
    };
    reply(session, trip, Reply::json(StatusCode::OK, body.to_string())).await
}

/// Answers a request whose head could not be read, and ends its connection.
pub(crate) async fn unreadable_head(core: &Core, session: &mut Session, status: StatusCode, message: &str) {
    session.close_after();
    let refusal = Refusal::new(status, "bad_request", message);
    let id = crate::telemetry::RequestId::new();
    let mut record = Record::new(id.clone(), TraceContext::start(), Method::default(), "");
    (record.status, record.cause) = (status.as_u16(), Cause::Validation);
    core.metrics.observe(&core.snapshot.load().no_route, &record);
    let reply = refusal.reply(Endpoint::Other, &id.to_string());
    let mut headers = reply.headers;
    let body = reply.body.whole().cloned().unwrap_or_default();
    headers.insert(header::CONTENT_LENGTH, super::headers::number(body.len() as u64));
    headers.insert(REQUEST_ID, id.to_header());
    let sent = session.write_head(reply.status, headers).await;
    if sent.is_ok() && session.write_body(body).await.is_ok() {
        let _ = session.finish(None).await;
    }
    // Each is counted; in a flood of them only some are written down.
    if core.nuisances.check().is_ok() {
        let client = session.client().map(|client| client.to_string());
        let (status, cause) = (record.status, record.cause.label());
        tracing::info!(request_id = %id, client, status, cause, reason = message, "unreadable request");
    }
}
