//! A pool of any size, as the gateway shows it to a balancer: each backend somewhere else in memory.

use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tidegate_plugins::balancer::{Candidate, Member, Members, Observed};
use tidegate_plugins::testing::exchange_with;
use tidegate_plugins::{Balancer, Exchange, Field, Registry};

/// One balancer, one pool, one request.
pub struct Pick {
    balancer: Arc<dyn Balancer>,
    crowd: Crowd,
    request: Exchange,
}

struct Crowd {
    members: Members,
    in_flight: Vec<Arc<AtomicUsize>>,
    total: usize,
}

impl Field for Crowd {
    fn members(&self) -> &Members {
        &self.members
    }

    fn candidate(&self, position: usize) -> Option<Candidate> {
        let in_flight = self.in_flight[position].load(Ordering::Relaxed);
        Some(Candidate { weight: 1, in_flight, capacity: Some(64), elsewhere: 0.0, cache_used: 0.0 })
    }

    fn in_flight(&self) -> usize {
        self.total
    }
}

impl Pick {
    /// The balancer `name` over `count` backends with some requests each, and a chat with a prompt of about `size` bytes
    /// that the balancer has met before.
    ///
    /// # Panics
    /// If there is no such balancer.
    pub fn new(name: &str, count: usize, size: usize) -> Self {
        let balancer = Registry::built_in().balancer(name, json!({})).and_then(Result::ok).expect("a balancer");
        let member = |n: usize| Member::new("pool", &format!("backend-{n}").into(), 1);
        let in_flight: Vec<_> = (0..count).map(|n| Arc::new(AtomicUsize::new(n % 7))).collect();
        let total = in_flight.iter().map(|one| one.load(Ordering::Relaxed)).sum();
        let crowd = Crowd { members: Members::new((0..count).map(member).collect()), in_flight, total };
        for member in crowd.members.as_slice() {
            balancer.observe(member.id, Observed::FirstToken(std::time::Duration::from_millis(50)));
        }
        let body = String::from_utf8(crate::chat(size).to_vec()).expect("it is text");
        let request = exchange_with(&body, &[("x-session-id", "a-session-of-somebody")]);
        let mut pick = Self { balancer, crowd, request };
        pick.pick();
        pick
    }

    /// One pick.
    pub fn pick(&mut self) -> Option<usize> {
        self.balancer.pick(&self.request, &self.crowd)
    }
}
