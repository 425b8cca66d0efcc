//! One limit and the buckets of its subjects, in memory that is bounded.
//!
//! Buckets are numbers that change by compare-and-swap; a lock is held only around the map they are in, shared while
//! a bucket is looked up and alone while one is added or forgotten. The map is cut into parts, so that requests of
//! different subjects do not meet. A limit that everybody shares has one bucket and no map.

use super::quota::Quota;
use super::sync::{AtomicI64, AtomicU64, RwLock};
use super::{Level, Subject};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

/// The most subjects one limit keeps apart. Beyond it, new ones share one bucket: the limit still holds, for all of
/// them together.
pub const MAX_SUBJECTS: i64 = 1 << 20;

/// Parts of the map; a power of two.
pub(super) const PARTS: usize = 64;

/// A part is searched for idle buckets at most this often, in ticks: once a second.
const SEARCH_EVERY: u64 = 1_000_000_000 * super::quota::TICKS;

/// What a ledger is opened with.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Names the limit and everything in it that must not change for its buckets to stay.
    pub id: Arc<str>,
    /// Its name in metrics and messages; from the configuration.
    pub label: Arc<str>,
    /// How much.
    pub quota: Quota,
    /// Whether all subjects are one.
    pub shared: bool,
}

/// One limit and its buckets.
#[derive(Debug)]
pub struct Ledger {
    spec: Spec,
    buckets: Buckets,
    overflow: AtomicU64,
    subjects: AtomicI64,
    /// The most subjects that are kept apart.
    most: i64,
    pub(super) counts: Counts,
}

/// What became of decisions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) granted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) would_refuse: AtomicU64,
    pub(super) crowded: AtomicU64,
}

#[derive(Debug)]
enum Buckets {
    One(AtomicU64),
    Many(Box<[RwLock<Part>]>),
}

#[derive(Debug, Default)]
struct Part {
    map: HashMap<Subject, AtomicU64, BuildHasherDefault<Spread>>,
    /// When the idle were last forgotten: all of them were full then, and are taken for no fuller before.
    searched: u64,
}

/// Subjects are hashes already: see their `Hash`.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

impl Ledger {
    pub(super) fn new(spec: Spec) -> Self {
        Self::keeping(MAX_SUBJECTS, spec)
    }

    /// One that keeps at most so many subjects apart.
    pub(super) fn keeping(most: i64, spec: Spec) -> Self {
        let buckets = match spec.shared {
            true => Buckets::One(AtomicU64::new(0)),
            false => Buckets::Many((0..PARTS).map(|_| RwLock::default()).collect()),
        };
        let (overflow, subjects) = (AtomicU64::new(0), AtomicI64::new(i64::from(spec.shared)));
        Self { spec, buckets, overflow, subjects, most, counts: Counts::default() }
    }

    /// What tells it from other limits.
    pub fn id(&self) -> &Arc<str> {
        &self.spec.id
    }

    /// Its name in metrics and messages.
    pub fn label(&self) -> &Arc<str> {
        &self.spec.label
    }

    /// How much it allows.
    pub fn quota(&self) -> &Quota {
        &self.spec.quota
    }

    /// Counts a request that asked for more than a full bucket holds, and so was refused (or, if the limit does not
    /// bind, would have been) without a decision.
    pub fn count_never(&self, binding: bool) {
        let count = if binding { &self.counts.refused } else { &self.counts.would_refuse };
        count.fetch_add(1, Relaxed);
    }

    /// How many subjects have a bucket now.
    pub fn subjects(&self) -> u64 {
        self.subjects.load(Relaxed).unsigned_abs()
    }

