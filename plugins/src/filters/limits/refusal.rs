//! What a caller is told: the `x-ratelimit-*` headers of every answer, and why a request is refused.

use super::limited::Refused;
use super::settings::Kind;
use super::{Asked, Inner, Limit};
use crate::call::{Endpoint, Key};
use crate::exchange::{Exchange, Rates};
use crate::reply::{Refusal, Reply};
use crate::store::{Demand, Level, Quota};
use crate::tenants::Tenant;
use crate::units::write_digits;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// The names of a rate: how much there is, how much is left, and when all of it will be back.
type Names = [HeaderName; 3];

const fn names(names: [&'static str; 3]) -> Names {
    let [limit, remaining, reset] = names;
    [HeaderName::from_static(limit), HeaderName::from_static(remaining), HeaderName::from_static(reset)]
}

static OPENAI: [Names; 2] = [
    names(["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"]),
    names(["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]),
];

static ANTHROPIC: [Names; 2] = [
    names([
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
    ]),
    names([
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
    ]),
];

fn is_anthropic(endpoint: Endpoint) -> bool {
    matches!(endpoint, Endpoint::Messages | Endpoint::CountTokens)
}

/// A moment as RFC 3339 has it, to the second, rounded up.
fn rfc3339(wall: u64, later: Duration) -> String {
    let seconds = later.as_secs() + u64::from(later.subsec_nanos() > 0);
    let at = i64::try_from(wall.saturating_add(seconds)).unwrap_or(i64::MAX);
    Timestamp::from_second(at).unwrap_or(Timestamp::MAX).to_string()
}

/// Writes a rate, in values that share one allocation.
fn write(headers: &mut HeaderMap, names: &Names, level: Level, reset: impl FnOnce(&mut Vec<u8>)) {
    let mut text = Vec::with_capacity(64);
    write_digits(&mut text, level.most, 1);
    let most = text.len();
    write_digits(&mut text, level.left, 1);
    let left = text.len();
    reset(&mut text);
    let text = Bytes::from(text);
    for (name, part) in names.iter().zip([0..most, most..left, left..text.len()]) {
        if let Ok(value) = HeaderValue::from_maybe_shared(text.slice(part)) {
            headers.insert(name, value);
        }
    }
}

/// Appends a duration as OpenAI's servers write it: `6m0s`, `1s`, `45ms`; rounded up.
fn go_duration(out: &mut Vec<u8>, time: Duration) {
    let millis = whole_millis(time);
    let mut put = |number, least, unit: &str| {
        write_digits(out, number, least);
        out.extend_from_slice(unit.as_bytes());
    };
    match (millis / 60_000, millis / 1000 % 60, millis % 1000) {
        (0, 0, millis) => put(millis, 1, "ms"),
        (0, seconds, 0) => put(seconds, 1, "s"),
        (0, seconds, millis) => {
            put(seconds, 1, ".");
            put(millis, 3, "s");
        }
        // So far off a fraction says nothing.
        (..) => {
            let seconds = millis.div_ceil(1000);
            if seconds >= 3600 {
                put(seconds / 3600, 1, "h");
            }
            put(seconds / 60 % 60, 1, "m");
            put(seconds % 60, 1, "s");
        }
    }
}

/// A wait in whole milliseconds, rounded up: who waits that long has waited long enough.
fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Inner {
    /// Puts the rates into an answer's head, in place of a backend's own, which are not this caller's. Anthropic's
    /// clients get them under their names as well.
    pub(super) fn write_rates(&self, exchange: &Exchange, headers: &mut HeaderMap) {
        let rates = exchange.rates();
        let levels = [rates.requests, rates.tokens];
        for (names, level) in OPENAI.iter().zip(levels) {
            if let Some(level) = level {
                write(headers, names, level, |out| go_duration(out, level.full_in));
            }
        }
        if !is_anthropic(exchange.endpoint()) {
            return;
        }
        let theirs: Vec<_> =
            headers.keys().filter(|name| name.as_str().starts_with("anthropic-ratelimit-")).cloned().collect();
        theirs.iter().for_each(|name| drop(headers.remove(name)));
        let wall = self.store.clock().wall();
        for (names, level) in ANTHROPIC.iter().zip(levels) {
            if let Some(level) = level {
                write(headers, names, level, |out| out.extend_from_slice(rfc3339(wall, level.full_in).as_bytes()));
            }
        }
    }

    /// The tightest of the limits of requests, and of tokens.
    pub(super) fn rates(&self, demands: &[Demand], tenants: &[Arc<Tenant>]) -> Rates {
        let mut rates = Rates::default();
        for demand in demands.iter().filter(|demand| demand.binding) {
            let tightest = match self.limit(demand, tenants).kind {
                Kind::Requests => &mut rates.requests,
                kind if kind.is_tokens() => &mut rates.tokens,
                _ => continue,
            };
            if tightest.is_none_or(|level| demand.level.left < level.left) {
                *tightest = Some(demand.level);
            }
        }
        rates
    }

    /// 429, for as long as the longest of the waits.
    pub(super) fn too_many(&self, exchange: &mut Exchange, asked: &Asked) -> Reply {
        let (limit, refusal) = self.refused(exchange, asked);
        if let Some(limit) = limit {
            exchange.limit_by(limit.ledger.label());
        }
        self.reply(exchange, refusal)
    }

    /// The limit that refuses for longest, and what it says.
    pub(super) fn refused<'a>(&'a self, exchange: &Exchange, asked: &'a Asked) -> (Option<&'a Limit>, Refusal) {
        let refusing = asked.demands.iter().filter(|demand| demand.binding && demand.wait.is_some());
        match refusing.max_by_key(|demand| demand.wait) {
            Some(demand) => {
                let limit = self.limit(demand, &asked.tenants);
                let whose = limit.per.told(exchange, self.model(exchange).1);
                self.limited.say(self, limit, exchange, Refused::For(wait(demand)));
                let refusal = match limit.ledger.quota() {
                    Quota::Budget { .. } if !demand.is_reserved => self.spent(limit, demand, &whose),
                    _ => self.too_fast(limit, demand, &whose),
                };
                (Some(limit), refusal)
            }
            // Not to be reached: somebody has refused.
            None => (None, Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "Too many requests.")),
        }
    }

    /// In the caller's protocol, with how much is left of its rates.
    fn reply(&self, exchange: &Exchange, mut refusal: Refusal) -> Reply {
        if is_anthropic(exchange.endpoint()) && refusal.status == StatusCode::TOO_MANY_REQUESTS {
            refusal.kind = "rate_limit_error";
        }
        let mut reply = refusal.reply(exchange.endpoint(), exchange.id());
        self.write_rates(exchange, &mut reply.headers);
        reply
    }

    fn too_fast(&self, limit: &Limit, demand: &Demand, whose: &str) -> Refusal {
        let wait = wait(demand);
        let (label, text, Level { most, left, .. }) = (limit.ledger.label(), &limit.text, demand.level);
        let seconds = wait.as_millis() as f64 / 1000.0;
        let allows = format!("the limit {label} allows {whose} {text}");
        let message = match limit.kind {
            Kind::InFlight => format!(
                "Too many requests at a time: {allows} in flight, and so many are. Try again in about {seconds} s."
            ),
            _ if demand.is_reserved => {
                let [left, needs] = [left, demand.amount].map(|amount| self.told(limit, amount));
                format!(
                    "Too much at a time: {allows}; {left} are left beside what open requests have reserved, and this request may need {needs}. Try again in about {seconds} s."
                )
            }
            Kind::Requests => format!("Too many requests: {allows}, {most} at once. Try again in {seconds} s."),
            kind => {
                let (words, [most, left, needs]) =
                    (kind.words(), [most, left, demand.amount].map(|n| self.told(limit, n)));
                format!(
                    "Too {many} {words}: {allows}, {most} at once; this request may need {needs}, and {left} are left. Try again in {seconds} s.",
                    many = if kind == Kind::Cost { "much" } else { "many" },
                )
            }
        };
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).retry_after(wait);
        // OpenAI's `type` says what there was too much of.
        refusal.kind = if limit.kind.is_tokens() { "tokens" } else { "requests" };
        refusal
    }

    /// A budget is spent: no SDK should try again by itself.
    fn spent(&self, limit: &Limit, demand: &Demand, whose: &str) -> Refusal {
        let wait = wait(demand);
        let (label, text) = (limit.ledger.label(), &limit.text);
        let [left, needs] = [demand.level.left, demand.amount].map(|amount| self.told(limit, amount));
        let begins = rfc3339(self.store.clock().wall(), wait);
        let message = format!(
            "The budget {label} is spent: {whose} may have {text}; {left} are left, and this request may need {needs}. It begins anew at {begins}."
        );
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", message);
        let mut refusal = refusal.retry_after(wait).should_retry(false);
        refusal.kind = "insufficient_quota";
        refusal
    }

    /// An amount of what a limit counts, for people.
    fn told(&self, limit: &Limit, amount: u64) -> String {
        match limit.kind {
            Kind::Cost => self.prices.tell(amount.saturating_mul(limit.scale)),
            _ => amount.to_string(),
        }
    }

    /// 400 for what no wait would help: it needs more than a full bucket holds.
    pub(super) async fn refuse_for_good(
        &self,
        exchange: &mut Exchange,
        asked: &mut Asked,
        at: usize,
        needs: u64,
    ) -> Reply {
        for demand in &mut asked.demands {
            demand.level = self.store.peek(&demand.ledger, demand.subject).await.level;
        }
        exchange.ration(self.rates(&asked.demands, &asked.tenants));
        let refusal = self.larger(exchange, asked, at, needs);
        exchange.limit_by(self.limit(&asked.demands[at], &asked.tenants).ledger.label());
        self.reply(exchange, refusal)
    }

    /// What is larger than a full bucket of the limit of this demand is told so.
    pub(super) fn larger(&self, exchange: &Exchange, asked: &Asked, at: usize, needs: u64) -> Refusal {
        let limit = self.limit(&asked.demands[at], &asked.tenants);
        limit.ledger.count_never(true);
        let whose = limit.per.told(exchange, self.model(exchange).1);
        let (label, text, most) = (limit.ledger.label(), &limit.text, limit.ledger.quota().burst());
        let is_stated =
            asked.cost.is_stated && matches!(limit.kind, Kind::Tokens | Kind::CompletionTokens | Kind::Cost);
        let cure = if is_stated { "Ask for fewer tokens, or send less." } else { "Send less." };
        let (needs, most) = (self.told(limit, needs), self.told(limit, most));
        let what = if limit.kind == Kind::Cost { String::new() } else { format!(" {}", limit.kind.words()) };
        let message = format!(
            "This request needs {needs}{what}, but the limit {label} allows {whose} {text}, at most {most} at once: it could never be admitted. {cure}"
        );
        self.limited.say(self, limit, exchange, Refused::ForGood);
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "larger_than_limit", message);
        // What there is no body for is a turn of the realtime API.
        let name = exchange.call().map_or(Some("max_output_tokens"), |call| call.max_tokens_key.map(Key::name));
        refusal.param(name.filter(|_| is_stated))
    }
}

/// In whole milliseconds.
fn wait(demand: &Demand) -> Duration {
    Duration::from_millis(whole_millis(demand.wait.unwrap_or_default()).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_written_as_openai_does() {
        let told = |time| {
            let mut out = Vec::new();
            go_duration(&mut out, time);
            String::from_utf8(out).unwrap()
        };
        for (millis, text) in [
            (0, "0ms"),
            (45, "45ms"),
            (1000, "1s"),
            (1500, "1.500s"),
            (360_000, "6m0s"),
            (90_001, "1m31s"),
            (3_661_000, "1h1m1s"),
        ] {
            assert_eq!(told(Duration::from_millis(millis)), text);
        }
        assert_eq!(told(Duration::from_nanos(1)), "1ms");
    }
}
