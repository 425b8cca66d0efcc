//! A request that is sent again with the same `Idempotency-Key` is not run again: it gets the answer of the first time
//! (draft-ietf-httpapi-idempotency-key-header-06).
//!
//! The first execution goes on although its client has left, so that a retry over a dropped connection finds its answer.

mod kept;
mod name;
#[cfg(test)]
mod tests;

use crate::cache_key::{CacheKey, Scope};
use crate::exchange::{Exchange, Source};
use crate::filter::{Filter, Plugin, Result, SettingsError, Strangers, Verdict};
use crate::flight::{self, Counts, Form, Recorder, Told, count};
use crate::recording::{Failure, Reader};
use crate::reply::{Refusal, Reply};
use crate::services::Services;
use crate::units::{Size, Time};
use async_trait::async_trait;
use http::{HeaderName, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use kept::Kept;
use kept::{Found, Keeping};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Until when the answer is kept, as an HTTP date.
const EXPIRES: HeaderName = HeaderName::from_static("idempotency-expires");

/// When a client that is told to wait shall ask again.
const COME_BACK: Duration = Duration::from_secs(1);

/// Requests with an `Idempotency-Key` are run once: sent again, they get the answer of the first time. See
/// [guide-idempotency.md](guide-idempotency.md).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How long an answer is kept. Its head says until when.
    pub r#for: Time,
    /// What a request gets whose first sending is still being answered: `refuse` (409, with when to come back) or `join`
    /// (the same answer, from its beginning, as it comes).
    pub while_running: WhileRunning,
    /// Whose keys are the same: `org`, `key`, `user` or `global`. Callers that are not known are told apart by address.
    pub scope: Scope,
    /// Memory for all kept answers together; the oldest give way.
    pub size: Size,
    /// The largest answer that is kept.
    pub max_entry: Size,
}

/// What becomes of a request whose first sending is still being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhileRunning {
    /// 409.
    Refuse,
    /// It gets the same answer as it comes.
    Join,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            r#for: Time(Duration::from_secs(86_400)),
            while_running: WhileRunning::Refuse,
            scope: Scope::Org,
            size: Size(64 << 20),
            max_entry: Size(4 << 20),
        }
    }
}

/// The filter.
pub struct Idempotency {
    settings: Settings,
    keeping: Keeping,
    kept: Arc<Kept>,
    counts: Arc<Counts>,
}

impl Idempotency {
    /// Whose the request is.
    fn whose<'a>(&self, exchange: &'a Exchange) -> (&'static str, Cow<'a, str>) {
        match self.settings.scope.tenant(exchange.caller().map(|caller| &**caller)) {
            Some(tenant) => {
                let (kind, name) = tenant.parts();
                (kind, name.into())
            }
            None => ("address", exchange.client().map_or_else(String::new, |client| client.to_string()).into()),
        }
    }

    /// Whose key it is, and for what.
    fn key(&self, exchange: &Exchange, name: &[u8]) -> CacheKey {
        let (kind, whose) = self.whose(exchange);
        let head = exchange.head();
        let mut hasher = blake3::Hasher::new_derive_key("tidegate 2026-11 idempotency key");
        for field in [kind.as_bytes(), whose.as_bytes(), head.method.as_str().as_bytes(), head.path.as_bytes(), name] {
            hasher.update(&(field.len() as u64).to_le_bytes()).update(field);
        }
        CacheKey(*hasher.finalize().as_bytes())
    }

    fn refuse(&self, exchange: &mut Exchange, counter: &AtomicU64, note: &'static str, refusal: Refusal) -> Verdict {
        count(counter);
        exchange.note("idempotency", note);
        Verdict::Answer(refusal.reply(exchange.endpoint(), exchange.id()))
    }

    fn replay(&self, exchange: &mut Exchange, counter: &AtomicU64, note: &'static str, reply: Reply) -> Verdict {
        count(counter);
        exchange.note("idempotency", note);
        Verdict::Answer(reply.header(REPLAYED, "true").stands_for(Source::Replay, false))
    }

    /// The answer that `reader` reads. None if there is none, for no reason of the backend's.
    async fn told(&self, exchange: &mut Exchange, reader: Reader, done: bool) -> Option<Verdict> {
        let counts = &self.counts.keys;
        let (counter, note) = if done { (&counts.replayed, "replayed") } else { (&counts.joined, "joined") };
        let (endpoint, asked) = (exchange.endpoint(), Form::asked(exchange));
        Some(match flight::tell(reader, endpoint, asked).await {
            Told::Answer(reply) | Told::Poor(reply) => self.replay(exchange, counter, note, reply),
            Told::Failed(Failure::Unasked) => return None,
            Told::Failed(failure) | Told::Broken(failure) => {
                let reply = failure.refusal().reply(endpoint, exchange.id());
                self.replay(exchange, counter, note, reply)
            }
            Told::Never => self.refuse(exchange, &counts.refused, "running", running()),
        })
    }
}

