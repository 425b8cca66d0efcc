//! What a pick costs: it must not grow with the pool. `cargo bench -p tidegate-bench-micro --bench balancers`.

use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidegate_bench_micro::balancers::Pick;

fn picks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pick");
    for name in ["round_robin", "least_busy", "peak_ewma", "session", "prefix_affinity"] {
        for (count, size) in [(10, 4 << 10), (1000, 4 << 10), (1000, 32 << 10)] {
            let mut pick = Pick::new(name, count, size);
            group.bench_function(format!("{name}, {count} backends, {} KiB", size >> 10), |bencher| {
                bencher.iter(|| black_box(pick.pick()));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, picks);
criterion_main!(benches);
