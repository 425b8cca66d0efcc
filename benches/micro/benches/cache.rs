//! The cache: what it costs to know that two requests are the same, and to answer the second.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate_bench_micro::cache::{Cached, answered, exchange, stream, whole};
use tidegate_bench_micro::chat;
use tidegate_plugins::cache_key::{KeyMaker, Tenant};

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cache_key");
    let maker = KeyMaker::new(b"a secret of the bench", &[]);
    for size in [1 << 10, 32 << 10] {
        let exchange = exchange(&chat(size));
        let answerer = exchange.answerer().expect("it is settled").clone();
        group.throughput(Throughput::Bytes(exchange.body().len() as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bench| {
            bench.iter(|| maker.key(black_box(&exchange), &answerer, Tenant::Org("acme")));
        });
    }
    group.finish();
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cache_hit");
    for (name, streams, answer) in [
        ("whole/1KiB", false, whole(1 << 10)),
        ("whole/64KiB", false, whole(64 << 10)),
        ("stream/64KiB", true, stream(64 << 10)),
    ] {
        for ids in ["fresh", "original"] {
            let cached = Cached::new(ids, streams, &answer);
            group.throughput(Throughput::Bytes(answer.len() as u64));
            group.bench_function(format!("{name}/{ids}"), |bench| bench.iter(|| answered(&cached)));
        }
    }
    group.finish();
}

criterion_group!(benches, keys, hits);
criterion_main!(benches);
