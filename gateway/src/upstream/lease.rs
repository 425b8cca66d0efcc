//! A place at a backend, held while it answers.

use super::backend::Backend;
use std::sync::Arc;

/// Holds one request's place; dropping it gives the place back.
pub struct Lease {
    backend: Arc<Backend>,
}

impl Lease {
    /// Takes a place at `backend`, if there is one.
    pub(super) fn take(backend: &Arc<Backend>) -> Option<Self> {
        backend.enter().then(|| Self { backend: backend.clone() })
    }

    /// Whose place it is.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.leave();
    }
}
