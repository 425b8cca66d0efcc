//! A second tier of the cache: slower than memory, larger, and still there after a restart.
//!
//! What it keeps is opaque to it ([`super::stored`]). Nothing waits for it but a request that has missed in memory, and
//! that not for long: a tier that is slow or away is as good as none.

use super::memory::Purge;
use crate::cache_key::CacheKey;
use async_trait::async_trait;
use bytes::Bytes;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// An answer for a tier to keep.
pub struct Stored {
    /// Whose it is, as [`Purge::tenant`] has it.
    pub tenant: Arc<str>,
    /// The entry of `models` that was asked.
    pub route: Arc<str>,
    /// When it was made.
    pub made: SystemTime,
    /// Until when it is kept.
    pub until: SystemTime,
    /// Its bytes, made when they are written: nobody who answers a request copies them. The same each time.
    pub bytes: Box<dyn Fn() -> Vec<u8> + Send>,
}

/// What a tier has, and what became of what it was to keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TierCounts {
    /// Bytes of the answers it has.
    pub bytes: u64,
    /// How many it has.
    pub entries: u64,
    /// Writes that are in it: several answers, if they came together.
    pub stored: u64,
    /// Writes that it had no room to wait for.
    pub dropped: u64,
    /// Writes that were wrong.
    pub refused: u64,
    /// Times that it could not be opened, read or written.
    pub faults: u64,
}

/// Where answers are kept beside memory.
#[async_trait]
pub trait Tier: Send + Sync {
    /// What keys are made with: it lives as long as what is kept under them.
    fn secret(&self) -> [u8; 32];

    /// The bytes under each of these keys, for those that have some. None if it does not say so soon enough.
    async fn get(&self, keys: Vec<CacheKey>) -> Option<Vec<Option<Bytes>>>;

    /// Keeps answers, later or never: this does not wait.
    fn put(&self, answers: Vec<(CacheKey, Stored)>);

    /// Forgets what `what` is about; how many. None if it cannot now.
    async fn purge(&self, what: &Purge) -> Option<u64>;

    /// Bytes and answers kept, looked up: not for who must not wait.
    fn load(&self) -> (u64, u64);

    /// What it has and did, as far as is known without looking.
    fn counts(&self) -> TierCounts;

    /// Waits until all that it was to keep is kept; whether it was within the time.
    fn flush(&self, within: Duration) -> bool;
}

/// Opens tiers.
pub trait Tiers: Send + Sync {
    /// The tier in this file, of `size` bytes. The same one for as long as anybody has it.
    ///
    /// # Errors
    /// If there can be none.
    fn open(&self, path: &Path, size: u64) -> io::Result<Arc<dyn Tier>>;

    /// All that are open.
    fn all(&self) -> Vec<Arc<dyn Tier>>;
}

/// Where there is no place for files.
pub struct NoTiers;

impl Tiers for NoTiers {
    fn open(&self, _: &Path, _: u64) -> io::Result<Arc<dyn Tier>> {
        Ok(Arc::new(Nothing))
    }

    fn all(&self) -> Vec<Arc<dyn Tier>> {
        Vec::new()
    }
}

/// Keeps nothing: stands in where settings are looked at only.
struct Nothing;

#[async_trait]
impl Tier for Nothing {
    fn secret(&self) -> [u8; 32] {
        [0; 32]
    }

    async fn get(&self, keys: Vec<CacheKey>) -> Option<Vec<Option<Bytes>>> {
        Some(vec![None; keys.len()])
    }

    fn put(&self, _: Vec<(CacheKey, Stored)>) {}

    async fn purge(&self, _: &Purge) -> Option<u64> {
        Some(0)
    }

    fn load(&self) -> (u64, u64) {
        (0, 0)
    }

    fn counts(&self) -> TierCounts {
        TierCounts::default()
    }

    fn flush(&self, _: Duration) -> bool {
        true
    }
}
