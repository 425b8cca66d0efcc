//! `prompt_cache`: an answer that has been given is given again to whoever asks for the same.
//!
//! What is the same, [`crate::cache_key`] says. A hit is answered from [`memory`] without a backend; on a miss an object
//! ([`fill`]) follows the answer and keeps it if it was complete. What filters further down the list make of an answer is
//! kept with it, as if the backend had said so; what filters further up make of it, they make of it each time it is told.
//! Embeddings are kept input by input ([`embeddings`]).

mod control;
mod embeddings;
mod entry;
mod fill;
pub mod memory;
pub mod metrics;
mod packed;
mod recorded;
mod replay;
mod settings;
pub mod stored;
#[cfg(test)]
mod tests;
pub mod tier;
mod transcript;

use crate::cache_key::{CacheKey, KeyMaker, Scope, Tenant};
use crate::call::Endpoint;
use crate::exchange::{Answerer, Exchange, Source};
use crate::filter::{Filter, Plugin, Result, SettingsError, Strangers, Verdict};
use crate::forms;
use crate::json;
use crate::prices::Prices;
use crate::reply::{INVALID, Refusal, Renewal, Reply};
use crate::services::Services;
use crate::usage::Usage;
use async_trait::async_trait;
use control::{Control, Status};
use entry::{Entry, Label, Manner, Wanted};
use fill::{Bypassed, Fill};
use http::StatusCode;
use memory::Memory;
use metrics::{Counts, RouteCounts};
use settings::What;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tier::{Stored, Tier};

pub use memory::{Caches, Purge};
pub use metrics::CacheMetrics;
pub use settings::Settings;

/// See the module.
pub struct PromptCache(Arc<Inner>);

/// The cache as meant, shared with the requests that will fill it.
struct Inner {
    settings: Settings,
    keys: KeyMaker,
    memory: Arc<Memory>,
    file: Option<Arc<dyn Tier>>,
    counts: Arc<Counts>,
    prices: Arc<Prices>,
    routes: HashMap<Arc<str>, RouteCounts>,
    other: RouteCounts,
}

/// A request that the cache may have an answer to.
#[derive(Clone)]
struct Asked {
    answerer: Arc<Answerer>,
    label: Label,
    wanted: Wanted,
    control: Control,
    counts: RouteCounts,
}

/// Why the cache has nothing to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Why(&'static str);

#[async_trait]
impl Filter for PromptCache {
    fn needs_route(&self) -> bool {
        true
    }

    fn tells_apart(&self) -> Option<Strangers> {
        (self.0.settings.scope != Scope::Global).then_some(Strangers::Alone)
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let inner = &self.0;
        if !is_cacheable(exchange) {
            return Ok(Verdict::Continue);
        }
        let asked = match inner.judge(exchange) {
            Ok(asked) => asked,
            Err(why) => return Ok(inner.bypass(exchange, why)),
        };
        if let Some(verdict) = embeddings::request(inner, exchange, &asked).await {
            return Ok(verdict);
        }
        let tenant = inner.settings.scope.tenant(exchange.caller().map(|caller| &**caller));
        let key = tenant.and_then(|tenant| inner.keys.key(exchange, &asked.answerer, tenant));
        let Some(key) = key else { return Ok(inner.bypass(exchange, Why("unreadable"))) };
        exchange.note("cache_key", key.to_string());
        inner.look_up(std::slice::from_ref(&key)).await;
        Ok(inner.answer(exchange, asked, key))
    }

    fn explain(&self, exchange: &Exchange) -> Option<String> {
        Some(self.0.explain(exchange))
    }
}

/// Whether answers to it could be kept at all.
fn is_cacheable(exchange: &Exchange) -> bool {
    let known = matches!(
        exchange.endpoint(),
        Endpoint::Chat
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Rerank
    );
    known && exchange.call().is_some()
}

