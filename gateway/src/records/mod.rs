//! Where records of conversations are kept: files of lines, or an SQLite file; others would be another [`Backing`].
//!
//! A place has a thread of its own. It makes records of what waits, a batch at a time, ties each to the one before, writes
//! them and waits for the disk; other processes may do so as well, in turns ([`shared`]). What cannot be written is tried again for as long as it takes: meanwhile what waits stays
//! within the memory that the file gives it, and the rest is dropped, or its requests are refused.

mod chain;
mod files;
mod metrics;
mod pack;
mod shared;
mod sqlite;
#[cfg(test)]
mod tests;
pub mod verify;

use async_trait::async_trait;
use chain::Tail;
use metrics::Series;
pub(crate) use metrics::{BYTES, RECORDS, RecordMetrics, UP, WAITING};
use shared::Shared;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tidegate_plugins::records::{Draft, Memory, NoSinks, Place, Sink, Sinks, Slot, State, To};
use tokio::sync::watch;

/// Records that are written together at most, and the bytes that they take: all are made before the first is written.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// How long the writer waits for more after it has written: one wait for the disk is for all that came meanwhile.
const NAP: Duration = Duration::from_millis(20);

/// How long it waits before it tries again.
const AGAIN: Duration = Duration::from_millis(250);

/// How often it looks for what is too old.
const TIDY: Duration = Duration::from_secs(30);

/// A record as it is written.
struct Line {
    seq: u64,
    time: String,
    request_id: String,
    org: Option<String>,
    text: String,
}

/// What keeps records: all of a batch, or none of it.
trait Backing: Send {
    /// The last record that it has.
    fn tail(&mut self) -> io::Result<Tail>;

    /// Keeps records. When this returns they are on the disk.
    fn write(&mut self, lines: &[Line], sealed: &Tail) -> io::Result<()>;

    /// Forgets what is older, and does what is to be done from time to time.
    fn tidy(&mut self, to: &To) -> io::Result<()>;

    /// Whether what is open is not what is there any more: somebody has taken it away.
    fn is_gone(&self) -> bool;
}

/// The places that are open.
pub(crate) struct RecordSinks {
    open: Mutex<Vec<Weak<Writer>>>,
    metrics: RecordMetrics,
}

impl RecordSinks {
    pub(crate) fn new(metrics: RecordMetrics) -> Self {
        Self { open: Mutex::default(), metrics }
    }
}

impl Sinks for RecordSinks {
    fn open(&self, to: &To) -> io::Result<Arc<dyn Sink>> {
        is_there(to)?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|known| known.strong_count() > 0);
        let found = open.iter().filter_map(Weak::upgrade).find(|known| known.0.is_at(to));
        if let Some(writer) = found {
            writer.0.adopt(to);
            return Ok(writer);
        }
        let writer = Arc::new(Writer::start(to.clone(), self.metrics.series(&to.name))?);
        open.push(Arc::downgrade(&writer));
        Ok(writer)
    }

    fn all(&self) -> Vec<Arc<dyn Sink>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(Weak::upgrade).map(|writer| writer as Arc<dyn Sink>).collect()
    }
}

/// Where places are looked at only, as a check does: nothing is made.
pub(crate) struct LooksOnly;

impl Sinks for LooksOnly {
    fn open(&self, to: &To) -> io::Result<Arc<dyn Sink>> {
        is_there(to)?;
        NoSinks.open(to)
    }

    fn all(&self) -> Vec<Arc<dyn Sink>> {
        Vec::new()
    }
}

fn is_there(to: &To) -> io::Result<()> {
    let folder = match &to.place {
        Place::Files { path, .. } => Some(&**path),
        Place::Sqlite { path } => path.parent(),
    };
    match folder.filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        Some(folder) => Err(io::Error::other(format!("there is no directory {}", folder.display()))),
        None => Ok(()),
    }
}

/// A place that is open. When it is dropped its thread ends, once what waits is written.
struct Writer(Arc<Inner>);

struct Inner {
    to: Mutex<To>,
    most: AtomicUsize,
    memory: Arc<Memory>,
    queue: Mutex<Queue>,
    wake: Condvar,
    closing: watch::Sender<bool>,
    /// Why it cannot be written, if it cannot.
    fault: Mutex<Option<String>>,
    series: Series,
}

#[derive(Default)]
struct Queue {
    drafts: VecDeque<(Slot, Draft)>,
    closed: bool,
}

impl Queue {
    /// How many are written together next; one at least, if there is one.
    fn batch(&self) -> usize {
        let mut bytes = 0_usize;
        let fits = |(slot, _): &&(Slot, Draft)| {
            let before = bytes;
            bytes = bytes.saturating_add(slot.bytes());
            before < BATCH_BYTES
        };
        self.drafts.iter().take(BATCH).take_while(fits).count()
    }

    /// Whether there is as much as is written together.
    fn has_batch(&self) -> bool {
        self.batch() == BATCH || self.batch() < self.drafts.len()
    }
}

impl Writer {
    fn start(to: To, series: Series) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            most: AtomicUsize::new(to.memory),
            to: Mutex::new(to),
            memory: Arc::default(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            closing: watch::Sender::new(false),
            fault: Mutex::default(),
            series,
        });
        let theirs = inner.clone();
        std::thread::Builder::new().name("records".to_owned()).spawn(move || theirs.run())?;
        Ok(Self(inner))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

