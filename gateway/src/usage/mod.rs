//! What was used, by whom: told from the settlement of each request, kept in the store by day.
//!
//! A record is handed over before its client can know that its answer is over: as one line, by one system call, into a
//! [`segment`] of a journal, a file in memory ([`place`]) which outlives the process. So what a client was told is never
//! lost to a kill, and no request waits for a disk. About once a second the [`keeper`] closes the segment and folds it
//! into the sums of days in the store, in one transaction with the number of the segment: it counts once, however often
//! that is tried. docs/decisions/0014-usage-in-a-memory-file.md says why.

mod keeper;
mod line;
pub(crate) mod metrics;
mod place;
pub mod report;
mod segment;
#[cfg(test)]
mod tests;

pub(crate) use keeper::{Keeper, today};
pub use line::{COUNTS, NAMES, Sums, Whose};
pub(crate) use line::{Entry, count};
pub(crate) use place::is_in_memory;

use arc_swap::ArcSwap;
use metrics::UsageMetrics;
use segment::{Kept, Segment};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most bytes of records that wait for the store. What comes then is dropped, and counted.
const MOST: u64 = 32 << 20;

/// Where requests say what they have used.
pub(crate) struct Usages {
    current: ArcSwap<Segment>,
    /// Bytes that are not in the store yet.
    waiting: AtomicU64,
    most: u64,
    metrics: UsageMetrics,
}

impl Usages {
    fn new(first: Segment, most: u64) -> Self {
        let current = ArcSwap::from_pointee(first);
        Self { current, waiting: AtomicU64::new(0), most, metrics: UsageMetrics::new() }
    }

    /// Records all of it, or nothing. Waits for nobody.
    pub(crate) fn record(&self, entries: &[Entry<'_>]) {
        thread_local! {
            static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        line::write(&mut line, entries);
        self.append(&line);
        line.clear();
        let _ = LINE.try_with(|slot| slot.set(line));
    }

    /// Bytes that are not in the store yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Relaxed)
    }

    fn append(&self, line: &[u8]) {
        let length = line.len() as u64;
        if self.waiting.fetch_add(length, Relaxed) + length > self.most {
            self.waiting.fetch_sub(length, Relaxed);
            self.metrics.dropped.inc();
            return;
        }
        let outcome = match self.current.load().append(line) {
            Kept::Journal => &self.metrics.journal,
            Kept::Memory => &self.metrics.memory,
        };
        outcome.inc();
        self.metrics.bytes.inc_by(length);
    }
}
