//! Requests that wait because all backends are full: in which order, for how long, and what they are told.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script};
use crate::client::{Connection, End, Request, chat_body};
use crate::gateway::{Gateway, Key, refused};

/// One backend that takes one request at once, and these lines below its pool.
async fn narrow(backend: &Backend, lines: &str) -> Gateway {
    Gateway::start(&pool(backend, lines)).await
}

fn pool(backend: &Backend, lines: &str) -> String {
    let backends = format!("    backends: [{{ url: {}, max_in_flight: 1 }}]\n", backend.url());
    format!("pools:\n  main:\n    health: off\n{backends}{lines}")
}

/// A request whose backend holds it until the gate opens.
async fn hold(gateway: &Gateway, backend: &Backend, gate: &Gate) -> Connection {
    backend.push(Script::new().wait(gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let mut connection = gateway.connect().await;
    let count = backend.count();
    connection.send(Request::chat("m").bytes()).await;
    backend.seen(count).await;
    connection
}

/// Waits until so many wait.
async fn waiting(gateway: &Gateway, count: f64) {
    gateway.metric_is("tidegate_queue_waiting", &[("pool", "main")], count).await;
}

/// A request that says who it is in its body.
fn named(name: &str) -> Request {
    Request::post("/v1/chat/completions", format!(r#"{{"model":"m","messages":[],"user":"{name}","max_tokens":100}}"#))
}

async fn send(gateway: &Gateway, request: Request) -> Connection {
    let mut connection = gateway.connect().await;
    connection.send(request.bytes()).await;
    connection
}

#[tokio::test]
async fn a_request_waits_until_there_is_a_place() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "").await;
    let mut first = hold(&gateway, &backend, &gate).await;
    let mut second = send(&gateway, Request::chat("m").header("x-request-id", "second")).await;
    waiting(&gateway, 1.0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gate.open();
    let (first, second) = (first.answer().await, second.answer().await);
    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(first.header("x-tidegate-queue-ms"), None);
    let waited: u64 = second.header("x-tidegate-queue-ms").unwrap().parse().unwrap();
    assert!((50..5000).contains(&waited), "{waited}");
    let line = gateway.log.request("second").await;
    assert!(line["queue_ms"].as_f64().unwrap() >= 50.0 && line["overhead_ms"].as_f64().unwrap() < 50.0, "{line}");
    waiting(&gateway, 0.0).await;
    gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "served")], 1.0).await;
    assert_eq!(backend.most_in_flight(), 1);
}

#[tokio::test]
async fn many_who_wait_are_all_served_one_after_the_other() {
    let backend = Backend::start().await;
    let gateway = narrow(&backend, "").await;
    let request = Request::chat("m");
    let answers = futures_util::future::join_all((0..60).map(|_| gateway.send(&request))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!((backend.count(), backend.most_in_flight()), (60, 1));
}

#[tokio::test]
async fn an_organisation_that_sends_much_delays_itself() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let orgs = ["heavy", "b", "c", "d"].map(Key::new);
    let keys: String = orgs
        .iter()
        .zip(["heavy", "b", "c", "d"])
        .map(|(key, org)| format!("        - {{ id: {org}, hash: \"{}\", org: {org} }}\n", key.hash))
        .collect();
    let config = format!("filters:\n  - api_key:\n      keys:\n{keys}{}", pool(&backend, ""));
    let gateway = Gateway::start(&config).await;
    backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let mut open = vec![send(&gateway, named("first").bearer(&orgs[0].key)).await];
    backend.seen(0).await;
    for n in 0..50 {
        open.push(send(&gateway, named(&format!("heavy{n}")).bearer(&orgs[0].key)).await);
    }
    waiting(&gateway, 50.0).await;
    for (n, key) in orgs[1..].iter().enumerate() {
        open.push(send(&gateway, named(&format!("light{n}")).bearer(&key.key)).await);
    }
    waiting(&gateway, 53.0).await;
    gate.open();
    for connection in &mut open {
        assert_eq!(connection.answer().await.status, 200);
    }
    let mut places = Vec::new();
    for n in 0..54 {
        if backend.seen(n).await.text().contains("light") {
            places.push(n);
        }
    }
    // After the one that was held, and the one of the heavy organisation that had its turn before they came.
    assert!(places.iter().all(|place| *place <= 5), "served at {places:?} of 54");
}

