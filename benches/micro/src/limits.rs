//! A limit decision as the gateway makes it: the store alone, and the whole filter.

use futures_util::FutureExt;
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use tidegate_plugins::exchange::Outcome;
use tidegate_plugins::prices::{Price, Prices};
use tidegate_plugins::spenders::{Spenders, Spent};
use tidegate_plugins::store::{Clock, Demand, Local, Quota, Spec, Store, Subject};
use tidegate_plugins::testing::exchange;
use tidegate_plugins::usage::Usage;
use tidegate_plugins::{Caller, Exchange, Filter, Registry, Services, Verdict};

/// The store alone: the buckets of one request, looked at and taken from together, and given back.
pub struct Buckets {
    store: Local,
    demands: Vec<Demand>,
}

impl Buckets {
    /// So many of them, each of a limit of its own, met before.
    pub fn new(count: usize) -> Self {
        let store = Local::new(Clock::default());
        let quota = Quota::rate(1_000_000, Duration::from_secs(1), 1_000_000).expect("a rate");
        let subject = Subject::of(b"alice");
        let demand = |n: usize| {
            let id: Arc<str> = format!("l{n}").into();
            let ledger = store.open(Spec { id: id.clone(), label: id, quota, calendar: None, shared: n == 0 });
            Demand::new(ledger, subject, 1)
        };
        let demands = (0..count).map(demand).collect();
        let mut buckets = Self { store, demands };
        buckets.take_and_settle();
        buckets
    }

    /// One decision, and its settlement.
    pub fn take_and_settle(&mut self) {
        let granted = self.store.try_take(black_box(&mut self.demands)).now_or_never();
        assert_eq!(granted, Some(true), "it should have been granted");
        self.store.settle(&self.demands);
    }

    /// One decision, whatever it is.
    pub fn take(&mut self) -> Option<bool> {
        self.store.try_take(black_box(&mut self.demands)).now_or_never()
    }
}

/// The whole filter: subjects found and hashed, tokens estimated from a 1 KiB prompt, decided, and settled.
pub struct House {
    filter: Arc<dyn Filter>,
    request: Exchange,
}

/// Eight limits, of whom most requests meet that many.
pub fn eight() -> Value {
    json!([
        { "per": "user", "requests": "500M/s", "tokens": "1G/s" },
        { "per": "org", "requests": "500M/s", "tokens": "1G/s", "in_flight": 1000 },
        { "per": ["key", "model"], "requests": "500M/s" },
        { "per": "global", "requests": "500M/s", "in_flight": 1000 },
    ])
}

/// Eight again, two of them budgets, of tokens and of money: as large as may be, since each iteration spends of them.
pub fn budgets() -> Value {
    json!([
        { "per": "user", "requests": "500M/s", "tokens": "1G/s" },
        { "per": "user", "tokens": "10000000G/day", "zone": "Europe/Berlin" },
        { "per": "org", "cost": "10M/month", "in_flight": 1000 },
        { "per": ["key", "model"], "requests": "500M/s" },
        { "per": "global", "requests": "500M/s", "in_flight": 1000 },
    ])
}

/// One limit.
pub fn one() -> Value {
    json!([{ "per": "user", "requests": "500M/s" }])
}

impl House {
    /// With these limits, which a request has met before.
    pub fn new(settings: Value) -> Self {
        let mut house = Self::built(settings);
        // What was freed while it was built is put in order by the allocator now, and not in what is counted.
        (0..2).for_each(|_| house.decide());
        house
    }

    fn built(settings: Value) -> Self {
        let price = Price { prompt: 1, cached_prompt: 1, completion: 2, request: 0 };
        let prices = Arc::new(Prices::new("USD", [("m", price)]));
        let services = Services { models: ["m".into()].into(), prices, ..Services::none() };
        let filter = Registry::built_in().filter("limits", settings, &services);
        let filter = filter.and_then(Result::ok).expect("the settings are fine");
        let prompt = "word ".repeat(200);
        let body = json!({ "model": "m", "max_tokens": 100, "messages": [{ "role": "user", "content": prompt }] });
        let name = |name: &str| Some(Arc::from(name));
        let mut request = exchange(&body.to_string());
        let caller = Caller { key: name("k1"), user: name("alice"), org: name("acme"), ..Caller::default() };
        request.identify(Arc::new(caller));
        let usage = Some(Usage { prompt: Some(250), completion: Some(90), ..Usage::default() });
        request.record(Outcome {
            status: 200,
            complete: true,
            usage,
            charged: true,
            response_bytes: 512,
            ..Outcome::default()
        });
        Self { filter, request }
    }

    /// One request, from the decision to the settlement.
    pub fn decide(&mut self) {
        let verdict = self.filter.request(black_box(&mut self.request)).now_or_never();
        let Some(Ok(Verdict::Follow(follower))) = verdict else { panic!("it should have been granted") };
        follower.end(&self.request);
    }
}

/// What a request adds to the sums of spenders.
pub struct Sums(Spenders);

impl Sums {
    /// That have met the spender before.
    pub fn new() -> Self {
        let sums = Self(Spenders::default());
        sums.add();
        sums
    }

    /// One request.
    pub fn add(&self) {
        let (org, user, key, model) = (Some("acme"), Some("alice"), Some("k1"), Some("m"));
        self.0.record(black_box(&Spent { org, user, key, model, tokens: 340, cost: 1200, limited: false }));
    }
}

impl Default for Sums {
    fn default() -> Self {
        Self::new()
    }
}
