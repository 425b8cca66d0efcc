//! `prefix_affinity`: where the beginning of the prompt was computed before, its KV cache is warm.
//!
//! A prompt's beginning is known by the [`path`] it takes through a tree whose branches are pieces of prompts; the
//! [`tree`] remembers which backends were sent down which path. It is approximate in that pieces are known by a hash,
//! old ones are forgotten when room is needed, and nobody asks the backends what they really kept.
//!
//! Affinity alone would send everything that shares a system prompt to one backend. So the warmest backend is only taken
//! while it has no more than its share, times `imbalance`: of the requests in flight, and of the [`recent`] work. Beyond
//! that the next warmest is looked at, and in the end the less loaded of two, which is warm from then on as well.

mod path;
mod recent;
mod tree;

use super::choices::{Random, choose};
use super::per_member::PerMember;
use crate::balancer::{Balancer, BalancerPlugin, Candidate, Field};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use crate::store::Clock;
use path::Path;
use recent::Recent;
use schemars::JsonSchema;
use serde::Deserialize;
use tree::{HOLDERS, Tree, Warm};

/// The backend that was last sent the longest beginning of this prompt gets the request: any turn of a conversation goes
/// where the turns before went. Per organisation (or key), and per model. A backend that has more than its share is left
/// alone, warm or not.
#[derive(Debug)]
pub struct PrefixAffinity {
    tree: Tree,
    work: PerMember<Recent>,
    total: Recent,
    random: Random,
    clock: Clock,
    imbalance: f64,
}

/// The backend that was last sent the longest beginning of this prompt gets the request, while it has no more than its
/// share: any turn of a conversation goes where the KV cache is warm. Per organisation (or key), and per model.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many times its share of the requests in flight, and of the work of the last seconds, a backend may have and
    /// still be given what it is warm for.
    #[schemars(range(min = 1.05, max = 100.0))]
    pub imbalance: f64,
    /// Pieces of prompts that are remembered, 16 bytes each. A piece is 256 bytes at the beginning of a prompt, 1 KiB and
    /// 4 KiB further on.
    #[schemars(range(min = 1024, max = 134_217_728))]
    pub pieces: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { imbalance: 1.25, pieces: 1 << 19 }
    }
}

/// Work that a request is besides its prompt, in bytes of prompt.
const REQUEST: u64 = 1024;

/// Requests in flight beyond its share that are no imbalance, and such of the last seconds: with little to do, it does
/// not matter who does it.
const SLACK: f64 = 2.0;
const RECENT_SLACK: f64 = 8.0;

/// One pick's view.
struct Look<'a> {
    field: &'a dyn Field,
    /// Milliseconds since the start.
    now: u64,
    /// What this request is.
    work: u64,
}

impl PrefixAffinity {
    /// The same with another clock: for replays, which take less time than what they replay.
    #[must_use]
    pub fn with_clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Whether the backend has no more than it should, this request included.
    fn has_room(&self, look: &Look<'_>, position: usize, candidate: &Candidate) -> bool {
        let members = look.field.members();
        let share = members.share(position) * self.imbalance;
        let fair = (look.field.in_flight() as f64 + 1.0) * share;
        let recent = self.work.of(members.as_slice()[position].id).now(look.now) as f64 + look.work as f64;
        let all = self.total.now(look.now) as f64 + look.work as f64;
        candidate.load() <= fair + SLACK && recent <= all * share + RECENT_SLACK * look.work as f64
    }

    /// The warmest that has room; among equally warm ones the one that has less to do.
    fn warmest(&self, look: &Look<'_>, warm: &mut [Warm]) -> Option<usize> {
        warm.sort_unstable_by_key(|warm| std::cmp::Reverse(warm.bytes));
        let mut best: Option<(usize, f64, usize)> = None;
        for warm in warm.iter() {
            if best.as_ref().is_some_and(|(_, _, bytes)| warm.bytes < *bytes) {
                break;
            }
            let Some(position) = look.field.members().position(warm.member) else { continue };
            let Some(candidate) = look.field.candidate(position) else { continue };
            let busy = self.busy(look, position, &candidate);
            if best.as_ref().is_none_or(|(_, known, _)| busy < *known) && self.has_room(look, position, &candidate) {
                best = Some((position, busy, warm.bytes));
            }
        }
        best.map(|(position, ..)| position)
    }

    /// How much a backend has to do next to the others: now, and lately.
    fn busy(&self, look: &Look<'_>, position: usize, candidate: &Candidate) -> f64 {
        let members = look.field.members();
        let count = members.len().max(1) as f64;
        let (now, lately) = (look.field.in_flight() as f64 / count, self.total.now(look.now) as f64 / count);
        let recent = self.work.get(members.as_slice()[position].id).map_or(0, |work| work.now(look.now));
        (candidate.load() / now.max(1.0) + recent as f64 / lately.max(1.0)) / f64::from(candidate.weight)
    }

    /// The one of two that has less to do.
    fn idlest(&self, look: &Look<'_>) -> Option<usize> {
        choose(&self.random, look.field, |one, first, other, second| {
            self.busy(look, one, first) < self.busy(look, other, second)
        })
    }
}

impl Balancer for PrefixAffinity {
    fn pick(&self, exchange: &Exchange, field: &dyn Field) -> Option<usize> {
        let path = Path::of(exchange);
        let now = u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        let look = Look { field, now, work: REQUEST + path.bytes() as u64 };
        let mut warm = [Warm::default(); HOLDERS];
        let found = self.tree.find(&path, &mut warm);
        let picked = self.warmest(&look, &mut warm[..found]).or_else(|| self.idlest(&look))?;
        let member = field.members().as_slice()[picked].id;
        self.tree.remember(&path, member, now);
        self.work.of(member).add(look.work, now);
        self.total.add(look.work, now);
        Some(picked)
    }
}

impl BalancerPlugin for PrefixAffinity {
    const NAME: &'static str = "prefix_affinity";
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        if !(1.05..=100.0).contains(&settings.imbalance) {
            faults.push(SettingsError::at("imbalance", "`imbalance` is 1.05 to 100 times a backend's share"));
        }
        if !(1024..=1 << 27).contains(&settings.pieces) {
            faults.push(SettingsError::at("pieces", "`pieces` is 1024 to 134217728"));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Self {
            tree: Tree::new(settings.pieces),
            work: PerMember::default(),
            total: Recent::default(),
            random: Random::default(),
            clock: Clock::default(),
            imbalance: settings.imbalance,
        })
    }
}

#[cfg(test)]
mod tests;
