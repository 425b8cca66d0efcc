//! The contract between a pool and what picks a backend from it.

use crate::exchange::Exchange;

/// A backend that could take the request now.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The backend's name within its pool.
    pub name: &'a str,
    /// Its share relative to others, at least 1.
    pub weight: u32,
    /// Requests it is answering now.
    pub in_flight: usize,
    /// How many it takes at once, if bounded.
    pub capacity: Option<usize>,
}

/// Picks one backend. Shared by all requests of a pool; a pick must be quick and take no lock that waits.
pub trait Balancer: Send + Sync {
    /// The index of the chosen candidate. `candidates` is never empty.
    fn pick(&self, exchange: &Exchange, candidates: &[Candidate<'_>]) -> usize;
}
