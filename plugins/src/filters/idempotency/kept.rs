//! What requests with a key were answered, or are being answered now. Bounded, and in the order in which it came.

use super::EXPIRES;
use crate::cache_key::CacheKey;
use crate::filter::Head;
use crate::flight::{Counts, Seat, count};
use crate::recording::{Reader, Recording};
use http::{HeaderValue, header};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How answers are kept.
#[derive(Clone)]
pub(super) struct Keeping {
    pub(super) time: Duration,
    pub(super) size: usize,
    pub(super) max_entry: usize,
    pub(super) counts: Arc<Counts>,
}

/// The answers to requests with a key. The same for every version of the configuration.
#[derive(Default)]
pub struct Kept {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<CacheKey, Entry>,
    /// Those that are done, the oldest first.
    order: VecDeque<(CacheKey, u64)>,
    bytes: usize,
    next: u64,
}

struct Entry {
    /// Tells it from another one that had the same key before.
    number: u64,
    payload: [u8; 32],
    recording: Arc<Recording>,
    /// What it weighs and until when it is kept, once it is done.
    done: Option<(usize, Instant)>,
}

/// What becomes of a request with a key.
pub(super) enum Found {
    /// It is the first: its answer is to be recorded.
    New(Arc<Recording>, Place),
    /// The key was used for something else.
    Another,
    /// It is being answered. No reader if its answer is too long to be kept.
    Running(Option<Reader>),
    /// It has been answered.
    Done(Reader),
}

/// The place of an answer that is being made.
pub(super) struct Place {
    kept: Arc<Kept>,
    key: CacheKey,
    number: u64,
    keeping: Keeping,
    until: Instant,
}

impl Kept {
    /// Finds the answer to a request, or makes a place for it.
    pub(super) fn find(self: &Arc<Self>, key: CacheKey, payload: [u8; 32], keeping: &Keeping) -> Found {
        let now = Instant::now();
        let mut table = self.table();
        table.forget(now, keeping);
        if let Some(entry) = table.entries.get(&key).filter(|entry| entry.is_good(now)) {
            if entry.payload != payload {
                return Found::Another;
            }
            let reader = entry.recording.reader();
            return match reader {
                Some(reader) if entry.done.is_some() => Found::Done(reader),
                reader => Found::Running(reader),
            };
        }
        table.remove(&key, keeping);
        let recording = Recording::new(keeping.max_entry, true);
        table.next += 1;
        let number = table.next;
        table.entries.insert(key, Entry { number, payload, recording: recording.clone(), done: None });
        drop(table);
        let keeping = keeping.clone();
        let until = now + keeping.time;
        Found::New(recording, Place { kept: self.clone(), key, number, keeping, until })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many answers are kept or being made, and what memory those that are kept take.
    pub fn size(&self) -> (usize, usize) {
        let table = self.table();
        (table.entries.len(), table.bytes)
    }
}

impl Entry {
    fn is_good(&self, now: Instant) -> bool {
        self.done.is_none_or(|(_, until)| now < until)
    }
}

impl Table {
    /// Forgets those whose time is over.
    fn forget(&mut self, now: Instant, keeping: &Keeping) {
        while let Some((key, number)) = self.order.front().copied() {
            match self.entries.get(&key).filter(|entry| entry.number == number) {
                Some(entry) if entry.is_good(now) => return,
                Some(_) => self.remove(&key, keeping),
                None => {}
            }
            self.order.pop_front();
        }
    }

    fn remove(&mut self, key: &CacheKey, keeping: &Keeping) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.bytes -= entry.done.map_or(0, |(weight, _)| weight);
        self.tell(keeping);
    }

    fn keep(&mut self, place: &Place, weight: usize) {
        let Some(entry) = self.entries.get_mut(&place.key).filter(|entry| entry.number == place.number) else { return };
        entry.done = Some((weight, place.until));
        self.order.push_back((place.key, place.number));
        self.bytes += weight;
        while self.bytes > place.keeping.size
            && let Some((key, number)) = self.order.pop_front()
        {
            if self.entries.get(&key).is_some_and(|entry| entry.number == number) {
                self.remove(&key, &place.keeping);
                count(&place.keeping.counts.keys.evicted);
            }
        }
        self.tell(&place.keeping);
    }

    fn tell(&self, keeping: &Keeping) {
        keeping.counts.keys.bytes.store(self.bytes as u64, Relaxed);
    }
}

/// What an entry takes beside its recording.
const ENTRY: usize = size_of::<Entry>() + 2 * size_of::<CacheKey>() + 16;

impl Seat for Place {
    fn leave(&mut self, good: bool) {
        let mut table = self.kept.table();
        let Some(entry) = table.entries.get(&self.key).filter(|entry| entry.number == self.number) else { return };
        let weight = entry.recording.weight() + ENTRY;
        if good && entry.recording.is_complete() && weight <= self.keeping.max_entry + ENTRY {
            table.keep(self, weight);
        } else {
            table.remove(&self.key, &self.keeping);
            count(&self.keeping.counts.keys.unkept);
        }
    }

    fn head(&mut self, head: &mut Head) {
        let length = head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        // Nothing is promised of an answer that is known to be too large.
        if length.is_some_and(|length| Recording::weight_with(Some(head), length) > self.keeping.max_entry) {
            return;
        }
        self.until = Instant::now() + self.keeping.time;
        let until = Timestamp::now().checked_add(jiff::SignedDuration::try_from(self.keeping.time).unwrap_or_default());
        let date = until.map(|until| until.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
        if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
            head.headers.insert(EXPIRES, date);
        }
    }
}
