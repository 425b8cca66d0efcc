//! Which requests leave a line.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tidegate_config::Sample;

use crate::telemetry::record::{Cause, Record};

/// What becomes of a request's line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Sampled {
    /// It is written, as each of its kind is.
    In,
    /// It is written for others too: it is one of this share.
    Share(f64),
    /// It is not.
    Out,
}

/// The rule, which may change while requests ask.
pub(super) struct Sampling {
    /// The share of one, as bits.
    share: AtomicU64,
    /// In microseconds.
    slow: AtomicU64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { share: AtomicU64::new(1.0_f64.to_bits()), slow: AtomicU64::new(0) }
    }
}

impl Sampling {
    pub(super) fn set(&self, sample: Option<&Sample>) {
        let (share, slow) = sample.map_or((1.0, Duration::ZERO), |sample| (sample.share.of_one(), sample.slow));
        self.slow.store(u64::try_from(slow.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.share.store(share.to_bits(), Relaxed);
    }

    /// Failures and what was slow are written; of the others each thread takes its share evenly, without chance.
    pub(super) fn of(&self, record: &Record) -> Sampled {
        thread_local! {
            static CREDIT: Cell<f64> = const { Cell::new(1.0) };
        }
        let share = f64::from_bits(self.share.load(Relaxed));
        let is_slow = || record.duration() >= Duration::from_micros(self.slow.load(Relaxed));
        if share >= 1.0 || record.cause != Cause::None || is_slow() {
            return Sampled::In;
        }
        let credit = CREDIT.get() + share;
        // The first of a thread, whatever the share: a log that stays empty looks broken.
        if credit >= 1.0 && share > 0.0 {
            CREDIT.set(credit - 1.0);
            return Sampled::Share(share);
        }
        CREDIT.set(credit);
        Sampled::Out
    }
}