#[tokio::test]
async fn what_can_wait_says_so_and_lets_others_go_before() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "").await;
    let mut open = vec![hold(&gateway, &backend, &gate).await];
    for (n, priority) in ["batch", "batch", "normal", "9"].into_iter().enumerate() {
        open.push(send(&gateway, named(&format!("{priority}-{n}")).header("x-tidegate-priority", priority)).await);
        waiting(&gateway, n as f64 + 1.0).await;
    }
    gate.open();
    for connection in &mut open {
        assert_eq!(connection.answer().await.status, 200);
    }
    let mut served = Vec::new();
    for n in 1..5 {
        served.push(backend.seen(n).await.json()["user"].as_str().unwrap().to_owned());
    }
    // Nobody makes itself more important than it is.
    assert_eq!(served, ["normal-2", "9-3", "batch-0", "batch-1"]);
}

#[tokio::test]
async fn no_more_wait_than_may() {
    for (lines, status) in [("    queue: { most: 1 }\n", 503), ("    queue: { most: 1, refuse_with: 429 }\n", 429)] {
        let (backend, gate) = (Backend::start().await, Gate::closed());
        let gateway = narrow(&backend, lines).await;
        let mut first = hold(&gateway, &backend, &gate).await;
        let mut second = send(&gateway, Request::chat("m")).await;
        waiting(&gateway, 1.0).await;
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.openai_error(status)["code"], "queue_full");
        assert!(answer.header("retry-after").is_some_and(|wait| wait.parse::<u32>().is_ok_and(|wait| wait >= 1)));
        gate.open();
        assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
        gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "full")], 1.0).await;
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_queue_the_client_or_its_sdk_allows() {
    let headers = [
        ("x-request-id", "plain"),
        ("x-tidegate-max-wait", "0.2"),
        ("x-tidegate-max-wait", "200ms"),
        // It is told a little earlier, so that it hears it.
        ("x-stainless-read-timeout", "0.25"),
    ];
    for (max_wait, header) in ["200ms", "30s", "30s", "30s"].into_iter().zip(headers) {
        let (backend, gate) = (Backend::start().await, Gate::closed());
        let gateway = narrow(&backend, &format!("    queue: {{ max_wait: {max_wait} }}\n")).await;
        let _first = hold(&gateway, &backend, &gate).await;
        let began = Instant::now();
        let answer = gateway.send(&Request::chat("m").header(header.0, header.1)).await;
        assert_eq!(answer.openai_error(503)["code"], "queue_timeout", "{header:?}");
        let waited = began.elapsed();
        assert!(waited >= Duration::from_millis(190) && waited < Duration::from_secs(3), "{header:?}: {waited:?}");
        assert!(answer.header("x-tidegate-queue-ms").is_some());
        waiting(&gateway, 0.0).await;
    }
}

#[tokio::test]
async fn who_waits_in_vain_for_as_long_as_its_sdk_does_hears_it_before_the_sdk_gives_up() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "").await;
    let _first = hold(&gateway, &backend, &gate).await;
    let request = Request::chat("m").header("x-stainless-read-timeout", "10");
    let answer = tokio::time::timeout(Duration::from_secs(10), gateway.send(&request)).await.expect("in time");
    assert_eq!(answer.openai_error(503)["code"], "queue_timeout");
    assert!(answer.header("x-tidegate-queue-ms").unwrap().parse::<u64>().unwrap() >= 8_900);
}

#[tokio::test]
async fn who_would_wait_in_vain_is_told_at_once_and_when_to_come_back() {
    let backend = Backend::start().await;
    backend
        .always(Script::new().pause(Duration::from_millis(200)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let gateway = narrow(&backend, "").await;
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(send(&gateway, Request::chat("m")).await);
    }
    // It is known how fast it moves: five a second, and some are before.
    gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "served")], 2.0).await;
    let began = Instant::now();
    let answer = gateway.send(&Request::chat("m").header("x-tidegate-max-wait", "0.25")).await;
    assert_eq!(answer.openai_error(503)["code"], "queue_timeout");
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    let wait: f64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((400.0..4000.0).contains(&wait), "{wait}");
    gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "hopeless")], 1.0).await;
    for connection in &mut open {
        assert_eq!(connection.answer().await.status, 200);
    }
}

