//! A pool's queue: who waits while all its backends are full, whose turn it is when a place is free, and how long that
//! takes. One lock a pool, held for a look at the order and never while anybody waits.
//!
//! A place that is given back calls the next in line, who then takes it as anybody would. Whoever comes while somebody
//! waits joins the line. What gives no place back but makes one (a backend that is up again, whose rest is over) is found
//! by those who wait, who look for themselves now and then.

mod line;
mod pace;

use line::{Line, Spot};
use pace::Pace;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_config as config;
use tokio::sync::Notify;

use super::lease::Lease;
use crate::telemetry::QueueSeries;

pub use line::Claim;

/// How often those who wait look for themselves.
pub const LOOK: Duration = Duration::from_millis(200);

/// Who waits for a place in one pool.
pub struct Queue {
    /// How it is set.
    pub settings: config::Queue,
    /// What is seen of it.
    pub series: Arc<QueueSeries>,
    state: Mutex<State>,
    /// How many wait or have been called.
    present: AtomicUsize,
}

struct State {
    line: Line<Arc<Waiter>>,
    /// Those who have been called and have not said yet whether they got a place.
    called: usize,
    /// A place came free while those who could take it had been called already.
    missed: bool,
    /// Somebody looks without a place having been given back: there may be more than one.
    looking: bool,
    last_call: Instant,
    pace: Pace,
}

struct Waiter {
    claim: Claim,
    notify: Notify,
    /// Another has got its place in line. Written while the line is locked.
    displaced: AtomicBool,
}

/// Why nobody is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWait {
    /// As many wait as may, all of them before it.
    Full,
    /// It would wait longer than it can.
    Hopeless,
}

/// A place in line. Dropped, it is given up, and whoever is next is called if this one was.
pub struct Ticket {
    queue: Arc<Queue>,
    waiter: Arc<Waiter>,
    spot: Spot,
    since: Instant,
    /// When it looks for itself next, however often it is asked for its turn meanwhile.
    looks: Instant,
    end: End,
}

/// How it ends if nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Left,
    Expired,
    Served,
}

impl Queue {
    /// An empty one.
    pub fn new(settings: config::Queue, series: Arc<QueueSeries>) -> Self {
        let now = Instant::now();
        let state = State {
            line: Line::default(),
            called: 0,
            missed: false,
            looking: false,
            last_call: now,
            pace: Pace::default(),
        };
        Self { settings, series, state: Mutex::new(state), present: AtomicUsize::new(0) }
    }

    /// Whether nobody waits: then a place may be taken without asking here.
    pub fn is_empty(&self) -> bool {
        self.present.load(Relaxed) == 0
    }

    /// Joins the line, for at most `patience`. Where as many wait as may, whoever would be served last goes: an organisation
    /// that fills the line does not keep the others out of it.
    ///
    /// # Errors
    /// That there is no point, and when there may be one again.
    pub fn join(self: &Arc<Self>, claim: &Claim, patience: Duration) -> Result<Ticket, (NoWait, Duration)> {
        let waiter = Waiter { claim: claim.clone(), notify: Notify::new(), displaced: AtomicBool::new(false) };
        let (now, waiter) = (Instant::now(), Arc::new(waiter));
        let mut state = self.lock();
        let before = state.line.len() + state.called;
        if before == 0 {
            state.pace.begins(now);
        }
        let spot = state.line.join(claim, waiter.clone());
        if before >= self.settings.most && !state.displace(spot) {
            let wait = state.pace.wait_for(before + 1, now).unwrap_or(UNKNOWN);
            drop(state);
            self.series.full.inc();
            return Err((NoWait::Full, wait));
        }
        let wait = state.pace.wait_for(state.line.before(spot) + state.called + 1, now);
        if let Some(wait) = wait.filter(|wait| *wait > patience) {
            state.line.leave(spot);
            state.line.forgo(spot, claim);
            drop(state);
            self.series.hopeless.inc();
            return Err((NoWait::Hopeless, wait));
        }
        // The place it was refused may have been given back since.
        if before == 0 {
            state.call(now);
        }
        drop(state);
        self.present.fetch_add(1, Relaxed);
        self.series.waiting.inc();
        Ok(Ticket { queue: self.clone(), waiter, spot, since: now, looks: now + LOOK, end: End::Left })
    }

    /// About how long somebody waits who joins now; none while nobody waits or nothing is known.
    pub fn estimate(&self) -> Option<Duration> {
        if self.is_empty() {
            return None;
        }
        let state = self.lock();
        state.pace.wait_for(state.line.len() + state.called + 1, Instant::now())
    }

