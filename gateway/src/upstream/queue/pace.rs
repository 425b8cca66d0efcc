//! How fast a queue moves: the mean time between two that are served while somebody waits.

use std::time::{Duration, Instant};

/// How much the newest counts.
const NEWEST: f64 = 0.2;

/// How fast a queue moves.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<Instant>,
    /// Seconds between two.
    each: Option<f64>,
}

impl Pace {
    /// Somebody waits who has nobody before.
    pub(super) fn begins(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// Somebody got a place.
    pub(super) fn served(&mut self, now: Instant) {
        let Some(last) = self.last.replace(now) else { return };
        let passed = now.saturating_duration_since(last).as_secs_f64();
        self.each = Some(self.each.map_or(passed, |each| each + NEWEST * (passed - each)));
    }

    /// About how long it takes until `position` have been served; none if nothing is known.
    pub(super) fn wait_for(&self, position: usize, now: Instant) -> Option<Duration> {
        // A queue that has stopped is as slow as it has stood still.
        let standing = self.last.map_or(0.0, |last| now.saturating_duration_since(last).as_secs_f64());
        let each = self.each?.max(standing);
        Duration::try_from_secs_f64(each * position as f64).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_follows_from_how_fast_others_were_served() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        let at = |millis: u64| start + Duration::from_millis(millis);
        pace.begins(at(0));
        assert_eq!(pace.wait_for(1, at(0)), None);
        for n in 1..=10 {
            pace.served(at(n * 100));
        }
        let wait = pace.wait_for(5, at(1000)).unwrap();
        assert!((wait.as_secs_f64() - 0.5).abs() < 0.01, "{wait:?}");
    }

    #[test]
    fn a_queue_that_stands_still_does_not_promise_what_it_did_before() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        pace.begins(start);
        pace.served(start + Duration::from_millis(10));
        let later = start + Duration::from_millis(5010);
        assert_eq!(pace.wait_for(2, later), Some(Duration::from_secs(10)));
    }
}
