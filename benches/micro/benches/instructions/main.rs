//! What a decision costs in instructions, which are the same on a busy machine as on an idle one. `make instructions`
//! compares them with `benches/results/instructions.txt`.
//!
//! Each has been met once before it is counted, so that what is counted is what each further request costs.

#![expect(missing_docs, reason = "what gungraun's macros make has none")]

mod upstream;

use gungraun::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;
use std::time::Duration;
use tidegate_bench_micro::balancers::Pick;
use tidegate_bench_micro::cache::{Cached, answered, stream, whole};
use tidegate_bench_micro::limits::{Buckets, House, Sums, eight, one};
use tidegate_bench_micro::parts::{Asking, Following, Reading, Watching};
use tidegate_bench_micro::road::{Answer, Features, Road};

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

#[library_benchmark]
#[bench::of_one(Sums::new())]
fn spenders(sums: Sums) -> Sums {
    sums.add();
    sums
}

#[library_benchmark]
#[bench::round_robin_of_1(Pick::new("round_robin", 1, 4096))]
#[bench::round_robin_of_10(Pick::new("round_robin", 10, 4096))]
#[bench::round_robin_of_1000(Pick::new("round_robin", 1000, 4096))]
#[bench::least_busy_of_1(Pick::new("least_busy", 1, 4096))]
#[bench::least_busy_of_10(Pick::new("least_busy", 10, 4096))]
#[bench::least_busy_of_1000(Pick::new("least_busy", 1000, 4096))]
#[bench::peak_ewma_of_1(Pick::new("peak_ewma", 1, 4096))]
#[bench::peak_ewma_of_10(Pick::new("peak_ewma", 10, 4096))]
#[bench::peak_ewma_of_1000(Pick::new("peak_ewma", 1000, 4096))]
#[bench::session_of_1(Pick::new("session", 1, 4096))]
#[bench::session_of_10(Pick::new("session", 10, 4096))]
#[bench::session_of_1000(Pick::new("session", 1000, 4096))]
#[bench::prefix_affinity_of_1(Pick::new("prefix_affinity", 1, 4096))]
#[bench::prefix_affinity_of_10(Pick::new("prefix_affinity", 10, 4096))]
#[bench::prefix_affinity_of_1000(Pick::new("prefix_affinity", 1000, 4096))]
fn pick(mut pick: Pick) -> Pick {
    pick.pick();
    pick
}

#[library_benchmark]
#[bench::whole_1_kib(Cached::new("fresh", false, &whole(1 << 10)))]
#[bench::whole_64_kib(Cached::new("fresh", false, &whole(64 << 10)))]
#[bench::whole_64_kib_original(Cached::new("original", false, &whole(64 << 10)))]
#[bench::stream_64_kib(Cached::new("fresh", true, &stream(64 << 10)))]
#[bench::stream_64_kib_original(Cached::new("original", true, &stream(64 << 10)))]
fn hit(cached: Cached) -> Cached {
    answered(&cached);
    cached
}

#[library_benchmark]
#[bench::round_robin_of_1(upstream::Pool::new("round_robin", 1))]
#[bench::round_robin_of_10(upstream::Pool::new("round_robin", 10))]
#[bench::round_robin_of_1000(upstream::Pool::new("round_robin", 1000))]
#[bench::least_busy_of_10(upstream::Pool::new("least_busy", 10))]
#[bench::least_busy_of_1000(upstream::Pool::new("least_busy", 1000))]
#[bench::peak_ewma_of_1000(upstream::Pool::new("peak_ewma", 1000))]
#[bench::session_of_1000(upstream::Pool::new("session", 1000))]
#[bench::prefix_affinity_of_1000(upstream::Pool::new("prefix_affinity", 1000))]
fn lease(pool: upstream::Pool) -> upstream::Pool {
    pool.lease();
    pool
}

#[library_benchmark]
#[bench::with_a_fault(upstream::Broken::new())]
fn breaker(broken: upstream::Broken) -> upstream::Broken {
    broken.pass();
    broken
}

