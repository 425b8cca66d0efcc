//! Answers that several requests wait for: one of them asks the backend, the others read what it gets.
//!
//! Each such answer is a flight. Whoever comes first leads it: its answer is recorded by a [`Recorder`] while it passes.
//! Whoever comes while it is under way reads the [`Recording`]. If the leader gets no answer, one of those who wait leads
//! the next flight, and only one, since a flight is begun under a lock and found by all others.

mod metrics;
mod recorder;
mod told;

use crate::cache_key::CacheKey;
use crate::recording::{Reader, Recording};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use metrics::{Counts, FLIGHTS, FlightMetrics, KEPT, KEYS, WAITING};
pub(crate) use metrics::{Waits, count};
pub use recorder::{Recorder, Seat};
pub use told::{Form, Told, tell};

/// Flights under way, by what they answer.
pub struct Flights {
    counts: Arc<Counts>,
    // In parts, so that requests for different things do not wait for each other.
    parts: [Mutex<HashMap<CacheKey, Arc<Recording>>>; PARTS],
}

const PARTS: usize = 16;

/// What a request finds.
pub enum Joined {
    /// Nobody asks for this yet: ask, and record the answer from this seat.
    Lead(Arc<Recording>, Boarded),
    /// Somebody does.
    Follow(Reader),
    /// Somebody does, but the beginning of what it gets is gone already.
    TooLate,
}

/// The leader's place among the flights: who comes finds it there until it is given up.
pub struct Boarded {
    flights: Arc<Flights>,
    key: CacheKey,
    recording: Arc<Recording>,
    counts: Arc<Counts>,
}

impl Flights {
    /// No flights yet; what becomes of them is counted.
    pub fn new(counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { counts, parts: Default::default() })
    }

    /// Joins the flight to `key`, or begins one with a recording made by `begin`. Whoever comes from another that failed
    /// joins the one that followed it, even if that is over too: so it is known how often an answer was tried for.
    pub fn join(
        self: &Arc<Self>,
        key: CacheKey,
        failed: Option<&Arc<Recording>>,
        begin: impl FnOnce() -> Arc<Recording>,
    ) -> Joined {
        let mut part = self.part(&key);
        let found = failed.and_then(|failed| failed.successor().get()).or_else(|| part.get(&key));
        if let Some(recording) = found {
            return recording.reader().map_or(Joined::TooLate, Joined::Follow);
        }
        let recording = begin();
        if let Some(failed) = failed {
            let _ = failed.successor().set(recording.clone());
        }
        part.insert(key, recording.clone());
        drop(part);
        let boarded = Boarded { flights: self.clone(), key, recording: recording.clone(), counts: self.counts.clone() };
        Joined::Lead(recording, boarded)
    }

    /// How many are under way.
    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    fn part(&self, key: &CacheKey) -> MutexGuard<'_, HashMap<CacheKey, Arc<Recording>>> {
        self.parts[usize::from(key.0[0]) % PARTS].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat for Boarded {
    fn leave(&mut self, good: bool) {
        if !good {
            count(&self.counts.flights.failed);
        }
        let mut part = self.flights.part(&self.key);
        if part.get(&self.key).is_some_and(|recording| Arc::ptr_eq(recording, &self.recording)) {
            part.remove(&self.key);
        }
    }
}
