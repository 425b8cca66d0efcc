//! What travels with one request: what came in, who sent it, where it goes.
//!
//! Reading is free; each part has one writing verb, so that a search for the verb lists who may write it:
//! [`Exchange::vouch`], [`Exchange::identify`],
//! [`Exchange::classify`],
//! [`Exchange::send_to`], [`Exchange::copy_to`], [`Exchange::settle_on`], [`Exchange::price_as`],
//! [`Exchange::replace_body`],
//! [`Exchange::ration`], [`Exchange::limit_by`],
//! [`Exchange::ask_usage`], [`Exchange::answer_from`],
//! [`Exchange::spend`], [`Exchange::watch`], [`Exchange::show`], [`Exchange::resumed`],
//! [`Exchange::record`], [`Exchange::note`].

use crate::call::{Call, Endpoint};
pub use crate::caller::Caller;
use crate::events::StreamEnd;
use crate::json::Outline;
use crate::shadow::Shadow;
use crate::store::Level;
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, Method};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Who answers a request: not which of a pool's backends, but all that can make a difference to what is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answerer {
    /// The route: the entry of the file's `models`.
    pub route: Arc<str>,
    /// The pool.
    pub pool: Arc<str>,
    /// The model's name there.
    pub model: Arc<str>,
    /// A hash of what the pool's backends say the model is; 0 if they say nothing.
    pub revision: u64,
}

/// The head of a request, as the client sent it (hop-by-hop headers included).
#[derive(Debug, Clone)]
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
    vouched: bool,
    caller: Option<Arc<Caller>>,
    body: Bytes,
    call: Option<Call>,
    outline: Option<Outline>,
    model: Option<Arc<str>>,
    priced_as: Option<Arc<str>>,
    source: Source,
    charged: bool,
    resumed: bool,
    spent: Option<Usage>,
    stream_end: Option<StreamEnd>,
    only_text: bool,
    /// Where in memory the piece of the answer stands that filters see, and how long it is.
    shown: (usize, usize),
    answerer: Option<Arc<Answerer>>,
    outcome: Option<Outcome>,
    rates: Rates,
    limited: bool,
    needs_usage: bool,
    copies: Vec<Arc<Shadow>>,
    classes: Vec<(Arc<str>, Arc<str>)>,
    waited: Duration,
    notes: Vec<(&'static str, String)>,
}

/// What is known of a piece of an answer without looking at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Nothing: a filter that saw it before has changed it.
    Changed,
    /// It is as the gateway shows it, which has read what it says about the stream.
    AsShown,
    /// Nor is there anything but text in it: its events are as others before, with another text.
    Text,
}

/// Where a piece stands.
fn place(piece: &Bytes) -> (usize, usize) {
    (piece.as_ptr().addr(), piece.len())
}

/// The tightest of the rates that limit a request, as its answer's headers tell them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Of requests.
    pub requests: Option<Level>,
    /// Of tokens.
    pub tokens: Option<Level>,
}

/// Whose words an answer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Source {
    /// The gateway's own: a refusal, a fault, or what a filter says by itself.
    #[default]
    Gateway,
    /// A backend's, given to this request.
    Backend,
    /// A backend's, given to an earlier request and kept.
    Cache,
    /// A backend's, given to another request that is under way.
    Flight,
    /// A backend's, given to this very request when it was sent before.
    Replay,
}

impl Source {
    /// The word in metrics and log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Backend => "backend",
            Self::Cache => "cache",
            Self::Flight => "flight",
            Self::Replay => "replay",
        }
    }
}

