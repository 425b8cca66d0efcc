//! What a whole exchange takes, over connections in memory: the time of one is what the gateway spends on it, but for the
//! system calls of real connections.

use criterion::{Criterion, criterion_group, criterion_main};
use tidegate_bench_micro::road::{Answer, Features, Road};

fn exchanges(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("exchange");
    for (name, features) in [("bare", Features::Bare), ("everything", Features::Everything)] {
        for (what, body, answer) in [
            ("1 KiB", 1 << 10, Answer::Whole(504)),
            ("32 KiB", 32 << 10, Answer::Whole(504)),
            ("64 tokens", 1 << 10, Answer::Tokens(64)),
        ] {
            let mut road = Road::new(features, body, answer);
            group.bench_function(format!("{name}, {what}"), |bench| bench.iter(|| road.pass()));
        }
    }
    group.finish();
}

criterion_group!(benches, exchanges);
criterion_main!(benches);
