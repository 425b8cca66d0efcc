//! The embedded store: what must outlive the process, in one SQLite file.
//!
//! Nobody who answers a request ever waits for it. Writes go into a bounded [`queue`] and are committed in batches by
//! one thread ([`writer`]), which tries again for as long as the file is locked, full or gone. Reads happen at start, on
//! the admin listener, on the command line, and on a thread that notices what other processes have written
//! ([`watch`]). Who keeps something here has a [`Table`]: a module of its own, with its migrations and its statements.
//!
//! ```ignore
//! const TABLE: Table = Table { name: "budgets", migrations: &["CREATE TABLE budgets (...) STRICT"] };
//! storage.enqueue(move |transaction| save(transaction, &spent));      // later, or never if the queue is full
//! storage.commit(move |transaction| insert(transaction, &key)).await; // once it is on the disk, or why it is not
//! storage.read(|connection| load(connection));                        // blocking
//! ```

mod fault;
mod file;
pub mod keys;
mod metrics;
mod queue;
pub(crate) mod spent;
#[cfg(test)]
mod tests;
pub(crate) mod usage;
mod watch;
mod writer;

pub use fault::StorageError;
pub use file::{Table, direct, inspect, look, try_write};
pub use metrics::StorageMetrics;
pub(crate) use metrics::{ERRORS, ERRORS_HELP, QUEUE, QUEUE_HELP, UP, UP_HELP, WRITES, WRITES_HELP};

use file::File;
use queue::{Job, Queue};
use rusqlite::{Connection, Transaction};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use watch::Watchers;

/// What is kept in the store of the gateway, one module each.
pub const TABLES: &[Table] = &[keys::TABLE, spent::TABLE, usage::TABLE];

/// The name of the store of the gateway.
pub const MAIN: &str = "main";

/// How many writes wait at most for the store of the gateway.
const QUEUE_LENGTH: usize = 4096;

/// How long whoever asked for a write to be acknowledged waits for a store that cannot be written.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a commit that has begun may take before whoever waits is told that nobody knows.
const SLOWEST_COMMIT: Duration = Duration::from_secs(10);

/// A store: its file and what may be kept in it.
pub struct Options {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// The file. Made if it is not there when the store is opened; its directory is not.
    pub path: PathBuf,
    /// What is kept in it.
    pub tables: &'static [Table],
    /// Whether a commit waits for the disk. Without, a power failure may take the last commits along.
    pub durable: bool,
    /// How many writes wait at most.
    pub queue: usize,
}

/// A store that is open, or will be as soon as it can. Clones are the same store; when the last is gone its threads end,
/// once what is in the queue has been written or cannot be.
#[derive(Clone)]
pub struct Storage(Arc<Opened>);

struct Opened(Arc<Inner>);

struct Inner {
    file: File,
    queue: Queue,
    watchers: Watchers,
    metrics: StorageMetrics,
}

impl Options {
    /// The store of the gateway, in this file.
    pub fn main(path: PathBuf) -> Self {
        Self { name: MAIN, path, tables: TABLES, durable: true, queue: QUEUE_LENGTH }
    }
}

impl Storage {
    /// Begins to open a store, and goes on trying: a store that is away keeps nobody from starting.
    ///
    /// # Errors
    /// If there can be no thread for it.
    pub fn open(options: Options) -> io::Result<Self> {
        let metrics = StorageMetrics::new(options.name);
        let inner = Arc::new(Inner {
            queue: Queue::new(options.queue, metrics.clone()),
            file: File::new(options),
            watchers: Watchers::default(),
            metrics,
        });
        let name = inner.file.name();
        let writes = inner.clone();
        std::thread::Builder::new().name(format!("{name}-writer")).spawn(move || writer::run(&writes))?;
        let watches = inner.clone();
        std::thread::Builder::new().name(format!("{name}-watch")).spawn(move || watch::run(&watches))?;
        Ok(Self(Arc::new(Opened(inner))))
    }

    /// Writes later. A write that the store itself refuses (locked, full, gone) is tried again until it succeeds, so it
    /// may run more than once and must be the same each time; one that is wrong is logged and dropped.
    ///
    /// Returns whether there was room in the queue; if not, the write is lost and counted.
    pub fn enqueue(&self, write: impl FnMut(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static) -> bool {
        self.0.0.queue.push(Job::unwatched(write))
    }

    /// Writes, and returns what the write did once it is committed. Not for the request path.
    ///
    /// # Errors
    /// Why it is not written. Unless that is [`StorageError::Unknown`], it never will be.
    pub async fn commit<T: Send + 'static>(
        &self,
        write: impl FnMut(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (job, told) = Job::watched(write, Instant::now() + PATIENCE);
        if !self.0.0.queue.push(job) {
            return Err(StorageError::Away("too many writes wait already".to_owned()));
        }
        match tokio::time::timeout(PATIENCE + SLOWEST_COMMIT, told).await {
            Ok(Ok(told)) => told,
            Ok(Err(_)) | Err(_) => Err(StorageError::Unknown),
        }
    }

    /// Reads, on a connection of its own. Blocks: for the start, the admin listener's blocking threads and tests.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StorageError> {
        let (connection, _) = self.0.0.file.reader()?;
        read(&connection).map_err(StorageError::from)
    }

    /// Has `look` read the store now, and again whenever anyone, another process included, has written to it or put
    /// another file in its place: within half a second. While it fails it is tried again, and what it learned before
    /// should stay.
    pub fn watch(&self, look: impl FnMut(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        self.0.0.watchers.add(Box::new(look));
    }

    /// Blocks until all that is committed by now has been looked at by those who watch, or cannot be.
    ///
    /// Returns whether it has been looked at within the time.
    pub fn seen(&self, within: Duration) -> bool {
        self.0.0.watchers.seen(within)
    }

    /// Blocks until every write that is in the queue now is on the disk. For the end of the process.
    ///
    /// Returns whether that was so within the time.
    pub fn flush(&self, within: Duration) -> bool {
        self.0.0.queue.empty(within)
    }

    /// What `/metrics` shows of it.
    pub fn metrics(&self) -> &StorageMetrics {
        &self.0.0.metrics
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.watchers.close();
    }
}
