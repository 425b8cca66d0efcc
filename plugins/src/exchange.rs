//! What travels with one request: what came in, who sent it, where it goes.
//!
//! Reading is free; each part has one writing verb, so that a search for the verb lists who may write it:
//! [`Exchange::identify`], [`Exchange::send_to`], [`Exchange::replace_body`], [`Exchange::ration`],
//! [`Exchange::limit_by`], [`Exchange::ask_usage`], [`Exchange::note_cached`], [`Exchange::record`], [`Exchange::note`].

use crate::call::{Call, Endpoint};
use crate::store::Level;
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, Method};
use std::net::IpAddr;
use std::sync::Arc;

/// Who sends a request, as an identity filter found out.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the credential, never the credential.
    pub key: Option<Arc<str>>,
    /// The user.
    pub user: Option<Arc<str>>,
    /// The service, where the credential belongs to one instead of a user.
    pub service: Option<Arc<str>>,
    /// The team.
    pub team: Option<Arc<str>>,
    /// The organisation: the tenant that caches and limits are scoped by.
    pub org: Option<Arc<str>>,
    /// The models it may ask for, `*` as a wildcard at the end; none: all.
    pub models: Option<Vec<Arc<str>>>,
}

impl Caller {
    /// Whether this caller may ask for `model`.
    pub fn may_use(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|allowed| {
            allowed.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => model.starts_with(prefix),
                None => model == &**pattern,
            })
        })
    }
}

/// The head of a request, as the client sent it (hop-by-hop headers included).
#[derive(Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The path without the query, as sent.
    pub path: Box<str>,
    /// The query without its `?`.
    pub query: Option<Box<str>>,
    /// The headers.
    pub headers: HeaderMap,
}

/// One request on its way through the gateway.
#[derive(Debug)]
pub struct Exchange {
    head: RequestHead,
    endpoint: Endpoint,
    id: Arc<str>,
    client: Option<IpAddr>,
    caller: Option<Arc<Caller>>,
    body: Bytes,
    call: Option<Call>,
    model: Option<Arc<str>>,
    outcome: Option<Outcome>,
    rates: Rates,
    limited: bool,
    needs_usage: bool,
    cached: Option<Cached>,
    notes: Vec<(&'static str, String)>,
}

/// Marks an answer that came from a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached {
    /// What the answer had cost when a backend gave it, as far as it said so.
    pub usage: Option<Usage>,
}

/// The tightest of the rates that limit a request, as its answer's headers tell them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of requests.
    pub requests: Option<Level>,
    /// Of tokens.
    pub tokens: Option<Level>,
}

/// What became of a request, as far as filters that count or settle need to know.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The status the client got; 499 if it left before the end.
    pub status: u16,
    /// Whether the answer was complete and what was asked for.
    pub complete: bool,
    /// The tokens it cost, if any were counted; of an answer from a cache, what it had cost then.
    pub usage: Option<Usage>,
    /// Whether the answer came from a cache, and no backend was asked.
    pub cached: bool,
    /// Events of a stream that carried a piece of the answer.
    pub events: u64,
    /// Body bytes the client sent.
    pub request_bytes: u64,
    /// Body bytes the client was given.
    pub response_bytes: u64,
}

impl Exchange {
    /// A request whose body has not been read yet.
    pub fn new(head: RequestHead, endpoint: Endpoint, id: Arc<str>, client: Option<IpAddr>) -> Self {
        Self {
            head,
            endpoint,
            id,
            client,
            caller: None,
            body: Bytes::new(),
            call: None,
            model: None,
            outcome: None,
            rates: Rates::default(),
            limited: false,
            needs_usage: false,
            cached: None,
            notes: Vec::new(),
        }
    }

    /// What the client sent before the body.
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Which API this is.
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint
    }

    /// The request id: the client's own if it sent a good one.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The client's address; none on a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        self.client
    }

    /// Who sends it, once a filter has found out.
    pub fn caller(&self) -> Option<&Arc<Caller>> {
        self.caller.as_ref()
    }

    /// The body, whole; empty before it is read and for streamed (multipart, opaque) bodies.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The body read as an LLM call; none where the endpoint has no JSON body.
    pub fn call(&self) -> Option<&Call> {
        self.call.as_ref()
    }

    /// The model asked for, or the one a filter chose instead.
    pub fn model(&self) -> Option<&Arc<str>> {
        self.model.as_ref()
    }

    /// Whether the client asked for an event stream.
    pub fn wants_stream(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.stream)
    }

    /// What became of the request: known when [`crate::ResponseFilter::end`] is called.
    pub fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// The tightest of the rates that limit this request.
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Whether a limit has refused this request.
    pub fn is_limited(&self) -> bool {
        self.limited
    }

    /// Whether a filter counts the tokens of the answer, so that the backend is asked for them.
    pub fn needs_usage(&self) -> bool {
        self.needs_usage
    }

    /// That the answer comes from a cache, if it does.
    pub fn cached(&self) -> Option<&Cached> {
        self.cached.as_ref()
    }

    /// What filters noted for the log line; they are gone from here then.
    pub fn take_notes(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.notes)
    }

    /// Says who sends this request. For identity filters.
    pub fn identify(&mut self, caller: Arc<Caller>) {
        self.caller = Some(caller);
    }

    /// Sends the request to another model than it asked for. For routing filters.
    pub fn send_to(&mut self, model: Arc<str>) {
        self.model = Some(model);
    }

    /// Replaces the body and how it reads. Use [`crate::splice`] to leave other bytes alone.
    pub fn replace_body(&mut self, body: Bytes, call: Option<Call>) {
        self.body = body;
        self.call = call;
    }

    /// Says how much of its rates is left; the tighter one stays. For limiting filters.
    pub fn ration(&mut self, rates: Rates) {
        let tighter = |one: Option<Level>, other: Option<Level>| match (one, other) {
            (Some(one), Some(other)) => Some(if other.left < one.left { other } else { one }),
            (one, other) => one.or(other),
        };
        self.rates.requests = tighter(self.rates.requests, rates.requests);
        self.rates.tokens = tighter(self.rates.tokens, rates.tokens);
    }

    /// Says which limit refuses this request, so that other limits take nothing for it. For limiting filters.
    pub fn limit_by(&mut self, limit: &str) {
        self.limited = true;
        self.note("limited_by", limit);
    }

    /// Asks for the tokens of the answer, also where the client did not: for filters that count them.
    pub fn ask_usage(&mut self) {
        self.needs_usage = true;
    }

    /// Says that the answer comes from a cache, and what it had cost when a backend gave it. For caching filters.
    pub fn note_cached(&mut self, usage: Option<Usage>) {
        self.cached = Some(Cached { usage });
    }

    /// Says what became of the request. For the gateway.
    pub fn record(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Notes something for the request's log line. Not for secrets or prompts.
    pub fn note(&mut self, key: &'static str, value: impl Into<String>) {
        self.notes.push((key, value.into()));
    }
}
