//! How much there was of something in the last seconds, in three atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The last ten to twenty seconds: what is in this window, and of the one before what is not yet ten seconds ago.
const WINDOW: u64 = 10_000;

/// A sum that forgets. Exact enough to compare one with another.
#[derive(Debug, Default)]
pub(super) struct Recent {
    window: AtomicU64,
    current: AtomicU64,
    before: AtomicU64,
}

impl Recent {
    /// Adds to it; `now` is in milliseconds.
    pub(super) fn add(&self, amount: u64, now: u64) {
        let (window, known) = (now / WINDOW, self.window.load(Relaxed));
        if window > known && self.window.compare_exchange(known, window, Relaxed, Relaxed).is_ok() {
            let last = self.current.swap(0, Relaxed);
            self.before.store(if window == known + 1 { last } else { 0 }, Relaxed);
        }
        self.current.fetch_add(amount, Relaxed);
    }

    /// What it is at `now`.
    pub(super) fn now(&self, now: u64) -> u64 {
        let (current, before) = (self.current.load(Relaxed), self.before.load(Relaxed));
        let left = WINDOW - now % WINDOW;
        match (now / WINDOW).saturating_sub(self.window.load(Relaxed)) {
            0 => current + before * left / WINDOW,
            1 => current * left / WINDOW,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_is_forgotten_bit_by_bit() {
        let recent = Recent::default();
        recent.add(100, 3_000);
        assert_eq!(recent.now(9_000), 100);
        assert_eq!(recent.now(12_500), 75);
        recent.add(40, 15_000);
        assert_eq!(recent.now(15_000), 90);
        assert_eq!(recent.now(20_000), 40);
        assert_eq!(recent.now(40_000), 0);
        recent.add(1, 45_000);
        assert_eq!(recent.now(45_000), 1);
    }
}
