//! The largest of very many, by the algorithm of Misra and Gries: as many counters as are kept, and one number that
//! says how wrong they may be.

use std::collections::HashMap;
use std::sync::Arc;

/// Counters that are kept. What is told of a name is at most the total's 1/513 too low.
pub(super) const KEPT: usize = 512;

/// Sums of one measure by name.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) counts: HashMap<Arc<str>, u64>,
    /// All that was added.
    pub(super) total: u64,
    /// What any name may have more than its counter says.
    pub(super) error: u64,
}

impl Tally {
    pub(super) fn add(&mut self, name: &Arc<str>, amount: u64) {
        if amount == 0 {
            return;
        }
        self.total = self.total.saturating_add(amount);
        let count = self.counts.entry(name.clone()).or_default();
        *count = count.saturating_add(amount);
        if self.counts.len() > 2 * KEPT {
            self.prune();
        }
    }

    /// Adds what nobody can be named for.
    pub(super) fn add_unnamed(&mut self, amount: u64) {
        self.total = self.total.saturating_add(amount);
        self.error = self.error.saturating_add(amount);
    }

    /// Takes the size of the largest that is not kept from each: then no more are left than are kept, and each of those that had
    /// more than it has lost as much as all others together at least, which bounds the error.
    pub(super) fn prune(&mut self) {
        if self.counts.len() <= KEPT {
            return;
        }
        let mut sizes: Vec<u64> = self.counts.values().copied().collect();
        let (_, cut, _) = sizes.select_nth_unstable_by(KEPT, |a, b| b.cmp(a));
        let cut = *cut;
        self.counts.retain(|_, count| {
            *count = count.saturating_sub(cut);
            *count > 0
        });
        self.counts.shrink_to(KEPT);
        self.error = self.error.saturating_add(cut);
    }
}
