//! What budgets have spent: read when the gateway starts, added to a few times a second, kept until no window of that
//! time goes on. Whose it is stands there as a hash.

use super::{Storage, StorageError, Table};
use rusqlite::{Connection, Transaction, params};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_plugins::services::{Journal, Spent};
use tidegate_plugins::store::{OVER, Store, half_day};
use tokio::sync::oneshot;

/// Where it is kept.
pub(super) const TABLE: Table = Table {
    name: "spent",
    migrations: &["CREATE TABLE spent (
        budget TEXT NOT NULL, subject BLOB NOT NULL, window INTEGER NOT NULL, amount INTEGER NOT NULL,
        PRIMARY KEY (budget, subject, window)
    ) STRICT, WITHOUT ROWID"],
};

/// How often what was spent is handed to the store: what a crash loses at most.
pub(crate) const EVERY: Duration = Duration::from_millis(200);

/// How long the start waits for a store that is being opened.
const START: Duration = Duration::from_secs(2);

/// How long it may take to look up what another process has spent.
const CATCH_UP: Duration = Duration::from_secs(10);

/// How often windows that are over are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// Keeps what the budgets of a gateway spend.
pub(crate) struct Spending {
    storage: Storage,
    store: Arc<dyn Store>,
    /// Whether it is known what was spent before. Until then nothing is written, or it would be read as if it were.
    is_read: AtomicBool,
    /// Kept while another process spends from the same budgets.
    elsewhere: Mutex<Option<Elsewhere>>,
}

/// By limit, subject and window.
type Amounts = HashMap<(Arc<str>, [u8; 16], u32), u64>;

/// What of the amounts in the file is whose.
#[derive(Default)]
struct Elsewhere {
    /// What others had spent, as far as it is known here.
    theirs: Amounts,
    /// What was handed to the store by this process.
    ours: Amounts,
}

impl Spending {
    /// Goes on from what was spent before. Waits for the store a moment; one that is away is read when it is back. If it
    /// is `shared`, another process still spends; see [`Self::catch_up`].
    pub(crate) fn begin(storage: Storage, store: Arc<dyn Store>, shared: bool) -> Self {
        let elsewhere = Mutex::new(shared.then(Elsewhere::default));
        let spending = Self { storage, store, is_read: AtomicBool::new(false), elsewhere };
        spending.store.go_on_from(None);
        let start = Instant::now();
        while spending.read().is_err() {
            if start.elapsed() > START {
                tracing::error!("what budgets have spent cannot be read; they begin anew until it can");
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        spending
    }

    fn read(&self) -> Result<(), StorageError> {
        let since = self.oldest();
        let spent = self.storage.read(|connection| load(connection, since))?;
        if let Some(elsewhere) = self.elsewhere().as_mut() {
            elsewhere.theirs = spent.iter().cloned().map(entry).collect();
        }
        self.store.go_on_from(Some(spent));
        self.is_read.store(true, Relaxed);
        Ok(())
    }

    /// Whether it is known what was spent before.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read.load(Relaxed)
    }

    /// Adds what the other process has spent since the last time; the `last` time that process is gone. Says whether it is
    /// known.
    pub(crate) async fn catch_up(&self, last: bool) -> bool {
        let Some((asked, ours)) = self.ask() else { return self.elsewhere().is_none() };
        let Ok(Ok(rows)) = tokio::time::timeout(CATCH_UP, asked).await else { return false };
        let mut kept = self.elsewhere();
        let Some(elsewhere) = kept.as_mut() else { return true };
        let mut news = Vec::new();
        for spent in rows {
            let (key, all) = entry(spent);
            let theirs = all.saturating_sub(ours.get(&key).copied().unwrap_or(0));
            let known = elsewhere.theirs.entry(key.clone()).or_default();
            if theirs > *known {
                let (limit, subject, window) = key;
                news.push(Spent { limit, subject, window, amount: theirs - *known });
                *known = theirs;
            }
        }
        if last {
            *kept = None;
        }
        drop(kept);
        self.store.spent_elsewhere(news);
        true
    }

    /// Has the writer read, so that it is known which of our own amounts are among those it reads: those before it in the
    /// queue.
    fn ask(&self) -> Option<(oneshot::Receiver<Vec<Spent>>, Amounts)> {
        let kept = self.elsewhere();
        let elsewhere = kept.as_ref().filter(|_| self.is_read())?;
        let (tell, asked) = oneshot::channel();
        let (mut tell, since) = (Some(tell), self.oldest());
        let queued = self.storage.enqueue(move |transaction| {
            let rows = load(transaction, since)?;
            // Whoever asked may have given up.
            let _ = tell.take().map(|tell| tell.send(rows));
            Ok(())
        });
        queued.then(|| (asked, elsewhere.ours.clone()))
    }

    fn elsewhere(&self) -> MutexGuard<'_, Option<Elsewhere>> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Windows that began before are over.
    fn oldest(&self) -> u32 {
        half_day(self.store.clock().wall()).saturating_sub(OVER)
    }

    /// Hands on what was spent since the last time. For the end, and in between.
    pub(crate) fn write_down(&self) {
        // What cannot be handed on now is handed on the next time; the store counts what it has no room for.
        let _ = self.store.write_down(self);
    }

    /// Hands on what is spent for as long as the gateway runs.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut forgotten: Option<Instant> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            if !self.is_read.load(Relaxed) {
                let spending = self.clone();
                let read = tokio::task::spawn_blocking(move || spending.read()).await;
                if !matches!(read, Ok(Ok(()))) {
                    continue;
                }
                tracing::info!("what budgets have spent is read");
            }
            self.write_down();
            if forgotten.is_none_or(|then| then.elapsed() > FORGET_EVERY) {
                let oldest = self.oldest();
                self.storage.enqueue(move |transaction| forget(transaction, oldest));
                forgotten = Some(Instant::now());
            }
        }
    }
}

