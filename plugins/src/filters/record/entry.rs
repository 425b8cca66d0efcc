//! One record: who asked what of which model, when, what came of it, and, where that is kept, what was said.

use super::redact::Redactor;
use super::settings::What;
use crate::call::Endpoint;
use crate::exchange::Exchange;
use crate::forms;
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is kept of a body while it comes.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The bytes, as long as there are not too many.
    bytes: Vec<u8>,
    /// How many there were.
    length: u64,
}

impl Kept {
    pub(super) fn add(&mut self, piece: &[u8], most: usize) {
        self.length += piece.len() as u64;
        if self.length <= most as u64 {
            self.bytes.extend_from_slice(piece);
        } else {
            self.bytes = Vec::new();
        }
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == self.length
    }
}

/// What is known when a request begins.
pub(super) struct Begun {
    at: Timestamp,
    since: Instant,
    pub(super) what: What,
    /// The request's body, if it is kept.
    pub(super) request: Option<Bytes>,
    pub(super) answer: Kept,
}

impl Begun {
    pub(super) fn now(what: What) -> Self {
        Self { at: Timestamp::now(), since: Instant::now(), what, request: None, answer: Kept::default() }
    }
}

/// Everything that a record is made of.
pub(super) struct Entry {
    begun: Begun,
    took: Duration,
    endpoint: Endpoint,
    facts: Map<String, Value>,
    redactor: Arc<Redactor>,
}

impl Entry {
    /// Of a request that is over.
    pub(super) fn new(begun: Begun, exchange: &Exchange, redactor: Arc<Redactor>) -> Self {
        let took = begun.since.elapsed();
        Self { took, endpoint: exchange.endpoint(), facts: facts(exchange), begun, redactor }
    }

    /// Bytes it holds, about.
    pub(super) fn weight(&self) -> usize {
        self.begun.request.as_ref().map_or(0, Bytes::len) + self.begun.answer.bytes.capacity() + 1024
    }

    /// What was asked and answered, redacted; null for what is not kept.
    pub(super) fn said(&mut self) -> [Value; 2] {
        let length = self.facts["request_bytes"].as_u64().unwrap_or(0);
        let request = match self.begun.request.take() {
            Some(body) => self.body(&body, false),
            None => left_out(length),
        };
        let answer = std::mem::take(&mut self.begun.answer);
        let answer = if answer.is_whole() { self.body(&answer.bytes, true) } else { left_out(answer.length) };
        [request, answer]
    }

    /// The record. `told` is what was said, or what that comes to.
    pub(super) fn record(mut self, told: Told) -> Map<String, Value> {
        let mut record = Map::new();
        record.insert("time".to_owned(), format!("{:.3}", self.begun.at).into());
        for member in ["model", "path", "request_id"] {
            self.redactor.value(&mut self.facts[member]);
        }
        record.append(&mut self.facts);
        record.insert("duration_ms".to_owned(), (self.took.as_micros() as f64 / 1000.0).into());
        match told {
            Told::Nothing => {}
            Told::All([request, answer]) => {
                record.insert("request".to_owned(), request);
                record.insert("answer".to_owned(), answer);
            }
            Told::Summary(Ok(mut summary)) => {
                // Whoever sums up may say what it was not told.
                self.redactor.value(&mut summary);
                record.insert("summary".to_owned(), summary);
            }
            Told::Summary(Err(why)) => {
                record.insert("unsummarised".to_owned(), why.into());
            }
        }
        record.retain(|_, value| !value.is_null());
        record
    }

    /// A body as it is kept: JSON as it is, a stream as the whole answer it adds up to, text as text.
    fn body(&self, bytes: &[u8], answer: bool) -> Value {
        if bytes.is_empty() {
            return Value::Null;
        }
        let whole = answer.then(|| forms::whole(self.endpoint, bytes)).flatten();
        let json = serde_json::from_slice(whole.as_deref().unwrap_or(bytes)).ok();
        let text = || std::str::from_utf8(bytes).ok().map(Value::from);
        match json.or_else(text) {
            Some(mut value) => {
                self.redactor.value(&mut value);
                value
            }
            None => left_out(bytes.len() as u64),
        }
    }
}

/// What a record says of what was said.
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// All of it.
    All([Value; 2]),
    /// What it comes to, or why nobody says.
    Summary(Result<Value, &'static str>),
}

fn left_out(length: u64) -> Value {
    if length == 0 { Value::Null } else { json!({ "left_out": length }) }
}

fn facts(exchange: &Exchange) -> Map<String, Value> {
    let (head, caller) = (exchange.head(), exchange.caller());
    let outcome = exchange.outcome().copied().unwrap_or_default();
    let name = |name: Option<&Arc<str>>| name.map(|name| Value::from(&**name)).unwrap_or_default();
    let tokens = outcome.usage.map(|usage| {
        json!({ "prompt": usage.prompt, "completion": usage.completion, "cached": usage.cached_prompt,
                "reasoning": usage.reasoning, "estimated": usage.estimated })
    });
    let facts = json!({
        "request_id": &**exchange.id(),
        "org": name(caller.and_then(|caller| caller.org.as_ref())),
        "team": name(caller.and_then(|caller| caller.team.as_ref())),
        "user": name(caller.and_then(|caller| caller.user.as_ref())),
        "service": name(caller.and_then(|caller| caller.service.as_ref())),
        "key_id": name(caller.and_then(|caller| caller.key.as_ref())),
        "client": exchange.client().map(|client| client.to_string()),
        "method": head.method.as_str(),
        "path": &*head.path,
        "endpoint": exchange.endpoint().as_str(),
        "model": name(exchange.model()),
        "pool": name(exchange.answerer().map(|answerer| &answerer.pool)),
        "status": outcome.status,
        "complete": outcome.complete,
        "source": outcome.source.label(),
        "stream": outcome.streamed,
        "tokens": tokens,
        "request_bytes": outcome.request_bytes,
        "response_bytes": outcome.response_bytes,
    });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}