#[async_trait]
impl Sink for Writer {
    fn reserve(&self, bytes: usize) -> Option<Slot> {
        self.0.memory.reserve(bytes, self.0.most.load(Relaxed))
    }

    fn put(&self, slot: Slot, record: Draft) {
        let mut queue = self.0.lock();
        queue.drafts.push_back((slot, record));
        drop(queue);
        self.0.measure();
        self.0.wake.notify_one();
    }

    fn dropped(&self) {
        self.0.series.dropped.inc();
    }

    fn refused(&self) {
        self.0.series.refused.inc();
    }

    async fn closing(&self) {
        let mut closing = self.0.closing.subscribe();
        // The sender lives as long as this.
        let _ = closing.wait_for(|closing| *closing).await;
    }

    fn close(&self) {
        self.0.closing.send_replace(true);
        self.0.wake.notify_all();
    }

    fn flush(&self, within: Duration) -> State {
        self.close();
        let until = Instant::now() + within;
        while self.0.memory.records() > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.state()
    }

    fn state(&self) -> State {
        let (name, memory) = (self.0.to().name, &self.0.memory);
        let fault = self.0.fault.lock().unwrap_or_else(PoisonError::into_inner).clone();
        State { name, waiting: memory.records(), bytes: memory.held(), fault }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to(&self) -> To {
        self.to.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_at(&self, to: &To) -> bool {
        let known = self.to();
        known.name == to.name && path_of(&known.place) == path_of(&to.place)
    }

    /// The file says something else about the same place.
    fn adopt(&self, to: &To) {
        self.most.store(to.memory, Relaxed);
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = to.clone();
    }

    fn measure(&self) {
        self.series.waiting.set(i64::try_from(self.memory.records()).unwrap_or(i64::MAX));
    }

    fn run(&self) {
        let Some(mut place) = self.begin() else { return };
        let mut tidied = Instant::now();
        while let Some(batch) = self.take() {
            if !batch.is_empty() {
                self.keep(&mut place, batch);
                self.measure();
            }
            if tidied.elapsed() >= TIDY {
                tidied = Instant::now();
                let to = self.to();
                if let Err(error) = place.turn(&to).and_then(|mut turn| turn.tidy(&to)) {
                    tracing::warn!(%error, sink = &*to.name, "old records could not be put away");
                }
            }
        }
    }

    /// Opens the place, however long that takes.
    fn begin(&self) -> Option<Shared> {
        let mut told = false;
        loop {
            let to = self.to();
            let opened = Shared::open(&to).and_then(|mut place| place.turn(&to).map(drop).map(|()| place));
            match opened {
                Ok(place) => {
                    self.is_up(&to, told);
                    return Some(place);
                }
                Err(error) => self.is_down(&to, &error, &mut told),
            }
            let queue = self.lock();
            let closed = |queue: &mut Queue| !queue.closed;
            let (mut queue, _) =
                self.wake.wait_timeout_while(queue, AGAIN, closed).unwrap_or_else(PoisonError::into_inner);
            if queue.closed {
                self.series.lost.inc_by(queue.drafts.len() as u64);
                queue.drafts.clear();
                return None;
            }
        }
    }

    fn is_down(&self, to: &To, error: &io::Error, told: &mut bool) {
        self.series.up.set(0);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
        // Places are opened before the log is: what nobody hears is told again.
        if !*told && tracing::enabled!(tracing::Level::ERROR) {
            *told = true;
            tracing::error!(%error, sink = &*to.name, "records cannot be written; they wait");
        }
    }

    fn is_up(&self, to: &To, told: bool) {
        self.series.up.set(1);
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if told {
            tracing::info!(sink = &*to.name, "records are written again");
        }
    }

    /// Waits for records and takes some; none when there will be no more.
    fn take(&self) -> Option<Vec<(Slot, Draft)>> {
        let has_batch = self.lock().has_batch();
        if !has_batch && !*self.closing.borrow() {
            std::thread::sleep(NAP);
        }
        let waits = |queue: &mut Queue| queue.drafts.is_empty() && !queue.closed;
        let (mut queue, _) =
            self.wake.wait_timeout_while(self.lock(), TIDY, waits).unwrap_or_else(PoisonError::into_inner);
        let count = queue.batch();
        if count == 0 && queue.closed {
            return None;
        }
        Some(queue.drafts.drain(..count).collect())
    }

    /// Writes a batch, however often that has to be tried.
    fn keep(&self, place: &mut Shared, batch: Vec<(Slot, Draft)>) {
        let (slots, mut records): (Vec<_>, Vec<_>) = batch.into_iter().map(|(slot, draft)| (slot, draft())).unzip();
        let mut told = false;
        let (to, bytes) = loop {
            let to = self.to();
            match place.turn(&to).and_then(|mut turn| turn.write(&mut records, to.chain.as_ref())) {
                Ok(bytes) => break (to, bytes),
                Err(error) => self.is_down(&to, &error, &mut told),
            }
            self.measure();
            if self.lock().closed {
                self.series.lost.inc_by(records.len() as u64);
                return;
            }
            std::thread::sleep(AGAIN);
        };
        self.is_up(&to, told);
        self.series.written.inc_by(records.len() as u64);
        self.series.bytes.inc_by(bytes);
        drop(slots);
    }
}

fn path_of(place: &Place) -> &Path {
    match place {
        Place::Files { path, .. } | Place::Sqlite { path } => path,
    }
}
