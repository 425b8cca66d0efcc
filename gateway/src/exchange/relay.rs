//! From the head of a backend's answer to the client's last byte.
//!
//! Three kinds of answers: an event **stream** is relayed event by event and watched for whether it is complete; a
//! **whole** JSON answer is held and checked before the client sees any of it ([`super::whole`]); anything else is
//! **opaque** and passes as it comes.

use super::answer::Answered;
use super::fail::{Fault, Result, Wait};
use super::fetch::{Fetched, wait};
use super::{Session, Trip, answer_head, headers, socket, stream, tally, trailers, whole};
use crate::telemetry::bounded;
use bytes::Bytes;
use http::header;
use http::{Method, StatusCode};
use std::time::{Duration, Instant};
use tidegate_plugins::Head;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::splice::ModelRenamer;

/// Passes the answer on.
///
/// # Errors
/// What is wrong with the answer, or that the client has left. Where the client already has the head, the fault
/// ends its stream.
pub(super) async fn relay(session: &mut Session, trip: &mut Trip<'_>, mut fetched: Fetched) -> Result<Answered> {
    let mut head = head(trip, &mut fetched);
    let kind = kind(trip, &head)?;
    if trip.head_sent && !matches!(kind, Kind::Stream) {
        return Err(whole::too_late(session, trip, fetched, head).await?);
    }
    let (answered, unfinished) = match kind {
        Kind::Tunnel => return Box::pin(socket::tunnel(session, trip, fetched, head)).await,
        Kind::Stream => {
            let (answered, fetched) = stream::relay(session, trip, fetched, head).await?;
            match fetched {
                Some(fetched) => (answered, let_go(session, trip, fetched).await),
                None => (answered, None),
            }
        }
        Kind::Error => whole::error(session, trip, fetched, head).await?,
        Kind::Whole => whole::relay(session, trip, fetched, head).await?,
        Kind::Opaque => {
            release_body(trip);
            start(session, trip, &mut head).await?;
            opaque(session, trip, fetched, Bytes::new()).await?
        }
    };
    end(session, trip, &answered).await?;
    if let Some(fetched) = unfinished {
        finish_reading(trip, fetched).await;
    }
    Ok(answered)
}

/// How the client was answered, and what is left of a backend that has not ended its message.
pub(super) type Relayed = (Answered, Option<Fetched>);

/// The longest id of a backend that is logged, in bytes.
const MAX_ID: usize = 128;

enum Kind {
    Tunnel,
    Stream,
    Error,
    Whole,
    Opaque,
}

/// The backend's head, less what ends here.
pub(super) fn head(trip: &mut Trip<'_>, fetched: &mut Fetched) -> Head {
    let mut head = Head { status: fetched.head.status, headers: std::mem::take(&mut fetched.head.headers) };
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_response(&mut head.headers);
    }
    let id = headers::text(&head.headers, headers::UPSTREAM_REQUEST_ID)
        .or_else(|| headers::text(&head.headers, headers::BACKENDS_REQUEST_ID));
    trip.record.upstream_request_id = id.map(|id| bounded(id, MAX_ID));
    head
}

/// Judges the head.
fn kind(trip: &Trip<'_>, head: &Head) -> Result<Kind> {
    let status = head.status.as_u16();
    let events = headers::media_type(&head.headers) == "text/event-stream";
    let encoded = head.headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity");
    match status {
        101 if trip.upgrade => return Ok(Kind::Tunnel),
        101 | 300..=303 | 305..=399 => {
            return Err(Fault::malformed(format!("status {status} is neither an answer nor followed")));
        }
        // The client's credentials are fine: it is the gateway's own that the backend does not take.
        600.. => return Err(Fault::malformed(format!("there is no status {status}"))),
        401 | 403 if status == 401 || trip.exchange.model().is_some() => {
            return Err(Fault::upstream(
                "upstream_auth",
                "The backend refused the gateway's own credentials. Tell the gateway's operator.",
                format!("status {status}: check the backend's key"),
            ));
        }
        _ => {}
    }
    let Some(call) = trip.exchange.call() else {
        return Ok(if events {
            Kind::Stream
        } else if status >= 400 {
            Kind::Error
        } else {
            Kind::Opaque
        });
    };
    if status >= 400 {
        return Ok(Kind::Error);
    }
    let opaque = matches!(trip.exchange.endpoint(), Endpoint::Audio | Endpoint::Images);
    match (call.stream, events) {
        (true, _) if encoded => Err(Fault::malformed("a stream came encoded although identity was asked for")),
        (_, true) if opaque => Ok(Kind::Stream),
        _ if opaque || status == 204 || trip.exchange.head().method == Method::HEAD => Ok(Kind::Opaque),
        (true, true) => Ok(Kind::Stream),
        (true, false) => Err(Fault::malformed("a stream was asked for, and something else came")),
        (false, true) => Err(Fault::malformed("a whole answer was asked for, and a stream came")),
        (false, false) => Ok(Kind::Whole),
    }
}

/// The request's body is not needed any more once a backend answers: long streams must not hold long prompts.
pub(super) fn release_body(trip: &mut Trip<'_>) {
    trip.replayable = false;
    trip.unsalted = None;
    trip.exchange.replace_body(Bytes::new(), trip.exchange.call().cloned());
    trip.share.release();
}