fn running() -> Refusal {
    let message = "A request with this Idempotency-Key is still being answered. Send it again later.";
    Refusal::new(StatusCode::CONFLICT, "idempotency_in_progress", message).retry_after(COME_BACK).should_retry(true)
}

fn reused() -> Refusal {
    let message = "This Idempotency-Key was used for another request. Use a new key for each request, and the same key \
                   and body to send one again.";
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused", message).should_retry(false)
}

fn malformed() -> Refusal {
    let message = "The Idempotency-Key must be one string of 1 to 255 visible ASCII characters, in quotes or without.";
    Refusal::new(StatusCode::BAD_REQUEST, "bad_idempotency_key", message)
}

#[async_trait]
impl Filter for Idempotency {
    fn tells_apart(&self) -> Option<Strangers> {
        // In front of those that refuse strangers it would answer them, whatever it was told.
        Some(if self.settings.scope == Scope::Global { Strangers::Everybody } else { Strangers::ByAddress })
    }

    fn explain(&self, exchange: &Exchange) -> Option<String> {
        Some(match name::read(exchange.headers(), &KEY) {
            Ok(None) => "does not apply: no `Idempotency-Key`".to_owned(),
            Err(name::Malformed) => "refused: the `Idempotency-Key` is malformed".to_owned(),
            Ok(Some(_)) if exchange.call().is_none() => "does not apply: its body is not read here".to_owned(),
            Ok(Some(_)) => {
                let (kind, name) = self.whose(exchange);
                let whose = if name.is_empty() { kind.to_owned() } else { format!("{kind}/{name}") };
                let second = match self.settings.while_running {
                    WhileRunning::Refuse => "is refused",
                    WhileRunning::Join => "joins",
                };
                let seconds = self.settings.r#for.0.as_secs();
                format!(
                    "run once for {whose}; its answer is kept {seconds} s, and who comes before it is there {second}"
                )
            }
        })
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let counts = &self.counts.keys;
        let name = match name::read(exchange.headers(), &KEY) {
            Ok(Some(name)) => name,
            Ok(None) => return Ok(Verdict::Continue),
            Err(name::Malformed) => {
                return Ok(self.refuse(exchange, &counts.malformed, "malformed", malformed()));
            }
        };
        // What is streamed through is not here to be compared, nor is its answer read.
        if exchange.call().is_none() {
            exchange.note("idempotency", "not covered");
            return Ok(Verdict::Continue);
        }
        let key = self.key(exchange, &name);
        let mut payload = blake3::Hasher::new();
        payload.update(exchange.body()).update(exchange.head().query.as_deref().unwrap_or_default().as_bytes());
        let payload = *payload.finalize().as_bytes();
        loop {
            let (reader, done) = match self.kept.find(key, payload, &self.keeping) {
                Found::New(recording, seat) => {
                    count(&counts.executed);
                    exchange.note("idempotency", "executed");
                    return Ok(Verdict::Follow(Box::new(Recorder::new(recording, seat))));
                }
                Found::Another => return Ok(self.refuse(exchange, &counts.mismatched, "mismatched", reused())),
                Found::Running(reader) => match reader.filter(|_| self.settings.while_running == WhileRunning::Join) {
                    Some(reader) => (reader, false),
                    None => return Ok(self.refuse(exchange, &counts.refused, "running", running())),
                },
                Found::Done(reader) => (reader, true),
            };
            if let Some(verdict) = self.told(exchange, reader, done).await {
                return Ok(verdict);
            }
        }
    }
}

impl Plugin for Idempotency {
    const NAME: &'static str = "idempotency";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        if settings.r#for.0.is_zero() {
            faults.push(SettingsError::at("for", "an answer that is kept for no time is never given again"));
        }
        if settings.max_entry.0 == 0 || settings.max_entry.0 > settings.size.0 {
            let message = "one answer must fit in, and not be larger than all of them together (`size`)";
            faults.push(SettingsError::at("max_entry", message));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let bytes = |size: Size| usize::try_from(size.0).unwrap_or(usize::MAX);
        let counts = services.shared.flights.clone();
        let keeping = Keeping {
            time: settings.r#for.0,
            size: bytes(settings.size),
            max_entry: bytes(settings.max_entry),
            counts: counts.clone(),
        };
        Ok(Self { settings, keeping, kept: services.shared.kept.clone(), counts })
    }
}
