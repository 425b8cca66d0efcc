//! The contract between a pool and what picks a backend from it.
//!
//! A pool may have thousands of backends, so a pick is never handed a list of those that could take the request: it
//! gets a [`Field`], where it can look at one [`Candidate`] after the other by its position. Most balancers look at two.
//! Positions are good for one pick; what a balancer remembers it keeps by [`Member::id`], which stays the same when
//! backends come and go, over a reload, and on every gateway that has the same file.

mod members;

pub use members::{Member, Members};

use crate::exchange::Exchange;
use crate::filter::SettingsError;
use std::cmp::Ordering;
use std::time::Duration;

/// A backend that could take the request now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// Its share relative to others, at least 1.
    pub weight: u32,
    /// Requests it is answering now for this gateway.
    pub in_flight: usize,
    /// How many it takes at once, if bounded.
    pub capacity: Option<usize>,
    /// Requests it has besides ours, as its own metrics told not long ago; 0 if nothing is known. What is queued there
    /// counts twice, and what was told longer ago counts less.
    pub elsewhere: f32,
    /// How much of its KV cache is taken, 0 to 1; 0 if nothing is known.
    pub cache_used: f32,
}

/// How full the KV cache of an engine may be before it has to throw sequences out to go on.
const CACHE_IS_TIGHT: f32 = 0.9;

impl Candidate {
    /// Requests it would have with one more.
    pub fn load(&self) -> f64 {
        let tight = f64::from((self.cache_used - CACHE_IS_TIGHT).max(0.0) / (1.0 - CACHE_IS_TIGHT));
        (self.in_flight as f64 + 1.0 + f64::from(self.elsewhere)) * (1.0 + tight)
    }

    /// How full it would be with one more, next to `other`: against its capacity if both have one, against its weight
    /// otherwise.
    pub fn compare(&self, other: &Self) -> Ordering {
        let room = |one: &Self| match (self.capacity, other.capacity) {
            (Some(_), Some(_)) => one.capacity.map_or(1.0, |capacity| capacity as f64),
            _ => f64::from(one.weight),
        };
        (self.load() / room(self)).total_cmp(&(other.load() / room(other)))
    }
}

/// The backends of a pool, as one pick sees them.
pub trait Field {
    /// Who could be picked at all: those of the pool, or those of them that have the model in memory.
    fn members(&self) -> &Members;

    /// The backend at `position`, unless it cannot take this request now: it is down, full, draining, was tried before,
    /// or just came back and gets only a part of its share. Asked twice it may answer differently.
    fn candidate(&self, position: usize) -> Option<Candidate>;

    /// Requests that all of them together are answering.
    fn in_flight(&self) -> usize;
}

/// What became of a request at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Observed {
    /// It has a place there.
    Started,
    /// The first token came, so long after the start. For an answer that is no stream: all of it.
    FirstToken(Duration),
    /// It is over there, well or not; always the last that is heard of it.
    Ended,
    /// It failed, and that was the backend's fault.
    Failed,
}

/// Picks one backend. Shared by all requests of a pool; a pick must be quick and take no lock that waits.
pub trait Balancer: Send + Sync {
    /// The position of the chosen candidate; none if nobody can take the request.
    fn pick(&self, exchange: &Exchange, field: &dyn Field) -> Option<usize>;

    /// Hears what became of a request at the backend with this [`Member::id`].
    fn observe(&self, member: u64, what: Observed) {
        let _ = (member, what);
    }
}

/// A balancer with a name and settings, so that a file can ask for it.
pub trait BalancerPlugin: Balancer + Sized + 'static {
    /// The name it has in the file.
    const NAME: &'static str;
    /// Its settings as written, all of them optional: the name alone means the same as no settings. Strict and
    /// documented, since the schema and the docs come from this type.
    type Settings: serde::de::DeserializeOwned + schemars::JsonSchema;

    /// Builds the balancer.
    ///
    /// # Errors
    /// [`SettingsError`] where the settings are well-formed but cannot be meant; all of them at once.
    fn new(settings: Self::Settings) -> Result<Self, Vec<SettingsError>>;
}
