//! The cache's second tier: answers in an SQLite file of their own, so that they survive a restart.
//!
//! Written behind the requests' backs, in batches, by the thread of a [`Storage`]; read by a thread of this one's, which
//! a request waits for no longer than [`PATIENCE`]. An answer is one row, written in one transaction: after a kill it is
//! there or not, and its bytes carry a hash beside ([`stored`](tidegate_plugins::filters::prompt_cache::stored)). What is
//! too much, the oldest first, goes with the next write.

use crate::storage::{Options, Storage, Table, direct, inspect, try_write};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_plugins::cache_key::CacheKey;
use tidegate_plugins::filters::prompt_cache::Purge;
use tidegate_plugins::filters::prompt_cache::tier::{NoTiers, Stored, Tier, TierCounts, Tiers};
use tokio::sync::oneshot;

/// How long a request waits for the file. What comes later is as good as not there.
const PATIENCE: Duration = Duration::from_millis(250);

/// Requests that wait for the file at most, and answers that wait to be written.
const WAITING: usize = 128;

/// How many answers give way at a time.
const GIVE_WAY: i64 = 64;

const TABLES: &[Table] = &[Table {
    name: "answers",
    migrations: &["
        CREATE TABLE answers (
            key BLOB PRIMARY KEY, tenant TEXT NOT NULL, route TEXT NOT NULL,
            made INTEGER NOT NULL, until INTEGER NOT NULL, bytes BLOB NOT NULL
        ) STRICT;
        CREATE INDEX answers_made ON answers (made);
        CREATE INDEX answers_until ON answers (until);
        CREATE TABLE answers_total (bytes INTEGER NOT NULL, count INTEGER NOT NULL) STRICT;
        INSERT INTO answers_total VALUES (0, 0);
        CREATE TABLE answers_secret (secret BLOB NOT NULL) STRICT;
        INSERT INTO answers_secret VALUES (randomblob(32));
        CREATE TRIGGER answers_put AFTER INSERT ON answers BEGIN
            UPDATE answers_total SET bytes = bytes + length(new.bytes) + 200, count = count + 1;
        END;
        CREATE TRIGGER answers_gone AFTER DELETE ON answers BEGIN
            UPDATE answers_total SET bytes = bytes - length(old.bytes) - 200, count = count - 1;
        END;
    "],
}];

/// The files that are open.
#[derive(Default)]
pub(crate) struct CacheFiles(Mutex<Vec<(PathBuf, u64, Weak<CacheFile>)>>);

impl Tiers for CacheFiles {
    fn open(&self, path: &Path, size: u64) -> io::Result<Arc<dyn Tier>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, _, file)| file.strong_count() > 0);
        let found = open.iter().find(|(known, its, _)| known == path && *its == size);
        if let Some(file) = found.and_then(|(_, _, file)| file.upgrade()) {
            return Ok(file);
        }
        let file = Arc::new(CacheFile::open(path, size)?);
        open.push((path.to_owned(), size, Arc::downgrade(&file)));
        Ok(file)
    }

    fn all(&self) -> Vec<Arc<dyn Tier>> {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().filter_map(|(_, _, file)| file.upgrade()).map(|file| file as Arc<dyn Tier>).collect()
    }
}

/// Where files are looked at only, as a check does: what is there and is no store of ours is a fault, and nothing is made.
pub(crate) struct LooksOnly;

impl Tiers for LooksOnly {
    fn open(&self, path: &Path, size: u64) -> io::Result<Arc<dyn Tier>> {
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        if path.exists() {
            inspect(path).and_then(|()| try_write(path)).map_err(io::Error::other)?;
        } else if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
            return Err(io::Error::other(format!("{}: there is no such directory", directory.display())));
        }
        NoTiers.open(path, size)
    }

    fn all(&self) -> Vec<Arc<dyn Tier>> {
        Vec::new()
    }
}

type Question = (Vec<CacheKey>, oneshot::Sender<Vec<Option<Bytes>>>);

/// What the file has, as of the last write to it.
#[derive(Default)]
struct Has {
    bytes: AtomicU64,
    entries: AtomicU64,
}

impl Has {
    fn look(&self, connection: &Connection) -> rusqlite::Result<()> {
        let (bytes, entries) = total(connection)?;
        self.bytes.store(bytes, Ordering::Relaxed);
        self.entries.store(entries, Ordering::Relaxed);
        Ok(())
    }
}

/// One file.
struct CacheFile {
    storage: Storage,
    secret: [u8; 32],
    size: u64,
    has: Arc<Has>,
    questions: SyncSender<Question>,
}

