//! The contract between the gateway and a filter.

use crate::credential::Otherwise;
use crate::exchange::{Exchange, Outcome};
use crate::reply::{Refusal, Reply};
use crate::services::Services;
use crate::turns::Turns;
use crate::usage::Usage;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use std::sync::Arc;
use std::task::{Context, Poll};

/// A fault of ours inside a filter. The client sees a plain 500; the text goes to the log.
/// To refuse a request, return [`Verdict::Answer`] instead.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FilterError(pub String);

/// What a filter's callbacks return.
pub type Result<T> = std::result::Result<T, FilterError>;

/// The request side: built once, shared by all requests, immutable.
#[async_trait]
pub trait Filter: Send + Sync {
    /// Whether [`Filter::request`] looks at the body. Filters at the head of the list that do not are asked
    /// before the body is read, so that a stranger's upload costs no memory.
    fn needs_body(&self) -> bool {
        true
    }

    /// Whether [`Filter::request`] wants to know who will answer ([`Exchange::answerer`]). It is settled before then, as
    /// far as it can be, and stays unless a later filter sends the request elsewhere.
    fn needs_route(&self) -> bool {
        false
    }

    /// What becomes of requests that carry nothing this filter could tell their sender by; none for a filter that
    /// says nothing about who sends them.
    fn identifies(&self) -> Option<Otherwise> {
        None
    }

    /// Whether managed keys let in here.
    fn takes_managed_keys(&self) -> bool {
        false
    }

    /// What becomes of callers that nobody knows, where this filter gives an answer again to the same caller. None for a
    /// filter to which it does not matter who calls.
    fn tells_apart(&self) -> Option<Strangers> {
        None
    }

    /// Headers of requests that are for this filter alone: no backend sees them, whoever sent them.
    fn keeps(&self) -> &[HeaderName] {
        &[]
    }

    /// What the filter would make of a request, in words, for `tidegate explain`. Nothing if it has nothing to say.
    fn explain(&self, exchange: &Exchange) -> Option<String> {
        let _ = exchange;
        None
    }

    /// The models that the filter would send a request to, each with its share of 1, for `tidegate explain`; none: it
    /// leaves the request where it goes. Where that depends on what an explanation does not ask, all that it may be, each
    /// as if it were for certain.
    fn sends_to(&self, exchange: &Exchange) -> Vec<(Arc<str>, f64)> {
        let _ = exchange;
        Vec::new()
    }

    /// Whether it counts requests, so that it is also asked about one that is refused before its turn: a path that does
    /// not exist, a body that cannot be read. It has no body then, and no model.
    fn counts_refused(&self) -> bool {
        false
    }

    /// Judges one request. What the filter needs for the answer it leaves behind with [`Verdict::Follow`].
    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict>;
}

/// How a filter that gives answers again tells callers apart whom nobody knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strangers {
    /// By their address.
    ByAddress,
    /// It gives them nothing of each other's.
    Alone,
    /// Not at all, nor others: as it was told to.
    Everybody,
}

/// What a filter says about a request.
pub enum Verdict {
    /// Nothing to object.
    Continue,
    /// Nothing to object, and this object wants to see the answer.
    Follow(Box<dyn ResponseFilter>),
    /// This is the answer; no backend is asked. Filters that already follow still see it.
    Answer(Reply),
}

/// The answer side: owned by one request, its state is its fields. Give back what must be given back in `Drop`,
/// report in [`ResponseFilter::end`]. What sees the answer may not wait: it stands between two tokens.
#[async_trait]
pub trait ResponseFilter: Send + Sync {
    /// Asked before a request falls back to another model than it asked for, whose tokens have the price of `model`: whether
    /// the caller can pay for it. What that takes is held until [`ResponseFilter::end`]. May be asked more than once.
    async fn affords(&mut self, exchange: &Exchange, model: &str) -> bool {
        let _ = (exchange, model);
        true
    }

    /// Sees an answer that is held as a whole before its head goes out, as the backend gave it. For those who say in the
    /// head what they make of it: what goes out they see in [`ResponseFilter::chunk`] all the same.
    fn whole(&mut self, exchange: &mut Exchange, answer: &Bytes) {
        let _ = (exchange, answer);
    }

