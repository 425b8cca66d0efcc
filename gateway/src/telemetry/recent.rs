//! The last requests, kept in memory to be looked at: bounded by number and by what they take.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::finished::Finished;
use tidegate_config::Recent as Bounds;

/// The last requests.
#[derive(Default)]
pub struct Recent(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    kept: VecDeque<(u64, Arc<Finished>)>,
    /// What the next one is called.
    next: u64,
    bytes: usize,
    bounds: Bounds,
}

/// Requests, the last first, and where to go on.
pub struct Page {
    /// Each with its number.
    pub requests: Vec<(u64, Arc<Finished>)>,
    /// Ask for those before this one to go on.
    pub before: Option<u64>,
}

impl Recent {
    /// Keeps so many from now on.
    pub fn bound(&self, bounds: Bounds) {
        let mut ring = self.ring();
        ring.bounds = bounds;
        let over = ring.over();
        drop(ring);
        drop(over);
    }

    /// Keeps a request.
    pub fn push(&self, finished: Arc<Finished>) {
        let weight = finished.weight();
        let mut ring = self.ring();
        let number = ring.next;
        ring.next += 1;
        ring.bytes += weight;
        ring.kept.push_back((number, finished));
        // Freed when others need not wait for it.
        let over = ring.over();
        drop(ring);
        drop(over);
    }

    /// All of this id, the last first: a request's, which clients use again when they try again, or a trace's.
    pub fn find(&self, id: &str) -> Vec<(u64, Arc<Finished>)> {
        let is = |finished: &Finished| {
            let record = &finished.record;
            record.request_id.as_str() == id || record.trace.trace_id().as_str() == id
        };
        let kept: Vec<_> = self.ring().kept.iter().rev().cloned().collect();
        kept.into_iter().filter(|(_, finished)| is(finished)).collect()
    }

    /// Up to `most` of those before `before` that are `wanted`, the last first.
    pub fn page(&self, before: Option<u64>, most: usize, wanted: impl Fn(&Finished) -> bool) -> Page {
        // They are shared: to look at them, nobody is kept waiting.
        let kept: Vec<_> = self.ring().kept.iter().rev().cloned().collect();
        let earlier = kept.into_iter().filter(|(number, _)| before.is_none_or(|before| *number < before));
        let mut found: Vec<_> = earlier.filter(|(_, finished)| wanted(finished)).take(most + 1).collect();
        let more = found.len() > most;
        found.truncate(most);
        let before = found.last().filter(|_| more).map(|(number, _)| *number);
        Page { requests: found, before }
    }

    /// How many there are, and what they take.
    pub fn size(&self) -> (usize, usize) {
        let ring = self.ring();
        (ring.kept.len(), ring.bytes)
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Takes out what is too much.
    fn over(&mut self) -> Vec<(u64, Arc<Finished>)> {
        let mut over = Vec::new();
        while self.kept.len() > self.bounds.requests || self.bytes > self.bounds.size {
            let Some(first) = self.kept.pop_front() else { break };
            self.bytes -= first.1.weight();
            over.push(first);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Record, RequestId, TraceContext};

    fn request(id: &str, path: &str) -> Arc<Finished> {
        let id = RequestId::from_caller(id.as_bytes()).unwrap();
        let record = Record::new(id, TraceContext::start(), http::Method::POST, path);
        Arc::new(Finished::new(record, "r", "p", 0))
    }

    #[test]
    fn the_last_ones_are_kept_by_number_and_by_what_they_take() {
        let recent = Recent::default();
        recent.bound(Bounds { requests: 3, size: 1 << 20 });
        for id in ["a", "b", "c", "a", "d"] {
            recent.push(request(id, "/v1"));
        }
        let ids =
            |page: &Page| page.requests.iter().map(|(_, one)| one.record.request_id.to_string()).collect::<String>();
        assert_eq!(ids(&recent.page(None, 10, |_| true)), "dac");
        let numbers = |id: &str| recent.find(id).iter().map(|(number, _)| *number).collect::<Vec<_>>();
        assert_eq!((numbers("b"), numbers("a"), numbers("d")), (vec![], vec![3], vec![4]));
        let trace = recent.find("d")[0].1.record.trace.trace_id();
        assert_eq!(numbers(trace.as_str()), [4]);
        recent.push(request("c", "/v1"));
        assert_eq!(recent.find("c").len(), 1);
        recent.push(request("c", "/v1"));
        assert_eq!(recent.find("c").iter().map(|(number, _)| *number).collect::<Vec<_>>(), [6, 5]);
        recent.push(request("a", "/v1"));
        recent.push(request("d", "/v1"));
        let weight = recent.size().1 / 3;
        recent.bound(Bounds { requests: 3, size: 2 * weight + 1 });
        assert_eq!((ids(&recent.page(None, 10, |_| true)).as_str(), recent.size().1), ("da", 2 * weight));
        recent.bound(Bounds { requests: 0, size: 1 << 20 });
        recent.push(request("e", "/v1"));
        assert_eq!(recent.size(), (0, 0));
    }

    #[test]
    fn pages_follow_each_other_without_a_gap_although_more_come() {
        let recent = Recent::default();
        for n in 0..7 {
            recent.push(request(&n.to_string(), if n % 2 == 0 { "/even" } else { "/odd" }));
        }
        let even = |one: &Finished| &*one.record.path == "/even";
        let first = recent.page(None, 3, even);
        recent.push(request("8", "/even"));
        let second = recent.page(first.before, 3, even);
        let ids =
            |page: &Page| page.requests.iter().map(|(_, one)| one.record.request_id.to_string()).collect::<String>();
        assert_eq!((ids(&first).as_str(), ids(&second).as_str(), second.before), ("642", "0", None));
    }
}
