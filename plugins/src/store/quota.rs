//! How much a limit allows, and the arithmetic of one bucket.
//!
//! Time is counted in ticks of 1/64 ns: fine enough that a rate of a thousand million a second is kept to 2 %, and
//! wide enough for nine years of running. What one unit costs is a whole number of ticks, rounded up, so that any sum
//! of takings is exact and the rate is never more than the file says.

use super::calendar::{Period, Window};
use super::clock::ticks;
use super::sync::AtomicU64;
use super::{Level, Standing};
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

/// Bits of a budget's bucket that say how much is spent; those above are the window's number.
const AMOUNT_BITS: u32 = 54;

/// The most a budget can be.
pub const MAX_BUDGET: u64 = 10_000_000_000_000_000;

const AMOUNT: u64 = (1 << AMOUNT_BITS) - 1;

/// Window numbers are kept modulo this: more than a year of half days.
const NUMBERS: u32 = 1 << (64 - AMOUNT_BITS);

/// What is known of one subject of one limit.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// Of a rate, when it is full again, in ticks; of places, how many are taken; of a budget, its window and what is
    /// spent in it.
    pub(super) state: AtomicU64,
    /// What was taken and is not settled. While there is any, the bucket is not forgotten.
    pub(super) reserved: AtomicU64,
}

impl Bucket {
    pub(super) fn new(state: u64) -> Self {
        Self { state: AtomicU64::new(state), ..Self::default() }
    }
}

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
    /// So much from the beginning of a day, a week or a month to its end.
    Budget {
        /// How much.
        most: u64,
        /// For how long.
        period: Period,
    },
}

/// A moment, as the buckets of one limit see it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct At {
    /// By the monotonic clock.
    pub(super) ticks: u64,
    /// By the clock on the wall, for a budget.
    pub(super) window: Window,
}

/// How a budget's bucket stands: how many half days its window is ahead of the clock's (which was set back, then), and
/// what is spent in it.
fn spent(state: u64, period: Period, window: Window) -> (u32, u64) {
    let ahead = (number(state).wrapping_sub(window.number)) % NUMBERS;
    if ahead <= period.half_days() { (ahead, state & AMOUNT) } else { (0, 0) }
}

fn number(state: u64) -> u32 {
    u32::try_from(state >> AMOUNT_BITS).unwrap_or_default()
}

fn packed(number: u32, amount: u64) -> u64 {
    u64::from(number % NUMBERS) << AMOUNT_BITS | amount.min(AMOUNT)
}

