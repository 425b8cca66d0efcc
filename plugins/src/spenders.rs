//! Who spends most: the top organisations, users, keys and models by requests, tokens, money and refusals, over sliding
//! windows, from memory that is bounded however many there are.
//!
//! A request is added to sums that only its own thread adds to: no lock that requests share, and nothing that depends on how
//! many spenders there are. Once a second, on a thread that answers no requests, [`Spenders::gather`] empties the sums
//! into [`windows`], which keep the largest and know how wrong they may be about the others.

mod tally;
#[cfg(test)]
mod tests;
mod windows;

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use windows::Windows;

pub use windows::Window;

/// What spenders are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The organisation.
    Org,
    /// The user, of an organisation if one is known.
    User,
    /// The credential's name.
    Key,
    /// The model, as the file names it.
    Model,
}

/// What they are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// Requests, whatever became of them.
    Requests,
    /// Tokens of prompts and answers.
    Tokens,
    /// Money, in thousand millionths.
    Cost,
    /// Requests that a limit refused.
    Limited,
}

/// All kinds of spenders.
const KINDS: usize = 4;

/// All measures.
const MEASURES: usize = 4;

/// A number for each of [`Of`].
pub type Sums = [u64; MEASURES];

/// Names of one kind that one thread keeps apart between two gatherings. What more there are is only counted.
const NAMES: usize = 4096;

/// Between an organisation and a user of it, who are one name: no name has a control character in it.
const BETWEEN: &str = "\0";

/// Threads that add without meeting others.
const THREADS: usize = 64;

/// What one request has spent, and who.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent<'a> {
    /// The organisation, if it is known.
    pub org: Option<&'a str>,
    /// The user.
    pub user: Option<&'a str>,
    /// The credential's name.
    pub key: Option<&'a str>,
    /// The model as the file names it.
    pub model: Option<&'a str>,
    /// Tokens of prompt and answer.
    pub tokens: u64,
    /// Money, in thousand millionths.
    pub cost: u64,
    /// Whether a limit refused it.
    pub limited: bool,
}

/// See the module. One for the process.
#[derive(Debug)]
pub struct Spenders {
    threads: Box<[Mutex<Sum>]>,
    windows: Mutex<Windows>,
    start: Instant,
}

/// What one thread has added since the last gathering.
#[derive(Debug, Default)]
struct Sum {
    /// Where the name of a user is put together.
    name: String,
    kinds: [HashMap<Box<str>, Sums>; KINDS],
    /// What names beyond the bound have spent.
    others: [Sums; KINDS],
}

/// The top of one kind.
#[derive(Debug)]
pub struct Top {
    /// The largest first.
    pub spenders: Vec<Spender>,
    /// What all have spent together.
    pub total: Sums,
    /// How much more than is told any of them may have spent, at most. Zero as long as there are few.
    pub error: Sums,
    /// How far back it goes.
    pub covers: Duration,
}

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Spender {
    /// Its name.
    name: Arc<str>,
    /// What it has spent at least.
    pub spent: Sums,
}

impl Spender {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.split_once(BETWEEN).map_or(&*self.name, |(_, name)| name)
    }

    /// The organisation that a user is of, if one is known.
    #[must_use]
    pub fn org(&self) -> Option<&str> {
        self.name.split_once(BETWEEN).map(|(org, _)| org)
    }
}

impl Default for Spenders {
    fn default() -> Self {
        let threads = (0..THREADS).map(|_| Mutex::default()).collect();
        Self { threads, windows: Mutex::default(), start: Instant::now() }
    }
}

impl Spenders {
    /// Adds what a request has spent.
    pub fn record(&self, spent: &Spent<'_>) {
        let sums = [1, spent.tokens, spent.cost, spent.limited.into()];
        let mut sum = lock(&self.threads[thread() % THREADS]);
        let mut user = std::mem::take(&mut sum.name);
        if let Some(name) = spent.user {
            user.clear();
            user.extend(spent.org.into_iter().flat_map(|org| [org, BETWEEN]));
            user.push_str(name);
        }
        let user_of = spent.user.map(|_| &*user);
        for (kind, name) in [spent.org, user_of, spent.key, spent.model].into_iter().enumerate() {
            if let Some(name) = name {
                sum.add(kind, name, &sums);
            }
        }
        sum.name = user;
    }

    /// Empties the sums of all threads into the windows. To be called about once a second, by nobody who has to answer.
    pub fn gather(&self) {
        self.gather_at(self.start.elapsed());
    }

    fn gather_at(&self, now: Duration) {
        let mut windows = lock(&self.windows);
        for thread in &self.threads {
            let sum = std::mem::take(&mut *lock(thread));
            for (kind, (names, others)) in sum.kinds.into_iter().zip(sum.others).enumerate() {
                windows.add(kind, now, names, &others);
            }
        }
    }

    /// The `most` largest by `of`.
    pub fn top(&self, by: By, window: Window, of: Of, most: usize) -> Top {
        let now = self.start.elapsed();
        self.gather_at(now);
        lock(&self.windows).top(by as usize, window, now, of as usize, most)
    }
}

impl Sum {
    fn add(&mut self, kind: usize, name: &str, sums: &Sums) {
        let names = &mut self.kinds[kind];
        if let Some(known) = names.get_mut(name) {
            plus(known, sums);
        } else if names.len() < NAMES {
            names.insert(name.into(), *sums);
        } else {
            plus(&mut self.others[kind], sums);
        }
    }
}

fn plus(to: &mut Sums, more: &Sums) {
    to.iter_mut().zip(more).for_each(|(to, more)| *to = to.saturating_add(*more));
}

/// A number for this thread, counted from 0.
fn thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static THREAD: usize = NEXT.fetch_add(1, Relaxed);
    }
    THREAD.with(|thread| *thread)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
