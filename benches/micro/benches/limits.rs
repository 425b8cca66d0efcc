//! A decision over eight limits and its settlement: the filter as the gateway calls it, from the request to `end`.

use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt;
use serde_json::json;
use std::hint::black_box;
use std::sync::Arc;
use tidegate_plugins::exchange::Outcome;
use tidegate_plugins::store::{Clock, Demand, Local, Quota, Spec, Store, Subject};
use tidegate_plugins::testing::exchange;
use tidegate_plugins::usage::Usage;
use tidegate_plugins::{Caller, Registry, Services, Verdict};

/// The store alone: eight buckets of one request, looked at and taken from together, and given back.
fn store(c: &mut Criterion) {
    let store = Local::new(Clock::default());
    let quota = Quota::rate(1_000_000, std::time::Duration::from_secs(1), 1_000_000).expect("a rate");
    let open = |n: usize| {
        let id: Arc<str> = format!("l{n}").into();
        store.open(Spec { id: id.clone(), label: id, quota, calendar: None, shared: n == 0 })
    };
    let ledgers: Vec<_> = (0..8).map(open).collect();
    let subject = Subject::of(b"alice");
    let mut demands: Vec<_> = ledgers.iter().map(|ledger| Demand::new(ledger.clone(), subject, 1)).collect();
    c.bench_function("limits/store: take and settle 8", |b| {
        b.iter(|| {
            let granted = store.try_take(black_box(&mut demands)).now_or_never();
            assert_eq!(granted, Some(true));
            store.settle(&demands);
        });
    });
    c.bench_function("limits/store: refuse 8", |b| {
        b.iter(|| black_box(store.try_take(black_box(&mut demands)).now_or_never()));
    });
}

/// The whole filter: subjects found and hashed, tokens estimated from a 1 KiB prompt, decided, and settled.
fn filter(c: &mut Criterion) {
    let settings = json!([
        { "per": "user", "requests": "500M/s", "tokens": "1G/s" },
        { "per": "org", "requests": "500M/s", "tokens": "1G/s", "in_flight": 1000 },
        { "per": ["key", "model"], "requests": "500M/s" },
        { "per": "global", "requests": "500M/s", "in_flight": 1000 },
    ]);
    let services = Services { models: ["m".into()].into(), ..Services::none() };
    let Some(Ok(filter)) = Registry::built_in().filter("limits", settings, &services) else { return };
    let body =
        json!({ "model": "m", "max_tokens": 100, "messages": [{ "role": "user", "content": "word ".repeat(200) }] });
    let (body, name) = (body.to_string(), |name: &str| Some(Arc::from(name)));
    let caller = Caller { key: name("k1"), user: name("alice"), org: name("acme"), ..Caller::default() };
    let mut request = exchange(&body);
    request.identify(Arc::new(caller));
    let usage = Some(Usage { prompt: Some(250), completion: Some(90), ..Usage::default() });
    request.record(Outcome {
        status: 200,
        complete: true,
        usage,
        request_bytes: 1024,
        response_bytes: 512,
        ..Outcome::default()
    });
    c.bench_function("limits/filter: 8 limits, request and end", |b| {
        b.iter(|| {
            let Some(Ok(Verdict::Follow(follower))) = filter.request(black_box(&mut request)).now_or_never() else {
                panic!("it should have been granted")
            };
            follower.end(&request);
        });
    });
}

criterion_group!(benches, store, filter);
criterion_main!(benches);