#[library_benchmark]
#[bench::half_open(upstream::Broken::new())]
fn opens_and_closes(broken: upstream::Broken) -> upstream::Broken {
    broken.open_and_close();
    broken
}

#[library_benchmark]
#[bench::of_10(upstream::Line::new(10))]
#[bench::of_1000(upstream::Line::new(1000))]
fn turn(mut line: upstream::Line) -> upstream::Line {
    line.turn();
    line
}

#[library_benchmark]
#[bench::behind_10(upstream::Line::new(10))]
#[bench::behind_1000(upstream::Line::new(1000))]
fn queue(line: upstream::Line) -> upstream::Line {
    line.pass();
    line
}

#[library_benchmark]
#[bench::learned(upstream::learned())]
fn hedge(hedging: tidegate::upstream::hedge::Hedging) -> tidegate::upstream::hedge::Hedging {
    upstream::decide(&hedging);
    hedging
}

#[library_benchmark]
#[bench::of_1_kib(Reading::new(1 << 10))]
#[bench::of_32_kib(Reading::new(32 << 10))]
fn read(reading: Reading) -> Reading {
    black_box(reading.read());
    reading
}

#[library_benchmark]
#[bench::of_32_kib(Reading::new(32 << 10))]
fn splice(reading: Reading) -> Reading {
    black_box(reading.splice());
    reading
}

#[library_benchmark]
#[bench::of_64_alike(Watching::new(true))]
#[bench::of_64_unlike(Watching::new(false))]
fn events(mut watching: Watching) -> Watching {
    black_box(watching.look());
    watching
}

#[library_benchmark]
#[bench::of_64_events(Watching::new(true))]
fn silence(watching: Watching) -> Watching {
    black_box(watching.silence());
    watching
}

#[library_benchmark]
#[bench::api_key_of_10000(Asking::api_key())]
#[bench::model_route(Asking::model_route())]
#[bench::prompt_cache_1_kib(Asking::prompt_cache(1 << 10))]
#[bench::prompt_cache_32_kib(Asking::prompt_cache(32 << 10))]
fn request(mut asking: Asking) -> Asking {
    black_box(asking.ask().is_some());
    asking
}

#[library_benchmark]
#[bench::prompt_cache_1_kib(Following::prompt_cache(false))]
#[bench::prompt_cache_64_events(Following::prompt_cache(true))]
fn chunks(mut following: Following) -> Following {
    following.pass();
    following
}

/// With everything on, and what the cache puts in order now and then is out of order: it is counted each time, not by chance.
fn rested(body: usize, answer: Answer) -> Road {
    let road = Road::new(Features::Everything, body, answer);
    std::thread::sleep(Duration::from_millis(500));
    road
}

#[library_benchmark]
#[bench::bare_1_kib(Road::new(Features::Bare, 1 << 10, Answer::Whole(504)))]
#[bench::bare_32_kib(Road::new(Features::Bare, 32 << 10, Answer::Whole(504)))]
#[bench::everything_1_kib(rested(1 << 10, Answer::Whole(504)))]
#[bench::everything_32_kib(rested(32 << 10, Answer::Whole(504)))]
#[bench::bare_64_tokens(Road::new(Features::Bare, 1 << 10, Answer::Tokens(64)))]
#[bench::everything_64_tokens(rested(1 << 10, Answer::Tokens(64)))]
fn exchange(mut road: Road) -> Road {
    road.pass();
    road
}

library_benchmark_group!(name = parts; benchmarks = read, splice, events, silence);
library_benchmark_group!(name = filters; benchmarks = request, chunks);
library_benchmark_group!(name = whole; benchmarks = exchange);
library_benchmark_group!(name = backends; benchmarks = lease, breaker, opens_and_closes, queue, turn, hedge);
library_benchmark_group!(name = limits; benchmarks = store, filter, spenders);
library_benchmark_group!(name = balancers; benchmarks = pick);
library_benchmark_group!(name = cache; benchmarks = hit);
main!(library_benchmark_groups = parts, filters, limits, balancers, backends, cache, whole);
