//! Where records of conversations are kept. A leaf does not touch the file system: it hands records to a [`Sink`].
//!
//! Nobody waits for a sink. What a record may take of memory is reserved beforehand ([`Slot`]) and given back when it is
//! written; where nothing is left, whoever asks is told so at once.

use async_trait::async_trait;
use serde_json::{Map, Value};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// A place for records, as a file describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// What it is called in metrics and log.
    pub name: Arc<str>,
    /// Where.
    pub place: Place,
    /// The most bytes that wait to be written.
    pub memory: usize,
    /// How long records are kept; none: for ever.
    pub keep: Option<Duration>,
    /// How much of them is kept, in bytes of the disk; none: all.
    pub keep_bytes: Option<u64>,
    /// Whether each record is tied to the one before.
    pub chain: Option<Chain>,
}

/// Where records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Lines of JSON in the files of a directory.
    Files {
        /// The directory.
        path: PathBuf,
        /// From so many bytes on another file is begun.
        size: u64,
        /// And after this long.
        every: Duration,
        /// Whether files that are full are compressed.
        compress: bool,
    },
    /// A table of an SQLite file.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
}

/// How a record is tied to the one before.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain {
    /// Without it nobody can make a chain that holds; none: whoever can write all of it can.
    pub key: Option<[u8; 32]>,
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chain").field("keyed", &self.key.is_some()).finish()
    }
}

/// Opens places for records, and knows those that are open.
pub trait Sinks: Send + Sync {
    /// The place, opened if it is not yet.
    ///
    /// # Errors
    /// Why it cannot be written.
    fn open(&self, to: &To) -> io::Result<Arc<dyn Sink>>;

    /// Those that are open.
    fn all(&self) -> Vec<Arc<dyn Sink>>;
}

/// One place that is open.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Reserves memory for a record; none if there is none left.
    fn reserve(&self, bytes: usize) -> Option<Slot>;

    /// Writes a record, soon: it is made on the sink's own thread.
    fn put(&self, slot: Slot, record: Draft);

    /// Counts a record that there is no room for.
    fn dropped(&self);

    /// Counts a request that is refused because it could not be recorded.
    fn refused(&self);

    /// Ready when the process ends: what a record still waits for is not to be waited for any more.
    async fn closing(&self);

    /// Says that the process ends: see [`Self::closing`].
    fn close(&self);

    /// Blocks until all that has been reserved is written, or given up. For the end of the process.
    ///
    /// Returns how it stands then.
    fn flush(&self, within: Duration) -> State;

    /// How it stands.
    fn state(&self) -> State;
}

/// How a place stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What it is called.
    pub name: Arc<str>,
    /// Records that are not written yet, those of requests under way included where they are reserved beforehand.
    pub waiting: usize,
    /// What they take of memory.
    pub bytes: usize,
    /// Why it cannot be written, if it cannot.
    pub fault: Option<String>,
}

/// Makes a record.
pub type Draft = Box<dyn FnOnce() -> Map<String, Value> + Send>;

/// Memory for records that wait.
#[derive(Debug, Default)]
pub struct Memory {
    held: AtomicUsize,
    records: AtomicUsize,
}

/// A part of it; dropping it gives it back.
#[derive(Debug)]
pub struct Slot {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    /// Reserves so many bytes of `most`.
    pub fn reserve(self: &Arc<Self>, bytes: usize, most: usize) -> Option<Slot> {
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= most);
        self.held.fetch_update(Relaxed, Relaxed, more).ok()?;
        self.records.fetch_add(1, Relaxed);
        Some(Slot { memory: self.clone(), bytes })
    }

    /// Bytes that are held.
    pub fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Records that are not written yet, those of requests under way included where they are reserved beforehand.
    pub fn records(&self) -> usize {
        self.records.load(Relaxed)
    }
}

impl Slot {
    /// How much it is.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what turned out to be too much.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.memory.held.fetch_sub(less, Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Relaxed);
        self.memory.records.fetch_sub(1, Relaxed);
    }
}

/// Keeps nothing. For `explain`.
pub struct NoSinks;

impl Sinks for NoSinks {
    fn open(&self, _: &To) -> io::Result<Arc<dyn Sink>> {
        Ok(Arc::new(Nowhere))
    }

    fn all(&self) -> Vec<Arc<dyn Sink>> {
        Vec::new()
    }
}

struct Nowhere;

#[async_trait]
impl Sink for Nowhere {
    fn reserve(&self, bytes: usize) -> Option<Slot> {
        Arc::new(Memory::default()).reserve(bytes, usize::MAX)
    }
    fn put(&self, _: Slot, _: Draft) {}
    fn dropped(&self) {}
    fn refused(&self) {}
    async fn closing(&self) {
        std::future::pending().await
    }
    fn close(&self) {}
    fn flush(&self, _: Duration) -> State {
        self.state()
    }
    fn state(&self) -> State {
        State { name: "nowhere".into(), waiting: 0, bytes: 0, fault: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_bounded_and_comes_back() {
        let memory = Arc::new(Memory::default());
        let mut first = memory.reserve(60, 100).unwrap();
        assert!(memory.reserve(41, 100).is_none());
        first.shrink(50);
        let second = memory.reserve(50, 100).unwrap();
        assert_eq!((memory.held(), memory.records()), (100, 2));
        drop((first, second));
        assert_eq!((memory.held(), memory.records()), (0, 0));
    }
}
