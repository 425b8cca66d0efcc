//! Answers that are held before the client sees them: JSON that must be JSON, and errors that must be told in the
//! caller's protocol without what is none of the caller's business.

use super::answer::{self, Answered};
use super::fail::{Fault, Result, Wait};
use super::fetch::{Fetched, wait};
use super::relay::Relayed;
use super::{Session, Trip, body, headers, relay, tally};
use crate::telemetry::{BackendFault, Cause, bounded};
use crate::upstream::{Pool, come_back};
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;
use http::StatusCode;
use http::header::{self, HeaderName};
use memchr::memmem::{self, Finder};
use serde_json::Value;
use std::io::Read;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::json;
use tidegate_plugins::usage::Usage;
use tidegate_plugins::{Head, Refusal};

/// The largest error that is read; what is beyond cannot be meant for an SDK.
const MAX_ERROR: usize = 1 << 20;

/// How much of a backend's own words is logged where the client gets ours, in bytes.
const LOGGED: usize = 256;

/// The longest wait that a backend can make a client believe in.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Holds a JSON answer, checks it, names it as the client does, and sends it.
///
/// # Errors
/// That it is no such answer, or broke off; the client has seen nothing of it.
pub(super) async fn relay(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut fetched: Fetched,
    mut head: Head,
) -> Result<Relayed> {
    let limit = trip.snapshot.limits.answer;
    let answer = match collect(session, trip, &mut fetched, limit).await? {
        Collected::Whole(answer) => answer,
        // Larger than may be held: it passes unread, as it comes.
        Collected::More(held) => {
            relay::release_body(trip);
            relay::start(session, trip, &mut head).await?;
            return relay::opaque(session, trip, fetched, held).await;
        }
    };
    let unfinished = relay::let_go(session, trip, fetched).await;
    relay::release_body(trip);
    let endpoint = trip.exchange.endpoint();
    let answer = unpack(answer, &mut head, limit)?;
    if !body::large(answer.len(), || is_answer(&answer, endpoint)) {
        return Err(Fault::malformed("the answer is not the JSON that this endpoint gives"));
    }
    // An SDK takes any 200 for an answer: what is none must not look like one.
    if is_error(&answer) {
        let said = String::from_utf8_lossy(&answer[..answer.len().min(LOGGED)]).into_owned();
        return Err(Fault::upstream("upstream_error", "The backend failed to answer this request.", said));
    }
    let now = Instant::now();
    trip.record.first_token = Some(now);
    if let Some(attempt) = &trip.attempt {
        attempt.first_token(now);
        if endpoint == Endpoint::Responses
            && let Some(id) = json::member(&answer, "id")
        {
            attempt.named(&answer[id]);
        }
    }
    trip.record.usage = Usage::from_answer(&answer);
    if trip.record.usage.is_none() && Usage::is_unbelievable(&answer) {
        tally::disbelieve(trip);
    }
    trip.exchange.spend(trip.record.usage);
    for follower in trip.followers.iter_mut().rev() {
        follower.whole(&mut trip.exchange, &answer);
    }
    let renamed = relay::renamer(trip).and_then(|renamer| renamer.rename_in_json(&answer));
    let answered = send(session, trip, &mut head, renamed.unwrap_or(answer), Answered::ok).await?;
    Ok((answered, unfinished))
}

/// Whether an answer under a good status is an error all the same, in one of the shapes that servers give them.
pub(super) fn is_error(answer: &[u8]) -> bool {
    static ERROR: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"error\""));
    if ERROR.find(answer).is_none() {
        return false;
    }
    let value = |name| json::member(answer, name).map(|place| &answer[place]);
    value("error").is_some_and(|value| value.starts_with(b"{") || value.starts_with(b"\""))
        || value("object").is_some_and(|value| value == b"\"error\"")
}

/// Unpacks an answer that came encoded although identity was asked for: it must be readable here, and for the client.
fn unpack(answer: Bytes, head: &mut Head, limit: usize) -> Result<Bytes> {
    let Some(encoding) = head.headers.get(header::CONTENT_ENCODING).filter(|value| *value != "identity") else {
        return Ok(answer);
    };
    if !encoding.as_bytes().eq_ignore_ascii_case(b"gzip") {
        return Err(Fault::malformed("the answer came in an encoding that nobody asked for"));
    }
    let mut unpacked = Vec::new();
    let mut decoder = MultiGzDecoder::new(&answer[..]).take(limit as u64 + 1);
    let read = body::large(answer.len(), || decoder.read_to_end(&mut unpacked));
    if read.is_err() || unpacked.len() > limit {
        return Err(Fault::malformed("the answer is no gzip, or unpacks to more than may be held"));
    }
    head.headers.remove(header::CONTENT_ENCODING);
    Ok(unpacked.into())
}