/// Until the bucket's own window is over.
fn over_in(ahead: u32, period: Period, window: Window) -> Duration {
    if ahead == 0 { window.ends_in } else { window.ends_in + period.longest() }
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
            Self::InFlight { most } | Self::Budget { most, .. } => most,
        }
    }

    /// The number of the window that a bucket in this state is in; 0 for what is no budget.
    pub(super) fn window(&self, state: u64, at: At) -> u32 {
        match *self {
            Self::Budget { period, .. } => at.window.number + spent(state, period, at.window).0,
            Self::Rate { .. } | Self::InFlight { .. } => 0,
        }
    }

    /// The state of a budget's bucket in which so much was spent in the window of this number.
    pub(super) fn restored(number: u32, amount: u64) -> u64 {
        packed(number, amount)
    }

    /// The state of a bucket that was full at `since`, if not before.
    pub(super) fn fresh(&self, since: u64) -> u64 {
        match self {
            Self::Rate { .. } => since,
            Self::InFlight { .. } | Self::Budget { .. } => 0,
        }
    }

    /// Whether a bucket in this state is as good as a fresh one.
    pub(super) fn is_idle(&self, bucket: &Bucket, at: At) -> bool {
        let state = bucket.state.load(Relaxed);
        let is_full = match *self {
            Self::Rate { .. } => state <= at.ticks,
            Self::InFlight { .. } => state == 0,
            Self::Budget { period, .. } => spent(state, period, at.window).1 == 0,
        };
        is_full && bucket.reserved.load(Relaxed) == 0
    }

    /// All there is to tell about it.
    pub(super) fn standing(&self, state: u64, reserved: u64, at: At) -> Standing {
        let level = self.level(state, at);
        match *self {
            Self::Rate { unit, burst } => {
                let (used, full) = (state.saturating_sub(at.ticks), unit * burst);
                let next = used.saturating_sub(full - unit * (level.left + 1).min(burst));
                let next_in = (level.left < burst).then(|| Duration::from_nanos(next.div_ceil(TICKS)));
                Standing { level, reserved, owed: used.saturating_sub(full).div_ceil(unit), next_in }
            }
            Self::InFlight { .. } => Standing { level, reserved, owed: 0, next_in: None },
            Self::Budget { most, period } => {
                let owed = spent(state, period, at.window).1.saturating_sub(most);
                let next_in = (level.left < most).then_some(level.full_in);
                Standing { level, reserved, owed, next_in }
            }
        }
    }

    pub(super) fn level(&self, state: u64, at: At) -> Level {
        let now = at.ticks;
        match *self {
            Self::Rate { unit, burst } => {
                let used = state.saturating_sub(now);
                let left = (unit * burst).saturating_sub(used) / unit;
                Level { most: burst, left, full_in: Duration::from_nanos(used.div_ceil(TICKS)) }
            }
            Self::InFlight { most } => Level { most, left: most.saturating_sub(state), full_in: Duration::ZERO },
            Self::Budget { most, period } => {
                let (ahead, spent) = spent(state, period, at.window);
                let full_in = over_in(ahead, period, at.window);
                Level { most, left: most.saturating_sub(spent), full_in }
            }
        }
    }

    /// The state after taking `amount`, or how long until that can be done.
    ///
    /// When a place in flight will be free is not known here, and told as no time at all.
    pub(super) fn after(&self, state: u64, at: At, amount: u64) -> Result<u64, Duration> {
        let now = at.ticks;
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
                _ => Err(Duration::ZERO),
            },
            Self::Budget { most, period } => {
                let (ahead, spent) = spent(state, period, at.window);
                match spent.saturating_add(amount) {
                    _ if amount == 0 => Ok(state),
                    next if next <= most => Ok(packed(at.window.number + ahead, next)),
                    _ => Err(over_in(ahead, period, at.window)),
                }
            }
        }
    }

    /// Takes `amount` from a bucket that others take from at the same time.
    pub(super) fn take(&self, bucket: &Bucket, at: At, amount: u64) -> Result<u64, Duration> {
        let mut state = bucket.state.load(Relaxed);
        loop {
            let next = self.after(state, at, amount)?;
            match bucket.state.compare_exchange_weak(state, next, Relaxed, Relaxed) {
                Ok(_) => {
                    bucket.reserved.fetch_add(amount, Relaxed);
                    return Ok(next);
                }
                Err(other) => state = other,
            }
        }
    }

    /// Keeps `spent` of what was `taken`: gives the rest back, or takes more whether it is there or not. For a budget `at`
    /// has the window that was taken from.
    pub(super) fn settle(&self, bucket: &Bucket, at: At, taken: u64, spent: u64) {
        let (back, more) = (taken.saturating_sub(spent), spent.saturating_sub(taken));
        let now = at.ticks;
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
            Self::Budget { .. } => match number(state).wrapping_sub(at.window.number) % NUMBERS {
                0 => packed(at.window.number, (state & AMOUNT).saturating_sub(back).saturating_add(more)),
                // Nothing was spent in the bucket's window, or it is over.
                later if state & AMOUNT == 0 || later > NUMBERS / 2 => packed(at.window.number, more),
                // That window is over: what it was spent on does not count in this one.
                _ => state,
            },
        };
        if taken != spent {
            // The closure always has a next state.
            let _ = bucket.state.fetch_update(Relaxed, Relaxed, |state| Some(step(state)));
        }
        if taken > 0 {
            bucket.reserved.fetch_sub(taken, Relaxed);
        }
    }
}

const SECOND: Duration = Duration::from_secs(1);
