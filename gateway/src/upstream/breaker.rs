//! When a backend is left alone for what it does to requests: one breaker a backend and model.
//!
//! **Closed**, requests go there, and its own faults are counted. After too many in a row, too large a part of the last
//! ones, or one that it was silent for as long as it may be, it **opens**: no requests for a while. Then one request is
//! let through to see (**half open**): answered, the breaker closes and the backend gets more by and by; failed, it opens
//! for twice as long.
//!
//! A model has a breaker from its first fault on. Where there was none, a pick costs one load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidegate_config::Breaker as Settings;

/// Models of a backend that have a breaker of their own; the others share one.
const MOST_MODELS: usize = 64;

/// The longest pause, in pauses of the settings.
const LONGEST: u32 = 10;

/// What an attempt says about the backend, as far as breakers are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answered: well, or with a mistake of the client's.
    Good,
    /// It answered that it is full. Nobody's fault, but no proof either.
    Full,
    /// It failed.
    Fault,
    /// It said nothing for as long as it may, to nobody.
    Silent,
    /// Nothing: the client left, or the gateway failed.
    Nothing,
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// So many faults in a row.
    Consecutive,
    /// So large a part of the last requests.
    Ratio,
    /// It was silent.
    Silent,
    /// The request that was to show whether it is well again failed.
    Probe,
}

impl Opened {
    /// All of them, in the order of the counters' slots.
    pub const ALL: [Self; 4] = [Self::Consecutive, Self::Ratio, Self::Silent, Self::Probe];

    /// In metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive",
            Self::Ratio => "ratio",
            Self::Silent => "silent",
            Self::Probe => "probe",
        }
    }
}

/// How a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Requests go there.
    Closed,
    /// One request is let through.
    HalfOpen,
    /// None is.
    Open,
}

impl State {
    /// In health reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// What changed by a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It opened.
    Opened(Opened),
    /// It closed: the backend has come back.
    Closed,
}

/// The breakers of one backend.
#[derive(Debug, Default)]
pub struct Breakers {
    /// Whether there is any: the usual case is none.
    any: AtomicBool,
    models: Mutex<HashMap<u64, Arc<Breaker>>>,
}

