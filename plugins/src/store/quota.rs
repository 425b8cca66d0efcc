//! How much a limit allows, and the arithmetic of one bucket.
//!
//! Time is counted in ticks of 1/64 ns: fine enough that a rate of a thousand million a second is kept to 2 %, and
//! wide enough for nine years of running. What one unit costs is a whole number of ticks, rounded up, so that any sum
//! of takings is exact and the rate is never more than the file says.

use super::Level;
use super::clock::ticks;
use super::sync::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Ticks in a nanosecond.
pub(super) const TICKS: u64 = 64;

/// The most a rate may allow in a second, so that ticks are fine enough for it.
const MAX_PER_SECOND: u64 = 1_000_000_000;

/// The longest time a bucket may take to fill.
const MAX_FILL: Duration = Duration::from_secs(30 * 86_400);

/// The most a bucket can owe beyond its burst: what a backend reports as usage must not close a bucket for good.
const MAX_DEBT: Duration = Duration::from_secs(3600);

/// After how long a place among those in flight may be free: nobody knows, and asking again costs little.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// How much a limit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quota {
    /// A bucket of `burst` that refills at a steady rate.
    Rate {
        /// What one unit costs, in ticks.
        unit: u64,
        /// What a full bucket holds.
        burst: u64,
    },
    /// So many at a time.
    InFlight {
        /// How many.
        most: u64,
    },
}

impl Quota {
    /// `count` in `window`, at most `burst` at once. None if that is no rate, or too fast or too slow to be kept.
    pub fn rate(count: u64, window: Duration, burst: u64) -> Option<Self> {
        let window = ticks(window);
        if count == 0 || burst == 0 || window == 0 || count > MAX_PER_SECOND.saturating_mul(window / ticks(SECOND)) {
            return None;
        }
        let unit = window.div_ceil(count);
        let fills = unit.checked_mul(burst).is_some_and(|full| full <= ticks(MAX_FILL));
        fills.then_some(Self::Rate { unit, burst })
    }

    /// What a full bucket holds: the most one request can ever be granted.
    pub fn burst(&self) -> u64 {
        match *self {
            Self::Rate { burst, .. } => burst,
            Self::InFlight { most } => most,
        }
    }

    /// The state of a bucket that was full at `since`, if not before.
    pub(super) fn fresh(&self, since: u64) -> u64 {
        match self {
            Self::Rate { .. } => since,
            Self::InFlight { .. } => 0,
        }
    }

    /// Whether a bucket in this state is as good as a fresh one.
    pub(super) fn is_idle(&self, state: u64, now: u64) -> bool {
        match self {
            Self::Rate { .. } => state <= now,
            Self::InFlight { .. } => state == 0,
        }
    }

    pub(super) fn level(&self, state: u64, now: u64) -> Level {
        match *self {
            Self::Rate { unit, burst } => {
                let used = state.saturating_sub(now);
                let left = (unit * burst).saturating_sub(used) / unit;
                Level { most: burst, left, full_in: Duration::from_nanos(used.div_ceil(TICKS)) }
            }
            Self::InFlight { most } => Level { most, left: most.saturating_sub(state), full_in: Duration::ZERO },
        }
    }

    /// The state after taking `amount`, or how long until that can be done.
    pub(super) fn after(&self, state: u64, now: u64, amount: u64) -> Result<u64, Duration> {
        match *self {
            Self::Rate { unit, burst } => {
                // What nobody can be granted is cut to what a full bucket holds: the caller has refused it before.
                let next = state.max(now).saturating_add(unit * amount.min(burst));
                match next.saturating_sub(now.saturating_add(unit * burst)) {
                    0 => Ok(next),
                    _ if amount == 0 => Ok(state),
                    early => Err(Duration::from_nanos(early.div_ceil(TICKS))),
                }
            }
            Self::InFlight { most } => match state.saturating_add(amount) {
                next if next <= most || amount == 0 => Ok(next),
                _ => Err(ASK_AGAIN),
            },
        }
    }

    /// Takes `amount` from a bucket that others take from at the same time.
    pub(super) fn take(&self, bucket: &AtomicU64, now: u64, amount: u64) -> Result<u64, Duration> {
        let mut state = bucket.load(Relaxed);
        loop {
            let next = self.after(state, now, amount)?;
            match bucket.compare_exchange_weak(state, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(next),
                Err(other) => state = other,
            }
        }
    }

    /// Gives `back`, and takes `more` whether it is there or not.
    pub(super) fn correct(&self, bucket: &AtomicU64, now: u64, back: u64, more: u64) {
        let step = |state: u64| match *self {
            Self::Rate { unit, burst } => {
                let state = state.saturating_sub(unit.saturating_mul(back));
                let deepest = now.saturating_add(unit * burst).saturating_add(ticks(MAX_DEBT));
                match more {
                    0 => state,
                    _ => state.max(now).saturating_add(unit.saturating_mul(more)).min(deepest.max(state)),
                }
            }
            Self::InFlight { .. } => state.saturating_sub(back),
        };
        // The closure always has a next state.
        let _ = bucket.fetch_update(Relaxed, Relaxed, |state| Some(step(state)));
    }
}

const SECOND: Duration = Duration::from_secs(1);