/// What became of a request, as far as filters that count or settle need to know.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// The status the client got; 499 if it left before the end. A backend may say 499 too: [`Outcome::gone`] tells.
    pub status: u16,
    /// Whether the client left before the end.
    pub gone: bool,
    /// Whether a backend was asked.
    pub asked: bool,
    /// Whether the answer was complete and what was asked for, whether or not its client was still there.
    pub complete: bool,
    /// The tokens of the answer, if any were counted: as [`crate::ResponseFilter::settles`] has it. It is the same for
    /// whoever counts.
    pub usage: Option<Usage>,
    /// The same as it was before that: what the backend says, or what was counted of its stream.
    pub reported: Option<Usage>,
    /// Whose words the answer was.
    pub source: Source,
    /// Whether these tokens are this request's to pay: not if the answer was made for another request.
    pub charged: bool,
    /// Whether the answer was a stream whose events were read.
    pub streamed: bool,
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
            vouched: false,
            caller: None,
            body: Bytes::new(),
            call: None,
            outline: None,
            model: None,
            priced_as: None,
            source: Source::Gateway,
            charged: true,
            resumed: false,
            spent: None,
            stream_end: None,
            only_text: false,
            shown: (0, 0),
            answerer: None,
            outcome: None,
            rates: Rates::default(),
            limited: false,
            needs_usage: false,
            copies: Vec::new(),
            classes: Vec::new(),
            waited: Duration::ZERO,
            notes: Vec::new(),
        }
    }

    /// The same request once more, under another id, for nobody: what filters have made of it so far, and what has been
    /// settled, but none of what they noted.
    pub fn again(&self, id: Arc<str>) -> Self {
        let mut again = Self::new(self.head.clone(), self.endpoint, id, self.client);
        again.caller.clone_from(&self.caller);
        again.replace_body(self.body.clone(), self.call.clone());
        again.model.clone_from(&self.model);
        again.answerer.clone_from(&self.answerer);
        again.needs_usage = self.needs_usage;
        again
    }

    /// The same request as it came, before anybody has told who sends it: to find that out once more.
    pub fn unidentified(&self) -> Self {
        let mut anew = Self::new(self.head.clone(), self.endpoint, self.id.clone(), self.client);
        (anew.vouched, anew.model) = (self.vouched, self.model.clone());
        anew
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

    /// Whether a trusted proxy handed the request over, so that what its headers say about the client may be believed.
    pub fn is_vouched_for(&self) -> bool {
        self.vouched
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

    /// Where the parts of the body stand, as long as it is as it came, and made of not too many.
    pub fn outline(&self) -> Option<&Outline> {
        self.outline.as_ref()
    }

    /// The class that this classifier gave it, if it was asked.
    pub fn class(&self, classifier: &str) -> Option<&Arc<str>> {
        self.classes.iter().find(|(name, _)| **name == *classifier).map(|(_, class)| class)
    }

    /// How long it waited for models that filters asked about it.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The model asked for, or the one a filter chose instead.
    pub fn model(&self) -> Option<&Arc<str>> {
        self.model.as_ref()
    }

    /// The model by whose name its tokens have a price: the one that answers after a fallback, else the one asked for.
    pub fn priced_as(&self) -> Option<&Arc<str>> {
        self.priced_as.as_ref().or(self.model.as_ref())
    }

    /// Who answers, as far as that is settled: for filters that say [`crate::Filter::needs_route`], and once a backend is
    /// asked. A fallback settles it anew.
    pub fn answerer(&self) -> Option<&Arc<Answerer>> {
        self.answerer.as_ref()
    }

    /// Whether the client asked for an event stream.
    pub fn wants_stream(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.stream)
    }

    /// Whose words the answer is: known when its head is.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether the tokens of the answer are this request's to pay: not if the answer was made for another request.
    /// Known when the answer's head is.
    pub fn is_charged(&self) -> bool {
        self.charged
    }

    /// Whether the answer is a stream that one backend began and another went on with.
    pub fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// The tokens of the answer, as far as they are known: all of them when its last chunk is seen.
    pub fn spent(&self) -> Option<Usage> {
        self.spent
    }

    /// How the stream ends that the backend has sent until now, if it may end here: known when its last block is seen.
    pub fn stream_end(&self) -> Option<StreamEnd> {
        self.stream_end
    }

    /// What is known of this piece of the answer.
    pub fn piece(&self, piece: &Bytes) -> Piece {
        match self.shown == place(piece) {
            true if self.only_text => Piece::Text,
            true => Piece::AsShown,
            false => Piece::Changed,
        }
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

    /// What filters noted for the log line; they are gone from here then.
    pub fn take_notes(&mut self) -> Vec<(&'static str, String)> {
        std::mem::take(&mut self.notes)
    }

    /// Says that a trusted proxy handed the request over. For the gateway.
    pub fn vouch(&mut self) {
        self.vouched = true;
    }

    /// Says who sends this request. For identity filters.
    pub fn identify(&mut self, caller: Arc<Caller>) {
        self.caller = Some(caller);
    }

    /// Says which class a classifier gave it, after how long. For conditions.
    pub fn classify(&mut self, classifier: Arc<str>, class: Arc<str>, took: Duration) {
        self.waited += took;
        self.note("class", format!("{classifier}={class}"));
        self.classes.push((classifier, class));
    }

    /// Sends the request to another model than it asked for. For routing filters.
    pub fn send_to(&mut self, model: Arc<str>) {
        self.model = Some(model);
        self.answerer = None;
    }

    /// Has a copy sent elsewhere too, once a backend is asked. For shadowing filters.
    pub fn copy_to(&mut self, shadow: Arc<Shadow>) {
        self.copies.push(shadow);
    }

    /// Where copies are to be sent; they are gone from here then.
    pub fn take_copies(&mut self) -> Vec<Arc<Shadow>> {
        std::mem::take(&mut self.copies)
    }

    /// Says that a fallback's tokens have the price of this model; without, of the one asked for. For the gateway.
    pub fn price_as(&mut self, model: Option<Arc<str>>) {
        self.priced_as = model;
    }

    /// Says who answers. For the gateway.
    pub fn settle_on(&mut self, answerer: Arc<Answerer>) {
        self.answerer = Some(answerer);
    }

    /// Replaces the body and how it reads. Use [`crate::splice`] to leave other bytes alone.
    pub fn replace_body(&mut self, body: Bytes, call: Option<Call>) {
        self.body = body;
        self.call = call;
        self.outline = None;
    }

    /// Says where the parts of the body stand. For the gateway, once it has read it.
    pub fn outline_as(&mut self, outline: Option<Outline>) {
        self.outline = outline;
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

    /// Asks for the tokens of the answer, also where the client did not: for filters that count or keep them. Followers
    /// see them in a stream, where the backend's pool lets them be asked for; a client that did not ask does not.
    pub fn ask_usage(&mut self) {
        self.needs_usage = true;
    }

    /// Says whose words the answer is, and whether its tokens are this request's to pay. For the gateway.
    pub fn answer_from(&mut self, source: Source, charged: bool) {
        self.source = source;
        self.charged = charged;
    }

    /// Says that another backend goes on with a stream that one began. For the gateway.
    pub fn resumed(&mut self) {
        self.resumed = true;
    }

    /// Says what tokens the answer took. For the gateway.
    pub fn spend(&mut self, usage: Option<Usage>) {
        self.spent = usage;
    }

    /// Says how the stream ends, if it may end with what comes now, and whether that is nothing but text. For the gateway.
    pub fn watch(&mut self, end: Option<StreamEnd>, only_text: bool) {
        (self.stream_end, self.only_text) = (end, only_text);
    }

    /// Says which piece of the answer filters are about to see. For the gateway.
    pub fn show(&mut self, piece: &Bytes) {
        self.shown = place(piece);
    }

    /// Says what became of the request. For the gateway.
    pub fn record(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Notes something for the request's log line, in the place of what was noted under this key before. Not for secrets or
    /// prompts.
    pub fn note(&mut self, key: &'static str, value: impl Into<String>) {
        let value = value.into();
        match self.notes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.notes.push((key, value)),
        }
    }
}