#[tokio::test]
async fn a_client_that_leaves_gives_its_place_up_at_once() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "").await;
    let mut first = hold(&gateway, &backend, &gate).await;
    let second = send(&gateway, named("gone")).await;
    waiting(&gateway, 1.0).await;
    let mut third = send(&gateway, named("here")).await;
    waiting(&gateway, 2.0).await;
    drop(second);
    waiting(&gateway, 1.0).await;
    gate.open();
    assert_eq!((first.answer().await.status, third.answer().await.status), (200, 200));
    assert_eq!(backend.count(), 2);
    gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "left")], 1.0).await;
}

#[tokio::test]
async fn who_leaves_the_queue_is_charged_nothing_and_its_line_says_how_long_it_waited() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let limit = "filters: [{ limits: [{ per: global, tokens: 100k/h }] }]\n";
    let gateway = narrow(&backend, limit).await;
    let mut first = hold(&gateway, &backend, &gate).await;
    for (id, request) in [("whole", named("gone")), ("stream", Request::stream("m"))] {
        let second = send(&gateway, request.header("x-request-id", id)).await;
        waiting(&gateway, 1.0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(second);
        let line = gateway.log.request(id).await;
        assert_eq!((line["cause"].as_str(), line["attempts"].as_u64()), (Some("client_gone"), Some(0)), "{line}");
        assert!(line["prompt_tokens"].is_null() && line["completion_tokens"].is_null(), "{line}");
        assert!(line["queue_ms"].as_f64().is_some_and(|waited| waited >= 50.0), "{line}");
        waiting(&gateway, 0.0).await;
    }
    gate.open();
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test]
async fn a_stream_is_told_how_it_stands_while_it_waits() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "    queue: { tell: 50ms }\n").await;
    let mut first = hold(&gateway, &backend, &gate).await;
    backend.push(Script::words(&["a", "b"], Duration::ZERO));
    let mut second = send(&gateway, Request::stream("m")).await;
    waiting(&gateway, 1.0).await;
    let mut whole = send(&gateway, Request::chat("m")).await;
    waiting(&gateway, 2.0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    gate.open();
    let answer = second.answer().await;
    assert_eq!((answer.status, answer.end), (200, End::Whole));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let text = answer.text();
    assert!(text.starts_with(": queue: position 1") && text.matches(": queue:").count() >= 3, "{text}");
    assert!(text.ends_with("data: [DONE]\n\n") && text.contains(r#""content":"b""#), "{text}");
    assert_eq!((first.answer().await.status, whole.answer().await.status), (200, 200));
}

#[tokio::test]
async fn waiting_in_line_is_no_overhead_of_ours_whenever_the_head_goes_out() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "    queue: { tell: 1500ms }\n").await;
    let mut first = hold(&gateway, &backend, &gate).await;
    backend.push(Script::words(&["a"], Duration::ZERO));
    let mut told = send(&gateway, Request::stream("m").header("x-request-id", "told")).await;
    let head = told.head().await;
    gate.open();
    while told.piece().await.unwrap().is_some() {}
    assert_eq!((first.answer().await.status, head.status), (200, 200));
    let shown: f64 = head.header("x-tidegate-overhead-ms").unwrap().parse().unwrap();
    let line = gateway.log.request("told").await;
    let (queued, ours) = (line["queue_ms"].as_f64().unwrap(), line["overhead_ms"].as_f64().unwrap());
    assert!(queued >= 1490.0 && ours < 1000.0 && shown < 1000.0, "{shown} {line}");
    let seconds = gateway.metrics().await.sum("tidegate_overhead_seconds_sum", &[]);
    assert!(seconds < 1.2, "{seconds}");
}

