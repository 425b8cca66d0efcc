//! The readers on the request path, one by one. `cargo bench -p tidegate-bench-micro`.

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use serde_json::json;
use std::hint::black_box;
use tidegate_bench_micro::{chat, event};
use tidegate_plugins::call::{Call, Endpoint};
use tidegate_plugins::events::{EventCutter, StreamWatch};
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::splice::{ModelRenamer, set_model};
use tidegate_plugins::testing::exchange_with;
use tidegate_plugins::{Registry, Services};

const SIZES: [usize; 3] = [1 << 10, 32 << 10, 1 << 20];

/// Largest event, as the cutter is told.
const LIMIT: usize = 8 << 20;

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for size in SIZES {
        let body = chat(size);
        let call = Call::read(&body, Endpoint::Chat).expect("it is a call");
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(BenchmarkId::new("read", size), |bencher| {
            bencher.iter(|| Call::read(black_box(&body), Endpoint::Chat));
        });
        group.bench_function(BenchmarkId::new("rename", size), |bencher| {
            bencher.iter(|| set_model(&call, black_box(&body), "llama-3.1-8b"));
        });
    }
    group.finish();
}

/// Per event, as long streams meet them.
fn events(criterion: &mut Criterion) {
    let event = event();
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Elements(1));
    let (mut cutter, mut watch) = (EventCutter::new(LIMIT), StreamWatch::new(Endpoint::Chat));
    group.bench_function("cut and watch", |bencher| {
        bencher.iter(|| {
            let block: Option<Bytes> = cutter.push(black_box(event.clone())).expect("it is small");
            watch.see(&block.unwrap_or_default())
        });
    });
    let renamer = ModelRenamer::new("gpt-4o-mini");
    group.bench_function("rename", |bencher| {
        bencher.iter(|| renamer.rename_in_events(black_box(&event)));
    });
    group.finish();
}

/// The `api_key` filter with ten thousand keys, as a request meets it.
fn keys(criterion: &mut Criterion) {
    let hasher = KeyHasher::new(None);
    let key = |number: usize| format!("key-of-the-app-number-{number}");
    let entries: Vec<_> = (0..10_000)
        .map(|number| json!({ "id": number.to_string(), "hash": hasher.hash(&key(number)).to_string() }))
        .collect();
    let filter = Registry::built_in()
        .filter("api_key", json!({ "keys": entries }), &Services::none())
        .and_then(Result::ok)
        .expect("the settings are fine");
    let mut group = criterion.benchmark_group("api_key");
    for (what, key) in [("known", key(7_777)), ("unknown", "somebody-else".to_owned())] {
        let mut exchange = exchange_with(r#"{"model":"m"}"#, &[("authorization", &format!("Bearer {key}"))]);
        group.bench_function(what, |bencher| {
            bencher.iter(|| filter.request(black_box(&mut exchange)).now_or_never().is_some());
        });
    }
    group.finish();
}

criterion_group!(all, requests, events, keys);
criterion_main!(all);
