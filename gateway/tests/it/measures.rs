//! What the metrics say: each failure under one cause, the same series whatever clients send, filters, memory, and a
//! scrape of a large gateway under load.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend::{Backend, Gate, Script};
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, Key, Metrics, pool_of};

/// Who is counted here is counted in all other metrics of the same page.
const ENDED: &str = "gen_ai_server_request_duration_seconds_count";

/// Waits until the metrics say so.
async fn until(gateway: &Gateway, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let metrics = gateway.metrics().await;
        if holds(&metrics) {
            return metrics;
        }
        assert!(Instant::now() < until, "{what}:\n{}", metrics.text());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Requests by cause, and what other metrics say of the same.
async fn causes(gateway: &Gateway, requests: usize) -> BTreeMap<&'static str, [f64; 3]> {
    const CAUSES: [&str; 10] = [
        "none",
        "client",
        "validation",
        "limit",
        "auth",
        "gateway",
        "upstream_error",
        "upstream_timeout",
        "upstream_overload",
        "client_gone",
    ];
    let over = |metrics: &Metrics| metrics.sum(ENDED, &[]) == requests as f64;
    let metrics = until(gateway, "not all are counted", over).await;
    assert_eq!(metrics.sum("tidegate_requests_total", &[]), requests as f64);
    let of = |cause: &'static str| {
        let error = if cause == "none" { "" } else { cause };
        let counts = [
            metrics.sum("tidegate_requests_total", &[("cause", cause)]),
            metrics.sum("tidegate_failures_total", &[("cause", cause)]),
            metrics.sum("gen_ai_server_request_duration_seconds_count", &[("error_type", error)]),
        ];
        (cause, counts)
    };
    CAUSES.into_iter().map(of).collect()
}

fn large() -> Request {
    let message = json!({ "role": "user", "content": "x".repeat(700 << 10) });
    Request::post("/v1/chat/completions", json!({ "model": "m", "messages": [message] }).to_string())
}