    /// Sees, and may change, the head of the answer.
    fn head(&mut self, exchange: &mut Exchange, head: &mut Head) -> Result<()> {
        let _ = (exchange, head);
        Ok(())
    }

    /// Sees, and may change, a piece of the answer; of an event stream, always whole events. Whoever changes it puts other
    /// bytes in its place: those that came may be known to others.
    /// `last` is true exactly once, possibly with empty `data`.
    fn chunk(&mut self, exchange: &mut Exchange, data: &mut Bytes, last: bool) -> Result<()> {
        let _ = (exchange, data, last);
        Ok(())
    }

    /// Of a WebSocket: what wants to judge its turns. Asked once, before the backend is.
    fn turns(&mut self, exchange: &Exchange) -> Option<Box<dyn Turns>> {
        let _ = exchange;
        None
    }

    /// Whether [`ResponseFilter::chunk`] may change the data. If so, an answer's `content-length` is dropped,
    /// because it may no longer be true.
    fn rewrites(&self) -> bool {
        false
    }

    /// Hears that there will be no (further) answer, and what the client is told instead. If the client has no head
    /// yet, the refusal then passes [`ResponseFilter::head`] and [`ResponseFilter::chunk`] as an answer of the gateway's.
    fn fault(&mut self, exchange: &Exchange, refusal: &Refusal) {
        let _ = (exchange, refusal);
    }

    /// Offers an answer in the place of a failure of the backend's, with this status, of which the client has seen nothing
    /// yet: an older answer, say. `said` is the status that the backend itself gave, if it gave one. The followers are
    /// asked, last first; the first offer counts.
    fn instead(&mut self, exchange: &mut Exchange, status: StatusCode, said: Option<StatusCode>) -> Option<Reply> {
        let _ = (exchange, status, said);
        None
    }

    /// Who else wants the answer: as long as anybody does, it is read to its end although the client has left, and a
    /// client that is slow to take it holds nobody up. Asked once, when the filter begins to follow.
    fn audience(&self) -> Option<Arc<dyn Audience>> {
        None
    }

    /// What the request has used, completed by what a filter knows better than the backend has said: asked at the end,
    /// last first, until one says something. That is then the one truth for limits, metrics, log and spenders.
    fn settles(&self, exchange: &Exchange, outcome: &Outcome) -> Option<Usage> {
        let _ = (exchange, outcome);
        None
    }

    /// Called exactly once, whatever became of the request.
    fn end(self: Box<Self>, exchange: &Exchange) {
        let _ = exchange;
    }
}

/// Those who want an answer besides the client that asked for it.
pub trait Audience: Send + Sync {
    /// Ready when nobody wants the answer any more. Somebody may want it again later.
    fn poll_left(&self, context: &mut Context<'_>) -> Poll<()>;
}

/// Wants every answer to its end.
#[derive(Debug, Clone, Copy)]
pub struct Always;

impl Audience for Always {
    fn poll_left(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// The head of an answer: status and headers, hop-by-hop headers already gone.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status the client will see.
    pub status: StatusCode,
    /// The headers the client will see.
    pub headers: HeaderMap,
}

/// A filter with a name and settings, so that a file can ask for it.
pub trait Plugin: Filter + Sized + 'static {
    /// The name it has in the file.
    const NAME: &'static str;
    /// Its settings as written: strict (`deny_unknown_fields`) and documented, since the schema and the docs come
    /// from this type.
    type Settings: serde::de::DeserializeOwned + schemars::JsonSchema;

    /// Builds the filter.
    ///
    /// # Errors
    /// [`SettingsError`] where the settings are well-formed but cannot be meant; all of them at once.
    fn new(settings: Self::Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>>;
}

/// Settings that cannot be meant, with where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError {
    /// The path below the filter's settings, such as `keys[2].hash`.
    pub path: String,
    /// What is wrong and what was expected.
    pub message: String,
    /// How to mend it, if there is more to say.
    pub help: Option<String>,
}

impl SettingsError {
    /// A fault at `path` below the filter's settings.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into(), help: None }
    }

    /// Adds how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
