//! The head of the request to a backend.

use super::body::{self, Body};
use super::{Trip, headers};
use crate::upstream::{Backend, Fields, RequestHead};
use http::Method;
use http::header::{self, HeaderValue};

/// The headers that every attempt sends: the client's, less what ends here, plus ids. `length` is that of a whole body.
pub(super) fn headers_for_all(trip: &Trip<'_>, length: usize) -> Fields {
    let mut headers = headers::forwarded(trip.exchange.headers(), trip.upgrade);
    for name in &trip.snapshot.kept_headers {
        headers.remove(name);
    }
    // The answer must be readable here, so it must not come compressed. Opaque answers are nobody's to read.
    if trip.exchange.model().is_some() {
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if matches!(trip.body, Body::Whole) {
            headers.remove(&header::CONTENT_ENCODING);
        }
    }
    if trip.shadow {
        headers.insert(headers::SHADOW, HeaderValue::from_static("1"));
    }
    let record = &trip.record;
    headers.append(headers::REQUEST_ID, record.request_id.to_header());
    headers.insert(headers::TRACEPARENT, record.trace.to_header(record.attempts));
    if !record.trace.continued() {
        headers.remove(&headers::TRACESTATE);
    }
    if trip.upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        strip_key(&mut headers);
        // Who reads along cannot read what is compressed.
        if !trip.turns.is_empty() {
            headers.remove(&header::SEC_WEBSOCKET_EXTENSIONS);
        }
    }
    frame(trip, &mut headers, length);
    headers
}

/// Takes the key that browsers put among the subprotocols out again: see the `api_key` filter.
fn strip_key(headers: &mut Fields) {
    let offered: Vec<String> = headers
        .iter()
        .filter(|(name, _)| **name == header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|(_, value)| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|protocol| protocol.trim().to_owned())
        .filter(|protocol| !protocol.starts_with("openai-insecure-api-key."))
        .collect();
    headers.remove(&header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(value) = HeaderValue::from_str(&offered.join(", "))
        && !value.is_empty()
    {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
    }
}

/// Says how long the body is: our own framing, whatever the client's was.
fn frame(trip: &Trip<'_>, headers: &mut Fields, length: usize) {
    match &trip.body {
        Body::None | Body::Unread => {
            if trip.exchange.head().method == Method::POST {
                headers.append(header::CONTENT_LENGTH, headers::number(0_u32));
            }
        }
        Body::Whole => {
            headers.append(header::CONTENT_LENGTH, headers::number(length as u64));
        }
        Body::Streamed { held, more: false } => {
            let length: usize = held.iter().map(bytes::Bytes::len).sum();
            headers.append(header::CONTENT_LENGTH, headers::number(length as u64));
        }
        Body::Streamed { more: true, .. } => match body::declared_length(trip.exchange.headers()) {
            Some(length) => {
                let length = length.saturating_add_signed(trip.grown);
                headers.append(header::CONTENT_LENGTH, headers::number(length));
            }
            None => {
                headers.append(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        },
    }
}

/// The head for one backend: its base path, its credential.
pub(super) fn head_for(backend: &Backend, trip: &Trip<'_>, mut headers: Fields) -> RequestHead {
    let (settings, head) = (&backend.settings, trip.exchange.head());
    let mut target = String::with_capacity(settings.base_path.len() + head.path.len());
    target.push_str(&settings.base_path);
    target.push_str(&head.path);
    if let Some(query) = trip.query.as_deref().or(head.query.as_deref()) {
        target.push('?');
        target.push_str(query);
    }
    for (name, value) in &settings.headers {
        headers.insert(name.clone(), value.clone());
    }
    RequestHead { method: head.method.clone(), target, headers }
}
