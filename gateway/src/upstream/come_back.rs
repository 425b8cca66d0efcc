//! When a backend's answer says to come back, in the ways that servers have of saying so.
//!
//! | | |
//! |---|---|
//! | `retry-after-ms`, `retry-after` | milliseconds; seconds, or a date |
//! | `x-ratelimit-reset`, `ratelimit-reset` | seconds, or the time in seconds or milliseconds since 1970: when the next window begins |
//! | `x-ratelimit-reset-requests`, `-tokens` | `6m0s`, `1.2s`, `45ms`, or seconds: OpenAI's, and those after it |
//! | `anthropic-ratelimit-*-reset` | a moment (RFC 3339) |
//!
//! A reset counts where nothing of its rate remains. OpenAI's and Anthropic's say when all of the rate is there again, which
//! is later than when some of it is: they count only where the request was refused for it.

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName, StatusCode};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use std::time::Duration;

/// What says how much of a rate remains, and what says when there is more.
type Rate = [HeaderName; 2];

const fn rate(remaining: &'static str, reset: &'static str) -> Rate {
    [HeaderName::from_static(remaining), HeaderName::from_static(reset)]
}

/// Rates of which only the next window brings more.
static WINDOWS: [Rate; 2] =
    [rate("x-ratelimit-remaining", "x-ratelimit-reset"), rate("ratelimit-remaining", "ratelimit-reset")];

/// Rates that come back by and by.
static BUCKETS: [Rate; 6] = [
    rate("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    rate("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    rate("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    rate("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
    rate("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset"),
    rate("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset"),
];

/// Numbers from here on are no seconds to wait but a time since 1970 (it is September 2001).
const SINCE_1970: f64 = 1e9;

/// And from here on it is one in milliseconds.
const IN_MILLIS: f64 = 1e12;

/// How long an answer with this head says to wait before the next request, if it does.
pub fn after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    match status.as_u16() {
        429 | 503 | 529 => {
            let refused_for = |rates: &[Rate]| latest(rates, headers, |left| left.is_none_or(|left| left == 0.0));
            retry_after(headers).or_else(|| refused_for(&BUCKETS).max(refused_for(&WINDOWS)))
        }
        // It was answered, but the next one will not be.
        200..=299 => latest(&WINDOWS, headers, |left| left == Some(0.0)),
        _ => None,
    }
}

/// What `retry-after-ms` says, or else `retry-after`.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    if let Some(millis) = number(headers, "retry-after-ms") {
        return seconds(millis / 1000.0);
    }
    let text = text(headers, "retry-after")?;
    match text.parse::<f64>() {
        Ok(wait) => seconds(wait),
        Err(_) => until(DateTimeParser::new().parse_timestamp(text).ok()?, headers),
    }
}

/// The latest reset of those rates that are `spent` by what remains of them.
fn latest(rates: &[Rate], headers: &HeaderMap, spent: impl Fn(Option<f64>) -> bool) -> Option<Duration> {
    let spent = rates.iter().filter(|[remaining, _]| spent(number(headers, remaining)));
    spent.filter_map(|[_, reset]| moment(text(headers, reset)?, headers)).max()
}

fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(headers: &HeaderMap, name: impl AsHeaderName) -> Option<f64> {
    text(headers, name)?.parse().ok().filter(|number: &f64| number.is_finite())
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// `6m0s`, `1.2s`, `45ms`; seconds, or the time in numbers; or the time in words.
fn moment(text: &str, headers: &HeaderMap) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(number) if number < SINCE_1970 => seconds(number),
        Ok(number) => {
            let millis = if number >= IN_MILLIS { number } else { number * 1000.0 };
            until(Timestamp::from_millisecond(millis as i64).ok()?, headers)
        }
        Err(_) => {
            let moment = || until(text.parse().ok()?, headers);
            tidegate_config::parse_duration(text).ok().or_else(moment)
        }
    }
}

