//! One answer, whole or as a stream: each made from the other.
//!
//! What clients make of a stream is the whole answer ([`whole`]), and a whole answer can come as the events that add up
//! to it ([`events`]): texts, tool calls, log probabilities, several choices, refusals, reasoning, and fields nobody has
//! told us of, which stay where they stand. Numbers and strings are passed on as they are written.

mod chat;
mod ids;
mod messages;
mod responses;
#[cfg(test)]
mod tests;
mod tree;

use crate::call::Endpoint;
use crate::events::Events;
use bytes::Bytes;
use std::borrow::Cow;

pub use ids::{Fresh, Ids, LongId, RANDOM, random};

/// How a stream is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Whether the client asked for the usage, where a stream has it only if asked for.
    pub usage: bool,
    /// About how many bytes of text an event has.
    pub piece: usize,
}

/// Whether answers of this endpoint come as streams too.
pub fn streams(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::Chat | Endpoint::Completions | Endpoint::Messages | Endpoint::Responses)
}

/// Whether a stream of this endpoint has the usage only if asked for.
pub fn asks_for_usage(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::Chat | Endpoint::Completions)
}

/// The whole answer that a complete stream adds up to. None if it is no stream of this endpoint.
pub fn whole(endpoint: Endpoint, events: &[u8]) -> Option<Bytes> {
    let whole = match endpoint {
        Endpoint::Chat | Endpoint::Completions => chat::whole(endpoint, events),
        Endpoint::Messages => messages::whole(events),
        Endpoint::Responses => responses::whole(events),
        _ => None,
    };
    whole.map(Bytes::from)
}

/// The events that a whole answer would have come as, one by one. None if it is no answer of this endpoint.
pub fn events(endpoint: Endpoint, whole: &[u8], shape: Shape) -> Option<Vec<Bytes>> {
    let events = match endpoint {
        Endpoint::Chat | Endpoint::Completions => chat::events(endpoint, whole, shape),
        Endpoint::Messages => messages::events(whole, shape),
        Endpoint::Responses => responses::events(whole, shape),
        _ => None,
    };
    events.map(|events| events.into_iter().map(Bytes::from).collect())
}

/// What the events say, each as JSON; end marks and comments say nothing.
fn payloads(events: &[u8]) -> Vec<Cow<'_, [u8]>> {
    let events = Events::new(events).filter(|event| !event.is_comment_only() && !event.is_done());
    events.map(|event| event.payload()).collect()
}

fn event(name: Option<&str>, data: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(data.len() + 40);
    if let Some(name) = name {
        event.extend_from_slice(b"event: ");
        event.extend_from_slice(name.as_bytes());
        event.push(b'\n');
    }
    event.extend_from_slice(b"data: ");
    let start = event.len();
    event.extend_from_slice(data);
    // An answer may be printed over several lines; an event's data is one. In JSON these are blanks wherever they stand.
    event[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    event.extend_from_slice(b"\n\n");
    event
}