/// What a request does that ends with each of the causes.
async fn provoke(cause: &str, gateway: &Gateway, backend: &Backend, key: &str) {
    let (ask, seen) = (Request::chat("m").bearer(key), backend.count());
    match cause {
        "none" => drop(gateway.send(&ask).await),
        "client" => {
            backend.push(Script::status("418 Teapot", r#"{"error":{"message":"no"}}"#));
            assert_eq!(gateway.send(&ask).await.status, 418);
        }
        "validation" => drop(gateway.send(&ask.body("{")).await),
        "limit" => assert_eq!(gateway.send(&ask.body(r#"{"model":"limited","messages":[]}"#)).await.status, 429),
        "auth" => assert_eq!(gateway.send(&Request::chat("m").bearer("nobody's")).await.status, 401),
        "gateway" => assert_eq!(gateway.send(&large().bearer(key)).await.status, 503),
        "upstream_error" => {
            backend.push(Script::stream().token("a").fin());
            gateway.send(&Request::stream("m").bearer(key)).await;
        }
        "upstream_timeout" => {
            backend.push(Script::new().hang());
            let hasty = ask.body(r#"{"model":"hasty","messages":[]}"#);
            assert_eq!(gateway.send(&hasty).await.status, 504);
        }
        "upstream_overload" => {
            backend.push(Script::status("503 Full", r#"{"error":{"message":"full"}}"#));
            assert_eq!(gateway.send(&ask).await.status, 503);
        }
        "client_gone" => {
            backend.push(Script::stream().token("a").hang());
            let mut connection = gateway.connect().await;
            connection.send(Request::stream("m").bearer(key).bytes()).await;
            connection.piece_after_head().await;
            backend.seen(seen).await;
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn each_request_is_counted_under_exactly_one_cause() {
    let (backend, key) = (Backend::start().await, Key::new("k"));
    let pool = format!("{}    retries: 0\n", pool_of(&[&backend]));
    let filters = format!(
        "filters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\" }} ] }}\n  - limits: [ {{ per: key, requests: 1/day, models: [limited] }} ]\n",
        key.hash
    );
    let models = "models: { m: { pool: main }, limited: { pool: main }, hasty: { pool: main, timeouts: { total: 1s } } }\n\
                  limits: { body: 1MiB, bodies_in_flight: 1MiB }\n";
    let gateway = Gateway::start(&format!("{pool}{filters}{models}")).await;
    // The day's only request, and a body that leaves no room for a second of its kind.
    let only = Request::chat("limited").bearer(&key.key);
    assert_eq!(gateway.send(&only).await.status, 200);
    let gate = Gate::closed();
    backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let mut held = gateway.connect().await;
    held.send(large().bearer(&key.key).bytes()).await;
    backend.seen(1).await;

    let mut before = causes(&gateway, 1).await;
    let all: Vec<&str> = before.keys().copied().collect();
    for (n, cause) in all.into_iter().enumerate() {
        provoke(cause, &gateway, &backend, &key.key).await;
        let mut after = causes(&gateway, n + 2).await;
        let counts = before.get_mut(cause).unwrap();
        // What went well is no failure.
        let failed = if cause == "none" { 0.0 } else { 1.0 };
        for (count, more) in counts.iter_mut().zip([1.0, failed, 1.0]) {
            *count += more;
        }
        assert_eq!(after, before, "{cause}");
        std::mem::swap(&mut before, &mut after);
    }
    gate.open();
    assert_eq!(held.answer().await.status, 200);
}

/// The names and labels of all series.
fn series(metrics: &Metrics) -> BTreeSet<String> {
    let lines = metrics.text().lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Requests that have everything a client may choose different from all others: an unknown model, an unknown path, an
/// unknown key; each with ids, users, and a trace of its own.
fn strange(n: usize, key: &str) -> Request {
    let request = match n % 3 {
        0 => Request::chat(&format!("model-{n}")).bearer(key),
        1 => Request::get(&format!("/v1/path-{n}?q={n}")).bearer(key),
        _ => Request::chat("m").bearer(&format!("sk-{n}")),
    };
    request
        .header("x-request-id", &format!("id-{n}"))
        .header("x-user-id", &format!("user-{n}"))
        .header("user-agent", &format!("agent-{n}"))
        .header("traceparent", &format!("00-{:032x}-{:016x}-01", n + 1, n + 1))
}

#[tokio::test]
async fn however_many_models_paths_and_keys_are_made_up_the_series_stay_the_same() {
    // A hundred thousand with `make hammer`.
    let count = if std::env::var_os("HAMMER").is_some() { 100_000 } else { 6_000 };
    let (backend, key) = (Backend::start().await, Key::new("k"));
    let filters = format!(
        "filters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\" }} ] }}\n  - limits: [ {{ per: key, requests: 1M/s }}, {{ per: ip, requests: 1M/s }} ]\n",
        key.hash
    );
    let config = format!("{}{filters}models: {{ m: {{ pool: main }} }}\n", pool_of(&[&backend]));
    let config = format!("{config}log: {{ format: json, level: warn }}\n");
    let gateway = Gateway::start(&config).await;
    let flood = async |numbers: std::ops::Range<usize>| {
        let mut connection = gateway.connect().await;
        // Pipelined: the gateway answers in order, and reads on meanwhile.
        for numbers in numbers.collect::<Vec<_>>().chunks(50) {
            let requests: Vec<Request> = numbers.iter().map(|n| strange(*n, &key.key)).collect();
            let bytes: Vec<u8> = requests.iter().flat_map(|request| request.bytes()).collect();
            connection.send(bytes).await;
            for request in &requests {
                let status = connection.answer_to(request.method()).await.status;
                assert!([401, 404].contains(&status), "{status} for {}", request.target());
            }
        }
    };
    let counted = async |count: usize| {
        let holds = |metrics: &Metrics| metrics.sum(ENDED, &[]) == count as f64;
        until(&gateway, "not all are counted", holds).await
    };
    flood(0..30).await;
    let before = series(&counted(30).await);
    let quarter = (count - 30) / 4;
    tokio::join!(
        flood(30..30 + quarter),
        flood(30 + quarter..30 + 2 * quarter),
        flood(30 + 2 * quarter..30 + 3 * quarter),
        flood(30 + 3 * quarter..count)
    );
    let metrics = counted(count).await;
    assert_eq!(series(&metrics), before);
    assert_eq!(metrics.sum("tidegate_requests_total", &[("route", "other")]), count as f64);
    tell(&format!("{count} made-up models, paths and keys: {} series before and after", before.len()));
}

#[expect(clippy::print_stdout, reason = "`make hammer` shows it")]
fn tell(row: &str) {
    println!("{row}");
}

#[tokio::test]
async fn filters_are_measured_each_with_what_it_said_and_how_long_it_took() {
    let (backend, key) = (Backend::start().await, Key::new("k"));
    let limits = |rate: &str| format!("  - limits: [ {{ per: global, requests: {rate} }} ]\n");
    let keys = format!("  - api_key: {{ keys: [ {{ id: k, hash: \"{}\" }} ] }}\n", key.hash);
    let file = |limits: &str| format!("{}filters:\n{keys}{limits}", pool_of(&[&backend]));
    let gateway = Gateway::start(&file(&(limits("1M/s") + &limits("2/day")))).await;
    for (key, status) in [(&*key.key, 200), (&key.key, 200), (&key.key, 429), ("wrong", 401)] {
        assert_eq!(gateway.send(&Request::chat("m").bearer(key)).await.status, status);
    }
    let over = |metrics: &Metrics| metrics.sum(ENDED, &[]) == 4.0;
    let metrics = until(&gateway, "not all are counted", over).await;
    for (filter, said) in [
        ("api_key", [("continue", 3.0), ("answer", 1.0), ("follow", 0.0), ("fault", 0.0), ("left", 0.0)]),
        ("limits", [("continue", 0.0), ("answer", 0.0), ("follow", 3.0), ("fault", 0.0), ("left", 0.0)]),
        ("limits#2", [("continue", 0.0), ("answer", 1.0), ("follow", 2.0), ("fault", 0.0), ("left", 0.0)]),
    ] {
        let all: f64 = said.iter().map(|(_, count)| count).sum();
        for (verdict, count) in said {
            let labels = [("filter", filter), ("verdict", verdict)];
            assert_eq!(metrics.sum("tidegate_filter_verdicts_total", &labels), count, "{filter} {verdict}");
        }
        assert_eq!(metrics.sum("tidegate_filter_seconds_count", &[("filter", filter)]), all, "{filter}");
        assert!(metrics.sum("tidegate_filter_seconds_sum", &[("filter", filter)]) > 0.0, "{filter}");
    }
    gateway.rewrite(&file(&limits("1M/s")));
    gateway.signal("HUP");
    let gone = |metrics: &Metrics| metrics.sum("tidegate_filter_seconds_count", &[("filter", "limits#2")]) == 0.0;
    let metrics = until(&gateway, "a filter that is gone is still there", gone).await;
    assert_eq!(metrics.sum("tidegate_filter_seconds_count", &[("filter", "limits")]), 3.0, "the others go on");
}

#[tokio::test]
async fn an_open_stream_holds_no_more_than_it_needs() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&pool_of(&[&backend])).await;
    let gate = Gate::closed();
    backend.push(Script::stream().token("a").wait(&gate).chunk(crate::backend::finish()).done().end());
    let mut reader = gateway.connect().await;
    reader.send(Request::stream("m").bytes()).await;
    reader.piece_after_head().await;
    let labels = [("purpose", "connections")];
    let weighed = |metrics: &Metrics| metrics.sum("tidegate_memory_bytes", &labels) > 0.0;
    let metrics = until(&gateway, "the connection is not weighed", weighed).await;
    let held = metrics.sum("tidegate_memory_bytes", &labels) / metrics.sum("tidegate_connections", &[]);
    // What an exchange may have to do, and mostly does not, is boxed: docs/scaling.md has what it was without.
    assert!(held < 14_000.0, "{held} bytes are held for each connection, whatever comes over it");
    gate.open();
    while reader.piece().await.unwrap().is_some() {}
}

#[tokio::test]
async fn memory_is_told_by_what_it_is_for_and_tasks_by_whose_they_are() {
    let backend = Backend::start().await;
    let filters = "filters:\n  - shared_flight: { scope: global }\n";
    let gateway = Gateway::start(&format!("{filters}{}", pool_of(&[&backend]))).await;
    let gate = Gate::closed();
    let words = "x".repeat(100_000);
    backend.push(Script::stream().token(&words).wait(&gate).chunk(crate::backend::finish()).done().end());
    let mut reader = gateway.connect().await;
    reader.send(Request::stream("m").bytes()).await;
    reader.piece_after_head().await;
    let of = |metrics: &Metrics, purpose: &str| metrics.sum("tidegate_memory_bytes", &[("purpose", purpose)]);
    let held = |metrics: &Metrics| of(metrics, "recordings") > 100_000.0;
    let metrics = until(&gateway, "what is shared is not weighed", held).await;
    assert!(of(&metrics, "connections") > 1_000.0, "{}", metrics.with("tidegate_memory_bytes"));
    for runtime in ["clients", "house"] {
        assert!(metrics.sum("tidegate_tasks", &[("of", runtime)]) >= 1.0, "{}", metrics.with("tidegate_tasks"));
    }
    gate.open();
    while reader.piece().await.unwrap().is_some() {}
    until(&gateway, "what is over is still weighed", |metrics| of(metrics, "recordings") == 0.0).await;
}

#[tokio::test]
async fn what_requests_cost_is_counted_where_they_went() {
    let backend = Backend::start().await;
    let usage = json!({ "prompt_tokens": 1000, "completion_tokens": 50, "total_tokens": 1050 });
    let answer = json!({ "object": "chat.completion", "model": "m", "choices": [], "usage": usage }).to_string();
    backend.handle(move |_| Script::json(&answer));
    let prices = "prices: { models: { m: { prompt: 2.5, completion: 10 } } }\n";
    let gateway =
        Gateway::start(&format!("{}{prices}models: {{ \"*\": {{ pool: main }} }}\n", pool_of(&[&backend]))).await;
    for model in ["m", "m", "free"] {
        assert_eq!(gateway.send(&Request::chat(model)).await.status, 200);
    }
    let metrics = until(&gateway, "not all are counted", |metrics| metrics.sum(ENDED, &[]) == 3.0).await;
    assert_eq!(metrics.sum("tidegate_cost_total", &[("route", "*"), ("pool", "main")]), 0.006);
}

/// Values by series, and that each stands there once.
fn values(metrics: &Metrics) -> HashMap<&str, f64> {
    let mut values = HashMap::new();
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(values.insert(series, value.parse().unwrap()).is_none(), "{series} is there twice");
    }
    values
}

/// The buckets of each histogram never go down, and the last has all that are counted.
fn histograms_add_up(metrics: &Metrics) {
    let values = values(metrics);
    let mut last: Option<(&str, f64)> = None;
    for line in metrics.text().lines().filter(|line| line.contains("le=\"")) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (of, bound) = series.split_once("le=\"").unwrap();
        let value: f64 = value.parse().unwrap();
        if let Some((before, least)) = last.filter(|(before, _)| *before == of) {
            assert!(value >= least, "{before} goes down");
        }
        last = Some((of, value));
        if bound.starts_with("+Inf") {
            let count = of.replace("_bucket{", "_count{").trim_end_matches(',').to_owned() + "}";
            assert_eq!(values.get(&*count).or(values.get(count.trim_end_matches("{}"))), Some(&value), "{count}");
        }
    }
    assert!(last.is_some());
}

#[tokio::test]
async fn a_scrape_of_two_hundred_models_under_load_is_consistent() {
    let backend = Backend::start().await;
    let usage = json!({ "prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8 });
    let answer = json!({ "object": "chat.completion", "model": "m", "choices": [], "usage": usage }).to_string();
    backend.handle(move |_| Script::json(&answer));
    let backends: Vec<String> = (0..50).map(|n| format!("{{ url: {}, name: b{n} }}", backend.url())).collect();
    let models: Vec<String> = (0..200).map(|n| format!("model-{n}: {{ pool: main }}")).collect();
    let pool = format!("pools:\n  main:\n    health: off\n    backends: [{}]\n", backends.join(", "));
    let gateway = Gateway::start(&format!("{pool}models: {{ {} }}\n", models.join(", "))).await;
    let ask = async |numbers: std::ops::Range<usize>| {
        let mut connection = Connection::open(gateway.address()).await;
        for n in numbers {
            assert_eq!(connection.exchange(&Request::chat(&format!("model-{n}"))).await.status, 200);
        }
    };
    let scrapes = async {
        let mut before: Option<Metrics> = None;
        for _ in 0..8 {
            let metrics = gateway.metrics().await;
            histograms_add_up(&metrics);
            let ended = metrics.sum(ENDED, &[]);
            for name in
                ["tidegate_requests_total", "tidegate_overhead_seconds_count", "gen_ai_client_token_usage_count"]
            {
                assert!(metrics.sum(name, &[]) >= ended, "{name} lacks some of {ended} requests");
            }
            if let Some(before) = before.take() {
                let now = values(&metrics);
                for (series, value) in values(&before).into_iter().filter(|(series, _)| series.contains("_total")) {
                    assert!(now.get(series).is_some_and(|now| *now >= value), "{series} went down");
                }
            }
            before = Some(metrics);
        }
    };
    tokio::join!(scrapes, ask(0..100), ask(100..200));
    let over = |metrics: &Metrics| metrics.sum(ENDED, &[]) == 200.0;
    let metrics = until(&gateway, "not all are counted", over).await;
    assert_eq!(metrics.sum("tidegate_requests_total", &[]), 200.0);
    assert_eq!(metrics.sum("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", "output")]), 1000.0);
    let start = Instant::now();
    let page = gateway.metrics().await;
    tell(&format!(
        "a scrape of 200 models and 50 backends: {} lines, {} KiB, {:?} with the transfer",
        page.text().lines().count(),
        page.text().len() >> 10,
        start.elapsed()
    ));
}