impl Journal for Spending {
    fn add(&self, spent: &[Spent]) -> io::Result<()> {
        let written = spent.to_vec();
        // Held meanwhile, so that what is counted as ours is what is in the queue.
        let mut kept = self.elsewhere();
        if !self.storage.enqueue(move |transaction| add(transaction, &written)) {
            return Err(io::Error::other("too many writes wait already"));
        }
        if let Some(elsewhere) = kept.as_mut() {
            for (key, amount) in spent.iter().cloned().map(entry) {
                *elsewhere.ours.entry(key).or_default() += amount;
            }
        }
        Ok(())
    }
}

fn entry(spent: Spent) -> ((Arc<str>, [u8; 16], u32), u64) {
    ((spent.limit, spent.subject, spent.window), spent.amount)
}

fn load(connection: &Connection, since: u32) -> rusqlite::Result<Vec<Spent>> {
    let mut rows = connection.prepare("SELECT budget, subject, window, amount FROM spent WHERE window >= ?1")?;
    let spent = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Spent> {
        let (limit, amount): (String, i64) = (row.get(0)?, row.get(3)?);
        let amount = u64::try_from(amount).unwrap_or(0);
        Ok(Spent { limit: limit.into(), subject: row.get(1)?, window: row.get(2)?, amount })
    };
    rows.query_map([since], spent)?.collect()
}

fn add(transaction: &Transaction<'_>, spent: &[Spent]) -> rusqlite::Result<()> {
    let mut add = transaction.prepare_cached(
        "INSERT INTO spent (budget, subject, window, amount) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT DO UPDATE SET amount = min(amount + excluded.amount, 4611686018427387904)",
    )?;
    for Spent { limit, subject, window, amount } in spent {
        let amount = i64::try_from(*amount).unwrap_or(i64::MAX).min(1 << 60);
        add.execute(params![&**limit, subject, window, amount])?;
    }
    Ok(())
}

fn forget(transaction: &Transaction<'_>, since: u32) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM spent WHERE window < ?1", [since]).map(drop)
}