impl Breakers {
    /// The breaker of a model, if it has one.
    pub fn find(&self, model: u64) -> Option<Arc<Breaker>> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let models = self.lock();
        models.get(&model).or_else(|| models.get(&0).filter(|_| models.len() > MOST_MODELS)).cloned()
    }

    /// Takes in what an attempt says. A model that has no breaker gets one by its first fault.
    pub fn judge(&self, model: u64, verdict: Verdict, probing: bool, settings: &Settings) -> Option<Change> {
        let breaker = match (self.find(model), verdict) {
            (Some(breaker), _) => breaker,
            (None, Verdict::Fault | Verdict::Silent) => self.add(model),
            (None, _) => return None,
        };
        breaker.judge(verdict, probing, settings, Instant::now())
    }

    /// The backend has shown that it generates: whatever was held against it is forgotten; whether that was anything.
    pub fn forgive(&self) -> bool {
        let mut models = self.lock();
        let open = models.values().any(|breaker| breaker.state(Instant::now()) != State::Closed);
        models.clear();
        self.any.store(false, Ordering::Relaxed);
        open
    }

    /// The worst state of all models, and how many are not closed.
    pub fn worst(&self) -> (State, usize) {
        if !self.any.load(Ordering::Relaxed) {
            return (State::Closed, 0);
        }
        let now = Instant::now();
        let states: Vec<_> = self.lock().values().map(|breaker| breaker.state(now)).collect();
        let open = states.iter().filter(|state| **state != State::Closed).count();
        (states.into_iter().max().unwrap_or(State::Closed), open)
    }

    /// The models whose breaker is not closed.
    pub fn open(&self) -> Vec<u64> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let now = Instant::now();
        let is_open = |(model, breaker): (&u64, &Arc<Breaker>)| (breaker.state(now) != State::Closed).then_some(*model);
        self.lock().iter().filter_map(is_open).collect()
    }

    fn add(&self, model: u64) -> Arc<Breaker> {
        let mut models = self.lock();
        let model = if models.len() < MOST_MODELS { model } else { 0 };
        self.any.store(true, Ordering::Relaxed);
        models.entry(model).or_default().clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Breaker>>> {
        self.models.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The breaker of one model at one backend.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Faults in a row.
    row: u32,
    /// Requests and faults in this window and the one before.
    counts: [(u32, u32); 2],
    window_began: Option<Instant>,
    /// Open, until when; half open from then on.
    open_until: Option<Instant>,
    /// Pauses so far without a success between them.
    pauses: u32,
    /// Whether a request is under way to see whether the backend is well.
    probing: bool,
}

impl Breaker {
    /// How it stands.
    pub fn state(&self, now: Instant) -> State {
        match self.lock().open_until {
            None => State::Closed,
            Some(until) if now < until => State::Open,
            Some(_) => State::HalfOpen,
        }
    }

    /// Whether a request may go there now: as usual, as the one that shows whether it is well, or not at all.
    pub fn admits(&self, now: Instant) -> bool {
        let inner = self.lock();
        inner.open_until.is_none_or(|until| until <= now && !inner.probing)
    }

    /// Enters: true if this request is the one that shows whether the backend is well, none if it may not go there.
    pub fn enter(&self, now: Instant) -> Option<bool> {
        let mut inner = self.lock();
        match inner.open_until {
            None => Some(false),
            Some(until) if until <= now && !inner.probing => {
                inner.probing = true;
                Some(true)
            }
            Some(_) => None,
        }
    }

    fn judge(&self, verdict: Verdict, probing: bool, settings: &Settings, now: Instant) -> Option<Change> {
        let mut inner = self.lock();
        if probing {
            inner.probing = false;
        }
        match verdict {
            Verdict::Nothing => None,
            // Full is an answer: whoever is asked whether it lives has said so.
            Verdict::Full if probing => inner.close(),
            Verdict::Full => None,
            Verdict::Good => {
                inner.count(false, settings.window, now);
                inner.row = 0;
                inner.close()
            }
            Verdict::Fault | Verdict::Silent => inner.fault(verdict == Verdict::Silent, probing, settings, now),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn close(&mut self) -> Option<Change> {
        self.open_until.take()?;
        // What was before says nothing about the backend as it is now.
        *self = Self::default();
        Some(Change::Closed)
    }

    fn fault(&mut self, silent: bool, probing: bool, settings: &Settings, now: Instant) -> Option<Change> {
        self.count(true, settings.window, now);
        self.row += 1;
        // Answers to requests that went out before it opened.
        if self.open_until.is_some() && !probing {
            return None;
        }
        let (requests, faults) = self.counts.iter().fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
        let too_large = settings.ratio > 0.0
            && requests >= settings.requests
            && f64::from(faults) >= f64::from(requests) * settings.ratio;
        let why = match () {
            () if probing => Opened::Probe,
            () if silent => Opened::Silent,
            () if settings.consecutive > 0 && self.row >= settings.consecutive => Opened::Consecutive,
            () if too_large => Opened::Ratio,
            () => return None,
        };
        self.pauses += 1;
        let times = 1_u32.checked_shl(self.pauses - 1).unwrap_or(LONGEST).min(LONGEST);
        self.open_until = Some(now + settings.pause * times);
        Some(Change::Opened(why))
    }

    fn count(&mut self, fault: bool, window: Duration, now: Instant) {
        let began = *self.window_began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        // Two halves: what is older than the window is gone, what is younger than its half is all there.
        if passed * 2 >= window {
            let kept = if passed >= window { (0, 0) } else { self.counts[0] };
            self.counts = [(0, 0), kept];
            self.window_began = Some(now);
        }
        self.counts[0].0 += 1;
        self.counts[0].1 += u32::from(fault);
    }
}

#[cfg(test)]
mod tests;
