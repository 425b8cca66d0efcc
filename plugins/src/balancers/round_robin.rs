//! `round_robin`: each backend in turn, as often as its weight says.

use crate::balancer::{Balancer, Candidate};
use crate::exchange::Exchange;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns over the candidates' weights: out of every sum-of-weights requests each candidate gets its weight.
#[derive(Debug, Default)]
pub struct RoundRobin {
    turn: AtomicUsize,
}

impl Balancer for RoundRobin {
    fn pick(&self, _: &Exchange, candidates: &[Candidate<'_>]) -> usize {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let total: usize = candidates.iter().map(|candidate| candidate.weight as usize).sum();
        if total == candidates.len() {
            return turn % candidates.len();
        }
        // A stride coprime to the total visits every slot once a round and spreads a heavy backend's turns out
        // instead of giving them in a row.
        let slot = (turn % total).wrapping_mul(stride(total)) % total;
        let mut passed = 0;
        candidates
            .iter()
            .position(|candidate| {
                passed += candidate.weight as usize;
                slot < passed
            })
            .unwrap_or(0)
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
    use crate::testing;

    fn share(weights: &[u32], turns: usize) -> Vec<usize> {
        let names = ["a", "b", "c"];
        let candidates: Vec<_> = weights
            .iter()
            .zip(names)
            .map(|(&weight, name)| Candidate { name, weight, in_flight: 0, capacity: None })
            .collect();
        let (balancer, exchange) = (RoundRobin::default(), testing::exchange("{}"));
        let mut picked = vec![0; weights.len()];
        for _ in 0..turns {
            picked[balancer.pick(&exchange, &candidates)] += 1;
        }
        picked
    }

    #[test]
    fn each_backend_gets_its_weight_out_of_every_round() {
        assert_eq!(share(&[1, 1, 1], 9), [3, 3, 3]);
        assert_eq!(share(&[5, 2, 1], 8), [5, 2, 1]);
        assert_eq!(share(&[90, 10], 100), [90, 10]);
    }
}
