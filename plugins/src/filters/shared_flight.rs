//! Requests for the same thing at the same time become one call to a backend.
//!
//! The first leads: it asks, and its answer is recorded while it passes. The others read the recording, each in the form
//! it asked for and at its own pace. The client that led may leave, or be slow: the others do not notice. See
//! [`crate::flight`].

mod airspace;
#[cfg(test)]
mod tests;

use crate::cache_key::{CacheKey, Scope, Tenant};
use crate::exchange::{Exchange, Source};
use crate::filter::{Filter, Plugin, Result, SettingsError, Strangers, Verdict};
use crate::flight::{self, Counts, Form, Joined, Recorder, Told, Waits, count};
use crate::json;
use crate::recording::{Failure, Recording};
use crate::reply::Reply;
use crate::services::Services;
use crate::units::Size;
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Arc;

pub use airspace::{Airspace, Airspaces};

/// What RFC 9211 has for a request that was put together with another one.
const CACHE_STATUS: (HeaderName, &str) = (HeaderName::from_static("cache-status"), "tidegate; fwd=miss; collapsed");

/// Requests for the same thing at the same time become one call to a backend: whoever comes while it is under way gets
/// its answer too, from the beginning, in the form it asked for. See [guide-flights.md](guide-flights.md).
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Among whom answers are shared: `org`, `key`, `user` or `global` (everybody, strangers included).
    pub scope: Scope,
    /// Which are shared: `all`, or only those that come out the same every time (`temperature` 0, or a `seed`).
    pub share: Share,
    /// Whether an answer is fetched to its end although everybody who wanted it has left: for a cache above, that keeps it.
    pub finish: bool,
    /// How often those who wait try again when the backend fails before its answer begins: each time one of them asks.
    pub takeovers: u32,
    /// Whose tokens limits count: those of the request that asked the backend (`leader`), or of each that got the answer
    /// (`each`).
    pub settle: Settle,
    /// The longest answer that is shared from its beginning. Of longer ones a client gets what comes while it is there,
    /// unless it is as far behind as this.
    pub max_entry: Size,
}

/// Which answers are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// All.
    All,
    /// Those that come out the same every time.
    Deterministic,
}

/// Who pays for an answer that several got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Settle {
    /// The one that asked the backend.
    Leader,
    /// Each.
    Each,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scope: Scope::Org,
            share: Share::All,
            finish: false,
            takeovers: 1,
            settle: Settle::Leader,
            max_entry: Size(4 << 20),
        }
    }
}

/// The filter.
pub struct SharedFlight {
    settings: Settings,
    airspace: Arc<Airspace>,
    counts: Arc<Counts>,
}

impl SharedFlight {
    /// What it would share with whom, or why nothing.
    fn key<'a>(&self, exchange: &'a Exchange) -> std::result::Result<(CacheKey, Tenant<'a>), &'static str> {
        let call = exchange.call().ok_or("its body is not read here")?;
        if asks_for_its_own(exchange.headers()) {
            return Err("it asks for an answer of its own (`Cache-Control`)");
        }
        if self.settings.share == Share::Deterministic && !is_deterministic(exchange.body()) {
            return Err("neither `temperature` 0 nor a `seed`, and only such requests are shared here");
        }
        if call.stream && !crate::forms::streams(call.endpoint) {
            return Err("what is streamed otherwise than as events of text is not read here");
        }
        let tenant = self.settings.scope.tenant(exchange.caller().map(|caller| &**caller));
        let tenant = tenant.ok_or("nobody knows who asks (say `scope: global` to share it with everybody)")?;
        let answerer = exchange.answerer().ok_or("nobody answers for this model, or not for this caller")?;
        let key = self.airspace.keys.key(exchange, answerer, tenant).ok_or("its body cannot be read")?;
        Ok((key, tenant))
    }

    fn lead(&self, exchange: &mut Exchange, recording: Arc<Recording>, seat: flight::Boarded, after: u32) -> Verdict {
        count(if after == 0 { &self.counts.flights.led } else { &self.counts.flights.took_over });
        exchange.note("flight", if after == 0 { "led" } else { "took_over" });
        // So that it can be told to those who ask for it, and whole.
        exchange.ask_usage();
        Verdict::Follow(Box::new(Recorder::new(recording, seat)))
    }

    fn alone(&self, exchange: &mut Exchange) -> Verdict {
        count(&self.counts.flights.alone);
        exchange.note("flight", "alone");
        Verdict::Continue
    }

    fn follow(&self, exchange: &mut Exchange, reply: Reply) -> Verdict {
        count(&self.counts.flights.followed);
        exchange.note("flight", "followed");
        let (name, collapsed) = CACHE_STATUS;
        let mut reply = reply;
        // A cache behind us has said its own: each on the way adds to the list.
        reply.headers.append(name, HeaderValue::from_static(collapsed));
        Verdict::Answer(reply.stands_for(Source::Flight, self.settings.settle == Settle::Each))
    }
}

