//! A request arrives: its head is judged, its ids are settled, and it becomes clear which road it takes.

use super::body::{self, Body};
use super::fail::{Fault, Result};
use super::headers;
use super::wishes::Wishes;
use super::{Session, Trip, query};
use crate::core::Core;
use crate::downstream::forwarded::{self, Contradiction, Source};
use crate::networks::Lists;
use crate::snapshot::Snapshot;
use crate::telemetry::{Course, Record, RequestId, TraceContext};
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, StatusCode, Version};
use std::sync::Arc;
use std::time::Duration;
use tidegate_plugins::call::Endpoint;
use tidegate_plugins::exchange::RequestHead;
use tidegate_plugins::{Exchange, Refusal, Reply};

/// Which road a request takes.
pub(super) enum Plan {
    /// It is answered here and now, whoever asks.
    Reply(Reply),
    /// `/v1/models`.
    Models,
    /// `/v1/models/{id}`.
    Model(String),
    /// A JSON body that says where it goes.
    Call,
    /// A multipart body, streamed; its `model` part says where it goes.
    Form {
        /// What separates its parts.
        boundary: String,
    },
    /// A WebSocket; the query says where it goes.
    Socket,
    /// Anything else under `/v1/`, streamed to the pool that the file names.
    Opaque,
    /// There is no such path, or not for this method. The filters are asked all the same: a stranger is told that it is
    /// one, and who asks counts.
    Nowhere(Fault),
}

/// What is to be said about where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// Nothing.
    Welcome,
    /// Requests from there are not taken.
    Refused,
    /// Proxies contradict each other about it.
    Contradicted,
}

/// Takes the head out of the session and settles the ids. Never fails, so that every request has a record.
pub(super) fn begin<'a>(core: &'a Core, snapshot: Arc<Snapshot>, session: &mut Session, clients: &Lists) -> Trip<'a> {
    // Pingora reads the framing of HTTP/2 from the head when the body is first asked about: ask before the head goes.
    let has_body = !session.is_body_done();
    let peer = session.client();
    let parts = session.take_request();
    let (method, version, mut headers) = (parts.method, parts.version, parts.headers);
    let source = forwarded::source(peer, &headers, &snapshot.trusted_proxies);
    let Source { client, by_proxy } = source.unwrap_or(Source { client: peer, by_proxy: false });
    let address = match source {
        Err(Contradiction) => Address::Contradicted,
        Ok(_) if snapshot.clients.let_in(client) && clients.let_in(client) => Address::Welcome,
        Ok(_) => Address::Refused,
    };
    let upgrade =
        session.is_upgrade() && method == Method::GET && headers::has_token(&headers, &header::UPGRADE, "websocket");
    let id = RequestId::accept(headers.get(headers::REQUEST_ID).map(http::HeaderValue::as_bytes));
    let trace = TraceContext::accept(headers::text(&headers, headers::TRACEPARENT));
    let mut record = Record::new(id, trace, method.clone(), parts.uri.path());
    watch(&snapshot, &mut record);
    record.http = version;
    record.client = client;
    record.correlation_id =
        headers.get(headers::CORRELATION_ID).and_then(|value| RequestId::from_caller(value.as_bytes()));
    if record.correlation_id.is_none() {
        // What is no id, or a key, is nobody else's business.
        headers.remove(headers::CORRELATION_ID);
    }
    let endpoint = Endpoint::from_path(parts.uri.path());
    let anthropic = parts.uri.path().starts_with("/v1/messages/") && endpoint == Some(Endpoint::Other);
    record.endpoint = endpoint.map_or("none", Endpoint::as_str);
    record.operation = endpoint.map_or("other", Endpoint::gen_ai_operation);
    let (path, query) = (parts.uri.path().into(), parts.uri.query().map(Into::into));
    let request = RequestHead { method, path, query, headers };
    let mut exchange =
        Exchange::new(request, endpoint.unwrap_or(Endpoint::Other), record.request_id.to_string().into(), client);
    if by_proxy {
        exchange.vouch();
    }
    #[cfg(feature = "otlp")]
    let content = content(&snapshot);
    Trip {
        core,
        wishes: Wishes::of(exchange.headers()),
        patience: client_patience(exchange.headers()),
        #[cfg(feature = "otlp")]
        content,
        share: core.bodies.share(),
        memory: snapshot.limits.bodies_in_flight,
        shadow: false,
        renewal: false,
        body: if has_body { Body::Unread } else { Body::None },
        snapshot,
        address,
        exchange,
        record,
        known: endpoint.is_some(),
        upgrade,
        followers: Vec::new(),
        turns: Vec::new(),
        route: None,
        settled: None,
        under_way: None,
        replayable: true,
        unsalted: None,
        streaming: false,
        form: None,
        model_in_form: None,
        hides_usage: false,
        grown: 0,
        voice: if anthropic { Endpoint::Messages } else { endpoint.unwrap_or(Endpoint::Other) },
        backend: None,
        attempt: None,
        asked: None,
        query: None,
        head_sent: false,
        receiving: Duration::ZERO,
        in_line: Duration::ZERO,
        instead: std::sync::Mutex::default(),
        resuming: None,
        outcome: None,
        tally: None,
        trailers: None,
    }
}

