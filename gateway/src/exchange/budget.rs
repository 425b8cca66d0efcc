//! Memory for bodies in flight: one budget for the whole process, so that many large bodies are refused before
//! they are more than the machine has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The budget.
#[derive(Debug, Default)]
pub struct Budget {
    taken: AtomicUsize,
}

/// What one request has taken of it; dropping gives it back.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    /// Nothing yet, for one request.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }

    /// Bytes taken by all requests.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Share {
    /// Takes `bytes` more if the whole stays within `limit`.
    #[must_use]
    pub fn grow(&mut self, bytes: usize, limit: usize) -> bool {
        let fits = self
            .budget
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(bytes).filter(|&sum| sum <= limit)
            })
            .is_ok();
        if fits {
            self.bytes += bytes;
        }
        fits
    }

    /// Gives all of it back.
    pub fn release(&mut self) {
        self.budget.taken.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Arc::new(Budget::default());
        let (mut a, mut b) = (budget.share(), budget.share());
        assert!(a.grow(60, 100) && !b.grow(41, 100) && b.grow(40, 100));
        drop(a);
        assert_eq!(budget.taken(), 40);
        b.release();
        assert_eq!(budget.taken(), 0);
    }
}
