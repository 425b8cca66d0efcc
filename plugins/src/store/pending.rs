//! What was spent of budgets and is not written down yet.
//!
//! Settling adds to a small map and goes on; a thread of its own takes the maps and writes them down. In parts, so that
//! requests of different subjects do not meet. What cannot be written stays and is added up with what comes after.

use super::Subject;
use super::sync::{AtomicUsize, Mutex};
use crate::services::{Journal, Spent};
use std::collections::HashMap;
use std::io;
use std::mem::take;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

/// Entries that are kept while nothing can be written down: about 100 MiB.
const MOST: usize = 1 << 20;

const PARTS: usize = 16;

type Amounts = HashMap<(Arc<str>, [u8; 16], u32), u64>;

#[derive(Debug, Default)]
pub(super) struct Pending {
    parts: [Mutex<Amounts>; PARTS],
    entries: AtomicUsize,
    /// What was spent before the process began, by limit.
    before: Mutex<Option<HashMap<Arc<str>, Vec<Spent>>>>,
}

impl Pending {
    /// Takes what was spent before the process began; says whether it was not known yet.
    pub(super) fn go_on_from(&self, before: Vec<Spent>) -> bool {
        let mut known = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            return false;
        }
        *known = Some(HashMap::new());
        drop(known);
        self.spent_elsewhere(before);
        true
    }

    /// Adds to what was spent before the process began.
    pub(super) fn spent_elsewhere(&self, spent: Vec<Spent>) {
        let mut known = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let by_limit = known.get_or_insert_default();
        for spent in spent {
            by_limit.entry(spent.limit.clone()).or_default().push(spent);
        }
    }

    /// What was spent of a limit before the process began.
    pub(super) fn before(&self, limit: &Arc<str>) -> Vec<Spent> {
        let known = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().and_then(|before| before.get(limit)).cloned().unwrap_or_default()
    }

    pub(super) fn add(&self, limit: &Arc<str>, subject: Subject, window: u32, amount: u64) {
        let subject = subject.to_bytes();
        let part = &self.parts[usize::from(subject[15]) % PARTS];
        let mut amounts = part.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (limit.clone(), subject, window);
        if let Some(pending) = amounts.get_mut(&key) {
            *pending = pending.saturating_add(amount);
        } else if self.entries.fetch_add(1, Relaxed) < MOST {
            amounts.insert(key, amount);
        } else {
            self.entries.fetch_sub(1, Relaxed);
        }
    }

    pub(super) fn write_down(&self, journal: &dyn Journal) -> io::Result<usize> {
        let mut spent = Vec::new();
        for part in &self.parts {
            let amounts = take(&mut *part.lock().unwrap_or_else(PoisonError::into_inner));
            let entry = |((limit, subject, window), amount)| Spent { limit, subject, window, amount };
            spent.extend(amounts.into_iter().map(entry));
        }
        self.entries.fetch_sub(spent.len(), Relaxed);
        if spent.is_empty() {
            return Ok(0);
        }
        let written = journal.add(&spent);
        if written.is_err() {
            for Spent { limit, subject, window, amount } in &spent {
                self.add(limit, Subject::from_bytes(*subject), *window, *amount);
            }
        }
        written.map(|()| spent.len())
    }
}
