//! The store of one machine: everything in memory.

use super::clock::Clock;
use super::ledger::{Ledger, PARTS, Spec};
use super::quota::TICKS;
use super::sync::{AtomicU64, AtomicUsize, Mutex};
use super::{Demand, Level, Store, Subject};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, Weak};

/// Idle subjects are looked for in one part of each ledger this often, in ticks: 16 s for all parts.
const SEARCH_EVERY: u64 = 250_000_000 * TICKS;

/// Counts in memory.
#[derive(Debug, Default)]
pub struct Local {
    clock: Clock,
    ledgers: Mutex<HashMap<Arc<str>, Weak<Ledger>>>,
    next_search: AtomicU64,
    next_part: AtomicUsize,
}

impl Local {
    /// A store that runs by `clock`.
    pub fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// The ledgers that somebody holds.
    pub(super) fn ledgers(&self) -> Vec<Arc<Ledger>> {
        self.ledgers.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }

    /// Forgets some of those who have been idle. Called after answers, where nobody waits for it.
    fn tidy(&self, now: u64) {
        let due = self.next_search.load(Relaxed);
        let next = now.saturating_add(SEARCH_EVERY);
        if now < due || self.next_search.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let part = self.next_part.fetch_add(1, Relaxed) % PARTS;
        self.ledgers().iter().for_each(|ledger| ledger.search(part, now));
    }
}

/// Whether all that bind could be met now; tells each how it stands.
fn look(demands: &mut [Demand], now: u64) -> bool {
    let mut all = true;
    for demand in demands {
        let quota = demand.ledger.quota();
        let state = demand.ledger.state(demand.subject);
        demand.level = quota.level(state, now);
        demand.wait = quota.after(state, now, demand.amount).err();
        all &= demand.wait.is_none() || !demand.binding;
    }
    all
}

/// Takes each, unless somebody else was faster; then what was taken goes back.
fn take(demands: &mut [Demand], now: u64) -> bool {
    for at in 0..demands.len() {
        let demand = &mut demands[at];
        if demand.amount == 0 {
            // Nothing to take, but there may be something to settle.
            demand.taken = true;
            continue;
        }
        let (quota, amount) = (*demand.ledger.quota(), demand.amount);
        let (taken, overflow) = demand.ledger.with(demand.subject, now, |bucket| quota.take(bucket, now, amount));
        match taken {
            Ok(state) => {
                demand.level = quota.level(state, now);
                (demand.taken, demand.overflow, demand.wait) = (true, overflow, None);
            }
            Err(wait) => {
                demand.wait = Some(wait);
                if demand.binding {
                    demands[..at].iter_mut().for_each(|demand| give_back(demand, now));
                    return false;
                }
            }
        }
    }
    true
}

fn give_back(demand: &mut Demand, now: u64) {
    if std::mem::take(&mut demand.taken) {
        demand.ledger.correct(demand.subject, demand.overflow, now, demand.amount, 0);
    }
}

fn count(demands: &[Demand], granted: bool) {
    for demand in demands {
        let counts = &demand.ledger.counts;
        match demand.wait {
            Some(_) if demand.binding => counts.refused.fetch_add(1, Relaxed),
            Some(_) => counts.would_refuse.fetch_add(1, Relaxed),
            None if granted => counts.granted.fetch_add(1, Relaxed),
            // Another limit refused: this one was not asked to say anything.
            None => continue,
        };
    }
}

#[async_trait]
impl Store for Local {
    fn open(&self, spec: Spec) -> Arc<Ledger> {
        let mut ledgers = self.ledgers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ledger) = ledgers.get(&spec.id).and_then(Weak::upgrade) {
            return ledger;
        }
        ledgers.retain(|_, ledger| ledger.strong_count() > 0);
        let ledger = Arc::new(Ledger::new(spec));
        ledgers.insert(ledger.id().clone(), Arc::downgrade(&ledger));
        ledger
    }

    async fn try_take(&self, demands: &mut [Demand]) -> bool {
        let now = self.clock.now();
        // Looking first means that who is refused takes nothing, not even for a moment, so that it keeps nobody else
        // out. Only a race that is lost after that takes and gives back.
        let granted = look(demands, now) && take(demands, now);
        count(demands, granted);
        granted
    }

    fn settle(&self, demands: &[Demand]) {
        let now = self.clock.now();
        for demand in demands.iter().filter(|demand| demand.taken) {
            let (back, more) = (demand.amount.saturating_sub(demand.spent), demand.spent.saturating_sub(demand.amount));
            if back > 0 || more > 0 {
                demand.ledger.correct(demand.subject, demand.overflow, now, back, more);
            }
        }
        self.tidy(now);
    }

    async fn peek(&self, ledger: &Ledger, subject: Subject) -> Level {
        ledger.level(subject, self.clock.now())
    }
}
