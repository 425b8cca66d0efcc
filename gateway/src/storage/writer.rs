//! The one thread that writes: takes what waits, commits it together, and tries again what the store would not take.

use super::Inner;
use super::fault::{StorageError, is_away};
use super::file::Identity;
use super::queue::Job;
use rusqlite::{Connection, Transaction, TransactionBehavior};
use std::time::{Duration, Instant};

/// Writes that are committed together.
const TOGETHER: usize = 128;

/// How often the file is looked at when there is nothing to write.
const LOOK: Duration = Duration::from_secs(1);

/// Pauses before trying again, doubling.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// Writes until the store is closed.
pub(super) fn run(store: &Inner) {
    let mut writer = Writer { store, open: None, up: None, why: None, pause: SHORTEST };
    // Those who read need not find out by themselves that it has to be made first.
    match writer.write(&mut []) {
        Ok(_) => writer.works(),
        Err(error) => writer.fails(&error),
    }
    store.watchers.may_look();
    loop {
        writer.give_up_on_the_late();
        let (mut batch, closed) = store.queue.take(TOGETHER, LOOK);
        if closed {
            return;
        }
        match writer.write(&mut batch) {
            Ok(refused) => {
                store.queue.done(Vec::new());
                writer.tell(batch, refused);
                writer.works();
            }
            Err(error) => {
                store.queue.done(batch);
                writer.fails(&error);
                if store.queue.is_closed() {
                    return;
                }
                std::thread::sleep(writer.pause);
                writer.pause = (writer.pause * 2).min(LONGEST);
            }
        }
    }
}

/// Which of a batch was wrong, and what SQLite says.
type Refused = (usize, rusqlite::Error);

struct Writer<'a> {
    store: &'a Inner,
    open: Option<(Connection, Identity)>,
    /// What was last said about the store.
    up: Option<bool>,
    /// Why it could not be written the last time.
    why: Option<String>,
    pause: Duration,
}

impl Writer<'_> {
    /// Commits a batch; says which of it were wrong, and why. If the fault is the store's, all of it is to be tried again.
    fn write(&mut self, batch: &mut [Job]) -> Result<Vec<Refused>, StorageError> {
        let there = self.store.file.identity().ok();
        let (mut connection, identity) = match self.open.take() {
            Some(open) if Some(open.1) == there => open,
            _ => self.store.file.writer()?,
        };
        // After a fault, whatever state this one is in, a new one is in a better one.
        let refused = together(&mut connection, batch)?;
        self.open = Some((connection, identity));
        Ok(refused)
    }

    fn give_up_on_the_late(&self) {
        for job in self.store.queue.expired(Instant::now()) {
            self.store.metrics.expired.inc();
            let why = self.why.clone().unwrap_or_else(|| "it is locked, full or gone".to_owned());
            job.tell(Err(StorageError::Away(why)));
        }
    }

    fn tell(&self, batch: Vec<Job>, refused: Vec<Refused>) {
        if !batch.is_empty() {
            self.store.watchers.changed();
        }
        let mut refused = refused.into_iter().peekable();
        for (index, job) in batch.into_iter().enumerate() {
            match refused.next_if(|(which, _)| *which == index) {
                Some((_, error)) => {
                    self.store.metrics.refused.inc();
                    let text = error.to_string();
                    if !job.tell(Err(error.into())) {
                        tracing::error!(store = self.store.file.name(), error = text, "a write was refused");
                    }
                }
                None => {
                    self.store.metrics.stored.inc();
                    job.tell(Ok(()));
                }
            }
        }
    }

    fn works(&mut self) {
        self.pause = SHORTEST;
        self.store.metrics.can_be_written(true);
        self.why = None;
        if self.up.replace(true) == Some(false) {
            tracing::info!(store = self.store.file.name(), "the store can be written again");
        }
    }

    fn fails(&mut self, error: &StorageError) {
        if let StorageError::Away(why) = error {
            self.why = Some(why.clone());
        }
        self.store.metrics.can_be_written(false);
        self.store.metrics.errors.inc();
        if self.up.replace(false) != Some(false) {
            let what = "the store cannot be written; requests go on, and writes wait for it";
            tracing::error!(store = self.store.file.name(), %error, "{what}");
        }
    }
}

/// One transaction for all of them; for none of them it tells whether there could be one. A write that is wrong is undone alone; the fault of the store undoes them all.
fn together(connection: &mut Connection, batch: &mut [Job]) -> rusqlite::Result<Vec<Refused>> {
    let mut refused = Vec::new();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for (index, job) in batch.iter_mut().enumerate() {
        match alone(&transaction, job) {
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => refused.push((index, error)),
            Ok(()) => {}
        }
    }
    transaction.commit()?;
    Ok(refused)
}

fn alone(transaction: &Transaction<'_>, job: &mut Job) -> rusqlite::Result<()> {
    transaction.execute_batch("SAVEPOINT one")?;
    match (job.write)(transaction) {
        Ok(()) => transaction.execute_batch("RELEASE one"),
        Err(error) if is_away(&error) => Err(error),
        Err(error) => transaction.execute_batch("ROLLBACK TO one; RELEASE one").and(Err(error)),
    }
}