/// Shows the head to the followers, and sends it.
///
/// # Errors
/// A filter's own fault, or that the client has left.
pub(super) async fn start(session: &mut Session, trip: &mut Trip<'_>, head: &mut Head) -> Result<()> {
    show(trip, head)?;
    answer_head::send_head(session, trip, head).await
}

/// Shows the head to the followers, last first.
///
/// # Errors
/// A filter's own fault.
pub(super) fn show(trip: &mut Trip<'_>, head: &mut Head) -> Result<()> {
    for follower in trip.followers.iter_mut().rev() {
        follower.head(&mut trip.exchange, head).map_err(|error| Fault::ours(format!("filter: {error}")))?;
    }
    if trip.followers.iter().any(|follower| follower.rewrites()) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    Ok(())
}

/// Shows a piece to the followers, last first.
///
/// # Errors
/// A filter's own fault.
pub(super) fn follow(trip: &mut Trip<'_>, data: &mut Bytes, last: bool) -> Result<()> {
    trip.exchange.show(data);
    for follower in trip.followers.iter_mut().rev() {
        follower.chunk(&mut trip.exchange, data, last).map_err(|error| Fault::ours(format!("filter: {error}")))?;
    }
    Ok(())
}

/// Sends a piece of the answer.
///
/// # Errors
/// That the client has left, or takes nothing.
pub(super) async fn write(session: &mut Session, trip: &mut Trip<'_>, data: Bytes) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    trip.record.response_bytes += data.len() as u64;
    #[cfg(feature = "otlp")]
    if let Some(content) = &mut trip.content {
        content.answered(&data);
    }
    session.write_body(data).await.map_err(|_| Fault::ClientGone)
}

/// Ends the answer.
///
/// # Errors
/// That the client has left.
pub(super) async fn end(session: &mut Session, trip: &mut Trip<'_>, answered: &Answered) -> Result<()> {
    let mut data = Bytes::new();
    follow(trip, &mut data, true)?;
    if trip.tally.is_none() {
        tally::hand_over(trip, answered.ending(), data.len());
    }
    write(session, trip, data).await?;
    trailers::end(session, trip).await
}

/// Gives the answer the name that the client asked for, if the backend knows the model by another.
pub(super) fn renamer(trip: &Trip<'_>) -> Option<ModelRenamer> {
    let route = trip.route.as_ref()?;
    let asked = trip.asked.as_deref()?;
    let served = trip.record.model_served.as_deref()?;
    let keeps = route.model.as_ref().is_some_and(|model| model.keep_name);
    (keeps && asked != served).then(|| ModelRenamer::new(asked))
}

/// Passes an answer on as it comes, after `held`.
///
/// # Errors
/// That it broke off (the client sees the transfer cut), or that the client has left.
pub(super) async fn opaque(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut fetched: Fetched,
    held: Bytes,
) -> Result<Relayed> {
    let answered = Answered::ok(fetched.head.status);
    let idle = trip.route.as_ref().map_or(Duration::ZERO, |route| route.timeouts.idle);
    let mut next = Some(held);
    while let Some(mut data) = next.take() {
        follow(trip, &mut data, false)?;
        if fetched.is_done() {
            let unfinished = let_go(session, trip, fetched).await;
            tally::hand_over(trip, answered.ending(), data.len());
            write(session, trip, data).await?;
            return Ok((answered, unfinished));
        }
        write(session, trip, data).await?;
        // Headers are worth having while the body is awaited.
        session.flush().await.map_err(|_| Fault::ClientGone)?;
        let until = fetched.deadline.until(Wait::Idle, Instant::now(), idle, false);
        let read = wait(trip.core, session, until, fetched.read_body()).await?;
        next = read.map_err(|error| Fault::broken(error.to_string()))?;
        let now = Instant::now();
        fetched.lease.backend().health.alive(now);
        trip.record.first_token.get_or_insert(now);
    }
    Ok((answered, let_go(session, trip, fetched).await))
}

/// Frees the place and the connection of a backend that has ended its message. To be called before the client can know
/// that its answer is over, and ask for more: where a length is declared, that is before its last byte.
pub(super) async fn let_go(session: &mut Session, trip: &mut Trip<'_>, mut fetched: Fetched) -> Option<Fetched> {
    trailers::take(session, trip, &mut fetched).await;
    if !fetched.is_done() {
        return Some(fetched);
    }
    put_back(trip, fetched);
    None
}

/// Gives the place back, and keeps the connection for the next request.
fn put_back(trip: &Trip<'_>, fetched: Fetched) {
    let Some(route) = &trip.route else { return };
    drop(fetched.lease);
    trip.core.connector.release(fetched.upstream, route.pool.idle_connections);
}

/// A backend that says `[DONE]` gets a moment for the end of its message; the client has its answer already. What does
/// not end then is closed.
async fn finish_reading(trip: &Trip<'_>, mut fetched: Fetched) {
    let rest = crate::patience::timeout(END_OF_MESSAGE, fetched.read_body()).await;
    if matches!(rest, Ok(Ok(None))) {
        put_back(trip, fetched);
    } else {
        fetched.upstream.close();
    }
}

/// How long the end of a message may take after its last event.
pub(super) const END_OF_MESSAGE: Duration = Duration::from_millis(50);