/// Has noted what the request meets, as far as anybody is told, and settles whether its trace is recorded.
pub(super) fn watch(snapshot: &Snapshot, record: &mut Record) {
    if snapshot.keeps_course() {
        record.course = Course::kept();
    }
    #[cfg(feature = "otlp")]
    if let Some(rule) = &snapshot.traces {
        rule.begin(&mut record.trace);
    }
}

/// What is kept of what is asked and answered, for traces.
#[cfg(feature = "otlp")]
fn content(snapshot: &Snapshot) -> Option<Box<crate::telemetry::Content>> {
    let most = snapshot.traces.as_ref().map_or(0, |rule| rule.settings().content);
    (most > 0).then(|| Box::new(crate::telemetry::Content::up_to(most)))
}

/// Judges the head and says which road the request takes.
///
/// # Errors
/// What the head alone makes impossible: path, method, size, encoding.
pub(super) fn plan(trip: &Trip<'_>) -> Result<Plan> {
    let (head, snapshot) = (trip.exchange.head(), &trip.snapshot);
    check_address(trip.address)?;
    check_path(&head.path)?;
    query::check(head.query.as_deref().unwrap_or_default())?;
    if head.method == Method::OPTIONS {
        return Ok(Plan::Reply(options(trip)));
    }
    if matches!(head.method, Method::TRACE | Method::CONNECT) {
        return Err(method_not_allowed("GET, HEAD, POST, OPTIONS", &head.method));
    }
    check_body(trip)?;
    trip.wishes.check()?;
    if let Some(rest) = head.path.strip_prefix("/v1/models") {
        let id = rest.strip_prefix('/').filter(|id| !id.is_empty());
        if rest.is_empty() || id.is_some() {
            if !matches!(head.method, Method::GET | Method::HEAD) {
                return Ok(Plan::Nowhere(method_not_allowed("GET, HEAD, OPTIONS", &head.method)));
            }
            return Ok(id.map_or(Plan::Models, |id| Plan::Model(unescape(id))));
        }
    }
    if trip.upgrade && trip.known {
        return Ok(Plan::Socket);
    }
    if head.path.as_ref() == REALTIME {
        let message = "This path speaks WebSocket only: send an upgrade.";
        return Ok(Plan::Nowhere(Fault::bad("upgrade_required", message)));
    }
    match trip.exchange.endpoint() {
        Endpoint::Other if trip.known && snapshot.other_paths.is_some() => Ok(Plan::Opaque),
        Endpoint::Other => Ok(Plan::Nowhere(unknown_path(&head.path))),
        _ if head.method != Method::POST => Ok(Plan::Nowhere(method_not_allowed("POST, OPTIONS", &head.method))),
        Endpoint::Audio | Endpoint::Images if headers::media_type(&head.headers).starts_with("multipart/") => {
            let content_type = headers::text(&head.headers, http::header::CONTENT_TYPE).unwrap_or_default();
            let boundary = tidegate_plugins::multipart::boundary_of(content_type)
                .ok_or_else(|| Fault::bad("bad_multipart", "The multipart content-type names no usable boundary."))?;
            Ok(Plan::Form { boundary })
        }
        _ => Ok(Plan::Call),
    }
}

