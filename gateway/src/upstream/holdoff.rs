//! A backend that says when to come back is not asked before then. Only what it says itself counts: no time is made up.

use super::come_back;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_plugins::Head;

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

    /// It has answered a request so.
    pub fn answered(&self, head: &Head) {
        let Some(wait) = come_back::after(head.status, &head.headers) else { return };
        let until = self.since.elapsed() + wait.min(LONGEST);
        // Rounded up: who comes back too early is refused again.
        self.until.fetch_max(u64::try_from(until.as_micros().div_ceil(1000)).unwrap_or(u64::MAX), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    fn refused(headers: HeaderMap) -> Holdoff {
        let holdoff = Holdoff::default();
        holdoff.answered(&Head { status: StatusCode::SERVICE_UNAVAILABLE, headers });
        holdoff
    }

    #[test]
    fn nothing_is_made_up() {
        assert_eq!(refused(HeaderMap::new()).left(), None);
    }

    #[test]
    fn it_lasts_as_long_as_was_said_and_no_longer_than_an_hour() {
        let holdoff = refused(HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static("9999999"))]));
        assert!(holdoff.left().is_some_and(|left| left <= LONGEST + Duration::from_millis(1) && left > LONGEST / 2));
    }
}
