//! Runs one filter, or one balancer, without a gateway.

use crate::balancer::{Candidate, Field, Member, Members};
use crate::call::{Call, Endpoint};
use crate::exchange::{Exchange, RequestHead};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::collections::HashSet;

/// A chat request with `body`, as a filter would see it.
pub fn exchange(body: &str) -> Exchange {
    exchange_with(body, &[])
}

/// A chat request with `body` and `headers`. Headers that are none are left out.
pub fn exchange_with(body: &str, headers: &[(&str, &str)]) -> Exchange {
    let headers: HeaderMap = headers
        .iter()
        .filter_map(|(name, value)| {
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
        })
        .collect();
    let head = RequestHead { method: Method::POST, path: "/v1/chat/completions".into(), query: None, headers };
    let mut exchange = Exchange::new(head, Endpoint::Chat, "test".into(), None);
    let call = Call::read(body.as_bytes(), Endpoint::Chat).ok();
    if let Some(model) = call.as_ref().and_then(|call| call.model(body.as_bytes())) {
        exchange.send_to(model.as_ref().into());
    }
    exchange.replace_body(Bytes::copy_from_slice(body.as_bytes()), call);
    exchange
}

/// A pool that a balancer picks from.
#[derive(Debug, Clone)]
pub struct Backends {
    /// How each of them is.
    pub list: Vec<Candidate>,
    /// Who cannot take a request.
    pub closed: HashSet<usize>,
    members: Members,
}

impl Backends {
    /// Backends with so many requests each, all of the same weight.
    pub fn busy(in_flight: &[usize]) -> Self {
        Self::new(in_flight.iter().map(|in_flight| (1, *in_flight)))
    }

    /// Idle backends with these weights.
    pub fn weighing(weights: &[u32]) -> Self {
        Self::new(weights.iter().map(|weight| (*weight, 0)))
    }

    fn new(list: impl Iterator<Item = (u32, usize)>) -> Self {
        let list: Vec<_> = list
            .map(|(weight, in_flight)| Candidate { weight, in_flight, capacity: None, elsewhere: 0.0, cache_used: 0.0 })
            .collect();
        let member = |(n, one): (usize, &Candidate)| Member::new("pool", &format!("b{n}").into(), one.weight);
        let members = Members::new(list.iter().enumerate().map(member).collect());
        Self { list, closed: HashSet::new(), members }
    }
}

impl Field for Backends {
    fn members(&self) -> &Members {
        &self.members
    }

    fn candidate(&self, position: usize) -> Option<Candidate> {
        self.list.get(position).filter(|_| !self.closed.contains(&position)).copied()
    }

    fn in_flight(&self) -> usize {
        self.list.iter().map(|one| one.in_flight).sum()
    }
}
