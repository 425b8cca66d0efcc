//! When the first token of a stream, or a whole answer, is late enough to ask a second backend: what a model has taken so
//! far, in buckets, and how many second requests there may still be.

use super::budget::Budget;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;
use tidegate_config::{After, Hedge};

/// Buckets for each doubling of the time: one is 9 % longer than the one before.
const FINE: f64 = 8.0;

/// From a millisecond to more than an hour.
const BUCKETS: usize = 22 * 8;

/// After so many, the old ones count half.
const FORGET: u32 = 2048;

/// As many are needed before a percentile means anything.
const ENOUGH: u32 = 40;

/// Hedging for one model in one pool.
#[derive(Debug)]
pub struct Hedging {
    /// How it is set.
    pub settings: Hedge,
    /// How many second requests there may still be.
    pub budget: Budget,
    /// What first tokens took, and what whole answers did.
    tokens: Times,
    wholes: Times,
}

impl Hedging {
    /// Of which nothing is known yet.
    pub fn new(settings: Hedge) -> Self {
        let budget = Budget::new(settings.budget, 0, Duration::ZERO);
        Self { budget, settings, tokens: Times::default(), wholes: Times::default() }
    }

    /// Whether streams, or whole answers, are ever late.
    pub fn is_for(&self, stream: bool) -> bool {
        stream || self.settings.whole.is_some()
    }

    /// After how long the first token of a `stream`, or a whole answer, is late; none if that is not known yet, or if it is
    /// never late.
    pub fn patience(&self, stream: bool) -> Option<Duration> {
        let (after, times) = match stream {
            true => (self.settings.after, &self.tokens),
            false => (self.settings.whole?, &self.wholes),
        };
        match after {
            After::Time(time) => Some(time),
            After::Percentile(percentile) => times.percentile(percentile),
        }
    }

    /// A first token, or a whole answer, took this long, or was given up after it.
    pub fn took(&self, stream: bool, time: Duration) {
        if stream { &self.tokens } else { &self.wholes }.add(time);
    }
}

/// How long answers took. Adding is one atomic; nobody waits.
#[derive(Debug)]
struct Times {
    counts: Box<[AtomicU32]>,
    total: AtomicU32,
}

impl Default for Times {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU32::new(0)).collect(), total: AtomicU32::new(0) }
    }
}

impl Times {
    fn add(&self, time: Duration) {
        let millis = (time.as_secs_f64() * 1000.0).max(1.0);
        let bucket = ((millis.log2() * FINE) as usize).min(BUCKETS - 1);
        self.counts[bucket].fetch_add(1, Relaxed);
        if self.total.fetch_add(1, Relaxed) + 1 >= FORGET {
            self.halve();
        }
    }

    /// Counts that are lost between two threads here are few of many.
    fn halve(&self) {
        let mut total = 0;
        for count in &self.counts {
            let half = count.load(Relaxed) / 2;
            count.store(half, Relaxed);
            total += half;
        }
        self.total.store(total, Relaxed);
    }

    /// The end of the bucket in which this percentile lies.
    fn percentile(&self, percentile: u8) -> Option<Duration> {
        let total = self.total.load(Relaxed);
        if total < ENOUGH {
            return None;
        }
        let wanted = (u64::from(total) * u64::from(percentile)).div_ceil(100);
        let mut passed = 0;
        let bucket = self.counts.iter().position(|count| {
            passed += u64::from(count.load(Relaxed));
            passed >= wanted
        })?;
        Some(Duration::from_secs_f64(((bucket + 1) as f64 / FINE).exp2() / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentile(times: &Times, percentile: u8) -> Option<u128> {
        times.percentile(percentile).map(|time| time.as_millis())
    }

    #[test]
    fn a_percentile_is_learned_from_enough_first_tokens() {
        let times = Times::default();
        for n in 0..ENOUGH {
            assert_eq!(percentile(&times, 95), None, "{n}");
            times.add(Duration::from_millis(100));
        }
        assert!((100..=109).contains(&percentile(&times, 95).unwrap()));
    }

    #[test]
    fn a_few_slow_ones_do_not_move_it_and_many_do() {
        let times = Times::default();
        for n in 0..1000 {
            times.add(Duration::from_millis(if n % 50 == 0 { 2000 } else { 100 }));
        }
        assert!((100..=109).contains(&percentile(&times, 95).unwrap()));
        assert!((2000..=2181).contains(&percentile(&times, 99).unwrap()));
        for _ in 0..3 * FORGET {
            times.add(Duration::from_millis(400));
        }
        assert!((400..=437).contains(&percentile(&times, 95).unwrap()), "what was is forgotten");
    }

    #[test]
    fn no_time_is_too_long_or_too_short() {
        let times = Times::default();
        for _ in 0..ENOUGH {
            times.add(Duration::ZERO);
            times.add(Duration::from_secs(1_000_000));
        }
        assert!(times.percentile(50).is_some() && times.percentile(99).is_some());
    }
}
