//! Whether a backend is up: told by probes, and by the requests it answers or does not.
//!
//! A busy backend is not a dead one: any byte it sends to anybody is proof of life and outweighs a probe that
//! went unanswered while it worked.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidegate_config::ProbeBy;

/// How a backend is probed and judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// The time between probes.
    pub every: Duration,
    /// What a probe is.
    pub by: ProbeBy,
    /// The model that is asked for a token, if that is what a probe is.
    pub model: Option<String>,
    /// What is asked for.
    pub path: String,
    /// How long a probe may take.
    pub timeout: Duration,
    /// Failures in a row after which it is down.
    pub down_after: u32,
    /// Successes in a row after which it is up again.
    pub up_after: u32,
    /// False: never probed, always taken to be up.
    pub enabled: bool,
}

/// A backend's state of health. Until first heard of, it is taken to be up.
#[derive(Debug)]
pub struct Health {
    settings: HealthSettings,
    up: AtomicBool,
    known: AtomicBool,
    failures: AtomicU32,
    successes: AtomicU32,
    epoch: Instant,
    last_life_ms: AtomicU64,
}

impl Health {
    /// Health judged by `settings`.
    pub fn new(settings: HealthSettings) -> Self {
        let known = !settings.enabled;
        Self {
            settings,
            up: AtomicBool::new(true),
            known: AtomicBool::new(known),
            failures: AtomicU32::new(0),
            successes: AtomicU32::new(0),
            epoch: Instant::now(),
            last_life_ms: AtomicU64::new(0),
        }
    }

    /// How it is judged.
    pub fn settings(&self) -> &HealthSettings {
        &self.settings
    }

    /// Whether requests are sent to it.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether anything has been heard of it yet.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// It sent something just now. Called for every chunk: one relaxed store, and more only after failures.
    pub fn alive(&self, now: Instant) {
        self.last_life_ms.store(self.millis(now), Ordering::Relaxed);
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Whether it has sent anything since then.
    pub fn was_alive_since(&self, then: Instant) -> bool {
        self.last_life_ms.load(Ordering::Relaxed) > self.millis(then)
    }

    /// A probe was answered. True if that brings it up.
    pub fn probe_succeeded(&self) -> bool {
        self.alive(Instant::now());
        self.known.store(true, Ordering::Relaxed);
        let successes = self.successes.fetch_add(1, Ordering::Relaxed) + 1;
        successes >= self.settings.up_after && !self.up.swap(true, Ordering::Relaxed)
    }

    /// A probe begun at `begun` failed, or a connection could not be made. True if that takes it down.
    pub fn failed(&self, begun: Instant) -> bool {
        let was_known = self.known.swap(true, Ordering::Relaxed);
        if !self.settings.enabled || self.last_life_ms.load(Ordering::Relaxed) > self.millis(begun) {
            return false;
        }
        self.successes.store(0, Ordering::Relaxed);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        // Nothing good is known of a backend that fails the first time it is asked.
        let enough = failures >= self.settings.down_after || !was_known;
        enough && self.up.swap(false, Ordering::Relaxed)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health::new(HealthSettings {
            every: Duration::from_secs(10),
            by: ProbeBy::Http,
            model: None,
            path: "/v1/models".to_owned(),
            timeout: Duration::from_secs(2),
            down_after: 2,
            up_after: 1,
            enabled: true,
        })
    }

    #[test]
    fn it_takes_failures_in_a_row_to_go_down_and_successes_to_come_back() {
        let health = health();
        health.probe_succeeded();
        let later = Instant::now() + Duration::from_secs(1);
        assert!(!health.failed(later) && health.is_up());
        assert!(health.failed(later) && !health.is_up());
        assert!(health.probe_succeeded() && health.is_up());
    }

    #[test]
    fn a_busy_backend_is_not_a_dead_one() {
        let health = health();
        health.probe_succeeded();
        let begun = Instant::now();
        for _ in 0..5 {
            health.alive(begun + Duration::from_millis(50));
            assert!(!health.failed(begun));
        }
        assert!(health.is_up());
    }
}
