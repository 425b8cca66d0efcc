//! Where answers are kept: so many bytes, what it costs to keep them included, each for its time.
//!
//! When there is no more room, what was asked for longest ago goes. Once less than half of the room is free, large answers
//! that come are compressed by a thread of its own, after they have been kept as they came: nobody waits for it, and if it
//! has too much to do they stay as they are. Before that they stay open: a hit on one costs a third.

use super::entry::Entry;
use super::metrics::Counts;
use crate::cache_key::CacheKey;
use crate::hashed::BuildHashed;
use moka::Expiry;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// Kept answers.
pub(super) struct Memory {
    answers: Cache<CacheKey, Arc<Entry>, BuildHashed>,
    size: u64,
    compress_above: usize,
    /// Bytes put in since what is too much was last taken out.
    added: AtomicU64,
    packer: SyncSender<(CacheKey, Arc<Entry>)>,
}

/// Answers that may wait to be compressed.
const WAITING: usize = 32;

struct Time;

impl Expiry<CacheKey, Arc<Entry>> for Time {
    fn expire_after_create(&self, _: &CacheKey, entry: &Arc<Entry>, _: Instant) -> Option<Duration> {
        Some(entry.label.keep_for.saturating_sub(entry.age()))
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        entry: &Arc<Entry>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.label.keep_for.saturating_sub(entry.age()))
    }
}

impl Memory {
    /// Of `size` bytes; answers from `compress_above` on are compressed once more than half of it is taken.
    pub(super) fn new(size: u64, compress_above: usize, counts: Arc<Counts>) -> Arc<Self> {
        let weigh = |_: &CacheKey, entry: &Arc<Entry>| u32::try_from(entry.weight()).unwrap_or(u32::MAX);
        let forget = move |_: Arc<CacheKey>, _: Arc<Entry>, cause: RemovalCause| counts.removed(cause);
        let answers = Cache::builder()
            .max_capacity(size)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .expire_after(Time)
            .eviction_listener(forget)
            .build_with_hasher(BuildHashed::default());
        let (packer, waiting) = sync_channel(WAITING);
        let memory = Arc::new(Self { answers, size, compress_above, added: AtomicU64::new(0), packer });
        let weak = Arc::downgrade(&memory);
        // Without a thread nothing is compressed, that is all.
        let _ = thread::Builder::new().name("cache-packer".to_owned()).spawn(move || pack(&weak, &waiting));
        memory
    }

    /// A kept answer; whether it is still good is for its reader to say.
    pub(super) fn get(&self, key: &CacheKey) -> Option<Arc<Entry>> {
        self.answers.get(key)
    }

    /// Whether there is an answer. Asking does not keep it.
    pub(super) fn has(&self, key: &CacheKey) -> bool {
        self.answers.contains_key(key)
    }

    /// Keeps an answer.
    pub(super) fn put(&self, key: CacheKey, entry: Entry) {
        let entry = Arc::new(entry);
        let weight = entry.weight() as u64;
        let large = entry.held() >= self.compress_above;
        let packs = large && self.answers.weighted_size() + weight > self.size / 2;
        self.answers.insert(key, entry.clone());
        // The cache makes room by and by, which for large answers may be late.
        if self.added.fetch_add(weight, Ordering::Relaxed) + weight > self.size / 64 {
            self.added.store(0, Ordering::Relaxed);
            self.answers.run_pending_tasks();
        }
        if packs {
            let _ = self.packer.try_send((key, entry));
        }
    }

    /// Puts a compressed answer in the place of the one that it was made from, if that is still there.
    fn replace(&self, key: CacheKey, old: &Arc<Entry>, new: Entry) {
        if self.answers.get(&key).is_some_and(|now| Arc::ptr_eq(&now, old)) {
            self.answers.insert(key, Arc::new(new));
        }
    }

    /// Forgets the answers that `what` is about; how many.
    fn purge(&self, what: &Purge) -> u64 {
        let mut purged = 0;
        for (key, entry) in &self.answers {
            if what.is_about(&key, &entry) {
                self.answers.invalidate(&*key);
                purged += 1;
            }
        }
        self.answers.run_pending_tasks();
        purged
    }

    /// Bytes and answers kept.
    pub(super) fn load(&self) -> (u64, u64) {
        self.answers.run_pending_tasks();
        (self.answers.weighted_size(), self.answers.entry_count())
    }
}

/// Which answers are to be forgotten: those that all that is said here holds for. Nothing said: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Purge {
    /// Whose: `org/acme`, `key/k1`, `user/u1`, `everybody`.
    pub tenant: Option<String>,
    /// The entry of `models` that was asked.
    pub route: Option<String>,
    /// Kept for longer than this.
    pub older_than: Option<Duration>,
    /// One of these; nothing here, any.
    pub keys: Vec<CacheKey>,
}

impl Purge {
    fn is_about(&self, key: &CacheKey, entry: &Entry) -> bool {
        let tenant = self.tenant.as_ref().is_none_or(|tenant| **tenant == *entry.label.tenant);
        let route = self.route.as_ref().is_none_or(|route| **route == *entry.label.route);
        let old = self.older_than.is_none_or(|time| entry.age() > time);
        tenant && route && old && (self.keys.is_empty() || self.keys.contains(key))
    }
}

/// Compresses what comes until nobody keeps answers any more.
fn pack(memory: &Weak<Memory>, waiting: &Receiver<(CacheKey, Arc<Entry>)>) {
    while let Ok((key, entry)) = waiting.recv() {
        let packed = entry.packed();
        let Some(memory) = memory.upgrade() else { return };
        if let Some(packed) = packed {
            memory.replace(key, &entry, packed);
        }
    }
}

/// The caches of a process, so that a reload finds what was kept.
#[derive(Default)]
pub struct Caches {
    known: Mutex<Vec<Known>>,
    counts: Arc<Counts>,
}

struct Known {
    size: u64,
    compress_above: usize,
    secret: Arc<[u8]>,
    memory: Weak<Memory>,
}

/// A memory and the secret that its keys are made with.
pub(super) type Opened = (Arc<Memory>, Arc<[u8]>);

impl Caches {
    /// What is counted.
    pub fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// The memory of this size: the one that is there, as long as somebody has it.
    ///
    /// # Errors
    /// If a secret is needed and the system has no random numbers.
    pub(super) fn open(&self, size: u64, compress_above: usize) -> Result<Opened, getrandom::Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.memory.strong_count() > 0);
        let found = known.iter().find(|known| known.size == size && known.compress_above == compress_above);
        if let Some((memory, secret)) = found.and_then(|found| Some((found.memory.upgrade()?, found.secret.clone()))) {
            return Ok((memory, secret));
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        let secret: Arc<[u8]> = secret.into();
        let memory = Memory::new(size, compress_above, self.counts.clone());
        known.push(Known { size, compress_above, secret: secret.clone(), memory: Arc::downgrade(&memory) });
        Ok((memory, secret))
    }

    fn all(&self) -> Vec<Arc<Memory>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter_map(|known| known.memory.upgrade()).collect()
    }

    /// Forgets answers; how many.
    pub fn purge(&self, what: &Purge) -> u64 {
        self.all().iter().map(|memory| memory.purge(what)).sum()
    }

    /// Bytes and answers kept by all of them.
    pub fn load(&self) -> (u64, u64) {
        self.all().iter().map(|memory| memory.load()).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
    }
}
