//! A place at a backend, held while it answers.

use super::attempt::Attempt;
use super::backend::Backend;
use std::sync::Arc;

/// Holds one request's place; dropping it gives the place back.
pub struct Lease {
    backend: Arc<Backend>,
    attempt: Arc<Attempt>,
}

impl Lease {
    pub(super) fn new(backend: &Arc<Backend>, attempt: Attempt) -> Self {
        Self { backend: backend.clone(), attempt: Arc::new(attempt) }
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
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.leave();
    }
}