impl Inner {
    /// Whether the cache may have to do with this request.
    fn judge(&self, exchange: &Exchange) -> std::result::Result<Asked, Why> {
        let control = if self.settings.http { Control::of(exchange.headers()) } else { Control::default() };
        if control.no_store {
            return Err(Why("no-store"));
        }
        // Whom it may not ask, or who is not there, the gateway will say.
        let answerer = exchange.answerer().ok_or(Why("no-route"))?.clone();
        let tenant = self.settings.scope.tenant(exchange.caller().map(|caller| &**caller));
        let tenant = tenant.ok_or(Why("anonymous"))?;
        let good_for = self.good_for(&answerer.route);
        if good_for.is_zero() {
            return Err(Why("model"));
        }
        let call = exchange.call().ok_or(Why("unreadable"))?;
        if self.settings.cache == What::Deterministic && !is_deterministic(exchange) {
            return Err(Why("not-deterministic"));
        }
        if exchange.endpoint() == Endpoint::Responses && is_stateful(exchange.body()) {
            return Err(Why("stateful"));
        }
        let wanted = Wanted {
            stream: call.stream,
            usage: call.stream && forms::asks_for_usage(exchange.endpoint()) && call.include_usage == Some(true),
        };
        let stale = self.settings.stale_while_revalidate.0.max(self.settings.stale_if_error.0);
        let label = Label {
            endpoint: exchange.endpoint(),
            tenant: owner(tenant),
            route: answerer.route.clone(),
            good_for,
            keep_for: good_for + stale,
        };
        let counts = self.route(&answerer.route).clone();
        Ok(Asked { answerer, label, wanted, control, counts })
    }

    /// Brings answers from the file to memory, those that are there and not here.
    async fn look_up(&self, keys: &[CacheKey]) {
        let Some(file) = &self.file else { return };
        let missing: Vec<_> = keys.iter().filter(|key| !self.memory.has(key)).copied().collect();
        if missing.is_empty() {
            return;
        }
        let Some(found) = file.get(missing.clone()).await else {
            self.counts.file_read("late", missing.len());
            return;
        };
        for (key, bytes) in missing.into_iter().zip(found) {
            let read = bytes.as_ref().map(stored::read);
            self.counts.file_read(
                match read {
                    None => "miss",
                    Some(None) => "unreadable",
                    Some(Some(_)) => "hit",
                },
                1,
            );
            if let Some(entry) = read.flatten().filter(|entry| entry.age() < entry.label.keep_for) {
                self.memory.put(key, entry);
            }
        }
    }

    /// Keeps answers in memory, and sees to it that they come into the file.
    fn keep(&self, answers: Vec<(CacheKey, Entry)>) {
        let stored = |entry: Entry| {
            let made = stored::made(&entry);
            Stored {
                tenant: entry.label.tenant.clone(),
                route: entry.label.route.clone(),
                made,
                until: made + entry.label.keep_for,
                bytes: Box::new(move || stored::write(&entry, made)),
            }
        };
        if let Some(file) = &self.file {
            file.put(answers.iter().map(|(key, entry)| (*key, stored(entry.clone()))).collect());
        }
        for (key, entry) in answers {
            self.memory.put(key, entry);
        }
    }

    /// An answer was given again that had cost this much.
    fn saved(&self, exchange: &Exchange, asked: &Asked, usage: Option<&Usage>) {
        let price = exchange.model().and_then(|model| self.prices.of(model));
        asked.counts.saved(usage, price);
    }