/// Sends an answer whose length is known.
async fn send(
    session: &mut Session,
    trip: &mut Trip<'_>,
    head: &mut Head,
    mut answer: Bytes,
    answered: impl FnOnce(StatusCode) -> Answered,
) -> Result<Answered> {
    head.headers.insert(header::CONTENT_LENGTH, headers::number(answer.len() as u64));
    relay::start(session, trip, head).await?;
    relay::follow(trip, &mut answer, false)?;
    let answered = answered(head.status);
    tally::hand_over(trip, answered.ending(), answer.len());
    relay::write(session, trip, answer).await?;
    Ok(answered)
}

/// Passes a backend's error on if it is one an SDK understands, else says the same in our words.
///
/// # Errors
/// That the connection broke, or the client has left.
pub(super) async fn error(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut fetched: Fetched,
    mut head: Head,
) -> Result<Relayed> {
    let collected = collect(session, trip, &mut fetched, MAX_ERROR).await?;
    let backend = fetched.lease.backend().clone();
    let unfinished = relay::let_go(session, trip, fetched).await;
    relay::release_body(trip);
    let status = head.status;
    tell_when(&mut head, trip.route.as_ref().map(|route| &*route.pool));
    let cause = cause(status);
    if let Some(fault) = counted(status) {
        backend.series.failed(fault);
    }
    if let Some(offer) = answer::offered(trip, status, cause) {
        trip.instead = Some(offer).into();
        let refusal = Box::new(Refusal::new(status, None, "The backend failed."));
        let log = Some(format!("the backend answered {status}"));
        return Err(Fault::Told { refusal, cause, log, close: false });
    }
    let secret = backend.settings.secret.clone();
    // What a backend says of its own failures is for its operator. That it lacks a feature (501) is for the client.
    let for_clients = status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED;
    let (body, whole) = match collected {
        Collected::Whole(body) => unpack(body, &mut head, MAX_ERROR).map_or((Bytes::new(), false), |body| (body, true)),
        Collected::More(body) => (body, false),
    };
    // What goes out from here on is plain.
    head.headers.remove(header::CONTENT_ENCODING);
    let told = if for_clients && whole { told(&body, trip.voice, secret.as_deref()) } else { None };
    let (body, log) = match told {
        Some(Told { in_protocol: true, .. }) => (body, Bytes::new()),
        told => {
            let message = told.map(|told| bounded(&told.message, LONGEST_MESSAGE));
            let (code, message) = in_our_words(cause, message.as_deref());
            let reply = Refusal::new(status, code, message).reply(trip.voice, trip.exchange.id());
            head.headers.extend(reply.headers);
            (reply.body.whole().cloned().unwrap_or_default(), body)
        }
    };
    head.headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    let said = String::from_utf8_lossy(&log[..log.len().min(LOGGED)]);
    let said = if secret.is_some_and(|secret| said.contains(&*secret)) { "(its own key)".into() } else { said };
    let said = format!("the backend answered {status}: {}", said.trim());
    let failed = |_| Answered::failed(status, cause, said.trim_end_matches(": "));
    let answered = send(session, trip, &mut head, body, failed).await?;
    Ok((answered, unfinished))
}

/// An answer to a stream whose head has gone out while it waited in the queue: the fault that says the same.
///
/// # Errors
/// That the connection broke, or the client has left.
pub(super) async fn too_late(
    session: &mut Session,
    trip: &mut Trip<'_>,
    mut fetched: Fetched,
    head: Head,
) -> Result<Fault> {
    let collected = collect(session, trip, &mut fetched, MAX_ERROR).await?;
    let backend = fetched.lease.backend().clone();
    if let Some(fault) = counted(head.status) {
        backend.series.failed(fault);
    }
    let body = match collected {
        Collected::Whole(body) | Collected::More(body) => body,
    };
    let told = told(&body, trip.voice, backend.settings.secret.as_deref());
    let told = told.filter(|_| head.status.is_client_error()).map(|told| bounded(&told.message, LONGEST_MESSAGE));
    Ok(Fault::answered(head.status, told.as_deref(), format!("the backend answered {}", head.status)))
}

/// What a refusal counts as, on the side of the backend.
pub(super) fn counted(status: StatusCode) -> Option<BackendFault> {
    match status.as_u16() {
        401 | 403 => Some(BackendFault::Auth),
        429 | 503 | 529 => Some(BackendFault::Overload),
        500.. => Some(BackendFault::Status),
        _ => None,
    }
}

/// Whose fault an error of a backend is.
pub(super) fn cause(status: StatusCode) -> Cause {
    match status.as_u16() {
        429 | 503 | 529 => Cause::UpstreamOverload,
        500.. => Cause::UpstreamError,
        _ => Cause::Client,
    }
}

/// A code, and what is said where the backend's own words are not to be, or cannot be, passed on.
pub(super) fn in_our_words(cause: Cause, told: Option<&str>) -> (&'static str, &str) {
    match (cause, told) {
        (_, Some(told)) => ("upstream_rejected", told),
        (Cause::UpstreamOverload, None) => ("upstream_overloaded", "The backend is overloaded. Try again shortly."),
        (Cause::UpstreamError, None) => ("upstream_error", "The backend failed to answer this request."),
        _ => ("upstream_rejected", "The backend rejected this request without saying why."),
    }
}

