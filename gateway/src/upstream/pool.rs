//! A pool: backends that answer for the same models, and who among them takes a request.

use super::backend::Backend;
use super::budget::Budget;
use super::lease::Lease;
use super::queue::Queue;
use std::sync::Arc;
use std::time::Duration;
use tidegate_config::{Hold, Retries, Timeouts};
use tidegate_plugins::{Balancer, Candidate, Exchange};

/// Backends that answer for each other.
pub struct Pool {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Who is in it.
    pub backends: Vec<Arc<Backend>>,
    /// Who picks.
    pub balancer: Box<dyn Balancer>,
    /// How long its backends may take.
    pub timeouts: Timeouts,
    /// What is tried again, and how often.
    pub retries: Retries,
    /// How much more is tried again. Kept over a reload that does not change it.
    pub budget: Arc<Budget>,
    /// How much of a stream is held before its client gets any.
    pub hold: Hold,
    /// Where requests wait while all are full. Kept over a reload that does not change it.
    pub queue: Option<Arc<Queue>>,
    /// How long an idle connection is kept.
    pub idle_connections: Duration,
}

/// Why nobody takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBackend {
    /// All are down; ask again after this long, when the next probe has run.
    Down(Duration),
    /// All that are up have as many requests as they take.
    Busy,
    /// All have been tried for this request.
    Tried,
    /// All that are up have said that they want no requests for this long.
    Resting(Duration),
}

/// Backends of a pool by position, as many as are asked about at once.
const INLINE: usize = 16;

impl Pool {
    /// A place at one of the backends that is up, has room and is not in `tried`.
    ///
    /// # Errors
    /// [`NoBackend`] says why there is none.
    pub fn lease(&self, exchange: &Exchange, tried: &[Arc<Backend>]) -> Result<Lease, NoBackend> {
        let open = |backend: &Arc<Backend>| {
            backend.health.is_up() && !is_in(tried, backend) && backend.holdoff.left().is_none()
        };
        if let [only] = &self.backends[..] {
            return match open(only) {
                true => Lease::take(only).ok_or(NoBackend::Busy),
                false => Err(self.why_none(tried)),
            };
        }
        let mut positions = Vec::with_capacity(INLINE);
        let mut candidates = Vec::with_capacity(INLINE);
        for (position, backend) in self.backends.iter().enumerate().filter(|(_, backend)| open(backend)) {
            let (in_flight, settings) = (backend.in_flight(), &backend.settings);
            if settings.max_in_flight.is_none_or(|max| in_flight < max) {
                let capacity = settings.max_in_flight;
                positions.push(position);
                candidates.push(Candidate { name: &settings.name, weight: settings.weight, in_flight, capacity });
            }
        }
        while !candidates.is_empty() {
            let picked = self.balancer.pick(exchange, &candidates).min(candidates.len() - 1);
            if let Some(lease) = Lease::take(&self.backends[positions[picked]]) {
                return Ok(lease);
            }
            // Somebody was faster to the last place there.
            positions.remove(picked);
            candidates.remove(picked);
        }
        Err(self.why_none(tried))
    }

    /// Whether anybody in it is up.
    pub fn is_up(&self) -> bool {
        self.backends.iter().any(|backend| backend.health.is_up())
    }

    /// Whether every backend has been probed at least once.
    pub fn is_known(&self) -> bool {
        self.backends.iter().all(|backend| backend.health.is_known())
    }

    /// How long all that are up want no requests, if they do.
    pub fn rest(&self) -> Option<Duration> {
        let up = self.backends.iter().filter(|backend| backend.health.is_up());
        let rest = up.map(|backend| backend.holdoff.left()).collect::<Option<Vec<_>>>()?;
        rest.into_iter().min()
    }

    fn why_none(&self, tried: &[Arc<Backend>]) -> NoBackend {
        if !self.is_up() {
            let next = self.backends.iter().map(|backend| backend.health.settings().every).min();
            return NoBackend::Down(next.unwrap_or(Duration::from_secs(1)));
        }
        if let Some(rest) = self.rest() {
            return NoBackend::Resting(rest);
        }
        let mut up = self.backends.iter().filter(|backend| backend.health.is_up());
        if up.all(|backend| is_in(tried, backend)) { NoBackend::Tried } else { NoBackend::Busy }
    }
}

fn is_in(tried: &[Arc<Backend>], backend: &Arc<Backend>) -> bool {
    tried.iter().any(|other| Arc::ptr_eq(other, backend))
}
