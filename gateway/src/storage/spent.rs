//! What budgets have spent: read when the gateway starts, added to a few times a second, kept until no window of that
//! time goes on. Whose it is stands there as a hash.

use super::{Storage, StorageError, Table};
use rusqlite::{Connection, Transaction, params};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tidegate_plugins::services::{Journal, Spent};
use tidegate_plugins::store::{OVER, Store, half_day};

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

/// How often windows that are over are forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(3600);

/// Keeps what the budgets of a gateway spend.
pub(crate) struct Spending {
    storage: Storage,
    store: Arc<dyn Store>,
    /// Whether it is known what was spent before. Until then nothing is written, or it would be read as if it were.
    is_read: AtomicBool,
}

impl Spending {
    /// Goes on from what was spent before. Waits for the store a moment; one that is away is read when it is back.
    pub(crate) fn begin(storage: Storage, store: Arc<dyn Store>) -> Self {
        let spending = Self { storage, store, is_read: AtomicBool::new(false) };
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
        self.store.go_on_from(Some(spent));
        self.is_read.store(true, Relaxed);
        Ok(())
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
        let spent = spent.to_vec();
        match self.storage.enqueue(move |transaction| add(transaction, &spent)) {
            true => Ok(()),
            false => Err(io::Error::other("too many writes wait already")),
        }
    }
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
