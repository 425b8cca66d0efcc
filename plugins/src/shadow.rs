//! Copies of requests that are sent elsewhere too, and whose answers are for nobody: so many at a time, holding so many
//! bytes, and each for so long.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where copies go, and what they may take.
#[derive(Debug)]
pub struct Shadow {
    /// Its name in metrics and log.
    pub name: Arc<str>,
    /// The model that gets them, as the file names it.
    pub model: Arc<str>,
    /// The most copies at one time.
    pub in_flight: usize,
    /// The most bytes of requests that copies hold.
    pub bytes: u64,
    /// How long a copy may take.
    pub time: Duration,
    /// What is taken of that.
    pub held: Arc<Held>,
}

/// What copies take, of one name.
#[derive(Debug, Default)]
pub struct Held {
    copies: AtomicUsize,
    bytes: AtomicU64,
}

/// What copies take, by the name of where they go. The same for every version of the configuration.
#[derive(Debug, Default)]
pub struct Shadows(Mutex<HashMap<Arc<str>, Arc<Held>>>);

impl Shadows {
    /// What copies of this name take.
    pub fn held(&self, name: &Arc<str>) -> Arc<Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }
}

/// What is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// There are as many copies as may be.
    Copies,
    /// They hold as many bytes as they may.
    Bytes,
}

/// What one copy takes; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    held: Arc<Held>,
    bytes: u64,
}

impl Shadow {
    /// Room for a copy of so many bytes.
    ///
    /// # Errors
    /// What is full.
    pub fn enter(&self, bytes: u64) -> Result<Slot, Full> {
        let slot = Slot { held: self.held.clone(), bytes };
        // Taken first, and given back by the slot if it was too much: nobody waits for anybody.
        let copies = self.held.copies.fetch_add(1, Relaxed);
        let sum = self.held.bytes.fetch_add(bytes, Relaxed).saturating_add(bytes);
        match () {
            () if copies >= self.in_flight => Err(Full::Copies),
            () if sum > self.bytes => Err(Full::Bytes),
            () => Ok(slot),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.held.copies.fetch_sub(1, Relaxed);
        self.held.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_copies_and_so_many_bytes_and_what_is_dropped_is_given_back() {
        let held = Shadows::default().held(&"next".into());
        let (name, model, time) = ("next".into(), "m".into(), Duration::from_secs(1));
        let shadow = Shadow { name, model, in_flight: 2, bytes: 100, time, held };
        let first = shadow.enter(60).unwrap();
        assert_eq!(shadow.enter(41).err(), Some(Full::Bytes));
        let second = shadow.enter(40).unwrap();
        assert_eq!(shadow.enter(0).err(), Some(Full::Copies));
        drop((first, second));
        assert!(shadow.enter(100).is_ok());
        assert_eq!((shadow.held.copies.load(Relaxed), shadow.held.bytes.load(Relaxed)), (0, 0));
    }

    #[test]
    fn what_is_under_way_counts_for_the_next_version_of_the_file() {
        let shadows = Shadows::default();
        assert!(Arc::ptr_eq(&shadows.held(&"a".into()), &shadows.held(&"a".into())));
        assert!(!Arc::ptr_eq(&shadows.held(&"a".into()), &shadows.held(&"b".into())));
    }
}