    /// Memory that its buckets take, about: entries, and the byte that the map keeps for each.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let Buckets::Many(parts) = &self.buckets else { return 0 };
        let room = parts.iter().map(|part| part.read().unwrap().map.capacity()).sum::<usize>();
        room * 8 / 7 * (size_of::<(Subject, AtomicU64)>() + 1)
    }

    /// How a subject's bucket stands.
    pub(super) fn state(&self, subject: Subject) -> u64 {
        match &self.buckets {
            Buckets::One(bucket) => bucket.load(Relaxed),
            Buckets::Many(parts) => {
                let part = part(parts, subject).read().unwrap_or_else(PoisonError::into_inner);
                match part.map.get(&subject) {
                    Some(bucket) => bucket.load(Relaxed),
                    None if self.is_crowded() => self.overflow.load(Relaxed),
                    None => self.spec.quota.fresh(part.searched),
                }
            }
        }
    }

    pub(super) fn level(&self, subject: Subject, now: u64) -> Level {
        self.spec.quota.level(self.state(subject), now)
    }

    /// Shows a subject's bucket, which is made if need be; says whether it is the one for those beyond the bound.
    pub(super) fn with<T>(&self, subject: Subject, now: u64, act: impl Fn(&AtomicU64) -> T) -> (T, bool) {
        let parts = match &self.buckets {
            Buckets::One(bucket) => return (act(bucket), false),
            Buckets::Many(parts) => parts,
        };
        let lock = part(parts, subject);
        if let Some(bucket) = lock.read().unwrap_or_else(PoisonError::into_inner).map.get(&subject) {
            return (act(bucket), false);
        }
        let mut part = lock.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = part.map.get(&subject) {
            return (act(bucket), false);
        }
        let is_full = part.map.len() == part.map.capacity();
        if (is_full || self.is_crowded()) && now >= part.searched.saturating_add(SEARCH_EVERY) {
            self.forget_idle(&mut part, now);
        }
        if self.is_crowded() {
            self.counts.crowded.fetch_add(1, Relaxed);
            return (act(&self.overflow), true);
        }
        self.subjects.fetch_add(1, Relaxed);
        // Whoever looked at the clock before others were forgotten must not find their buckets fuller than they were.
        let fresh = self.spec.quota.fresh(part.searched);
        (act(part.map.entry(subject).or_insert_with(|| AtomicU64::new(fresh))), false)
    }

    /// Corrects what was taken, in the bucket it was taken from.
    pub(super) fn correct(&self, subject: Subject, overflow: bool, now: u64, back: u64, more: u64) {
        let correct = |bucket: &AtomicU64| self.spec.quota.correct(bucket, now, back, more);
        match &self.buckets {
            Buckets::One(bucket) => correct(bucket),
            Buckets::Many(_) if overflow => correct(&self.overflow),
            Buckets::Many(parts) => {
                let held = part(parts, subject).read().unwrap_or_else(PoisonError::into_inner);
                match held.map.get(&subject) {
                    Some(bucket) => correct(bucket),
                    // Forgotten because it was full again: nothing can be given back to it.
                    None if more == 0 => {}
                    None => {
                        drop(held);
                        self.with(subject, now, correct);
                    }
                }
            }
        }
    }

    /// Forgets the idle subjects of one part.
    pub(super) fn search(&self, index: usize, now: u64) {
        if let Buckets::Many(parts) = &self.buckets {
            let mut part = parts[index % PARTS].write().unwrap_or_else(PoisonError::into_inner);
            self.forget_idle(&mut part, now);
        }
    }

    fn forget_idle(&self, part: &mut Part, now: u64) {
        let before = part.map.len();
        part.searched = part.searched.max(now);
        part.map.retain(|_, bucket| !self.spec.quota.is_idle(*bucket.get_mut(), now));
        let forgotten = i64::try_from(before - part.map.len()).unwrap_or(i64::MAX);
        self.subjects.fetch_sub(forgotten, Relaxed);
        if part.map.len() < part.map.capacity() / 4 {
            let room = part.map.len() * 2;
            part.map.shrink_to(room);
        }
    }

    fn is_crowded(&self) -> bool {
        self.subjects.load(Relaxed) >= self.most
    }
}

fn part(parts: &[RwLock<Part>], subject: Subject) -> &RwLock<Part> {
    // The map takes its own choice from the other end of the hash.
    &parts[(subject.0[0] >> 58) as usize % PARTS]
}
