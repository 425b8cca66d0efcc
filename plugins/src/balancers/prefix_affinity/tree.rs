//! Which backends were sent which beginnings of prompts: a table of bounded size, without locks.
//!
//! The branches of the tree are not linked: a piece's hash holds all pieces before it, so that a lookup finds the node
//! where it would stand. Each lies in a bucket of four places, one cache line; a new one takes the place of the one in its
//! bucket that was used longest ago. A node that several backends are warm for has several places.
//!
//! Two words of a place that are written at the same time by two requests may not belong together. Then somebody is sent
//! to a cold backend.

use super::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Backends that are looked at as holders of one prompt.
pub(super) const HOLDERS: usize = 8;

const WAYS: usize = 4;

/// When a place was used last, in ticks of 2^7 ms: 24 bits hold three weeks.
const TICK: u32 = 7;
const STAMP: u64 = (1 << 24) - 1;

#[derive(Debug, Default)]
struct Place {
    /// The piece; 0 if nobody is here.
    hash: AtomicU64,
    /// The member, and when it was used last.
    member: AtomicU64,
}

/// Four places in one line of the processor's cache.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Bucket([Place; WAYS]);

/// A backend, and how much of a prompt it was sent before.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Warm {
    pub(super) member: u64,
    /// Of the prompt.
    pub(super) bytes: usize,
    pieces: usize,
}

#[derive(Debug)]
pub(in crate::balancers) struct Tree(Box<[Bucket]>);

impl Tree {
    pub(in crate::balancers) fn new(pieces: usize) -> Self {
        Self((0..pieces.div_ceil(WAYS).next_power_of_two()).map(|_| Bucket::default()).collect())
    }

    fn bucket(&self, hash: u64) -> &[Place; WAYS] {
        &self.0[hash as usize & (self.0.len() - 1)].0
    }

    /// Who was sent the beginning of this prompt before; how many there are.
    pub(super) fn find(&self, path: &Path, warm: &mut [Warm; HOLDERS]) -> usize {
        let mut found = 0;
        for (passed, hash) in path.hashes().iter().enumerate() {
            let mut known = false;
            for place in self.bucket(*hash).iter().filter(|place| place.hash.load(Relaxed) == *hash) {
                known = true;
                let member = place.member.load(Relaxed) >> 24;
                match warm[..found].iter_mut().find(|warm| warm.member == member) {
                    Some(warm) => warm.pieces = passed + 1,
                    None if found < HOLDERS => {
                        warm[found] = Warm { member, bytes: 0, pieces: passed + 1 };
                        found += 1;
                    }
                    None => {}
                }
            }
            if !known {
                break;
            }
        }
        for warm in &mut warm[..found] {
            warm.bytes = Path::length_of(warm.pieces);
        }
        found
    }

    /// From now on `member` is warm for this prompt. Its beginning is noted last: where two of its pieces are in want of one
    /// place the later one goes, since what comes after a missing piece is not found.
    pub(super) fn remember(&self, path: &Path, member: u64, now: u64) {
        path.hashes().iter().rev().for_each(|hash| self.note(*hash, member, now));
    }

    /// Whoever was noted for this hash last.
    pub(in crate::balancers) fn last(&self, hash: u64) -> Option<u64> {
        let noted = self.bucket(hash).iter().filter(|place| place.hash.load(Relaxed) == hash);
        let value = noted.map(|place| place.member.load(Relaxed)).max_by_key(|value| value & STAMP)?;
        Some(value >> 24)
    }

    /// Notes `member` for this hash, which is not 0; `now` is in milliseconds.
    pub(in crate::balancers) fn note(&self, hash: u64, member: u64, now: u64) {
        let value = member << 24 | (now >> TICK) & STAMP;
        let places = self.bucket(hash);
        let is_here = |place: &&Place| place.hash.load(Relaxed) == hash && place.member.load(Relaxed) >> 24 == member;
        let age = |place: &&Place| match place.hash.load(Relaxed) {
            0 => u64::MAX,
            _ => value.wrapping_sub(place.member.load(Relaxed)) & STAMP,
        };
        // Of places used in the same tick not always the same one goes.
        let (before, after) = places.split_at((hash >> 62) as usize);
        let place = places.iter().find(is_here).or_else(|| after.iter().chain(before).max_by_key(age));
        if let Some(place) = place {
            place.hash.store(hash, Relaxed);
            place.member.store(value, Relaxed);
        }
    }
}
