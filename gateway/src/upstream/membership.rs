//! Who is in a pool now, and who of them could take a request: what a balancer picks from.

use super::backend::Backend;
use super::breaker::State;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use tidegate_config::Breaker;
use tidegate_plugins::balancer::{Candidate, Field, Member, Members};

/// The backends of a pool, arranged once whenever they change.
#[derive(Default)]
pub struct Membership {
    /// All of them, in the order of the file.
    pub backends: Vec<Arc<Backend>>,
    members: Members,
    /// For models that some of them have and others do not: who has it.
    holders: HashMap<u64, Holders>,
}

/// The backends that have a model.
struct Holders {
    members: Members,
    /// Where each of them stands among all.
    places: Vec<usize>,
}

impl Membership {
    /// These backends, with what each says it serves.
    pub fn new(backends: Vec<Arc<Backend>>) -> Self {
        let members: Vec<Member> = backends.iter().map(|backend| backend.member.clone()).collect();
        let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
        // Who does not say what it serves may have everything: what is not known is nothing against it.
        let mut silent = Vec::new();
        for (place, backend) in backends.iter().enumerate() {
            let serves = backend.serves.load();
            for model in serves.ids() {
                places.entry(*model).or_default().push(place);
            }
            if serves.models.is_empty() {
                silent.push(place);
            }
        }
        for places in places.values_mut() {
            places.extend(&silent);
        }
        let some = places.into_iter().filter(|(_, places)| places.len() < backends.len());
        let holders = some
            .map(|(model, places)| {
                let members = Members::new(places.iter().map(|place| members[*place].clone()).collect());
                (model, Holders { members, places })
            })
            .collect();
        Self { backends, members: Members::new(members), holders }
    }
}

/// One request's view of a pool.
pub(super) struct View<'a> {
    membership: &'a Membership,
    holders: Option<&'a Holders>,
    pub(super) tried: &'a [Arc<Backend>],
    pub(super) model: u64,
    pub(super) breaker: Option<&'a Breaker>,
    pub(super) now: Instant,
    pub(super) in_flight: usize,
    pub(super) leniency: Leniency,
}

/// What a backend is forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Leniency {
    /// Nothing: one that has just come back gets a part of its share.
    None,
    /// That it has just come back.
    Recovering,
    /// That it is down, or was left alone.
    Panic,
}

impl<'a> View<'a> {
    pub(super) fn new(
        membership: &'a Membership,
        model: u64,
        tried: &'a [Arc<Backend>],
        breaker: Option<&'a Breaker>,
        in_flight: usize,
    ) -> Self {
        let (now, leniency) = (Instant::now(), Leniency::None);
        // Those that have the model in memory are asked first; if none of them can, all are.
        let holders = membership.holders.get(&model);
        Self { membership, holders, tried, model, breaker, now, in_flight, leniency }
    }

    /// From now on all are looked at, whether they have the model or not; whether that makes a difference.
    pub(super) fn widen(&mut self) -> bool {
        self.holders.take().is_some()
    }

    pub(super) fn backend(&self, position: usize) -> &'a Arc<Backend> {
        &self.membership.backends[self.holders.map_or(position, |holders| holders.places[position])]
    }

    /// Whether requests may go there at all.
    pub(super) fn is_open(&self, backend: &Arc<Backend>) -> bool {
        if backend.is_draining()
            || backend.holdoff.left().is_some()
            || self.tried.iter().any(|other| Arc::ptr_eq(other, backend))
        {
            return false;
        }
        self.leniency == Leniency::Panic || backend.health.is_up() && self.is_trusted(backend)
    }

    fn is_trusted(&self, backend: &Backend) -> bool {
        self.breaker.is_none() || backend.breakers.find(self.model).is_none_or(|breaker| breaker.admits(self.now))
    }

    /// Whether one that has come back not long ago gets this request.
    fn gets_its_part(&self, backend: &Backend) -> bool {
        let Some(breaker) = self.breaker.filter(|_| self.leniency == Leniency::None) else { return true };
        backend.is_warmed_up(self.now, breaker.slow_start)
    }

    /// How many are up and trusted, of how many that are not draining.
    pub(super) fn available(&self) -> (usize, usize) {
        let staying = || self.membership.backends.iter().filter(|backend| !backend.is_draining());
        let is_well = |backend: &&Arc<Backend>| {
            let closed = |breaker: Arc<super::breaker::Breaker>| breaker.state(self.now) == State::Closed;
            backend.health.is_up() && backend.breakers.find(self.model).is_none_or(closed)
        };
        (staying().filter(is_well).count(), staying().count())
    }
}

impl Field for View<'_> {
    fn members(&self) -> &Members {
        self.holders.map_or(&self.membership.members, |holders| &holders.members)
    }

    fn candidate(&self, position: usize) -> Option<Candidate> {
        let backend = self.backend(position);
        if !self.is_open(backend) || !self.gets_its_part(backend) {
            return None;
        }
        let candidate = backend.candidate(self.now);
        candidate.capacity.is_none_or(|capacity| candidate.in_flight < capacity).then_some(candidate)
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }
}
