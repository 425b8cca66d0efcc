//! A recorded answer, told in the form that another request asks for: as it came, or whole for a stream, or as a stream
//! for what came whole.

use crate::call::Endpoint;
use crate::events::StreamWatch;
use crate::exchange::Exchange;
use crate::filter::Head;
use crate::forms::{self, Shape};
use crate::recording::{Failure, Reader};
use crate::reply::{Body, Pieces, Refusal, Reply};
use crate::splice;
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One document, of so many choices.
    Whole {
        /// The call's `n`.
        choices: u64,
    },
    /// Events, with the usage among them or not.
    Stream {
        /// Whether the client gets to see the usage.
        usage: bool,
    },
}

/// What became of telling an answer.
pub enum Told {
    /// Here it is.
    Answer(Reply),
    /// The backend failed or had no room, and said so: somebody else may have more luck.
    Poor(Reply),
    /// It cannot be told in this form.
    Never,
    /// There is none.
    Failed(Failure),
    /// It began, and broke off.
    Broken(Failure),
}

/// About how many bytes of text an event has where a whole answer is told as a stream.
const PIECE: usize = 24;

impl Form {
    /// What a request asks for.
    pub fn asked(exchange: &Exchange) -> Self {
        let Some(call) = exchange.call().filter(|call| call.stream) else {
            return Self::Whole { choices: exchange.call().and_then(|call| call.n).unwrap_or(1) };
        };
        Self::Stream { usage: !forms::asks_for_usage(call.endpoint) || call.include_usage == Some(true) }
    }
}

/// Whether an answer with this head is a stream of events.
pub(super) fn is_stream(head: &Head) -> bool {
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    kind.starts_with(b"text/event-stream")
}

/// Tells the answer that `reader` reads, once it begins, or once it is whole where another form wants all of it.
pub async fn tell(mut reader: Reader, endpoint: Endpoint, asked: Form) -> Told {
    let opening = match reader.opening().await {
        Ok(opening) => opening,
        Err(failure) => return Told::Failed(failure),
    };
    let Head { status, headers } = opening.head.clone();
    // What is no success is told as it came: SDKs read errors whole. Nor is a stream that begins with an error.
    if !status.is_success() || opening.poor {
        let body = match reader.ended().await {
            Ok(()) => reader.recording().body(),
            Err(Failure::Behind) => return Told::Never,
            Err(failure) => return Told::Broken(failure),
        };
        if status.is_success() && matches!(asked, Form::Whole { .. }) {
            return Told::Failed(broke_off());
        }
        let reply = Reply::new(status, headers, body);
        return if opening.poor { Told::Poor(reply) } else { Told::Answer(reply) };
    }
    match (is_stream(&opening.head), asked) {
        (true, Form::Stream { usage: true }) => {
            Told::Answer(Reply::new(status, headers, Body::Pieces(Box::new(reader))))
        }
        (true, Form::Stream { usage: false }) => {
            Told::Answer(Reply::new(status, headers, Body::Pieces(Box::new(WithoutUsage(reader)))))
        }
        (false, Form::Whole { .. }) => made(reader, opening.head.clone(), |whole| Some(vec![whole])).await,
        (true, Form::Whole { choices }) => {
            made(reader, opening.head.clone(), |events| whole(endpoint, choices, &events)).await
        }
        (false, Form::Stream { usage }) => {
            let shape = Shape { usage, piece: PIECE };
            streamed(reader, opening.head.clone(), 1 + usize::from(usage), |whole| {
                forms::events(endpoint, &whole, shape)
            })
            .await
        }
    }
}

/// The number of the whole form among a recording's; the streams without and with the usage follow.
const WHOLE: usize = 0;

/// The document that a stream adds up to, if it is one of this endpoint; nothing at all of one that failed in the middle.
fn whole(endpoint: Endpoint, choices: u64, events: &[u8]) -> Option<Vec<Bytes>> {
    let mut watch = StreamWatch::new(endpoint).with_choices(choices);
    watch.see(events);
    if watch.complete() { Some(vec![forms::whole(endpoint, events)?]) } else { Some(Vec::new()) }
}

/// What those are told who wanted an answer whole that failed in the middle.
fn broke_off() -> Failure {
    let message = "The backend failed before its answer was complete. Try again.";
    Failure::Backend(Refusal::new(StatusCode::BAD_GATEWAY, "upstream_error", message))
}

/// A document that is made of all of it, once for all who want it so.
async fn made(mut reader: Reader, head: Head, make: impl FnOnce(Bytes) -> Option<Vec<Bytes>>) -> Told {
    let whole = match reader.ended().await {
        Ok(()) => reader.recording().form(WHOLE, || make(reader.recording().body())),
        Err(Failure::Behind) => return Told::Never,
        Err(failure) => return Told::Broken(failure),
    };
    let Some(whole) = whole else { return Told::Never };
    let Some(whole) = whole.first().cloned() else { return Told::Broken(broke_off()) };
    let mut reply = Reply::new(head.status, head.headers, whole);
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply.usage = reader.usage();
    Told::Answer(reply)
}

/// Events that are made of all of it, once for all who want them so.
async fn streamed(
    mut reader: Reader,
    head: Head,
    number: usize,
    make: impl FnOnce(Bytes) -> Option<Vec<Bytes>>,
) -> Told {
    let events = match reader.ended().await {
        Ok(()) => reader.recording().form(number, || make(reader.recording().body())),
        Err(Failure::Behind) => return Told::Never,
        Err(failure) => return Told::Broken(failure),
    };
    let Some(events) = events else { return Told::Never };
    let events = Events { events, at: 0, usage: reader.usage() };
    let mut reply = Reply::new(head.status, head.headers, Body::Pieces(Box::new(events)));
    reply.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Told::Answer(reply)
}

/// A recorded stream without its usage.
struct WithoutUsage(Reader);

impl Pieces for WithoutUsage {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        loop {
            let next = ready!(self.0.poll_next(context));
            let Some(Ok(piece)) = next else { return Poll::Ready(next) };
            let left = splice::without_usage(&piece).unwrap_or(piece);
            if !left.is_empty() {
                return Poll::Ready(Some(Ok(left)));
            }
        }
    }

    fn usage(&self) -> Option<Usage> {
        self.0.usage()
    }
}

/// Events that are there already, and what they cost.
struct Events {
    events: Arc<[Bytes]>,
    at: usize,
    usage: Option<Usage>,
}

impl Pieces for Events {
    fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        let next = self.events.get(self.at).cloned();
        self.at += 1;
        Poll::Ready(next.map(Ok))
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }
}