#[async_trait]
impl Filter for SharedFlight {
    fn needs_route(&self) -> bool {
        true
    }

    fn tells_apart(&self) -> Option<Strangers> {
        (self.settings.scope != Scope::Global).then_some(Strangers::Alone)
    }

    fn explain(&self, exchange: &Exchange) -> Option<String> {
        Some(match self.key(exchange) {
            Ok((_, tenant)) => {
                let (kind, name) = tenant.parts();
                let whose = [kind, name].join("/");
                let whose = whose.trim_end_matches('/');
                let settle = match self.settings.settle {
                    Settle::Leader => "on the one that asked the backend",
                    Settle::Each => "on each",
                };
                format!("shared within {whose} while it is under way; its tokens are counted {settle}")
            }
            Err(why) => format!("not shared: {why}"),
        })
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let Ok((key, _)) = self.key(exchange) else { return Ok(Verdict::Continue) };
        let (endpoint, asked) = (exchange.endpoint(), Form::asked(exchange));
        let max = usize::try_from(self.settings.max_entry.0).unwrap_or(usize::MAX);
        let (mut failures, mut before) = (0, None);
        loop {
            let record = || Recording::weighed(max, self.settings.finish, self.counts.flights.recorded.clone());
            let joined = self.airspace.flights.join(key, before.as_ref(), record);
            let reader = match joined {
                Joined::Lead(recording, seat) => return Ok(self.lead(exchange, recording, seat, failures)),
                Joined::Follow(reader) => reader,
                Joined::TooLate => return Ok(self.alone(exchange)),
            };
            before = Some(reader.recording().clone());
            let told = {
                let _waits = Waits::new(&self.counts);
                flight::tell(reader, endpoint, asked).await
            };
            match told {
                Told::Answer(reply) => return Ok(self.follow(exchange, reply)),
                Told::Never => return Ok(self.alone(exchange)),
                Told::Failed(Failure::Unasked) => {}
                // The next one of them who comes back leads; the others find it there.
                Told::Poor(_) | Told::Failed(_) if failures < self.settings.takeovers => failures += 1,
                Told::Poor(reply) => return Ok(self.follow(exchange, reply)),
                Told::Failed(failure) | Told::Broken(failure) => {
                    let reply = failure.refusal().reply(endpoint, exchange.id());
                    return Ok(self.follow(exchange, reply));
                }
            }
        }
    }
}

/// Whether a client wants an answer made for itself, or not shared with anybody.
fn asks_for_its_own(headers: &HeaderMap) -> bool {
    let directives = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = directives.flat_map(|value| value.split(','));
    directives.any(|it| ["no-store", "no-cache"].iter().any(|name| it.trim().eq_ignore_ascii_case(name)))
}

/// Whether a request comes out the same every time: the most likely token each time, or the same dice.
fn is_deterministic(body: &[u8]) -> bool {
    let number =
        |name| json::member(body, name).and_then(|at| std::str::from_utf8(&body[at]).ok()?.parse::<f64>().ok());
    number("temperature") == Some(0.0) || number("seed").is_some()
}

impl Plugin for SharedFlight {
    const NAME: &'static str = "shared_flight";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        if settings.max_entry.0 == 0 {
            return Err(vec![SettingsError::at("max_entry", "nothing could be shared").help("4MiB is the default")]);
        }
        let counts = services.shared.flights.clone();
        let airspace = services.shared.airspaces.open(&settings, services.nth, &counts);
        let airspace = airspace.map_err(|error| vec![SettingsError::at("", format!("no random numbers: {error}"))])?;
        Ok(Self { settings, airspace, counts })
    }
}
