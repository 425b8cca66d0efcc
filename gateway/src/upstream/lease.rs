//! A place at a backend, held while it answers.

use super::attempt::Attempt;
use super::backend::Backend;
use std::sync::Arc;

/// Holds one request's place; dropping it gives the place back.
pub struct Lease {
    backend: Arc<Backend>,
    attempt: Arc<Attempt>,
    held: bool,
}

impl Lease {
    pub(super) fn new(backend: &Arc<Backend>, attempt: Attempt) -> Self {
        Self { backend: backend.clone(), attempt: Arc::new(attempt), held: true }
    }

    /// Whose place it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// What this request shows about the backend: to be told before the last of these is dropped, which may be long after
    /// the place was given back.
    pub fn attempt(&self) -> &Arc<Attempt> {
        &self.attempt
    }

    /// The backend has ended its answer, which is still kept.
    pub(super) fn give_back(&mut self) {
        if std::mem::take(&mut self.held) {
            self.backend.leave();
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.give_back();
    }
}
