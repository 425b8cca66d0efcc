//! `round_robin`: each backend in turn, as often as its weight says.

use crate::balancer::{Balancer, BalancerPlugin, Field};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use schemars::JsonSchema;
use serde::Deserialize;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Each in turn: out of every sum-of-weights requests each backend gets its weight, and a heavy one's turns are spread
/// over the round. One that cannot take its turn passes it on.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

/// Turns that are passed on before all backends are gone through.
const PASSES: usize = 16;

/// Each backend in turn, as often as its weight says. One that cannot take its turn passes it on.
#[derive(Debug, Default, Clone, Copy, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {}

impl Balancer for RoundRobin {
    fn pick(&self, _: &Exchange, field: &dyn Field) -> Option<usize> {
        let members = field.members();
        let total = usize::try_from(members.total_weight()).unwrap_or(usize::MAX);
        if total == 0 {
            return None;
        }
        // A stride coprime to the total visits every slot once a round and spreads a heavy backend's turns out
        // instead of giving them in a row.
        let stride = if members.are_alike() { 1 } else { stride(total) };
        let open = |position: usize| field.candidate(position).is_some();
        for _ in 0..PASSES {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let slot = (turn % total).wrapping_mul(stride) % total;
            let position = members.at_weight(slot as u64);
            if open(position) {
                return Some(position);
            }
        }
        let (start, count) = (self.turn.load(Ordering::Relaxed), members.len());
        (0..count).map(|step| start.wrapping_add(step) % count).find(|position| open(*position))
    }
}

impl BalancerPlugin for RoundRobin {
    const NAME: &'static str = "round_robin";
    type Settings = Settings;

    fn new(_: Settings) -> Result<Self, Vec<SettingsError>> {
        Ok(Self::default())
    }
}

/// A number near 0.618 of `total` and coprime to it.
fn stride(total: usize) -> usize {
    let start = (total * 618 / 1000).max(1);
    (start..).find(|&stride| gcd(stride, total) == 1).unwrap_or(1)
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Backends};

    fn share(field: &Backends, turns: usize) -> Vec<usize> {
        let (balancer, exchange) = (RoundRobin::default(), testing::exchange("{}"));
        let mut picked = vec![0; field.list.len()];
        (0..turns).for_each(|_| picked[balancer.pick(&exchange, field).unwrap()] += 1);
        picked
    }

    #[test]
    fn each_backend_gets_its_weight_out_of_every_round() {
        assert_eq!(share(&Backends::weighing(&[1, 1, 1]), 9), [3, 3, 3]);
        assert_eq!(share(&Backends::weighing(&[5, 2, 1]), 8), [5, 2, 1]);
        assert_eq!(share(&Backends::weighing(&[90, 10]), 100), [90, 10]);
    }

    #[test]
    fn a_heavy_backend_does_not_get_its_turns_in_a_row() {
        let (balancer, exchange) = (RoundRobin::default(), testing::exchange("{}"));
        let field = Backends::weighing(&[5, 5, 1]);
        let turns: Vec<_> = (0..110).map(|_| balancer.pick(&exchange, &field).unwrap()).collect();
        let longest = turns.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
        assert!(longest <= Some(2), "{turns:?}");
    }

    #[test]
    fn who_cannot_take_a_turn_passes_it_on() {
        let mut field = Backends::weighing(&[1, 1, 1]);
        field.closed.insert(2);
        assert_eq!(share(&field, 100), [50, 50, 0]);
        field.closed.insert(0);
        assert_eq!(share(&field, 10), [0, 10, 0]);
        field.closed.insert(1);
        assert_eq!(RoundRobin::default().pick(&testing::exchange("{}"), &field), None);
    }
}
