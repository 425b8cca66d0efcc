//! From the head of a backend's answer to the client's last byte.
//!
//! Three kinds of answers: an event **stream** is relayed event by event and watched for whether it is complete; a
//! **whole** JSON answer is held and checked before the client sees any of it ([`super::whole`]); anything else is
//! **opaque** and passes as it comes.

use super::answer::{self, Answered};
use super::fail::{Fault, Result, Wait};
use super::fetch::{Fetched, wait};
use super::{Session, Trip, headers, socket, trailers, whole};
use crate::core::Core;
use crate::telemetry::{Cause, bounded};
use crate::upstream;
use bytes::Bytes;
use http::header;
use http::{Method, StatusCode};
use std::time::{Duration, Instant};
use tidegate_plugins::Head;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::events::{EventCutter, StreamWatch};
use tidegate_plugins::splice::ModelRenamer;

/// Passes the answer on.
///
/// # Errors
/// What is wrong with the answer, or that the client has left. Where the client already has the head, the fault
/// ends its stream.
pub(super) async fn relay(
    core: &Core,
    session: &mut Session,
    trip: &mut Trip,
    mut fetched: Fetched,
) -> Result<Answered> {
    let mut head = head(&mut fetched);
    let id = headers::text(&head.headers, "x-upstream-request-id").or(headers::text(&head.headers, "request-id"));
    trip.record.upstream_request_id = id.map(|id| bounded(id, MAX_ID));
    let (answered, unfinished) = match kind(trip, &head)? {
        Kind::Tunnel => return socket::tunnel(session, trip, fetched, head).await,
        Kind::Stream => {
            let answered = stream(session, trip, &mut fetched, head).await?;
            (answered, let_go(core, session, trip, fetched).await)
        }
        Kind::Error => whole::error(core, session, trip, fetched, head).await?,
        Kind::Whole => whole::relay(core, session, trip, fetched, head).await?,
        Kind::Opaque => {
            release_body(trip);
            start(session, trip, &mut head).await?;
            opaque(core, session, trip, fetched, Bytes::new()).await?
        }
    };
    end(session, trip).await?;
    if let Some(fetched) = unfinished {
        finish_reading(core, trip, fetched).await;
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
fn head(fetched: &mut Fetched) -> Head {
    let mut head = Head { status: fetched.head.status, headers: std::mem::take(&mut fetched.head.headers) };
    if head.status != StatusCode::SWITCHING_PROTOCOLS {
        headers::strip_response(&mut head.headers);
    }
    head
}

/// Judges the head.
fn kind(trip: &Trip, head: &Head) -> Result<Kind> {
    let status = head.status.as_u16();
    let events = headers::media_type(&head.headers) == "text/event-stream";
    let encoded = head.headers.get(header::CONTENT_ENCODING).is_some_and(|value| value != "identity");
    match status {
        101 if trip.upgrade => return Ok(Kind::Tunnel),
        101 | 300..=303 | 305..=399 => {
            return Err(Fault::malformed(format!("status {status} is neither an answer nor followed")));
        }
        // The client's credentials are fine: it is the gateway's own that the backend does not take.
        401 | 403 if trip.exchange.model().is_some() => {
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
        _ if encoded => Ok(Kind::Opaque),
        (_, true) if opaque => Ok(Kind::Stream),
        _ if opaque || status == 204 || trip.exchange.head().method == Method::HEAD => Ok(Kind::Opaque),
        (true, true) => Ok(Kind::Stream),
        (true, false) => Err(Fault::malformed("a stream was asked for, and something else came")),
        (false, true) => Err(Fault::malformed("a whole answer was asked for, and a stream came")),
        (false, false) => Ok(Kind::Whole),
    }
}

/// The request's body is not needed any more once a backend answers: long streams must not hold long prompts.
pub(super) fn release_body(trip: &mut Trip) {
    trip.replayable = false;
    trip.exchange.replace_body(Bytes::new(), trip.exchange.call().cloned());
    trip.share.release();
}

/// Shows the head to the followers, and sends it.
///
/// # Errors
/// A filter's own fault, or that the client has left.
pub(super) async fn start(session: &mut Session, trip: &mut Trip, head: &mut Head) -> Result<()> {
    for follower in trip.followers.iter_mut().rev() {
        follower.head(&mut trip.exchange, head).map_err(|error| Fault::ours(format!("filter: {error}")))?;
    }
    if trip.followers.iter().any(|follower| follower.rewrites()) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    answer::send_head(session, trip, head).await
}

/// Shows a piece to the followers, last first.
///
/// # Errors
/// A filter's own fault.
pub(super) fn follow(trip: &mut Trip, data: &mut Bytes, last: bool) -> Result<()> {
    for follower in trip.followers.iter_mut().rev() {
        follower.chunk(&mut trip.exchange, data, last).map_err(|error| Fault::ours(format!("filter: {error}")))?;
    }
    Ok(())
}

/// Sends a piece of the answer.
///
/// # Errors
/// That the client has left, or takes nothing.
pub(super) async fn write(session: &mut Session, trip: &mut Trip, data: Bytes) -> Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    trip.record.response_bytes += data.len() as u64;
    session.write_response_body(data, false).await.map_err(|_| Fault::ClientGone)
}

/// Ends the answer.
///
/// # Errors
/// That the client has left.
pub(super) async fn end(session: &mut Session, trip: &mut Trip) -> Result<()> {
    let mut data = Bytes::new();
    follow(trip, &mut data, true)?;
    write(session, trip, data).await?;
    trailers::end(session, trip).await
}

/// What a stream is on its way through: the cutter, the watcher, and how far it has come.
struct Streaming {
    cutter: EventCutter,
    watch: StreamWatch,
    renamer: Option<ModelRenamer>,
    /// Until the first event the head is held, so that a backend that fails before it still gets an honest status.
    head: Option<Head>,
    last_event: Instant,
}

/// How a stream stands.
enum Flow {
    /// More is to come.
    Open,
    /// `[DONE]`, or what stands for it, has been passed on.
    Done,
    /// The backend has ended it.
    Ended,
}

async fn stream(session: &mut Session, trip: &mut Trip, fetched: &mut Fetched, mut head: Head) -> Result<Answered> {
    head.headers.remove(header::CONTENT_LENGTH);
    trip.record.stream = true;
    trip.streaming = true;
    release_body(trip);
    let choices = trip.exchange.call().and_then(|call| call.n).unwrap_or(1);
    let mut streaming = Streaming {
        cutter: EventCutter::new(trip.snapshot.limits.event),
        watch: StreamWatch::new(trip.exchange.endpoint()).with_choices(choices),
        renamer: renamer(trip),
        head: Some(head),
        last_event: Instant::now(),
    };
    let mut outcome = flow(session, trip, fetched, &mut streaming).await;
    if matches!(outcome, Err(Fault::ClientGone)) && trip.followers.iter().any(|follower| follower.outlives_client()) {
        outcome = alone(trip, fetched, &mut streaming).await.and(Err(Fault::ClientGone));
    }
    trip.record.usage = streaming.watch.usage();
    outcome?;
    let status = StatusCode::from_u16(trip.record.upstream_status.unwrap_or(200)).unwrap_or(StatusCode::OK);
    // An error event under a 200 is passed on as it came; it is the backend's fault all the same.
    if streaming.watch.saw_error() {
        return Ok(Answered::failed(status, Cause::UpstreamError, "the backend sent an error event"));
    }
    Ok(Answered::ok(status))
}

/// Relays a stream to its end.
async fn flow(session: &mut Session, trip: &mut Trip, fetched: &mut Fetched, it: &mut Streaming) -> Result<()> {
    loop {
        let until = patience(trip, fetched, it);
        let waiting = it.head.is_some().then(Instant::now);
        let read = wait(session, until, fetched.upstream.read_body()).await?;
        if let Some(since) = waiting {
            trip.record.upstream_time += since.elapsed();
        }
        let (block, flow) = step(trip, fetched, it, read)?;
        if let Some(block) = block {
            if let Some(mut head) = it.head.take() {
                start(session, trip, &mut head).await?;
            }
            write(session, trip, block).await?;
        }
        match flow {
            Flow::Open => {}
            Flow::Done => return Ok(()),
            Flow::Ended => {
                if let Some(mut head) = it.head.take() {
                    start(session, trip, &mut head).await?;
                }
                return Ok(());
            }
        }
    }
}

/// Reads a stream to its end for the followers that want it, although the client has left.
async fn alone(trip: &mut Trip, fetched: &mut Fetched, it: &mut Streaming) -> Result<()> {
    loop {
        let until = patience(trip, fetched, it);
        let patience = until.0.saturating_duration_since(Instant::now());
        let read = pingora::time::timeout(patience, fetched.upstream.read_body()).await;
        let read = read.map_err(|_| Fault::timed_out(until.1))?;
        if !matches!(step(trip, fetched, it, read)?.1, Flow::Open) {
            return follow(trip, &mut Bytes::new(), true);
        }
    }
}

/// How long the next event may take. Comments are signs of life, not progress: only events move the clock.
fn patience(trip: &Trip, fetched: &Fetched, it: &Streaming) -> (Instant, Wait) {
    let Some(route) = &trip.route else { return (it.last_event, Wait::Total) };
    if trip.record.first_token.is_some() {
        return fetched.deadline.until(Wait::Idle, it.last_event, route.timeouts.idle, false);
    }
    let sent = trip.record.sent.unwrap_or(it.last_event);
    fetched.deadline.until(Wait::FirstToken, sent, route.timeouts.first_token, it.head.is_some())
}

/// Takes in what was read; gives what goes out and how the stream stands.
fn step(
    trip: &mut Trip,
    fetched: &Fetched,
    it: &mut Streaming,
    read: upstream::error::Result<Option<Bytes>>,
) -> Result<(Option<Bytes>, Flow)> {
    let chunk = match read {
        Ok(Some(chunk)) => chunk,
        Ok(None) => return ended(trip, it),
        Err(error) => {
            return Err(Fault::broken(format!("{}: {error}", fetched.lease.backend().settings.name)));
        }
    };
    let now = Instant::now();
    fetched.lease.backend().health.alive(now);
    let block = it
        .cutter
        .push(chunk)
        .map_err(|_| Fault::malformed(format!("an event of more than {} bytes", trip.snapshot.limits.event)))?;
    let Some(mut block) = block else { return Ok((None, Flow::Open)) };
    let seen = it.watch.see(&block);
    if seen.has_event {
        it.last_event = now;
    }
    // The event that only names the role is no token yet.
    if it.watch.content_events() > 0 {
        trip.record.first_token.get_or_insert(now);
    }
    if let Some(end) = seen.done_at {
        block.truncate(end);
    }
    outgoing(trip, it, &mut block)?;
    Ok((Some(block), if seen.done_at.is_some() { Flow::Done } else { Flow::Open }))
}

/// The backend has ended the stream: whole, or not.
fn ended(trip: &mut Trip, it: &mut Streaming) -> Result<(Option<Bytes>, Flow)> {
    let mut rest = it.cutter.finish().unwrap_or_default();
    if !rest.is_empty() {
        it.watch.see(&rest);
    }
    // After an error event nothing more needs to be said: the backend has said it.
    if !it.watch.complete() && !it.watch.saw_error() {
        return Err(Fault::broken("the stream ended without saying that it was complete"));
    }
    outgoing(trip, it, &mut rest)?;
    Ok((Some(rest).filter(|rest| !rest.is_empty()), Flow::Ended))
}

fn outgoing(trip: &mut Trip, it: &Streaming, block: &mut Bytes) -> Result<()> {
    if let Some(renamer) = &it.renamer
        && let Some(renamed) = renamer.rename_in_events(block)
    {
        *block = renamed;
    }
    follow(trip, block, false)
}

/// Gives the answer the name that the client asked for, if the backend knows the model by another.
pub(super) fn renamer(trip: &Trip) -> Option<ModelRenamer> {
    let route = trip.route.as_ref()?;
    let asked = trip.record.model_asked.as_deref()?;
    let served = trip.record.model_served.as_deref()?;
    let keeps = route.model.as_ref().is_some_and(|model| model.keep_name);
    (keeps && asked != served).then(|| ModelRenamer::new(asked))
}

/// Passes an answer on as it comes, after `held`.
///
/// # Errors
/// That it broke off (the client sees the transfer cut), or that the client has left.
pub(super) async fn opaque(
    core: &Core,
    session: &mut Session,
    trip: &mut Trip,
    mut fetched: Fetched,
    held: Bytes,
) -> Result<Relayed> {
    let answered = Answered::ok(fetched.head.status);
    let idle = trip.route.as_ref().map_or(Duration::ZERO, |route| route.timeouts.idle);
    let mut next = Some(held);
    while let Some(mut data) = next.take() {
        follow(trip, &mut data, false)?;
        if fetched.upstream.is_done() {
            let unfinished = let_go(core, session, trip, fetched).await;
            write(session, trip, data).await?;
            return Ok((answered, unfinished));
        }
        write(session, trip, data).await?;
        let until = fetched.deadline.until(Wait::Idle, Instant::now(), idle, false);
        let read = wait(session, until, fetched.upstream.read_body()).await?;
        next = read.map_err(|error| Fault::broken(error.to_string()))?;
        let now = Instant::now();
        fetched.lease.backend().health.alive(now);
        trip.record.first_token.get_or_insert(now);
    }
    Ok((answered, let_go(core, session, trip, fetched).await))
}

/// Frees the place and the connection of a backend that has ended its message. To be called before the client can know
/// that its answer is over, and ask for more: where a length is declared, that is before its last byte.
pub(super) async fn let_go(
    core: &Core,
    session: &mut Session,
    trip: &mut Trip,
    mut fetched: Fetched,
) -> Option<Fetched> {
    trailers::take(session, trip, &mut fetched).await;
    if !fetched.upstream.is_done() {
        return Some(fetched);
    }
    put_back(core, trip, fetched);
    None
}

/// Gives the place back, and keeps the connection for the next request.
fn put_back(core: &Core, trip: &Trip, fetched: Fetched) {
    let Some(route) = &trip.route else { return };
    drop(fetched.lease);
    core.connector.release(fetched.upstream, route.pool.idle_connections);
}

/// A backend that says `[DONE]` gets a moment for the end of its message; the client has its answer already. What does
/// not end then is closed.
async fn finish_reading(core: &Core, trip: &Trip, mut fetched: Fetched) {
    let rest = pingora::time::timeout(END_OF_MESSAGE, fetched.upstream.read_body()).await;
    if matches!(rest, Ok(Ok(None))) {
        put_back(core, trip, fetched);
    } else {
        fetched.upstream.close();
    }
}

/// How long the end of a message may take after its last event.
pub(super) const END_OF_MESSAGE: Duration = Duration::from_millis(50);
