//! The thread that notices what has been written, by whomever, and has it read.

use super::Inner;
use super::fault::StorageError;
use super::file::Identity;
use rusqlite::Connection;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// How often the file is asked whether another process has changed it.
const LOOK: Duration = Duration::from_millis(200);

type Look = Box<dyn FnMut(&Connection) -> rusqlite::Result<()> + Send>;

/// Those who want to know.
#[derive(Default)]
pub(super) struct Watchers {
    state: Mutex<State>,
    wake: Condvar,
    looked: Condvar,
}

#[derive(Default)]
struct State {
    /// Who came and has not been taken over by the thread yet.
    new: Vec<Look>,
    /// How often something was said to have changed, and how far that has been looked at.
    changes: u64,
    seen: u64,
    /// Whether the last look failed.
    failing: bool,
    /// Whether the file has been made, or cannot be.
    made: bool,
    closed: bool,
}

impl Watchers {
    pub(super) fn may_look(&self) {
        self.lock().made = true;
        self.wake.notify_all();
    }

    pub(super) fn add(&self, look: Look) {
        self.lock().new.push(look);
        self.changed();
    }

    /// Something was committed.
    pub(super) fn changed(&self) {
        self.lock().changes += 1;
        self.wake.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    /// Waits until what was said to have changed by now has been looked at.
    pub(super) fn seen(&self, within: Duration) -> bool {
        let state = self.lock();
        let until = state.changes;
        let waits = |state: &mut State| state.seen < until && !state.failing;
        let (state, _) = self.looked.wait_timeout_while(state, within, waits).unwrap_or_else(PoisonError::into_inner);
        state.seen >= until
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks until the store is closed.
pub(super) fn run(store: &Inner) {
    let mut looking = Looking { store, looks: Vec::new(), open: None, version: None, failed: false };
    loop {
        let watchers = &store.watchers;
        let waits = |state: &mut State| (!state.made || state.changes == state.seen) && !state.closed;
        let waited = watchers.wake.wait_timeout_while(watchers.lock(), LOOK, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        if !state.made {
            continue;
        }
        let changes = state.changes;
        let told = changes != state.seen || !state.new.is_empty();
        looking.looks.append(&mut state.new);
        drop(state);
        let looked = looking.look(told);
        looking.tell(looked.as_ref().err());
        let mut state = watchers.lock();
        state.failing = looked.is_err();
        if looked.is_ok() {
            state.seen = changes;
        }
        drop(state);
        watchers.looked.notify_all();
        if looked.is_err() {
            std::thread::sleep(LOOK);
        }
    }
}

/// A file that is read.
struct Open {
    connection: Connection,
    which: Identity,
    /// When it had been written to last, if what is written later is not seen.
    stands: Option<SystemTime>,
}

struct Looking<'a> {
    store: &'a Inner,
    looks: Vec<Look>,
    open: Option<Open>,
    /// What SQLite said when all was last read; it changes when anyone else has committed.
    version: Option<i64>,
    failed: bool,
}

impl Looking<'_> {
    fn look(&mut self, told: bool) -> Result<(), StorageError> {
        let there = self.store.file.identity().map_err(|error| StorageError::Away(error.to_string()))?;
        let written = || self.store.file.written();
        let Open { connection, .. } = match self.open.take() {
            Some(open) if open.which == there && (open.stands.is_none() || open.stands == written()) => {
                self.open.insert(open)
            }
            _ => {
                self.version = None;
                let (connection, stands) = self.store.file.reader()?;
                self.open.insert(Open { connection, which: there, stands })
            }
        };
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0));
        let read = version.and_then(|version: i64| {
            if told || self.version != Some(version) {
                // Asked before, so that what comes in between is read again rather than missed.
                for look in &mut self.looks {
                    look(connection)?;
                }
                self.version = Some(version);
            }
            Ok(())
        });
        if read.is_err() {
            (self.open, self.version) = (None, None);
        }
        Ok(read?)
    }

    fn tell(&mut self, error: Option<&StorageError>) {
        self.store.metrics.can_be_read(error.is_none());
        let before = std::mem::replace(&mut self.failed, error.is_some());
        let store = self.store.file.name();
        match error {
            Some(error) => {
                self.store.metrics.errors.inc();
                if !before {
                    tracing::error!(store, %error, "the store cannot be read; what was read before stays in use");
                }
            }
            None if before => tracing::info!(store, "the store can be read again"),
            None => {}
        }
    }
}