#[tokio::test]
async fn a_stream_that_was_told_hears_of_a_failure_as_an_event() {
    for (script, code) in [
        (
            Script::status("400 Bad Request", r#"{"error":{"message":"too long for me","type":"x"}}"#),
            "upstream_rejected",
        ),
        (Script::status("500 Internal Server Error", "{}"), "upstream_error"),
        (Script::json("{}"), "upstream_malformed"),
    ] {
        let (backend, gate) = (Backend::start().await, Gate::closed());
        let gateway = narrow(&backend, "    queue: { tell: 50ms }\n").await;
        let mut first = hold(&gateway, &backend, &gate).await;
        backend.push(script);
        let mut second = send(&gateway, Request::stream("m")).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        gate.open();
        let answer = second.answer().await;
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
        let event: serde_json::Value = serde_json::from_str(last).unwrap();
        assert_eq!(event["error"]["code"], code, "{event}");
        assert!(!answer.text().contains("[DONE]"));
        first.answer().await;
    }
}

#[tokio::test]
async fn a_request_that_one_backend_refused_waits_for_the_others() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    backend.always(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let backends = format!("    backends: [\"{}\", {{ url: {}, max_in_flight: 1 }}]\n", refused(), backend.url());
    let gateway = Gateway::start(&format!("pools:\n  main:\n    health: off\n    breaker: off\n{backends}")).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(send(&gateway, Request::chat("m")).await);
    }
    waiting(&gateway, 3.0).await;
    gate.open();
    for connection in &mut open {
        assert_eq!(connection.answer().await.status, 200);
    }
    assert_eq!((backend.count(), backend.most_in_flight()), (4, 1));
}

#[tokio::test]
async fn without_a_queue_a_full_pool_refuses_at_once() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "    queue: off\n").await;
    let mut first = hold(&gateway, &backend, &gate).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.openai_error(503)["code"], "overloaded");
    gate.open();
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test]
async fn a_reload_leaves_those_who_wait_where_they_are() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let gateway = narrow(&backend, "").await;
    let mut first = hold(&gateway, &backend, &gate).await;
    let mut second = send(&gateway, Request::chat("m")).await;
    waiting(&gateway, 1.0).await;
    gateway.rewrite(&(pool(&backend, "") + "answer_headers: false\n"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"].as_str().is_some_and(|text| text.contains("configuration"))).await;
    let third = Request::post("/v1/chat/completions", chat_body("m", false));
    let mut third = send(&gateway, third).await;
    waiting(&gateway, 2.0).await;
    gate.open();
    for connection in [&mut first, &mut second, &mut third] {
        assert_eq!(connection.answer().await.status, 200);
    }
}

#[tokio::test]
async fn an_organisation_that_fills_the_queue_does_not_keep_the_others_out() {
    let (backend, gate) = (Backend::start().await, Gate::closed());
    let orgs = ["heavy", "light"].map(Key::new);
    let entry = |(key, org): (&Key, &str)| format!("        - {{ id: {org}, hash: \"{}\", org: {org} }}\n", key.hash);
    let keys: String = orgs.iter().zip(["heavy", "light"]).map(entry).collect();
    let lines = pool(&backend, "    queue: { most: 5 }\n");
    let gateway = Gateway::start(&format!("filters:\n  - api_key:\n      keys:\n{keys}{lines}")).await;
    backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let mut open = vec![send(&gateway, named("first").bearer(&orgs[0].key)).await];
    backend.seen(0).await;
    for n in 0..5 {
        open.push(send(&gateway, named(&format!("heavy{n}")).bearer(&orgs[0].key)).await);
        waiting(&gateway, f64::from(n) + 1.0).await;
    }
    let sixth = gateway.send(&named("heavy5").bearer(&orgs[0].key)).await;
    assert_eq!(sixth.openai_error(503)["code"], "queue_full", "its own requests fill it");
    let mut light = send(&gateway, named("light").bearer(&orgs[1].key)).await;
    // Whoever would have been last goes, and hears of it at once.
    let displaced = open.pop().unwrap().answer().await;
    assert_eq!(displaced.openai_error(503)["code"], "queue_full");
    assert!(displaced.header("retry-after").is_some());
    waiting(&gateway, 5.0).await;
    gate.open();
    assert_eq!(light.answer().await.status, 200);
    for connection in &mut open {
        assert_eq!(connection.answer().await.status, 200);
    }
    let place = async |name: &str| {
        for n in 0..6 {
            if backend.seen(n).await.text().contains(name) {
                return n;
            }
        }
        6
    };
    assert!(place("light").await <= 3, "not behind all that came before it");
    gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "full")], 2.0).await;
    gateway.metric_is("tidegate_queue_outcomes_total", &[("outcome", "served")], 5.0).await;
    waiting(&gateway, 0.0).await;
}
