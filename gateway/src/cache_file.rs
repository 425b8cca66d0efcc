//! The cache's second tier: answers in an SQLite file of their own, so that they survive a restart.
//!
//! Written behind the requests' backs, in batches, by the thread of a [`Storage`]; read by a thread of this one's, which
//! a request waits for no longer than [`PATIENCE`]. An answer is one row, written in one transaction: after a kill it is
//! there or not, and its bytes carry a hash beside ([`stored`](tidegate_plugins::filters::prompt_cache::stored)). What is
//! too much, the oldest first, goes with the next write.

use crate::storage::{Options, Storage, Table, direct};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tidegate_plugins::cache_key::CacheKey;
use tidegate_plugins::filters::prompt_cache::Purge;
use tidegate_plugins::filters::prompt_cache::tier::{Stored, Tier, Tiers};
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

type Question = (CacheKey, oneshot::Sender<Option<Bytes>>);

/// One file.
struct CacheFile {
    storage: Storage,
    secret: [u8; 32],
    size: i64,
    questions: SyncSender<Question>,
}

impl CacheFile {
    fn open(path: &Path, size: u64) -> io::Result<Self> {
        let secret = direct(path, TABLES).map_err(io::Error::other).and_then(|connection| {
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
        Ok(Self { storage, secret, size: i64::try_from(size).unwrap_or(i64::MAX), questions })
    }
}

/// Answers questions until nobody has any more. A file that cannot be read has no answers until it can.
fn read(storage: &Storage, asked: &Receiver<Question>) {
    while let Ok(first) = asked.recv() {
        let mut next = Some(first);
        let answered = storage.read(|connection| {
            while let Some((key, told)) = next.take().or_else(|| asked.recv().ok()) {
                // Nobody waits any more: the next one does.
                if !told.is_closed() {
                    let _ = told.send(find(connection, &key)?);
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

fn write(transaction: &Transaction<'_>, key: &CacheKey, stored: &Stored, size: i64) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("DELETE FROM answers WHERE key = ?1 OR until <= ?2")?
        .execute(params![&key.0[..], millis(SystemTime::now())])?;
    transaction.prepare_cached("INSERT INTO answers VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
        &key.0[..],
        &*stored.tenant,
        &*stored.route,
        millis(stored.made),
        millis(stored.until),
        (stored.bytes)(),
    ])?;
    while total(transaction)?.0 > size {
        let oldest = "DELETE FROM answers WHERE key IN (SELECT key FROM answers ORDER BY made LIMIT ?1)";
        if transaction.prepare_cached(oldest)?.execute([GIVE_WAY])? == 0 {
            break;
        }
    }
    Ok(())
}

/// Bytes and answers.
fn total(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    let mut statement = connection.prepare_cached("SELECT bytes, count FROM answers_total")?;
    statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
}

#[async_trait]
impl Tier for CacheFile {
    fn secret(&self) -> [u8; 32] {
        self.secret
    }

    async fn get(&self, key: &CacheKey) -> Option<Bytes> {
        let (told, answer) = oneshot::channel();
        self.questions.try_send((*key, told)).ok()?;
        tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?
    }

    fn put(&self, key: CacheKey, stored: Stored) {
        let size = self.size;
        self.storage.enqueue(move |transaction| write(transaction, &key, &stored, size));
    }

    async fn purge(&self, what: &Purge) -> Option<u64> {
        let what = what.clone();
        let before = what.older_than.map(|age| millis(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)));
        let purge = move |transaction: &Transaction<'_>| {
            transaction.execute(
                "DELETE FROM answers WHERE (?1 IS NULL OR tenant = ?1) AND (?2 IS NULL OR route = ?2)
                 AND (?3 IS NULL OR made < ?3) AND (?4 IS NULL OR key = ?4)",
                params![what.tenant, what.route, before, what.key.map(|key| key.0.to_vec())],
            )
        };
        self.storage.commit(purge).await.ok().and_then(|purged| u64::try_from(purged).ok())
    }

    fn load(&self) -> (u64, u64) {
        let whole = |number: i64| u64::try_from(number).unwrap_or(0);
        self.storage.read(total).map_or((0, 0), |(bytes, count)| (whole(bytes), whole(count)))
    }
}
