//! The clocks that limits run by. Rates go by a monotonic one, so that setting the time opens and blocks nobody;
//! budgets, which begin at midnight, by the one on the wall.

use super::quota::TICKS;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells how long a process has been running, and what time it is.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Real(Instant),
    Manual(Arc<Manual>),
}

#[derive(Debug, Default)]
struct Manual {
    ticks: AtomicU64,
    /// Milliseconds since 1970.
    wall: AtomicU64,
}

/// What both clocks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Since the clock was made; never 0, which stands for a bucket that nobody has taken from.
    pub(super) ticks: u64,
    /// Milliseconds since 1970.
    pub(super) wall: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self(Source::Real(Instant::now()))
    }
}

impl Clock {
    /// A clock for tests: it moves only by [`Clock::advance`] and [`Clock::set`].
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::default()))
    }

    /// Moves a manual clock ahead; the real one moves by itself.
    pub fn advance(&self, time: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.ticks.fetch_add(ticks(time), Ordering::SeqCst);
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            now.wall.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// Sets a manual clock's hands to this many seconds since 1970: no time passes.
    pub fn set(&self, wall: u64) {
        if let Source::Manual(now) = &self.0 {
            now.wall.store(wall * 1000, Ordering::SeqCst);
        }
    }

    /// Time since the clock was made.
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::Real(origin) => origin.elapsed(),
            Source::Manual(now) => Duration::from_nanos(now.ticks.load(Ordering::SeqCst) / TICKS),
        }
    }

    /// Seconds since 1970.
    pub fn wall(&self) -> u64 {
        self.wall_millis() / 1000
    }

    fn wall_millis(&self) -> u64 {
        match &self.0 {
            Source::Real(_) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
            Source::Manual(now) => now.wall.load(Ordering::SeqCst),
        }
    }

    pub(super) fn now(&self) -> Moment {
        let ticks = match &self.0 {
            Source::Real(origin) => ticks(origin.elapsed()),
            Source::Manual(now) => now.ticks.load(Ordering::SeqCst),
        };
        Moment { ticks: 1 + ticks, wall: self.wall_millis() }
    }
}

pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(TICKS)
}
