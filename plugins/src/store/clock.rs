//! The clock that limits run by: monotonic, so that setting the wall clock opens and blocks nobody.

use super::quota::TICKS;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Tells how long a process has been running.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Real(Instant),
    Manual(Arc<AtomicU64>),
}

impl Default for Clock {
    fn default() -> Self {
        Self(Source::Real(Instant::now()))
    }
}

impl Clock {
    /// A clock for tests: it moves only by [`Clock::advance`].
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::default()))
    }

    /// Moves a manual clock ahead; the real one moves by itself.
    pub fn advance(&self, time: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(ticks(time), Ordering::SeqCst);
        }
    }

    /// Time since the clock was made.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos((self.now() - 1) / TICKS)
    }

    /// Ticks since the clock was made; never 0, which stands for a bucket that nobody has taken from.
    pub(super) fn now(&self) -> u64 {
        1 + match &self.0 {
            Source::Real(origin) => ticks(origin.elapsed()),
            Source::Manual(now) => now.load(Ordering::SeqCst),
        }
    }
}

pub(super) fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).saturating_mul(TICKS)
}
