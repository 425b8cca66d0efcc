//! What a caller is told: the `x-ratelimit-*` headers of every answer, and why a request is refused.

use super::settings::Kind;
use super::{Inner, Limit};
use crate::call::Endpoint;
use crate::exchange::{Exchange, Rates};
use crate::reply::{Refusal, Reply};
use crate::store::{Demand, Level};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

/// Puts the rates into an answer's head, in place of a backend's own, which are not this caller's.
pub(super) fn write_rates(rates: &Rates, headers: &mut HeaderMap) {
    let requests = ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
    let tokens = ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
    for (names, level) in [(requests, rates.requests), (tokens, rates.tokens)] {
        if let Some(level) = level {
            write(headers, names, level);
        }
    }
}

fn write(headers: &mut HeaderMap, names: [&'static str; 3], level: Level) {
    let [limit, remaining, reset] = names.map(HeaderName::from_static);
    headers.insert(limit, HeaderValue::from(level.most));
    headers.insert(remaining, HeaderValue::from(level.left));
    if let Ok(value) = HeaderValue::from_str(&go_duration(level.full_in)) {
        headers.insert(reset, value);
    }
}

/// A duration as OpenAI's servers write it: `6m0s`, `1s`, `45ms`; rounded up.
fn go_duration(time: Duration) -> String {
    let millis = whole_millis(time);
    let (minutes, seconds, rest) = (millis / 60_000, millis / 1000 % 60, millis % 1000);
    match (minutes, seconds, rest) {
        (0, 0, millis) => format!("{millis}ms"),
        (0, seconds, 0) => format!("{seconds}s"),
        (0, seconds, millis) => format!("{seconds}.{millis:03}s"),
        // So far off a fraction says nothing.
        (..) => {
            let seconds = millis.div_ceil(1000);
            match seconds / 3600 {
                0 => format!("{}m{}s", seconds / 60, seconds % 60),
                hours => format!("{hours}h{}m{}s", seconds / 60 % 60, seconds % 60),
            }
        }
    }
}

/// A wait in whole milliseconds, rounded up: who waits that long has waited long enough.
fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Inner {
    /// The tightest of the limits of requests, and of tokens.
    pub(super) fn rates(&self, demands: &[Demand]) -> Rates {
        let mut rates = Rates::default();
        for demand in demands.iter().filter(|demand| demand.binding) {
            let tightest = match self.limit(demand).kind {
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
    pub(super) fn too_many(&self, exchange: &mut Exchange, demands: &[Demand]) -> Reply {
        let refusing = demands.iter().filter(|demand| demand.binding && demand.wait.is_some());
        let reply = match refusing.max_by_key(|demand| demand.wait) {
            Some(demand) => self.too_many_for(exchange, demand),
            // Not to be reached: somebody has refused.
            None => Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "Too many requests."),
        };
        let mut reply = reply.reply(exchange.endpoint(), exchange.id());
        write_rates(exchange.rates(), &mut reply.headers);
        reply
    }

    fn too_many_for(&self, exchange: &mut Exchange, demand: &Demand) -> Refusal {
        let limit = self.limit(demand);
        let wait = Duration::from_millis(whole_millis(demand.wait.unwrap_or_default()).max(1));
        let whose = limit.per.told(exchange, self.model(exchange).1);
        let (label, text, Level { most, left, .. }) = (limit.ledger.label(), &limit.text, demand.level);
        let (seconds, amount) = (wait.as_millis() as f64 / 1000.0, demand.amount);
        let allows = format!("the limit {label} allows {whose} {text}");
        let message = match limit.kind {
            Kind::InFlight => {
                format!("Too many requests at a time: {allows} in flight, and so many are. Try again soon.")
            }
            Kind::Requests => format!("Too many requests: {allows}, {most} at once. Try again in {seconds} s."),
            kind => format!(
                "Too many {}: {allows}, {most} at once; this request may need {amount}, and {left} are left. Try again in {seconds} s.",
                kind.words()
            ),
        };
        exchange.limit_by(label);
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", message).retry_after(wait);
        // OpenAI's `type` says what there was too much of; Anthropic's is the same for all.
        if !matches!(exchange.endpoint(), Endpoint::Messages | Endpoint::CountTokens) {
            refusal.kind = if limit.kind.is_tokens() { "tokens" } else { "requests" };
        }
        refusal
    }

    /// 400 for what no wait would help: it needs more than a full bucket holds.
    pub(super) fn never(&self, exchange: &mut Exchange, limit: &Limit, needs: u64, is_stated: bool) -> Reply {
        let whose = limit.per.told(exchange, self.model(exchange).1);
        let (label, text, most) = (limit.ledger.label(), &limit.text, limit.ledger.quota().burst());
        let is_stated = is_stated && matches!(limit.kind, Kind::Tokens | Kind::CompletionTokens);
        let cure = if is_stated { "Ask for fewer tokens, or send less." } else { "Send less." };
        let message = format!(
            "This request needs {needs} {}, but the limit {label} allows {whose} {text}, at most {most} at once: it could never be admitted. {cure}",
            limit.kind.words()
        );
        exchange.limit_by(label);
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, "larger_than_limit", message);
        refusal.param(is_stated.then_some("max_tokens")).reply(exchange.endpoint(), exchange.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_written_as_openai_does() {
        for (millis, text) in [
            (0, "0ms"),
            (45, "45ms"),
            (1000, "1s"),
            (1500, "1.500s"),
            (360_000, "6m0s"),
            (90_001, "1m31s"),
            (3_661_000, "1h1m1s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
        assert_eq!(go_duration(Duration::from_nanos(1)), "1ms");
    }
}
