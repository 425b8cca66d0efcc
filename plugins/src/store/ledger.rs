//! One limit and the buckets of its subjects, in memory that is bounded.
//!
//! Buckets are numbers that change by compare-and-swap; a lock is held only around the map they are in, shared while
//! a bucket is looked up and alone while one is added or forgotten. The map is cut into parts, so that requests of
//! different subjects do not meet. A limit that everybody shares has one bucket and no map.

use super::calendar::{Calendar, Window};
use super::clock::Moment;
use super::quota::{At, Bucket, Quota, TICKS};
use super::sync::{AtomicI64, AtomicU64, RwLock};
use super::{Standing, Subject};
use crate::hashed::BuildHashed;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// The most subjects one limit keeps apart. Beyond it, new ones share one bucket: the limit still holds, for all of
/// them together.
pub const MAX_SUBJECTS: i64 = 1 << 20;

/// Parts of the map; a power of two.
pub(super) const PARTS: usize = 64;

/// A part is searched for idle buckets at most this often, in ticks: once a second.
const SEARCH_EVERY: u64 = 1_000_000_000 * TICKS;

/// What a ledger is opened with.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Names the limit and everything in it that must not change for its buckets to stay.
    pub id: Arc<str>,
    /// Its name in metrics and messages; from the configuration.
    pub label: Arc<str>,
    /// How much.
    pub quota: Quota,
    /// For a budget: when its windows begin.
    pub calendar: Option<Arc<Calendar>>,
    /// Whether all subjects are one.
    pub shared: bool,
}

/// One limit: how much it allows, and its buckets.
#[derive(Debug)]
pub struct Ledger {
    quota: Quota,
    calendar: Option<Arc<Calendar>>,
    book: Arc<Book>,
}

/// The buckets of a limit. They outlive a reload that changes how much a budget allows.
#[derive(Debug)]
pub(super) struct Book {
    spec: Spec,
    buckets: Buckets,
    overflow: Bucket,
    subjects: AtomicI64,
    /// The most subjects that are kept apart.
    most: i64,
    /// How long a place in flight is held, in ticks; 0 until somebody has given one back.
    held: AtomicU64,
    pub(super) counts: Counts,
}

/// What became of decisions.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) granted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) would_refuse: AtomicU64,
    pub(super) crowded: AtomicU64,
    /// Settled without being told by the backend what was spent.
    pub(super) estimated: AtomicU64,
}

impl Counts {
    /// Those of decisions, by name.
    pub(super) fn outcomes(&self) -> [(&'static str, u64); 4] {
        let Self { granted, refused, would_refuse, crowded, .. } = self;
        let counts = [("granted", granted), ("refused", refused), ("would_refuse", would_refuse), ("crowded", crowded)];
        counts.map(|(outcome, count)| (outcome, count.load(Relaxed)))
    }
}

#[derive(Debug)]
enum Buckets {
    One(Bucket),
    Many(Box<[RwLock<Part>]>),
}

#[derive(Debug, Default)]
struct Part {
    map: HashMap<Subject, Bucket, BuildHashed>,
    /// When the idle were last forgotten: all of them were full then, and are taken for no fuller before.
    searched: u64,
}

/// How long a place in flight is taken to be held before anybody has given one back.
const FIRST_HELD: Duration = Duration::from_secs(1);

/// The least and the most that somebody is told to wait for a place in flight.
const PLACE_WAITS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(60)];

impl Ledger {
    #[cfg(test)]
    pub(super) fn keeping(most: i64, spec: Spec) -> Self {
        let (quota, calendar) = (spec.quota, spec.calendar.clone());
        Self::over(Arc::new(Book::keeping(most, spec)), quota, calendar)
    }

    /// What `quota` allows of the buckets in `book`.
    pub(super) fn over(book: Arc<Book>, quota: Quota, calendar: Option<Arc<Calendar>>) -> Self {
        Self { quota, calendar, book }
    }

    /// What tells it from other limits.
    pub fn id(&self) -> &Arc<str> {
        &self.book.spec.id
    }

    /// Its name in metrics and messages.
    pub fn label(&self) -> &Arc<str> {
        &self.book.spec.label
    }

