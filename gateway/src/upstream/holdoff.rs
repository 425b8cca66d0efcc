//! A backend that says when to come back is not asked before then. Only what it says itself counts: no time is made up.

use http::HeaderMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The longest that a backend can keep itself free of requests by saying so.
const LONGEST: Duration = Duration::from_secs(3600);

/// Until when a backend wants no requests.
#[derive(Debug)]
pub struct Holdoff {
    since: Instant,
    /// In milliseconds since `since`; 0: it never said so.
    until: AtomicU64,
}

impl Default for Holdoff {
    fn default() -> Self {
        Self { since: Instant::now(), until: AtomicU64::new(0) }
    }
}

impl Holdoff {
    /// How much longer it wants no requests.
    pub fn left(&self) -> Option<Duration> {
        let until = self.until.load(Relaxed);
        // Nearly always: nothing was ever said, and no clock is asked.
        if until == 0 {
            return None;
        }
        Duration::from_millis(until).checked_sub(self.since.elapsed()).filter(|left| !left.is_zero())
    }

    /// It has refused a request with these headers.
    pub fn refused(&self, headers: &HeaderMap) {
        let Some(wait) = wait_of(headers) else { return };
        let until = self.since.elapsed() + wait.min(LONGEST);
        self.until.fetch_max(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// When a refusal says to come back: `retry-after-ms`, `retry-after` in seconds, or the reset of the rate that is spent.
fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let number = |name: &str| text(name)?.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    if let Some(millis) = number("retry-after-ms") {
        return Some(Duration::from_secs_f64((millis / 1000.0).min(LONGEST.as_secs_f64())));
    }
    if let Some(seconds) = number("retry-after") {
        return Some(Duration::from_secs_f64(seconds.min(LONGEST.as_secs_f64())));
    }
    ["requests", "tokens"]
        .into_iter()
        .filter(|what| text(&format!("x-ratelimit-remaining-{what}")).is_some_and(|left| left == "0"))
        .filter_map(|what| reset(text(&format!("x-ratelimit-reset-{what}"))?))
        .max()
}

/// A reset as servers write it: `6m0s`, `1.5s`, `45ms`, or seconds.
fn reset(text: &str) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=LONGEST.as_secs_f64()).contains(&seconds) => Some(Duration::from_secs_f64(seconds)),
        Ok(_) => None,
        Err(_) => tidegate_config::parse_duration(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn wait(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        let header = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        wait_of(&headers.iter().map(header).collect())
    }

    #[test]
    fn a_backend_says_when_to_come_back_in_several_ways() {
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "7"), ("retry-after-ms", "250")]), Some(Duration::from_millis(250)));
        let spent = [("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")];
        assert_eq!(wait(&spent), Some(Duration::from_secs(360)));
        let left = [("x-ratelimit-remaining-tokens", "5"), ("x-ratelimit-reset-tokens", "6m0s")];
        assert_eq!(wait(&left), None, "this rate is not why it refused");
    }

    #[test]
    fn nothing_is_made_up() {
        for headers in [&[][..], &[("retry-after", "soon")], &[("retry-after", "-1")], &[("retry-after", "NaN")]] {
            assert_eq!(wait(headers), None, "{headers:?}");
        }
        let holdoff = Holdoff::default();
        holdoff.refused(&HeaderMap::new());
        assert_eq!(holdoff.left(), None);
    }

    #[test]
    fn it_lasts_as_long_as_was_said_and_no_longer_than_an_hour() {
        let holdoff = Holdoff::default();
        holdoff.refused(&HeaderMap::from_iter([(http::header::RETRY_AFTER, HeaderValue::from_static("9999999"))]));
        assert!(holdoff.left().is_some_and(|left| left <= LONGEST && left > LONGEST / 2));
    }
}
