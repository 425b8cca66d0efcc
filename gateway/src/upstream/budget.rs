//! How much more than was asked for may be done: retries and hedges, as a share of what comes in. A bucket of tokens:
//! each request puts its share in, each extra one takes a whole token out, so that an outage is never multiplied.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_config::Share;

/// A token, in the bucket's unit.
const TOKEN: i64 = 1_000_000;

/// The most tokens that are saved up.
const MOST: i64 = 20 * TOKEN;

/// A bucket that live traffic fills. Two atomics; no request waits for another.
#[derive(Debug)]
pub struct Budget {
    each: i64,
    every_second: i64,
    tokens: AtomicI64,
    since: Instant,
    /// Up to when the share of time is in, in milliseconds since `since`.
    filled: AtomicU64,
}

impl Budget {
    /// A bucket that gets `share` of a token from each request and `always` tokens a second. It begins half full.
    pub fn new(share: Share, always: u32) -> Self {
        let (each, every_second) = ((share.of_one() * TOKEN as f64) as i64, i64::from(always) * TOKEN);
        // A share of nothing is nothing from the beginning.
        let begin = if each == 0 && every_second == 0 { 0 } else { MOST / 2 };
        Self { each, every_second, tokens: AtomicI64::new(begin), since: Instant::now(), filled: AtomicU64::new(0) }
    }

    /// A request has come.
    pub fn earn(&self) {
        let now = self.tokens.load(Relaxed);
        if now < MOST && self.each > 0 {
            self.tokens.fetch_add(self.each.min(MOST - now), Relaxed);
        }
    }

    /// Whether there is a token; it is gone then.
    pub fn spend(&self) -> bool {
        self.spend_at(self.since.elapsed())
    }

    fn spend_at(&self, now: Duration) -> bool {
        self.fill(now);
        self.tokens.fetch_update(Relaxed, Relaxed, |tokens| (tokens >= TOKEN).then_some(tokens - TOKEN)).is_ok()
    }

    /// What time has put in since it was last asked.
    fn fill(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let before = self.filled.fetch_max(now, Relaxed);
        let passed = i64::try_from(now.saturating_sub(before)).unwrap_or(i64::MAX);
        let more = passed.saturating_mul(self.every_second) / 1000;
        if more > 0 {
            let filled = |tokens: i64| Some(tokens.saturating_add(more).min(MOST.max(tokens)));
            let _ = self.tokens.fetch_update(Relaxed, Relaxed, filled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_never_more_than_the_share_and_the_beginning() {
        let budget = Budget::new(Share::percent(20), 0);
        let spent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(spent.count(), 10 + 200);
    }

    #[test]
    fn time_alone_gives_a_little() {
        let budget = Budget::new(Share::percent(0), 3);
        let spend = |second: u64| (0..100).filter(|_| budget.spend_at(Duration::from_secs(second))).count();
        assert_eq!((spend(0), spend(1), spend(1), spend(3)), (10, 3, 0, 6));
        assert_eq!(spend(1000), 20, "no more is saved up than a little");
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert!(!Budget::new(Share::percent(0), 0).spend());
    }
}