    /// How much it allows.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Whether it counts in the same buckets as `other`.
    pub fn shares_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.book, &other.book)
    }

    /// Counts a request that asked for more than a full bucket holds, and so was refused (or, if the limit does not
    /// bind, would have been) without a decision.
    pub fn count_never(&self, binding: bool) {
        let count = if binding { &self.counts().refused } else { &self.counts().would_refuse };
        count.fetch_add(1, Relaxed);
    }

    /// What became of decisions since it was opened.
    pub fn counted(&self) -> [(&'static str, u64); 4] {
        self.counts().outcomes()
    }

    /// How many subjects have a bucket now.
    pub fn subjects(&self) -> u64 {
        self.book.subjects()
    }

    pub(super) fn counts(&self) -> &Counts {
        &self.book.counts
    }

    /// Whether what is spent is worth keeping beyond the process.
    pub(super) fn is_budget(&self) -> bool {
        self.calendar.is_some()
    }

    pub(super) fn at(&self, now: Moment) -> At {
        let window = self.calendar.as_ref().map(|calendar| calendar.window(now.wall));
        At { ticks: now.ticks, window: window.unwrap_or_default() }
    }

    /// The state after taking `amount` from a bucket, or how long until that can be done.
    pub(super) fn after(&self, state: u64, at: At, amount: u64) -> Result<u64, Duration> {
        self.quota.after(state, at, amount).map_err(|wait| self.wait(wait))
    }

    /// Takes from a subject's bucket, not before `at`, which is then when; says whether it is the one for those beyond the
    /// bound.
    pub(super) fn take(&self, subject: Subject, at: &mut At, amount: u64) -> (Result<u64, Duration>, bool) {
        let take = |bucket: &Bucket, at: At| (self.quota.take(bucket, at, amount), at);
        let ((taken, when), overflow) = self.book.with(subject, *at, take);
        *at = when;
        (taken.map_err(|wait| self.wait(wait)), overflow)
    }

    /// When a place in flight will be free nobody knows. About as many as are held at once are given back in the time
    /// that one is held; twice that is mostly enough, and it is all of that time where there is one place only.
    fn wait(&self, wait: Duration) -> Duration {
        let Quota::InFlight { most } = self.quota else { return wait };
        let held = match self.book.held.load(Relaxed) {
            0 => FIRST_HELD,
            ticks => Duration::from_nanos(ticks / TICKS),
        };
        let [least, longest] = PLACE_WAITS;
        let places = u32::try_from(most.saturating_add(1)).unwrap_or(u32::MAX);
        (held * 2 / places).clamp(least, longest)
    }

    /// Learns how long a place in flight was held.
    pub(super) fn learn_held(&self, ticks: u64) {
        let old = self.book.held.load(Relaxed);
        let new = if old == 0 { ticks } else { old - old / 8 + ticks / 8 };
        // Who loses a race is not learned from.
        self.book.held.store(new.max(1), Relaxed);
    }

    /// How a subject's bucket is.
    pub(super) fn state(&self, subject: Subject) -> u64 {
        self.book.state(subject).0
    }

    /// All there is to tell about a subject's bucket.
    pub(super) fn standing(&self, subject: Subject, at: At) -> Standing {
        let (state, reserved) = self.book.state(subject);
        self.quota.standing(state, reserved, at)
    }

    /// Settles what was taken, in the bucket it was taken from: `spent` of `taken` stays.
    pub(super) fn settle(&self, subject: Subject, overflow: bool, at: At, taken: u64, spent: u64) {
        self.book.settle(subject, overflow, at, taken, spent);
    }

    #[cfg(test)]
    pub(super) fn search(&self, index: usize, now: Moment) {
        self.book.search(index, now);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.book.bytes()
    }
}

impl Book {
    pub(super) fn new(spec: Spec) -> Self {
        Self::keeping(MAX_SUBJECTS, spec)
    }

    /// One that keeps at most so many subjects apart.
    fn keeping(most: i64, spec: Spec) -> Self {
        let buckets = match spec.shared {
            true => Buckets::One(Bucket::default()),
            false => Buckets::Many((0..PARTS).map(|_| RwLock::default()).collect()),
        };
        let (overflow, subjects) = (Bucket::default(), AtomicI64::new(i64::from(spec.shared)));
        let (held, counts) = (AtomicU64::new(0), Counts::default());
        Self { spec, buckets, overflow, subjects, most, held, counts }
    }

    pub(super) fn spec(&self) -> &Spec {
        &self.spec
    }

    pub(super) fn subjects(&self) -> u64 {
        self.subjects.load(Relaxed).unsigned_abs()
    }

