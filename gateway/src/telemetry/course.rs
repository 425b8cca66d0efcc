//! What a request met on its way, step by step: noted as it happens, told in traces and on `/admin/requests`.
//!
//! A step is two looks at the clock that were taken anyway, and a name that is shared. Where nobody would be told, nothing
//! is noted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::Judged;

/// The most steps of one request: a stream that is resumed all day long must not grow its record.
const MOST: usize = 64;

/// What a request met.
#[derive(Debug, Clone, Default)]
pub struct Course {
    steps: Vec<Step>,
    /// Whether anybody would be told.
    is_kept: bool,
    /// The attempt whose answer this is, or will be.
    current: Option<usize>,
    left_out: u32,
}

/// One part of the way.
#[derive(Debug, Clone)]
pub struct Step {
    /// What was done.
    pub what: What,
    /// When it began.
    pub began: Instant,
    /// When it was over; none: with the request.
    pub ended: Option<Instant>,
}

/// What was done.
#[derive(Debug, Clone)]
pub enum What {
    /// The body was read.
    Body,
    /// A filter judged.
    Filter {
        /// Which.
        name: Arc<str>,
        /// What it said.
        verdict: Judged,
    },
    /// It waited in a queue.
    Queue {
        /// Of which pool.
        pool: Arc<str>,
        /// How that ended.
        outcome: &'static str,
    },
    /// It waited before it asked the same backends again.
    Pause,
    /// A backend was asked.
    Attempt(Attempted),
}

/// One request to one backend.
#[derive(Debug, Clone)]
pub struct Attempted {
    /// The first, the second...
    pub number: u32,
    /// Which backend.
    pub backend: Arc<str>,
    /// Of which pool.
    pub pool: Arc<str>,
    /// When the request had been sent.
    pub sent: Option<Instant>,
    /// When the head of its answer had come.
    pub head: Option<Instant>,
    /// The status it gave.
    pub status: Option<u16>,
    /// Why it was no answer; none: it was the one, or the request ended with it.
    pub missed: Option<&'static str>,
}

impl Course {
    /// A course that somebody may be told.
    pub fn kept() -> Self {
        Self { is_kept: true, ..Self::default() }
    }

    /// The steps, as they began.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many more there were.
    pub fn left_out(&self) -> u32 {
        self.left_out
    }

    /// The body has been read, from when on.
    pub fn body(&mut self, began: Instant) {
        self.note(What::Body, began, Some(Instant::now()));
    }

    /// A filter has judged.
    pub fn filter(&mut self, name: &Arc<str>, verdict: Judged, (began, ended): (Instant, Instant)) {
        if self.is_kept {
            self.note(What::Filter { name: name.clone(), verdict }, began, Some(ended));
        }
    }

    /// The wait in a queue is over.
    pub fn queued(&mut self, pool: &Arc<str>, began: Instant, outcome: &'static str) {
        if self.is_kept {
            self.note(What::Queue { pool: pool.clone(), outcome }, began, Some(Instant::now()));
        }
    }

    /// A pause between two rounds is over.
    pub fn paused(&mut self, began: Instant) {
        self.note(What::Pause, began, Some(Instant::now()));
    }

    /// A backend is asked.
    pub fn asks(&mut self, number: u32, backend: &Arc<str>, pool: &Arc<str>) {
        if !self.is_kept {
            return;
        }
        let (backend, pool) = (backend.clone(), pool.clone());
        let attempted = Attempted { number, backend, pool, sent: None, head: None, status: None, missed: None };
        self.current = self.note(What::Attempt(attempted), Instant::now(), None);
    }

    /// The backend has begun to answer.
    pub fn answered(&mut self, sent: Instant, head: Instant, status: u16) {
        if let Some((_, attempted)) = self.attempt() {
            (attempted.sent, attempted.head, attempted.status) = (Some(sent), Some(head), Some(status));
        }
    }

    /// What the backend has said, or not said, is no answer.
    pub fn missed(&mut self, why: &'static str) {
        if let Some((ended, attempted)) = self.attempt() {
            *ended = Some(Instant::now());
            attempted.missed = Some(why);
        }
        self.current = None;
    }

    /// Of the two backends that were asked last, the second or the first has the answer; the other is let go of.
    pub fn won(&mut self, second: bool) {
        let asked = self.steps.iter().enumerate().filter(|(_, step)| matches!(step.what, What::Attempt(_)));
        let mut last = asked.map(|(at, _)| at).rev();
        if let (Some(later), Some(earlier)) = (last.next(), last.next()) {
            let (winner, loser) = if second { (later, earlier) } else { (earlier, later) };
            self.current = Some(loser);
            self.missed("hedge");
            self.current = Some(winner);
        }
    }

    /// The attempt that is under way.
    fn attempt(&mut self) -> Option<(&mut Option<Instant>, &mut Attempted)> {
        let step = self.steps.get_mut(self.current?)?;
        match &mut step.what {
            What::Attempt(attempted) => Some((&mut step.ended, attempted)),
            _ => None,
        }
    }

    fn note(&mut self, what: What, began: Instant, ended: Option<Instant>) -> Option<usize> {
        if !self.is_kept {
            return None;
        }
        if self.steps.len() == MOST {
            self.left_out += 1;
            return None;
        }
        self.steps.push(Step { what, began, ended });
        Some(self.steps.len() - 1)
    }
}

impl Step {
    /// When it was over, in a request that ended then.
    pub fn ended(&self, request: Instant) -> Instant {
        self.ended.unwrap_or(request)
    }

    /// How long it took, in a request that ended then.
    pub fn took(&self, request: Instant) -> Duration {
        self.ended(request).saturating_duration_since(self.began)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(course: &Course) -> Vec<(u32, Option<&'static str>, bool)> {
        let told = |step: &Step| match &step.what {
            What::Attempt(attempted) => Some((attempted.number, attempted.missed, step.ended.is_some())),
            _ => None,
        };
        course.steps().iter().filter_map(told).collect()
    }

    #[test]
    fn an_attempt_is_open_until_it_is_missed_or_the_request_is_over() {
        let (backend, pool, mut course) = ("b".into(), "p".into(), Course::kept());
        course.asks(1, &backend, &pool);
        course.missed("lost");
        course.asks(2, &backend, &pool);
        course.answered(Instant::now(), Instant::now(), 200);
        assert_eq!(outcomes(&course), [(1, Some("lost"), true), (2, None, false)]);
    }

    #[test]
    fn of_a_race_the_loser_is_let_go_of_and_the_winner_goes_on() {
        for (second, expected) in [
            (true, [(1, Some("hedge"), true), (2, Some("broken"), true)]),
            (false, [(1, Some("broken"), true), (2, Some("hedge"), true)]),
        ] {
            let (backend, pool, mut course) = ("b".into(), "p".into(), Course::kept());
            course.asks(1, &backend, &pool);
            course.asks(2, &backend, &pool);
            course.won(second);
            course.missed("broken");
            assert_eq!(outcomes(&course), expected);
        }
    }

    #[test]
    fn nothing_is_noted_for_nobody_and_not_without_end_for_somebody() {
        let mut nobody = Course::default();
        nobody.asks(1, &"b".into(), &"p".into());
        nobody.paused(Instant::now());
        assert!(nobody.steps().is_empty() && nobody.steps.capacity() == 0);
        let mut course = Course::kept();
        (0..MOST + 3).for_each(|_| course.paused(Instant::now()));
        assert_eq!((course.steps().len(), course.left_out()), (MOST, 3));
    }
}
