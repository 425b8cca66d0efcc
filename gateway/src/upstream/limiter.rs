//! How many requests a backend takes at once, found out while it works: the gradient of its time to first token.
//!
//! As long as a backend answers about as fast as it always did, it may have a few more; when it takes longer, it has more
//! than it can run at once, and gets fewer, in proportion. What it always took is a slow average that follows the load of
//! the day. After Netflix's concurrency limits, whose second gradient this is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Where it starts, and its bounds.
const FIRST: f64 = 16.0;
const LEAST: f64 = 1.0;
const MOST: f64 = 1000.0;

/// How much slower than usual is still as usual.
const TOLERANCE: f64 = 1.5;

/// What a slow answer counts for in the usual time.
const SLOW: f64 = 0.1;

/// Answers over which the usual time is an average, and how far one answer moves the limit.
const USUAL: f64 = 600.0;
const SMOOTH: f64 = 0.2;

/// What is left after the backend said that it is full.
const FULL: f64 = 0.9;

/// A limit that is found out.
#[derive(Debug)]
pub struct Limiter {
    limit: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    limit: f64,
    /// The usual time to first token, in seconds; 0 until one has come.
    usual: f64,
    seen: f64,
}

impl Default for Limiter {
    fn default() -> Self {
        let inner = Inner { limit: FIRST, usual: 0.0, seen: 0.0 };
        Self { limit: AtomicUsize::new(FIRST as usize), inner: Mutex::new(inner) }
    }
}

impl Limiter {
    /// Requests it takes now.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// A first token came after `time`, of one of `in_flight` requests.
    pub fn answered(&self, time: Duration, in_flight: usize) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let time = time.as_secs_f64();
        // The first answers are the average of themselves.
        inner.seen = (inner.seen + 1.0).min(USUAL);
        // One that took longer than usual moves the usual little: otherwise whatever load there is would become it.
        let weight = if inner.seen > 1.0 && time > TOLERANCE * inner.usual { SLOW } else { 1.0 };
        inner.usual += (time - inner.usual) * weight / inner.seen;
        // After a slow time the usual is too high: it comes down faster than it went up.
        if inner.usual > 2.0 * time {
            inner.usual *= 0.95;
        }
        // One that is half idle shows nothing about how many it could take.
        if (in_flight as f64) < inner.limit / 2.0 {
            return;
        }
        let gradient = (TOLERANCE * inner.usual / time.max(1e-6)).clamp(0.5, 1.0);
        let next = inner.limit * gradient + inner.limit.sqrt();
        self.set(&mut inner, next);
    }

    /// The backend said that it is full, or failed.
    pub fn refused(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = inner.limit;
        inner.limit = (limit * FULL).max(LEAST);
        self.limit.store(inner.limit as usize, Ordering::Relaxed);
    }

    fn set(&self, inner: &mut Inner, next: f64) {
        inner.limit = (inner.limit * (1.0 - SMOOTH) + next * SMOOTH).clamp(LEAST, MOST);
        self.limit.store(inner.limit as usize, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A backend that runs `slots` requests at once and queues the others: always as many requests as it may have.
    fn settle(limiter: &Limiter, slots: usize, answers: usize) -> usize {
        for _ in 0..answers {
            let in_flight = limiter.limit();
            let rounds = (in_flight as f64 / slots as f64).max(1.0);
            limiter.answered(Duration::from_secs_f64(0.1 * rounds), in_flight);
        }
        limiter.limit()
    }

    #[test]
    fn it_finds_about_what_a_backend_can_run_at_once() {
        for slots in [4, 32, 128] {
            let limiter = Limiter::default();
            // What it always took is known from quieter times.
            (0..200).for_each(|_| limiter.answered(Duration::from_millis(100), 1));
            let limit = settle(&limiter, slots, 400);
            assert!((slots..=3 * slots).contains(&limit), "{slots} slots, a limit of {limit}");
        }
    }

    #[test]
    fn it_follows_a_backend_that_becomes_smaller() {
        let limiter = Limiter::default();
        (0..200).for_each(|_| limiter.answered(Duration::from_millis(100), 1));
        let large = settle(&limiter, 64, 300);
        let small = settle(&limiter, 8, 60);
        assert!(small * 2 < large, "{large}, then {small}");
    }

    #[test]
    fn an_idle_backend_keeps_its_limit_and_one_that_refuses_gets_less() {
        let limiter = Limiter::default();
        (0..1000).for_each(|_| limiter.answered(Duration::from_millis(50), 1));
        assert_eq!(limiter.limit(), FIRST as usize);
        (0..100).for_each(|_| limiter.refused());
        assert_eq!(limiter.limit(), 1, "never nothing");
    }
}