/// Where the request comes from is judged before anything else is said, and before any of its body is read.
fn check_address(address: Address) -> Result<()> {
    match address {
        Address::Welcome => Ok(()),
        Address::Refused => {
            let message = "Requests from this network address are not taken here.";
            let refusal = Refusal::new(StatusCode::FORBIDDEN, "client_not_allowed", message);
            Err(Fault::refused(refusal))
        }
        Address::Contradicted => {
            let message = "X-Forwarded-For and Forwarded name different clients. Send neither; a proxy must drop the \
                           one that it does not write.";
            Err(Fault::bad("contradicting_forwarded", message))
        }
    }
}

/// A path that a backend could read as another one is refused, so that what was routed is what is asked for.
fn check_path(path: &str) -> Result<()> {
    let lower = path.to_ascii_lowercase();
    let dotted = lower.replace("%2e", ".");
    let traverses = dotted.split('/').any(|segment| segment == "." || segment == "..");
    if traverses
        || lower.contains("%2f") && !lower.starts_with("/v1/models/")
        || lower.contains("%00")
        || path.contains('\\')
    {
        return Err(Fault::bad("bad_path", "The path has segments that different servers read differently."));
    }
    Ok(())
}

/// What the head says about the body.
fn check_body(trip: &Trip<'_>) -> Result<()> {
    let (headers, limits) = (&trip.exchange.head().headers, &trip.snapshot.limits);
    if let Some(declared) = body::declared_length(headers)
        && declared > limits.body as u64
    {
        return Err(body::too_large(limits.body).closing());
    }
    if headers.get(header::EXPECT).is_some_and(|expect| !expect.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        let refusal =
            Refusal::new(StatusCode::EXPECTATION_FAILED, "bad_expect", "Only 100-continue can be expected here.");
        return Err(Fault::refused(refusal).closing());
    }
    body::check_encoding(headers, limits)
}

/// The answer to OPTIONS: to a browser's preflight what the file allows, to anybody else the methods.
fn options(trip: &Trip<'_>) -> Reply {
    let reply = Reply::empty(StatusCode::NO_CONTENT);
    let headers = trip.exchange.headers();
    let preflight = headers.contains_key(header::ORIGIN) && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    match &trip.snapshot.cors {
        Some(cors) if preflight => super::cors::preflight(cors, headers, reply),
        _ => reply.header(header::ALLOW, "GET, HEAD, POST, OPTIONS"),
    }
}

fn method_not_allowed(allow: &'static str, method: &Method) -> Fault {
    let message = format!("{} is not possible here; use {allow}.", short(method.as_str()));
    Fault::refused(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message).allow(allow))
}

fn unknown_path(path: &str) -> Fault {
    let near = crate::models::Models::near(path, PATHS.iter().copied());
    let hint = near.first().map_or_else(String::new, |near| format!(" Did you mean {near}?"));
    let message = format!("There is no {} here.{hint}", short(path));
    Fault::refused(Refusal::new(StatusCode::NOT_FOUND, "unknown_url", message))
}

/// Where WebSockets are at home. Others may be elsewhere, on paths that are not ours.
pub(super) const REALTIME: &str = "/v1/realtime";

/// The paths that a wrong one may have meant.
const PATHS: [&str; 9] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/rerank",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/models",
    "/tokenize",
];

/// What a client sent, short enough to be said back to it.
pub(super) fn short(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

fn unescape(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Whether the client waits for leave to send its body (RFC 9110 section 10.1.1).
pub(super) fn expects_continue(trip: &Trip<'_>) -> bool {
    trip.record.http >= Version::HTTP_11 && trip.exchange.headers().contains_key(header::EXPECT)
}

/// How long this client waits for an answer, as the SDKs tell in seconds.
pub(super) fn client_patience(client: &HeaderMap) -> Option<Duration> {
    const NAMES: [HeaderName; 2] =
        [HeaderName::from_static("x-stainless-read-timeout"), HeaderName::from_static("x-stainless-timeout")];
    NAMES
        .iter()
        .filter_map(|name| headers::text(client, name)?.trim().parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        .map(|seconds| Duration::from_secs_f64(seconds.min(86_400.0)))
        .min()
}