    fn good_for(&self, route: &str) -> Duration {
        self.settings.models.get(route).unwrap_or(&self.settings.r#for).0
    }

    fn route(&self, route: &str) -> &RouteCounts {
        self.routes.get(route).unwrap_or(&self.other)
    }

    fn manner(&self) -> Manner {
        Manner { ids: self.settings.ids, pace: self.settings.pace }
    }

    /// Lets a request pass as if there were no cache, and says why.
    fn bypass(&self, exchange: &mut Exchange, why: Why) -> Verdict {
        let route = exchange.answerer().map_or(&self.other, |answerer| self.route(&answerer.route));
        route.bypass.inc();
        self.counts.bypassed(why.0);
        exchange.note("cache", format!("bypass ({})", why.0));
        if self.settings.http && Control::of(exchange.headers()).only_if_cached {
            return not_cached(exchange);
        }
        if self.settings.http { Verdict::Follow(Box::new(Bypassed(why.0))) } else { Verdict::Continue }
    }

    /// Answers from memory, or sees to it that the answer will be there.
    fn answer(self: &Arc<Self>, exchange: &mut Exchange, asked: Asked, key: CacheKey) -> Verdict {
        let kept = self.memory.get(&key);
        if let Some(entry) = kept.as_ref().filter(|entry| asked.control.takes(entry.age())) {
            let over = entry.age().saturating_sub(entry.label.good_for);
            if entry.is_fresh()
                && let Some(reply) = self.told(entry, asked.wanted, &Status::Hit { ttl: entry.ttl(), detail: None })
            {
                asked.counts.hit.inc();
                self.saved(exchange, &asked, entry.usage.as_ref());
                exchange.note("cache", "hit");
                return Verdict::Answer(reply);
            }
            if !entry.is_fresh()
                && over <= self.settings.stale_while_revalidate.0
                && let Some(reply) = self.told(
                    entry,
                    asked.wanted,
                    &Status::Hit { ttl: entry.ttl(), detail: Some("stale-while-revalidate") },
                )
            {
                asked.counts.stale.inc();
                self.saved(exchange, &asked, entry.usage.as_ref());
                exchange.note("cache", "stale");
                let renewal = self.renewal(exchange, &asked, key, entry);
                return Verdict::Answer(Reply { renewal, ..reply });
            }
        }
        if asked.control.only_if_cached {
            asked.counts.miss.inc();
            return not_cached(exchange);
        }
        asked.counts.miss.inc();
        let why = match &kept {
            None => "miss",
            Some(entry) if !entry.is_fresh() => "stale",
            // There is one, but not such a one: a newer one is wanted, or one with its usage.
            Some(entry) if asked.control.takes(entry.age()) => "miss",
            Some(_) => "request",
        };
        exchange.note("cache", why);
        self.ask_usage(exchange);
        Verdict::Follow(Box::new(Fill::new(self.clone(), asked, key, why, kept)))
    }

    /// So that a stream can be told to those who ask for its usage, and whole.
    fn ask_usage(&self, exchange: &mut Exchange) {
        if self.settings.ask_usage {
            exchange.ask_usage();
        }
    }

    /// A kept answer as a reply. None if it cannot be told as it is wanted.
    fn told(&self, entry: &Entry, wanted: Wanted, status: &Status) -> Option<Reply> {
        let (headers, body) = entry.tell(wanted, self.manner())?;
        let mut reply = Reply::new(StatusCode::OK, headers, body).stands_for(Source::Cache, self.settings.charge);
        reply.usage = entry.usage;
        if self.settings.http {
            status.write(&mut reply.headers);
            reply.headers.insert(http::header::AGE, entry.age().as_secs().into());
        }
        Some(reply)
    }

    /// Whether a kept answer may stand in for a failure.
    fn stands_in(&self, entry: &Entry, control: &Control) -> bool {
        let (most, over) = (self.settings.stale_if_error.0, entry.age().saturating_sub(entry.label.good_for));
        !most.is_zero() && over <= most && control.takes_instead(entry.age(), over)
    }

    /// Who fetches a new answer behind the back of one that was given; nobody if somebody does already.
    fn renewal(
        self: &Arc<Self>,
        exchange: &mut Exchange,
        asked: &Asked,
        key: CacheKey,
        entry: &Entry,
    ) -> Option<Box<Renewal>> {
        if !entry.begin_renewal() {
            return None;
        }
        self.ask_usage(exchange);
        let fill = Fill::new(self.clone(), asked.clone(), key, "stale", None);
        Some(Box::new(Renewal(Box::new(fill))))
    }

    fn explain(&self, exchange: &Exchange) -> String {
        if !is_cacheable(exchange) {
            return format!("answers of {} are not cached", exchange.endpoint().as_str());
        }
        let asked = match self.judge(exchange) {
            Ok(asked) => asked,
            Err(Why(why)) => return format!("not cached: {}", words(why)),
        };
        let tenant = self.settings.scope.tenant(exchange.caller().map(|caller| &**caller));
        let key = || Some(self.keys.key(exchange, &asked.answerer, tenant?)?.to_string());
        let items = embeddings::keys(self, exchange, &asked).map(|keys| told(&keys, usize::MAX));
        let Some(key) = items.or_else(key) else { return format!("not cached: {}", words("unreadable")) };
        let (owner, seconds) = (&asked.label.tenant, asked.label.good_for.as_secs());
        let revision = match asked.answerer.revision {
            0 => "revision unknown".to_owned(),
            revision => format!("revision {revision:016x}"),
        };
        let (model, pool) = (&asked.answerer.model, &asked.answerer.pool);
        let made = if self.settings.secret.is_some() {
            ""
        } else {
            " (its secret is this process's own: the gateway's is in its log)"
        };
        format!("cached {seconds} s for {owner}; answered by {model} of {pool}, {revision}; key {key}{made}")
    }
}

/// Whose an answer is, as a label: `org/acme`.
fn owner(tenant: Tenant<'_>) -> Arc<str> {
    let (kind, name) = tenant.parts();
    if name.is_empty() { kind.into() } else { [kind, "/", name].concat().into() }
}

/// Keys as the log has them and a purge takes them: the first ones, with blanks between.
fn told(keys: &[CacheKey], most: usize) -> String {
    keys.iter().take(most).map(CacheKey::to_string).collect::<Vec<_>>().join(" ")
}

/// Why a request is not cached, for people.
fn words(why: &'static str) -> &'static str {
    match why {
        "anonymous" => {
            "nobody knows who asks, so its answer could be another tenant's (say `scope: global` to share it)"
        }
        "no-route" => "nobody answers for this model, or not for this caller",
        "model" => "this model's answers are good for no time",
        "not-deterministic" => "neither `temperature` 0 nor a `seed`, and only such requests are cached here",
        "stateful" => "it changes what the backend remembers",
        "no-store" => "the request says `no-store`",
        _ => "its body cannot be read",
    }
}

fn not_cached(exchange: &mut Exchange) -> Verdict {
    exchange.note("cache", "not cached");
    let message = "There is no kept answer to this request, and only-if-cached asks for no other.";
    let refusal = Refusal::new(StatusCode::GATEWAY_TIMEOUT, "not_cached", message).should_retry(false);
    // The status is that of RFC 9111; it is the client that asked for no more.
    let refusal = Refusal { kind: INVALID, ..refusal };
    let mut reply = refusal.reply(exchange.endpoint(), exchange.id());
    reply.asked_for = true;
    Status::Absent.write(&mut reply.headers);
    Verdict::Answer(reply)
}

/// Whether it comes out the same every time, as far as a request can ask for that.
fn is_deterministic(exchange: &Exchange) -> bool {
    if matches!(exchange.endpoint(), Endpoint::Embeddings | Endpoint::Rerank) {
        return true;
    }
    let body = exchange.body();
    let given = |name| json::member(body, name).map(|at| &body[at]).filter(|value| *value != b"null");
    let zero = |value: &[u8]| std::str::from_utf8(value).ok().and_then(|text| text.parse::<f64>().ok()) == Some(0.0);
    given("seed").is_some() || given("temperature").is_some_and(zero)
}

/// Whether a response goes on a conversation, or goes on behind the answer.
fn is_stateful(body: &[u8]) -> bool {
    let given = |name| json::member(body, name).map(|at| &body[at]).filter(|value| *value != b"null");
    given("conversation").is_some() || given("background") == Some(b"true")
}

impl Plugin for PromptCache {
    const NAME: &'static str = "prompt_cache";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let vary = settings.check(&services.models)?;
        let caches = &services.shared.caches;
        let above = usize::try_from(settings.compress_above.0).unwrap_or(usize::MAX);
        let no_random =
            |error: getrandom::Error| vec![SettingsError::at("secret", format!("no random numbers: {error}"))];
        let (memory, secret) = caches.open(settings.size.0, above).map_err(no_random)?;
        let file = match &settings.file {
            None => None,
            Some(file) => {
                let opened = services.shared.tiers.open(&services.files.locate(&file.path), file.size.0);
                Some(opened.map_err(|error| vec![SettingsError::at("file.path", error.to_string())])?)
            }
        };
        // What is kept in a file is found again only by keys that are made with the same secret.
        let secret = file.as_ref().map_or(secret, |file| Arc::from(file.secret()));
        let secret = settings.secret.as_ref().map_or(&secret[..], |secret| secret.as_bytes());
        let counts = caches.counts().clone();
        let routes = services.models.iter().map(|route| (route.clone(), counts.route(route))).collect();
        let (keys, other) = (KeyMaker::new(secret, &vary), counts.route("other"));
        let prices = services.prices.clone();
        Ok(Self(Arc::new(Inner { settings, keys, memory, file, counts, prices, routes, other })))
    }
}