    /// Memory that its buckets take, about: entries, and the byte that the map keeps for each.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let Buckets::Many(parts) = &self.buckets else { return 0 };
        let room = parts.iter().map(|part| part.read().unwrap().map.capacity()).sum::<usize>();
        room * 8 / 7 * (size_of::<(Subject, Bucket)>() + 1)
    }

    /// How a subject's bucket is, and how much of what was taken is not settled.
    fn state(&self, subject: Subject) -> (u64, u64) {
        let read = |bucket: &Bucket| (bucket.state.load(Relaxed), bucket.reserved.load(Relaxed));
        match &self.buckets {
            Buckets::One(bucket) => read(bucket),
            Buckets::Many(parts) => {
                let part = part(parts, subject).read().unwrap_or_else(PoisonError::into_inner);
                match part.map.get(&subject) {
                    Some(bucket) => read(bucket),
                    None if self.is_crowded() => read(&self.overflow),
                    // It is full, as far as anybody knows who only looks.
                    None => (0, 0),
                }
            }
        }
    }

    /// Shows a subject's bucket, which is made if need be; says whether it is the one for those beyond the bound.
    pub(super) fn with<T>(&self, subject: Subject, at: At, act: impl Fn(&Bucket, At) -> T) -> (T, bool) {
        let parts = match &self.buckets {
            Buckets::One(bucket) => return (act(bucket, at), false),
            Buckets::Many(parts) => parts,
        };
        let lock = part(parts, subject);
        if let Some(bucket) = lock.read().unwrap_or_else(PoisonError::into_inner).map.get(&subject) {
            return (act(bucket, at), false);
        }
        let mut part = lock.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = part.map.get(&subject) {
            return (act(bucket, at), false);
        }
        let is_full = part.map.len() == part.map.capacity();
        if (is_full || self.is_crowded()) && at.ticks >= part.searched.saturating_add(SEARCH_EVERY) {
            self.forget_idle(&mut part, at);
        }
        if self.is_crowded() {
            self.counts.crowded.fetch_add(1, Relaxed);
            return (act(&self.overflow, at), true);
        }
        self.subjects.fetch_add(1, Relaxed);
        // Whoever looked at the clock before others were forgotten must not find their buckets fuller than they were, nor
        // its own, which it has never had, less than full: it is as late as that by now.
        let (fresh, at) = (self.spec.quota.fresh(part.searched), At { ticks: at.ticks.max(part.searched), ..at });
        (act(part.map.entry(subject).or_insert_with(|| Bucket::new(fresh)), at), false)
    }

    fn settle(&self, subject: Subject, overflow: bool, at: At, taken: u64, spent: u64) {
        let settle = |bucket: &Bucket| self.spec.quota.settle(bucket, at, taken, spent);
        match &self.buckets {
            Buckets::One(bucket) => settle(bucket),
            Buckets::Many(_) if overflow => settle(&self.overflow),
            Buckets::Many(parts) => {
                let held = part(parts, subject).read().unwrap_or_else(PoisonError::into_inner);
                match held.map.get(&subject) {
                    Some(bucket) => settle(bucket),
                    // Nothing was taken, or the bucket would be there: it waits for what is reserved.
                    None => {
                        drop(held);
                        self.with(subject, at, |bucket, _| settle(bucket));
                    }
                }
            }
        }
    }

    /// Forgets the idle subjects of one part.
    pub(super) fn search(&self, index: usize, now: Moment) {
        if let Buckets::Many(parts) = &self.buckets {
            let window = self.spec.calendar.as_ref().map(|calendar| calendar.window(now.wall));
            let at = At { ticks: now.ticks, window: window.unwrap_or_default() };
            let mut part = parts[index % PARTS].write().unwrap_or_else(PoisonError::into_inner);
            self.forget_idle(&mut part, at);
        }
    }

    fn forget_idle(&self, part: &mut Part, at: At) {
        let before = part.map.len();
        part.searched = part.searched.max(at.ticks);
        part.map.retain(|_, bucket| !self.spec.quota.is_idle(bucket, at));
        let forgotten = i64::try_from(before - part.map.len()).unwrap_or(i64::MAX);
        self.subjects.fetch_sub(forgotten, Relaxed);
        if part.map.len() < part.map.capacity() / 4 {
            let room = part.map.len() * 2;
            part.map.shrink_to(room);
        }
    }

    /// Adds what was spent of a budget in the window of this number, unless that is over.
    pub(super) fn restore(&self, subject: Subject, at: At, number: u32, amount: u64) {
        let quota = &self.spec.quota;
        if !quota.is_idle(&Bucket::new(Quota::restored(number, amount)), at) {
            let then = At { window: Window { number, ..at.window }, ..at };
            self.with(subject, at, |bucket, _| quota.settle(bucket, then, 0, amount));
        }
    }

    /// Whether nobody has spent anything.
    pub(super) fn is_unspent(&self, at: At) -> bool {
        match &self.buckets {
            Buckets::One(bucket) => self.spec.quota.is_idle(bucket, at),
            Buckets::Many(_) => self.subjects() == 0,
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
