//! Writes that wait for the store, in order and bounded.

use super::fault::StorageError;
use super::metrics::{StorageMetrics, whole};
use rusqlite::Transaction;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

type Write = Box<dyn FnMut(&Transaction<'_>) -> rusqlite::Result<()> + Send>;
type Tell = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// One write, and who wants to know what became of it.
pub(super) struct Job {
    pub(super) write: Write,
    tell: Option<Tell>,
    /// After that nobody waits for it any more, and it is not done.
    expires: Option<Instant>,
}

impl Job {
    /// A write nobody waits for.
    pub(super) fn unwatched(write: impl FnMut(&Transaction<'_>) -> rusqlite::Result<()> + Send + 'static) -> Self {
        Self { write: Box::new(write), tell: None, expires: None }
    }

    /// A write whose result somebody waits for.
    pub(super) fn watched<T: Send + 'static>(
        mut write: impl FnMut(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
        expires: Instant,
    ) -> (Self, oneshot::Receiver<Result<T, StorageError>>) {
        let (sender, receiver) = oneshot::channel();
        let done = std::sync::Arc::new(Mutex::new(None));
        let made = done.clone();
        let write = move |transaction: &Transaction<'_>| {
            let value = write(transaction)?;
            *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            Ok(())
        };
        let tell = move |outcome: Result<(), StorageError>| {
            let made = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Whoever waited may have given up.
            let _ = sender.send(outcome.and_then(|()| made.ok_or(StorageError::Unknown)));
        };
        (Self { write: Box::new(write), tell: Some(Box::new(tell)), expires: Some(expires) }, receiver)
    }

    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires < now)
    }

    /// Says what became of it; says whether anybody listened.
    pub(super) fn tell(self, outcome: Result<(), StorageError>) -> bool {
        self.tell.map(|tell| tell(outcome)).is_some()
    }
}

/// The queue.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something came in, or it was closed.
    filled: Condvar,
    /// All of it is done.
    emptied: Condvar,
    most: usize,
    metrics: StorageMetrics,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Taken out and not done yet.
    busy: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(most: usize, metrics: StorageMetrics) -> Self {
        Self { state: Mutex::default(), filled: Condvar::new(), emptied: Condvar::new(), most, metrics }
    }

    /// Puts a write at the end; says whether there was room.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.jobs.len() + state.busy >= self.most || state.closed {
            self.metrics.dropped.inc();
            return false;
        }
        state.jobs.push_back(job);
        self.measure(&state);
        self.filled.notify_one();
        true
    }

    /// Takes out those that nobody waits for any more.
    pub(super) fn expired(&self, now: Instant) -> Vec<Job> {
        let mut state = self.lock();
        if !state.jobs.iter().any(|job| job.has_expired(now)) {
            return Vec::new();
        }
        let (expired, rest): (Vec<_>, Vec<_>) = state.jobs.drain(..).partition(|job| job.has_expired(now));
        state.jobs = rest.into();
        self.measure(&state);
        expired
    }

    /// Waits for writes and takes as many as may be committed together; none if nothing came within the time, or
    /// nothing ever will: then it is closed.
    pub(super) fn take(&self, most: usize, within: Duration) -> (Vec<Job>, bool) {
        let waits = |state: &mut State| state.jobs.is_empty() && !state.closed;
        let (mut state, _) =
            self.filled.wait_timeout_while(self.lock(), within, waits).unwrap_or_else(PoisonError::into_inner);
        let count = state.jobs.len().min(most);
        let batch: Vec<_> = state.jobs.drain(..count).collect();
        state.busy = batch.len();
        (batch, state.closed && count == 0)
    }

    /// Puts back what could not be written, in front; the rest of what was taken is done.
    pub(super) fn done(&self, left: Vec<Job>) {
        let mut state = self.lock();
        state.busy = 0;
        for job in left.into_iter().rev() {
            state.jobs.push_front(job);
        }
        self.measure(&state);
        if state.jobs.is_empty() {
            self.emptied.notify_all();
        }
    }

    /// Waits until there is nothing in it.
    pub(super) fn empty(&self, within: Duration) -> bool {
        let waits = |state: &mut State| !state.jobs.is_empty() || state.busy > 0;
        let waited = self.emptied.wait_timeout_while(self.lock(), within, waits);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn measure(&self, state: &State) {
        self.metrics.queue.set(whole(state.jobs.len() + state.busy));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