impl CacheFile {
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let has = Arc::<Has>::default();
        let secret = direct(path, TABLES).map_err(io::Error::other).and_then(|connection| {
            has.look(&connection).map_err(io::Error::other)?;
            let secret: Vec<u8> = connection
                .query_row("SELECT secret FROM answers_secret", [], |row| row.get(0))
                .map_err(io::Error::other)?;
            secret.try_into().map_err(|_| io::Error::other("its secret is none"))
        })?;
        let storage = Storage::open(Options {
            name: "cache",
            path: path.to_owned(),
            tables: TABLES,
            durable: false,
            queue: WAITING,
        })?;
        let (questions, asked) = sync_channel(WAITING);
        let reads = storage.clone();
        std::thread::Builder::new().name("cache-reader".to_owned()).spawn(move || read(&reads, &asked))?;
        Ok(Self { storage, secret, size, has, questions })
    }
}

/// Answers questions until nobody has any more. A file that cannot be read has no answers until it can.
fn read(storage: &Storage, asked: &Receiver<Question>) {
    while let Ok(first) = asked.recv() {
        let mut next = Some(first);
        let answered = storage.read(|connection| {
            while let Some((keys, told)) = next.take().or_else(|| asked.recv().ok()) {
                // Nobody waits any more: the next one does.
                if !told.is_closed() {
                    let found: rusqlite::Result<_> = keys.iter().map(|key| find(connection, key)).collect();
                    let _ = told.send(found?);
                }
            }
            Ok(())
        });
        if let Err(error) = answered {
            tracing::warn!(%error, "the cache's file cannot be read");
        }
    }
}

fn find(connection: &Connection, key: &CacheKey) -> rusqlite::Result<Option<Bytes>> {
    let mut statement = connection.prepare_cached("SELECT bytes FROM answers WHERE key = ?1 AND until > ?2")?;
    let found = statement.query_row(params![&key.0[..], millis(SystemTime::now())], |row| row.get::<_, Vec<u8>>(0));
    Ok(found.optional()?.map(Bytes::from))
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn write(transaction: &Transaction<'_>, answers: &[(CacheKey, Stored)], size: u64) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM answers WHERE until <= ?1")?.execute([millis(SystemTime::now())])?;
    let mut delete = transaction.prepare_cached("DELETE FROM answers WHERE key = ?1")?;
    let mut insert = transaction.prepare_cached("INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for (key, stored) in answers {
        delete.execute([&key.0[..]])?;
        insert.execute(params![
            &key.0[..],
            &*stored.tenant,
            &*stored.route,
            millis(stored.made),
            millis(stored.until),
            (stored.bytes)(),
        ])?;
    }
    while total(transaction)?.0 > size {
        let oldest = "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY made LIMIT ?1)";
        if transaction.prepare_cached(oldest)?.execute([GIVE_WAY])? == 0 {
            break;
        }
    }
    Ok(())
}

/// Bytes and answers.
fn total(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    let mut statement = connection.prepare_cached("SELECT bytes, count FROM answers_total")?;
    let (bytes, count): (i64, i64) = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let whole = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok((whole(bytes), whole(count)))
}

#[async_trait]
impl Tier for CacheFile {
    fn secret(&self) -> [u8; 32] {
        self.secret
    }

    async fn get(&self, keys: Vec<CacheKey>) -> Option<Vec<Option<Bytes>>> {
        let (told, answer) = oneshot::channel();
        self.questions.try_send((keys, told)).ok()?;
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()
    }

    fn put(&self, answers: Vec<(CacheKey, Stored)>) {
        let (size, has) = (self.size, self.has.clone());
        self.storage.enqueue(move |transaction| {
            write(transaction, &answers, size)?;
            has.look(transaction)
        });
    }

    async fn purge(&self, what: &Purge) -> Option<u64> {
        let what = what.clone();
        let before = what.older_than.map(|age| millis(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)));
        let has = self.has.clone();
        let purge = move |transaction: &Transaction<'_>| {
            let mut delete = transaction.prepare_cached(
                "DELETE FROM answers WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR route = ?2)
                 AND (?3 IS NULL OR made < ?3) AND (?4 IS NULL OR key = ?4)",
            )?;
            let mut of = |key: Option<&CacheKey>| {
                delete.execute(params![what.tenant, what.route, before, key.map(|key| &key.0[..])])
            };
            let purged = if what.keys.is_empty() {
                of(None)?
            } else {
                what.keys.iter().try_fold(0, |sum, key| Ok::<_, rusqlite::Error>(sum + of(Some(key))?))?
            };
            has.look(transaction)?;
            Ok(purged)
        };
        self.storage.commit(purge).await.ok().and_then(|purged| u64::try_from(purged).ok())
    }

    fn load(&self) -> (u64, u64) {
        self.storage.read(total).unwrap_or_default()
    }

    fn counts(&self) -> TierCounts {
        let [stored, dropped, refused, faults] = self.storage.metrics().totals();
        let (bytes, entries) = (self.has.bytes.load(Ordering::Relaxed), self.has.entries.load(Ordering::Relaxed));
        TierCounts { bytes, entries, stored, dropped, refused, faults }
    }

    fn flush(&self, within: Duration) -> bool {
        self.storage.flush(within)
    }
}
