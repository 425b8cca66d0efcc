//! A decision over eight limits and its settlement: the filter as the gateway calls it, from the request to `end`.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate_bench_micro::limits::{Buckets, House, Sums, budgets, eight};

/// The store alone.
fn store(c: &mut Criterion) {
    let mut buckets = Buckets::new(8);
    c.bench_function("limits/store: take and settle 8", |b| b.iter(|| buckets.take_and_settle()));
    c.bench_function("limits/store: refuse 8", |b| b.iter(|| black_box(buckets.take())));
}

/// The whole filter.
fn filter(c: &mut Criterion) {
    let mut house = House::new(eight());
    c.bench_function("limits/filter: 8 limits, request and end", |b| b.iter(|| house.decide()));
    let mut house = House::new(budgets());
    c.bench_function("limits/filter: 8 limits with budgets and money", |b| b.iter(|| house.decide()));
}

/// What each request adds to the sums of spenders.
fn spenders(c: &mut Criterion) {
    let sums = Sums::new();
    c.bench_function("limits/spenders: add one request", |b| b.iter(|| sums.add()));
}

criterion_group!(benches, store, filter, spenders);
criterion_main!(benches);
