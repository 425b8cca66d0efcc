//! `least_busy`: the less loaded of two random candidates.

use crate::balancer::{Balancer, Candidate};
use crate::exchange::Exchange;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two choices spread load nearly as well as looking at all, and do not send everybody to the same backend when
/// several gateways look at the same moment. With few candidates all are looked at.
#[derive(Debug, Default)]
pub struct LeastBusy {
    state: AtomicU64,
}

/// Up to here looking at all costs no more than drawing two.
const LOOK_AT_ALL: usize = 8;

impl Balancer for LeastBusy {
    fn pick(&self, _: &Exchange, candidates: &[Candidate<'_>]) -> usize {
        let random = self.random();
        let count = candidates.len();
        let start = (random as usize) % count;
        let looked_at = if count <= LOOK_AT_ALL { count } else { 2 };
        let step = if count <= LOOK_AT_ALL { 1 } else { 1 + (random >> 32) as usize % (count - 1) };
        let bounded = candidates.iter().all(|candidate| candidate.capacity.is_some());
        (0..looked_at)
            .map(|i| (start + i * step) % count)
            .min_by(|&a, &b| load(&candidates[a], bounded).total_cmp(&load(&candidates[b], bounded)))
            .unwrap_or(start)
    }
}

impl LeastBusy {
    /// Weyl sequence and a mix: good enough to spread, and one atomic add.
    fn random(&self) -> u64 {
        let mut x = self.state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// How full a candidate would be with one more: against its capacity if all have one, against its weight otherwise.
fn load(candidate: &Candidate<'_>, bounded: bool) -> f64 {
    let room = candidate.capacity.filter(|_| bounded).map_or(f64::from(candidate.weight), |capacity| capacity as f64);
    (candidate.in_flight + 1) as f64 / room
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn candidates(load: &[usize]) -> Vec<Candidate<'static>> {
        load.iter().map(|&in_flight| Candidate { name: "b", weight: 1, in_flight, capacity: None }).collect()
    }

    #[test]
    fn the_emptiest_of_a_few_is_picked() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        assert!((0..50).all(|_| balancer.pick(&exchange, &candidates(&[3, 1, 2])) == 1));
    }

    #[test]
    fn equals_are_picked_alike() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let mut picked = [0; 4];
        (0..4000).for_each(|_| picked[balancer.pick(&exchange, &candidates(&[0; 4]))] += 1);
        assert!(picked.iter().all(|&n| (800..1200).contains(&n)), "{picked:?}");
    }

    #[test]
    fn the_busiest_of_many_is_avoided() {
        let (balancer, exchange) = (LeastBusy::default(), testing::exchange("{}"));
        let mut load = vec![1; 100];
        load[7] = 50;
        assert!((0..1000).all(|_| balancer.pick(&exchange, &candidates(&load)) != 7));
    }
}