/// How long it is until then by the clock of whoever says so: that is the one it means. What is past is no time to wait.
fn until(then: Timestamp, headers: &HeaderMap) -> Option<Duration> {
    let dated = text(headers, "date").and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
    Duration::try_from(then.duration_since(dated.unwrap_or_else(Timestamp::now))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const NOW: (&str, &str) = ("date", "Sat, 21 Nov 2026 10:00:00 GMT");

    fn wait(status: u16, headers: &[(&'static str, &'static str)]) -> Option<f64> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let headers = headers.iter().map(header).collect();
        after(StatusCode::from_u16(status).unwrap(), &headers).map(|wait| wait.as_secs_f64())
    }

    #[test]
    fn a_refusal_says_when_to_come_back_in_several_ways() {
        for (headers, expected) in [
            (&[("retry-after", "7")][..], 7.0),
            (&[("retry-after", "1.5")], 1.5),
            (&[("retry-after", "7"), ("retry-after-ms", "250")], 0.25),
            (&[("retry-after", "Sat, 21 Nov 2026 10:00:20 GMT"), NOW], 20.0),
            (&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")], 360.0),
            (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "1.2s")], 1.2),
            (&[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "20ms")], 0.02),
            (&[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "2")], 2.0),
            (&[("x-ratelimit-reset-tokens", "2m59.56s")], 179.56),
            (&[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "30")], 30.0),
            (&[("x-ratelimit-reset", "1795255230"), NOW], 30.0),
            (&[("x-ratelimit-reset", "1795255230000"), NOW], 30.0),
            (&[("ratelimit-remaining", "0"), ("ratelimit-reset", "9")], 9.0),
            (
                &[
                    ("anthropic-ratelimit-tokens-remaining", "0"),
                    ("anthropic-ratelimit-tokens-reset", "2026-11-21T10:00:05Z"),
                    NOW,
                ],
                5.0,
            ),
        ] {
            for status in [429, 503, 529] {
                assert_eq!(wait(status, headers), Some(expected), "{headers:?}");
            }
        }
    }

    #[test]
    fn a_rate_that_is_not_spent_is_not_why() {
        let openai = [("x-ratelimit-remaining-tokens", "5"), ("x-ratelimit-reset-tokens", "6m0s")];
        let window = [("x-ratelimit-remaining", "5"), ("x-ratelimit-reset", "60")];
        let other = [
            ("anthropic-ratelimit-requests-remaining", "9"),
            ("anthropic-ratelimit-requests-reset", "2026-11-21T11:00:00Z"),
        ];
        assert_eq!(wait(429, &openai), None);
        assert_eq!(wait(429, &[&openai[..], &window, &other, &[NOW]].concat()), None);
        let spent = [
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-11-21T10:00:03Z"),
        ];
        assert_eq!(wait(429, &[&openai[..], &window, &other, &spent, &[NOW]].concat()), Some(3.0));
    }

    #[test]
    fn an_answer_says_that_the_next_would_be_refused_only_where_the_next_window_is_meant() {
        let full_again = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "60s")];
        assert_eq!(wait(200, &full_again), None, "some of it is there much sooner");
        assert_eq!(wait(200, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "2")]), Some(2.0));
        assert_eq!(wait(200, &[("x-ratelimit-remaining", "1"), ("x-ratelimit-reset", "2")]), None);
        assert_eq!(wait(200, &[("x-ratelimit-reset", "2")]), None);
        assert_eq!(wait(200, &[("retry-after", "2")]), None);
    }

    #[test]
    fn nothing_is_made_up() {
        for text in
            ["soon", "-1", "NaN", "inf", "", "1e999", "Wed, 21 Oct 2015 07:28:00 GMT", "Sat, 99 Nov 2026 10:00:20 GMT"]
        {
            assert_eq!(wait(429, &[("retry-after", text), NOW]), None, "{text}");
            assert_eq!(wait(429, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", text), NOW]), None, "{text}");
        }
        assert_eq!(wait(429, &[("anthropic-ratelimit-tokens-reset", "tomorrow")]), None);
        assert_eq!(wait(429, &[]), None);
        assert_eq!(wait(500, &[("retry-after", "7")]), None, "it did not say that it is full");
    }
}
