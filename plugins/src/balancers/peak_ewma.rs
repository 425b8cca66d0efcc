//! `peak_ewma`: where the first token is expected soonest.

use super::choices::{Random, choose};
use super::per_member::PerMember;
use crate::balancer::{Balancer, BalancerPlugin, Candidate, Field, Members, Observed};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Of two random backends the one where the first token is expected sooner: its average time to first token, times the
/// requests it has. The average follows a slow answer at once and forgets it over `memory`; a fault counts as a slow
/// answer. For pools of backends that are not equally fast.
#[derive(Debug)]
pub struct PeakEwma {
    random: Random,
    averages: PerMember<Average>,
    began: Instant,
    memory: f64,
}

/// Of two random backends the one where the first token is expected sooner: its average time to first token, times the
/// requests it has. For pools of backends that are not equally fast.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// After so many seconds a past answer counts for a third.
    #[schemars(range(min = 1, max = 3600))]
    pub memory: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { memory: 10 }
    }
}

/// What a fault counts as, at least: otherwise a backend that fails fast would look like the fastest.
const FAULT: Duration = Duration::from_secs(1);

/// Seconds, in two words of an atomic each; a torn pair is an average that is a little off.
#[derive(Debug, Default)]
struct Average {
    seconds: AtomicU64,
    at: AtomicU64,
    /// One at a time takes in a new answer; readers do not care.
    writing: Mutex<()>,
}

impl Average {
    /// The average at `now`: it has sunk since it was last told. None as long as nothing is known.
    fn now(&self, now: f64, memory: f64) -> Option<f64> {
        let seconds = f64::from_bits(self.seconds.load(Ordering::Relaxed));
        let at = f64::from_bits(self.at.load(Ordering::Relaxed));
        (at > 0.0).then(|| seconds * (-(now - at).max(0.0) / memory).exp())
    }

    fn take_in(&self, seconds: f64, now: f64, memory: f64) {
        let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let at = f64::from_bits(self.at.load(Ordering::Relaxed));
        let known = f64::from_bits(self.seconds.load(Ordering::Relaxed));
        let weight = (-(now - at).max(0.0) / memory).exp();
        let average = match at > 0.0 && seconds < known {
            true => known * weight + seconds * (1.0 - weight),
            // A peak is believed at once.
            false => seconds,
        };
        self.seconds.store(average.to_bits(), Ordering::Relaxed);
        self.at.store(now.max(f64::MIN_POSITIVE).to_bits(), Ordering::Relaxed);
    }
}

impl PeakEwma {
    fn now(&self) -> f64 {
        // From one on: zero is what has never been told.
        1.0 + self.began.elapsed().as_secs_f64()
    }

    /// What a request would wait there; one of which nothing is known is tried out.
    fn cost(&self, members: &Members, position: usize, candidate: &Candidate, now: f64) -> f64 {
        let average = self.averages.get(members.as_slice()[position].id);
        let average = average.and_then(|average| average.now(now, self.memory)).unwrap_or(0.0);
        // Even where the average has sunk to nothing, the busier one is the worse one.
        (average + 1e-6) * candidate.load() / f64::from(candidate.weight)
    }
}

impl Balancer for PeakEwma {
    fn pick(&self, _: &Exchange, field: &dyn Field) -> Option<usize> {
        let (members, now) = (field.members(), self.now());
        choose(&self.random, field, |one, first, other, second| {
            self.cost(members, one, first, now) < self.cost(members, other, second, now)
        })
    }

    fn observe(&self, member: u64, what: Observed) {
        let now = self.now();
        match what {
            Observed::FirstToken(time) => {
                self.averages.of(member).take_in(time.as_secs_f64(), now, self.memory);
            }
            Observed::Failed => {
                let average = self.averages.of(member);
                let known = average.now(now, self.memory).unwrap_or(0.0);
                average.take_in((2.0 * known).max(FAULT.as_secs_f64()), now, self.memory);
            }
            Observed::Started | Observed::Ended => {}
        }
    }
}

impl BalancerPlugin for PeakEwma {
    const NAME: &'static str = "peak_ewma";
    type Settings = Settings;

    fn new(settings: Settings) -> Result<Self, Vec<SettingsError>> {
        if !(1..=3600).contains(&settings.memory) {
            return Err(vec![SettingsError::at("memory", "`memory` is 1 to 3600 seconds")]);
        }
        let (random, averages, began) = (Random::default(), PerMember::default(), Instant::now());
        Ok(Self { random, averages, began, memory: settings.memory as f64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Backends};

    fn shares(balancer: &PeakEwma, field: &Backends) -> Vec<usize> {
        let (exchange, mut picked) = (testing::exchange("{}"), vec![0; field.list.len()]);
        (0..1000).for_each(|_| picked[balancer.pick(&exchange, field).unwrap()] += 1);
        picked
    }

    fn told(times: &[u64]) -> (PeakEwma, Backends) {
        let (balancer, field) = (PeakEwma::new(Settings::default()).unwrap(), Backends::busy(&vec![0; times.len()]));
        for (member, time) in field.members().as_slice().iter().zip(times) {
            balancer.observe(member.id, Observed::FirstToken(Duration::from_millis(*time)));
        }
        (balancer, field)
    }

    #[test]
    fn the_faster_one_is_asked_until_it_is_busier_than_it_is_faster() {
        let (balancer, mut field) = told(&[300, 100]);
        assert_eq!(shares(&balancer, &field), [0, 1000]);
        field.list[1].in_flight = 2;
        field.list[0].in_flight = 1;
        assert_eq!(shares(&balancer, &field), [0, 1000]);
        field.list[1].in_flight = 8;
        assert_eq!(shares(&balancer, &field), [1000, 0]);
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_a_fast_one_bit_by_bit() {
        let average = Average::default();
        average.take_in(0.1, 1.0, 10.0);
        average.take_in(2.0, 2.0, 10.0);
        assert_eq!(average.now(2.0, 10.0), Some(2.0));
        average.take_in(0.1, 3.0, 10.0);
        let after = average.now(3.0, 10.0).unwrap();
        assert!((1.7..1.9).contains(&after), "{after}");
        assert!(average.now(33.0, 10.0).unwrap() < 0.2, "what was is forgotten");
    }

    #[test]
    fn a_backend_that_fails_fast_does_not_look_fast() {
        let (balancer, field) = told(&[300, 1]);
        let id = field.members().as_slice()[1].id;
        balancer.observe(id, Observed::Failed);
        assert_eq!(shares(&balancer, &field), [1000, 0]);
    }

    #[test]
    fn who_is_new_is_tried() {
        let (balancer, field) = (PeakEwma::new(Settings::default()).unwrap(), Backends::busy(&[0, 0]));
        balancer.observe(field.members().as_slice()[0].id, Observed::FirstToken(Duration::from_millis(5)));
        assert_eq!(shares(&balancer, &field), [0, 1000]);
    }
}