/// Reads a refusal and puts it back, so that it can still be told.
///
/// # Errors
/// That the connection broke, or the client has left.
pub(super) async fn peek(session: &mut Session, trip: &mut Trip<'_>, fetched: &mut Fetched) -> Result<Bytes> {
    let body = match collect(session, trip, fetched, MAX_ERROR).await? {
        Collected::Whole(body) | Collected::More(body) => body,
    };
    fetched.held.push_front(body.clone());
    Ok(body)
}

enum Collected {
    Whole(Bytes),
    More(Bytes),
}

/// Reads the answer, up to `limit`.
async fn collect(session: &mut Session, trip: &mut Trip<'_>, fetched: &mut Fetched, limit: usize) -> Result<Collected> {
    let idle = trip.route.as_ref().map(|route| route.timeouts.idle).unwrap_or_default();
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    let collected = loop {
        if fetched.is_done() {
            break Collected::Whole(if rest.is_empty() { first } else { rest.freeze() });
        }
        let until = fetched.deadline.until(Wait::Idle, Instant::now(), idle, true);
        let began = Instant::now();
        let read = wait(trip.core, session, until, fetched.read_body()).await;
        trip.record.upstream_time += began.elapsed();
        let read = read?;
        let name = &fetched.lease.backend().settings.name;
        let Some(data) = read.map_err(|error| Fault::broken(format!("{name}: {error}")))? else {
            break Collected::Whole(if rest.is_empty() { first } else { rest.freeze() });
        };
        fetched.lease.backend().health.alive(Instant::now());
        // Held answers count against the same memory as held requests; where there is none left, they pass unread.
        let fits = trip.share.grow(data.len(), trip.memory);
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                // All of it has its place from now on: to move it again and again costs as much as to read it.
                let declared =
                    body::declared_length(&fetched.head.headers).and_then(|length| usize::try_from(length).ok());
                rest.reserve(declared.unwrap_or(0).min(limit).max(first.len() + data.len()));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
        if !fits || first.len() + rest.len() > limit {
            break Collected::More(if rest.is_empty() { first } else { rest.freeze() });
        }
    };
    Ok(collected)
}

/// Whether this is JSON of the kind that the endpoint gives: an object, or for some servers' rerank a list.
pub(super) fn is_answer(answer: &[u8], endpoint: Endpoint) -> bool {
    let list = matches!(endpoint, Endpoint::Rerank | Endpoint::Tokenize | Endpoint::Detokenize);
    match answer.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(b'[') if list => {}
        _ => return false,
    }
    json::is_document(answer)
}

/// What a backend says about a client's mistake, and whether it says it in the caller's own protocol.
struct Told {
    in_protocol: bool,
    message: String,
}

/// Reads an error in any of the dialects that servers speak. None if it is none, or has the backend's own key in it.
fn told(body: &[u8], voice: Endpoint, secret: Option<&str>) -> Option<Told> {
    let leaks = secret.is_some_and(|secret| memmem::find(body, secret.as_bytes()).is_some());
    let said: Value = serde_json::from_slice(body).ok().filter(|_| !leaks)?;
    let error = said.get("error");
    let anthropic = said.get("type").is_some_and(|kind| kind == "error");
    // FastAPI names what it does not like in a list; its first entry says enough.
    let listed = said.get("detail").and_then(|detail| detail.get(0)).and_then(|first| first.get("msg"));
    let message =
        [error.and_then(|error| error.get("message")), error, said.get("message"), said.get("detail"), listed];
    let message = message.into_iter().flatten().find_map(Value::as_str)?.to_owned();
    let wants_anthropic = matches!(voice, Endpoint::Messages | Endpoint::CountTokens);
    let in_protocol = error.is_some_and(Value::is_object) && anthropic == wants_anthropic;
    Some(Told { in_protocol, message })
}

/// The longest message of a backend that is passed on in our shape, in bytes.
const LONGEST_MESSAGE: usize = 4096;

/// Says when to come back: as the backend does, or sooner where another of its pool will be there. It cannot send clients to
/// sleep for a year.
fn tell_when(head: &mut Head, pool: Option<&Pool>) {
    const MILLIS: HeaderName = HeaderName::from_static("retry-after-ms");
    let said = come_back::retry_after(&head.headers);
    let soonest = pool.filter(|_| cause(head.status) == Cause::UpstreamOverload).and_then(|pool| pool.soonest());
    let wait = match (said, soonest) {
        (Some(said), Some(soonest)) => Some(said.min(soonest)),
        (None, soonest) => soonest.filter(|soonest| !soonest.is_zero()),
        (said, None) => said,
    };
    head.headers.remove(header::RETRY_AFTER);
    head.headers.remove(MILLIS);
    if let Some(wait) = wait {
        let millis = wait.min(LONGEST_WAIT).as_micros().div_ceil(1000).max(1) as u64;
        head.headers.insert(header::RETRY_AFTER, headers::number(millis.div_ceil(1000)));
        head.headers.insert(MILLIS, headers::number(millis));
    }
}
