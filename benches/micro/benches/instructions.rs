//! What a decision costs in instructions, which are the same on a busy machine as on an idle one. `make instructions`
//! compares them with `benches/results/instructions.txt`.
//!
//! Each has been met once before it is counted, so that what is counted is what each further request costs.

#![expect(missing_docs, reason = "what gungraun's macros make has none")]

use gungraun::{library_benchmark, library_benchmark_group, main};
use tidegate_bench_micro::limits::{Buckets, House, eight, one};

#[library_benchmark]
#[bench::of_one(Buckets::new(1))]
#[bench::of_eight(Buckets::new(8))]
fn store(mut buckets: Buckets) -> Buckets {
    buckets.take_and_settle();
    buckets
}

#[library_benchmark]
#[bench::of_one(House::new(one()))]
#[bench::of_eight(House::new(eight()))]
fn filter(mut house: House) -> House {
    house.decide();
    house
}

library_benchmark_group!(name = limits; benchmarks = store, filter);
main!(library_benchmark_groups = limits);
