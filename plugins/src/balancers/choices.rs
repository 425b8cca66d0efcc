//! The power of two choices: the better of two random candidates. Nearly as even as looking at all, at a cost that does
//! not grow with the pool, and without sending everybody to the same backend when several gateways look at one moment.

use crate::balancer::{Candidate, Field};
use std::sync::atomic::{AtomicU64, Ordering};

/// Up to here looking at all costs no more than drawing two.
const LOOK_AT_ALL: usize = 8;

/// How often a backend that cannot take the request is drawn again before all are gone through.
const DRAWS: usize = 16;

/// Good enough to spread: a Weyl sequence and a mix, one atomic addition a number.
#[derive(Debug, Default)]
pub(super) struct Random(AtomicU64);

impl Random {
    pub(super) fn next(&self) -> u64 {
        mix(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed))
    }
}

/// Spreads a number over all bits.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The better of two candidates drawn from `field`, or the best of all where there are few. `better` says whether the
/// first is to be preferred.
pub(super) fn choose(
    random: &Random,
    field: &dyn Field,
    better: impl Fn(usize, &Candidate, usize, &Candidate) -> bool,
) -> Option<usize> {
    let count = field.members().len();
    if count == 0 {
        return None;
    }
    let drawn = random.next();
    let start = (drawn >> 32) as usize % count;
    let mut best: Option<(usize, Candidate)> = None;
    let mut looked_at = 0;
    let mut look = |position: usize, looked_at: &mut usize| {
        // Drawn twice is no choice.
        if best.as_ref().is_some_and(|(known, _)| *known == position) {
            return;
        }
        let Some(candidate) = field.candidate(position) else { return };
        *looked_at += 1;
        if best.as_ref().is_none_or(|(other, known)| better(position, &candidate, *other, known)) {
            best = Some((position, candidate));
        }
    };
    if count > LOOK_AT_ALL {
        for draw in 0..DRAWS {
            if looked_at == 2 {
                break;
            }
            look(mix(drawn.wrapping_add(draw as u64)) as usize % count, &mut looked_at);
        }
    }
    // Few, or hardly any that is free: one after the other.
    if looked_at == 0 {
        let enough = if count <= LOOK_AT_ALL { count } else { 2 };
        for step in 0..count {
            if looked_at == enough {
                break;
            }
            look((start + step) % count, &mut looked_at);
        }
    }
    best.map(|(position, _)| position)
}
