//! A scrape: what it costs to write the page of a gateway with 200 models and 50 backends, each of which has seen traffic.
//! It has to stay below 5 ms.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

// The file itself: the crate it is in takes minutes to build, and this needs nothing else of it.
#[expect(dead_code, reason = "only what is written is measured")]
#[path = "../../../gateway/src/telemetry/metrics/family.rs"]
mod family;

/// What the families know of the list of metrics.
mod list {
    pub(super) struct Spec {
        pub(super) name: &'static str,
        pub(super) kind: Kind,
        pub(super) labels: &'static [&'static str],
        pub(super) help: &'static str,
    }

    pub(super) enum Kind {
        Counter,
        Histogram(&'static [f64]),
    }

    impl Kind {
        pub(super) fn name(&self) -> &'static str {
            match self {
                Self::Counter => "counter",
                Self::Histogram(_) => "histogram",
            }
        }
    }
}

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use family::{Family, Histogram, IntCounter, Written};
use list::{Kind, Spec};
use std::hint::black_box;

const GEN_AI: &[&str] = &["gen_ai_operation_name", "gen_ai_request_model", "route", "pool", "error_type"];
const BOUNDS: [f64; 19] = [
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36,
    1310.72, 2621.44,
];

static TIMES: [Spec; 3] = [
    spec("gen_ai_server_request_duration_seconds", Kind::Histogram(&BOUNDS), GEN_AI),
    spec("gen_ai_server_time_to_first_token_seconds", Kind::Histogram(&BOUNDS), GEN_AI),
    spec("gen_ai_server_time_per_output_token_seconds", Kind::Histogram(&BOUNDS), GEN_AI),
];
static TOKENS: Spec = spec("gen_ai_client_token_usage", Kind::Histogram(BOUNDS.first_chunk::<11>().unwrap()), GEN_AI);
static OVERHEAD: Spec = spec(
    "tidegate_overhead_seconds",
    Kind::Histogram(BOUNDS.first_chunk::<15>().unwrap()),
    &["route", "pool", "status"],
);
static ROUTES: Spec = spec("tidegate_of_routes_total", Kind::Counter, &["route", "pool", "cause"]);
static BACKENDS: Spec = spec("tidegate_of_backends_total", Kind::Counter, &["pool", "backend", "cause"]);

const fn spec(name: &'static str, kind: Kind, labels: &'static [&'static str]) -> Spec {
    Spec { name, kind, labels, help: "What it is, in about as many words as it takes to say so." }
}

/// The families, as full as those of such a gateway: each model with one operation, whole and failed, and the counters
/// that each route and backend has.
fn gateway() -> Vec<Box<dyn Written>> {
    let times = TIMES.each_ref().map(Family::<Histogram>::new);
    let (tokens, overhead) = (Family::<Histogram>::new(&TOKENS), Family::<Histogram>::new(&OVERHEAD));
    let (routes, backends) = (Family::<IntCounter>::new(&ROUTES), Family::<IntCounter>::new(&BACKENDS));
    for model in (0..200).map(|model| format!("model-number-{model}")) {
        for family in &times {
            for error in ["", "upstream_error"] {
                family.with_label_values(&["chat", &model, &model, "main", error]).observe(0.123);
            }
        }
        for kind in ["input", "output", "cached_input", "reasoning"] {
            tokens.with_label_values(&["chat", &model, &model, "main", kind]).observe(1234.0);
        }
        for status in ["2xx", "5xx"] {
            overhead.with_label_values(&[&model, "main", status]).observe(0.000_06);
        }
        for cause in 0..36 {
            routes.with_label_values(&[&model, "main", &format!("cause_{cause}")]).inc_by(123_456);
        }
    }
    for backend in (0..50).map(|backend| format!("10.0.0.{backend}:8000")) {
        for cause in 0..30 {
            backends.with_label_values(&["main", &backend, &format!("cause_{cause}")]).inc_by(123_456);
        }
    }
    let mut all: Vec<Box<dyn Written>> =
        times.into_iter().map(|family| -> Box<dyn Written> { Box::new(family) }).collect();
    all.extend([Box::new(tokens) as Box<dyn Written>, Box::new(overhead), Box::new(routes), Box::new(backends)]);
    all
}

fn scrape(criterion: &mut Criterion) {
    let families = gateway();
    let page = |size: usize| {
        let mut page = String::with_capacity(size);
        families.iter().for_each(|family| family.write(&mut page));
        page
    };
    let size = page(0).len();
    let mut group = criterion.benchmark_group("scrape");
    group.throughput(Throughput::Bytes(size as u64));
    group.bench_function("200_models_50_backends", |bench| bench.iter(|| black_box(page(size))));
    group.finish();
}

criterion_group!(benches, scrape);
criterion_main!(benches);
