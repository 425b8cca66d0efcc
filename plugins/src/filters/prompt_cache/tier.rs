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
use std::time::SystemTime;

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

/// Where answers are kept beside memory.
#[async_trait]
pub trait Tier: Send + Sync {
    /// What keys are made with: it lives as long as what is kept under them.
    fn secret(&self) -> [u8; 32];

    /// The bytes under `key`. None if there are none, or not soon enough.
    async fn get(&self, key: &CacheKey) -> Option<Bytes>;

    /// Keeps an answer, later or never: this does not wait.
    fn put(&self, key: CacheKey, stored: Stored);

    /// Forgets what `what` is about; how many. None if it cannot now.
    async fn purge(&self, what: &Purge) -> Option<u64>;

    /// Bytes and answers kept, as far as is known.
    fn load(&self) -> (u64, u64);
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

    async fn get(&self, _: &CacheKey) -> Option<Bytes> {
        None
    }

    fn put(&self, _: CacheKey, _: Stored) {}

    async fn purge(&self, _: &Purge) -> Option<u64> {
        Some(0)
    }

    fn load(&self) -> (u64, u64) {
        (0, 0)
    }
}
