//! How much more than was asked for may be done: retries and hedges, as a share of what comes in. A bucket of tokens:
//! each request puts its share in, each extra one takes a whole token out, so that an outage is never multiplied.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_config::Share;

/// A token, in the bucket's unit.
const TOKEN: i64 = 1_000_000;

/// Tokens that are saved up however long ago they came.
const ALWAYS: i64 = 20 * TOKEN;

/// How long retries that were not made are kept.
pub const KEPT: Duration = Duration::from_secs(5);

/// A bucket that live traffic fills. A few atomics; no request waits for another.
#[derive(Debug)]
pub struct Budget {
    each: i64,
    every_second: i64,
    tokens: AtomicI64,
    since: Instant,
    /// Up to when the share of time is in, in milliseconds since `since`.
    filled: AtomicU64,
    /// How long more is saved up than a few; in milliseconds, not 0.
    span: u64,
    /// What came within this span and the one before, and which that is: as much is saved up.
    earned: [AtomicI64; 2],
    now: AtomicU64,
}

impl Budget {
    /// A bucket that gets `share` of a token from each request and `always` tokens a second. It begins with ten. It never
    /// has more than 20, or than requests put in within `keep` or twice that.
    pub fn new(share: Share, always: u32, keep: Duration) -> Self {
        let (each, every_second) = ((share.of_one() * TOKEN as f64) as i64, i64::from(always) * TOKEN);
        // A share of nothing is nothing from the beginning.
        let begin = if each == 0 && every_second == 0 { 0 } else { ALWAYS / 2 };
        Self {
            each,
            every_second,
            tokens: AtomicI64::new(begin),
            since: Instant::now(),
            filled: AtomicU64::new(0),
            span: u64::try_from(keep.as_millis()).unwrap_or(u64::MAX).max(1),
            earned: Default::default(),
            now: AtomicU64::new(0),
        }
    }

    /// A request has come.
    pub fn earn(&self) {
        if self.each > 0 {
            self.earn_at(self.since.elapsed());
        }
    }

    fn earn_at(&self, now: Duration) {
        let span = self.turn(now);
        self.earned[span].fetch_add(self.each, Relaxed);
        let (tokens, most) = (self.tokens.load(Relaxed), self.most());
        if tokens < most {
            self.tokens.fetch_add(self.each.min(most - tokens), Relaxed);
        }
    }

    /// Whether there is a token; it is gone then.
    pub fn spend(&self) -> bool {
        self.spend_at(self.since.elapsed())
    }

    fn spend_at(&self, now: Duration) -> bool {
        self.turn(now);
        self.fill(now);
        let most = self.most();
        let spent = |tokens: i64| (tokens >= TOKEN).then(|| tokens.min(most) - TOKEN);
        self.tokens.fetch_update(Relaxed, Relaxed, spent).is_ok()
    }

    /// What a token was taken for was not done.
    pub fn give_back(&self) {
        self.tokens.fetch_add(TOKEN, Relaxed);
    }

    /// The most that may be saved up now.
    fn most(&self) -> i64 {
        ALWAYS.max(self.earned.iter().map(|earned| earned.load(Relaxed)).sum())
    }

    /// Which of the two spans it is now; what the other had is forgotten when its turn comes again.
    fn turn(&self, now: Duration) -> usize {
        let span = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) / self.span;
        let before = self.now.fetch_max(span, Relaxed);
        if before < span {
            self.earned[(span % 2) as usize].store(0, Relaxed);
            if span - before > 1 {
                self.earned[((span + 1) % 2) as usize].store(0, Relaxed);
            }
        }
        (span % 2) as usize
    }

    /// What time has put in since it was last asked.
    fn fill(&self, now: Duration) {
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let before = self.filled.fetch_max(now, Relaxed);
        let passed = i64::try_from(now.saturating_sub(before)).unwrap_or(i64::MAX);
        let more = passed.saturating_mul(self.every_second) / 1000;
        if more > 0 {
            let filled = |tokens: i64| Some(tokens.saturating_add(more).min(ALWAYS.max(tokens)));
            let _ = self.tokens.fetch_update(Relaxed, Relaxed, filled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_never_more_than_the_share_and_the_beginning() {
        let budget = Budget::new(Share::percent(20), 0, Duration::ZERO);
        let spent = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(spent.count(), 10 + 200);
    }

    #[test]
    fn time_alone_gives_a_little() {
        let budget = Budget::new(Share::percent(0), 3, Duration::ZERO);
        let spend = |second: u64| (0..100).filter(|_| budget.spend_at(Duration::from_secs(second))).count();
        assert_eq!((spend(0), spend(1), spend(1), spend(3)), (10, 3, 0, 6));
        assert_eq!(spend(1000), 20, "no more is saved up than a little");
    }

    #[test]
    fn as_much_is_saved_up_as_came_in_not_long_ago() {
        let budget = Budget::new(Share::percent(20), 0, Duration::from_secs(5));
        let all = |second: u64| (0..10_000).filter(|_| budget.spend_at(Duration::from_secs(second))).count();
        (0..2000).for_each(|n| budget.earn_at(Duration::from_millis(5 * n)));
        assert_eq!(all(9), 400, "ten seconds at 200 a second");
        (0..2000).for_each(|n| budget.earn_at(Duration::from_millis(10_000 + 5 * n)));
        assert_eq!(all(60), 20, "a minute later a few are left");
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert!(!Budget::new(Share::percent(0), 0, Duration::ZERO).spend());
    }
}
