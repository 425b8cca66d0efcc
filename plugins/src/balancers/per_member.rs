//! What a balancer remembers of each backend: found without a lock that waits, kept while backends come and go.

use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A value a member. Reading is a lookup in a map that never changes; a member seen for the first time makes a new map.
#[derive(Debug)]
pub(super) struct PerMember<T> {
    known: ArcSwap<HashMap<u64, Arc<T>>>,
    /// One writer at a time.
    adding: Mutex<()>,
}

impl<T> Default for PerMember<T> {
    fn default() -> Self {
        Self { known: ArcSwap::default(), adding: Mutex::default() }
    }
}

/// Members that are kept apart: in a pool whose backends come and go under new names the oldest knowledge is dropped
/// rather than kept for ever.
const MOST: usize = 8192;

impl<T: Default> PerMember<T> {
    /// What is known of a member, if anything.
    pub(super) fn get(&self, id: u64) -> Option<Arc<T>> {
        self.known.load().get(&id).cloned()
    }

    /// What is known of a member; made if it is new.
    pub(super) fn of(&self, id: u64) -> Arc<T> {
        if let Some(known) = self.get(id) {
            return known;
        }
        let _one = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.known.load_full();
        if let Some(known) = before.get(&id) {
            return known.clone();
        }
        let mut after = if before.len() < MOST { HashMap::clone(&before) } else { HashMap::new() };
        let new = Arc::<T>::default();
        after.insert(id, new.clone());
        self.known.store(Arc::new(after));
        new
    }
}