    /// A place is free.
    pub fn freed(&self) {
        if !self.is_empty() {
            self.lock().call(Instant::now());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When to come back where nothing is known of how fast a queue moves.
const UNKNOWN: Duration = Duration::from_secs(1);

impl State {
    /// Sends whoever would be served last away; whether that is another than who stands at `spot`.
    fn displace(&mut self, spot: Spot) -> bool {
        let Some((last, waiter)) = self.line.last() else { return false };
        self.line.forgo(last, &waiter.claim);
        waiter.displaced.store(true, Relaxed);
        waiter.notify.notify_one();
        last != spot
    }

    /// Calls the next in line.
    fn call(&mut self, now: Instant) {
        self.last_call = now;
        match self.line.next() {
            Some((_, waiter)) => {
                self.called += 1;
                waiter.notify.notify_one();
            }
            // Those who are called may be about to find that there was no place.
            None => self.missed = self.called > 0,
        }
    }
}

impl Ticket {
    /// Returns when it is this one's turn to take a place, or to look for one: true, to be answered with
    /// [`Ticket::served`] or [`Ticket::not_yet`]. False: another has got its place in line.
    pub async fn called(&mut self) -> bool {
        loop {
            let called = tokio::time::timeout_at(self.looks.into(), self.waiter.notify.notified()).await;
            if called.is_ok() {
                return !self.waiter.displaced.load(Relaxed);
            }
            // Nobody was called for long: whoever is next looks.
            let now = Instant::now();
            self.looks = now + LOOK;
            let mut state = self.queue.lock();
            if state.called == 0 && now.saturating_duration_since(state.last_call) >= LOOK {
                state.looking = true;
                state.call(now);
            }
        }
    }

    /// It got its place. Another is called if there may be more than this one.
    pub fn served(mut self) {
        let now = Instant::now();
        let mut state = self.queue.lock();
        state.called -= 1;
        state.pace.served(now);
        if std::mem::take(&mut state.missed) || state.looking {
            state.call(now);
        }
        drop(state);
        self.end = End::Served;
        let waited = now.saturating_duration_since(self.since);
        self.queue.series.served.inc();
        self.queue.series.wait.observe(waited.as_secs_f64());
    }

    /// There was no place after all: back to where it stood.
    pub fn not_yet(&self) {
        let mut state = self.queue.lock();
        state.looking = false;
        if std::mem::take(&mut state.missed) {
            // One came free meanwhile: its turn is not over.
            self.waiter.notify.notify_one();
            return;
        }
        state.called -= 1;
        state.line.come_back(self.spot, self.waiter.clone());
    }

    /// How long it has waited.
    pub fn waited(&self) -> Duration {
        self.since.elapsed()
    }

    /// How many are before it, and about how long it takes.
    pub fn outlook(&self) -> (usize, Option<Duration>) {
        let state = self.queue.lock();
        let before = state.line.before(self.spot) + state.called;
        (before, state.pace.wait_for(before + 1, Instant::now()))
    }

    /// Another has got its place in line. When to come back.
    pub fn displaced(mut self) -> Duration {
        self.end = End::Expired;
        self.queue.series.full.inc();
        let state = self.queue.lock();
        let wait = state.pace.wait_for(state.line.len() + state.called + 1, Instant::now());
        drop(state);
        wait.unwrap_or(UNKNOWN)
    }

    /// It has waited for as long as it could.
    pub fn expired(mut self) {
        self.end = End::Expired;
        self.queue.series.expired.inc();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.present.fetch_sub(1, Relaxed);
        self.queue.series.waiting.dec();
        match self.end {
            End::Served => return,
            End::Expired => {}
            End::Left => self.queue.series.left.inc(),
        }
        let mut state = self.queue.lock();
        if self.waiter.displaced.load(Relaxed) {
            return;
        }
        state.line.forgo(self.spot, &self.waiter.claim);
        // Not in line any more: it was called, and the call goes to the next.
        if state.line.leave(self.spot).is_none() {
            state.called -= 1;
            state.missed = false;
            state.call(Instant::now());
        }
    }
}

/// A place at a backend; when it is given back, the pool's queue hears of it.
pub struct Place {
    // First: it is given back before anybody is called.
    lease: Lease,
    freed: Freed,
}

struct Freed(Option<Arc<Queue>>);

impl Place {
    /// `lease`, in the pool of `queue`.
    pub fn new(lease: Lease, queue: Option<&Arc<Queue>>) -> Self {
        Self { lease, freed: Freed(queue.cloned()) }
    }

    /// Gives the place back before this is dropped.
    pub fn give_back(&mut self) {
        self.lease.give_back();
        self.freed = Freed(None);
    }
}

impl Deref for Place {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Freed {
    fn drop(&mut self) {
        if let Some(queue) = &self.0 {
            queue.freed();
        }
    }
}

#[cfg(test)]
mod tests;
