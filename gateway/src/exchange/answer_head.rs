//! The head of everything that is said: who it is, who answered, and what it cost.

use super::fail::{Fault, Result};
use super::headers::{BACKENDS_REQUEST_ID, CORRELATION_ID, REQUEST_ID, number};
use super::{Session, Trip, cors};
use crate::telemetry::write_millis;
use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use tidegate_plugins::Head;
use tidegate_plugins::call::Endpoint;

/// Sends the head of an answer, with the ids and the headers that say why. Its headers go with it.
///
/// # Errors
/// That the client has left.
pub(super) async fn send_head(session: &mut Session, trip: &mut Trip<'_>, head: &mut Head) -> Result<()> {
    let mut headers = std::mem::take(&mut head.headers);
    identify(trip, &mut headers);
    session.set_write_timeout(trip.snapshot.limits.write_timeout);
    trip.head_sent = true;
    session.write_head(head.status, headers).await.map_err(|_| Fault::ClientGone)
}

/// What the gateway itself has added until now.
pub(super) fn measure(trip: &mut Trip<'_>) {
    let queued = trip.record.queued + trip.in_line;
    let waited = trip.receiving + trip.record.upstream_time + queued + trip.exchange.waited();
    trip.record.overhead = trip.record.started.elapsed().saturating_sub(waited);
}

/// Adds who this is, who answered, and what it cost.
pub(super) fn identify(trip: &mut Trip<'_>, headers: &mut HeaderMap) {
    measure(trip);
    let record = &trip.record;
    headers.insert(REQUEST_ID, record.request_id.to_header());
    if let Some(id) = &record.correlation_id {
        headers.insert(CORRELATION_ID, id.to_header());
    }
    if matches!(trip.exchange.endpoint(), Endpoint::Messages | Endpoint::CountTokens) {
        headers.insert(BACKENDS_REQUEST_ID, record.request_id.to_header());
    }
    if trip.snapshot.answer_headers {
        if let Some(backend) = &record.backend {
            insert(headers, BACKEND, backend);
            let once = || HeaderValue::from_static("1");
            let attempts = record.attempts;
            headers.insert(ATTEMPTS, if attempts == 1 { once() } else { attempts.into() });
        }
        if let Some(why) = record.fallback.last() {
            insert(headers, FALLBACK, why);
            insert(headers, POOL, trip.route.as_ref().map_or("", |route| &route.pool.name));
            insert(headers, MODEL, record.model_served.as_deref().unwrap_or_default());
        }
        if !record.queued.is_zero() {
            let queued = u64::try_from(record.queued.as_millis()).unwrap_or(u64::MAX);
            headers.insert(QUEUE, number(queued));
        }
        let mut overhead = Vec::with_capacity(16);
        write_millis(&mut overhead, record.overhead);
        if let Ok(overhead) = HeaderValue::from_maybe_shared(Bytes::from(overhead)) {
            headers.insert(OVERHEAD, overhead);
        }
    }
    if let Some(cors) = &trip.snapshot.cors
        && trip.exchange.head().method != Method::OPTIONS
    {
        cors::expose(cors, trip.exchange.headers(), headers);
    }
}

const BACKEND: HeaderName = HeaderName::from_static("x-tidegate-backend");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-tidegate-attempts");
const FALLBACK: HeaderName = HeaderName::from_static("x-tidegate-fallback");
const POOL: HeaderName = HeaderName::from_static("x-tidegate-pool");
const MODEL: HeaderName = HeaderName::from_static("x-tidegate-model");
const QUEUE: HeaderName = HeaderName::from_static("x-tidegate-queue-ms");
const OVERHEAD: HeaderName = HeaderName::from_static("x-tidegate-overhead-ms");

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
