//! Who may have how much: refusals that are true, and nothing held that nobody uses any more.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Gateway, Key, pool_of};

/// One pool and these limits, behind keys if there are any.
fn config(backend: &Backend, keys: &[(&Key, &str)], limits: &str) -> String {
    let mut filters = String::from("filters:\n");
    if !keys.is_empty() {
        filters.push_str("  - api_key:\n      keys:\n");
        for (at, (key, who)) in keys.iter().enumerate() {
            filters.push_str(&format!("        - {{ id: k{at}, hash: \"{}\", {who} }}\n", key.hash));
        }
    }
    format!("{}{filters}  - limits: [{limits}]\n", pool_of(&[backend]))
}

async fn limited(backend: &Backend, limits: &str) -> Gateway {
    Gateway::start(&config(backend, &[], limits)).await
}

/// A whole answer that says what it has cost.
fn answer_of(prompt: u64, completion: u64) -> Script {
    Script::json(answer_text(prompt, completion))
}

fn answer_text(prompt: u64, completion: u64) -> String {
    let usage =
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    json!({ "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage }).to_string()
}

/// A stream that says at its end what it has cost.
fn stream_of(prompt: u64, completion: u64) -> Script {
    let usage =
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
    let last = json!({ "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage });
    let finish = json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] });
    let event = |event: &Value| format!("data: {event}\n\n");
    Script::stream().token("a").chunk(event(&finish)).chunk(event(&last)).done().end()
}

fn asking(max_tokens: u64) -> Request {
    Request::post("/v1/chat/completions", json!({ "model": "m", "max_tokens": max_tokens, "messages": [] }).to_string())
}

fn number(answer: &Answer, header: &str) -> u64 {
    let value = answer.header(header).unwrap_or_else(|| panic!("no {header}: {:?}", answer.head));
    value.parse().unwrap_or_else(|_| panic!("{header}: {value}"))
}

#[tokio::test]
async fn one_too_many_is_told_which_limit_whose_how_much_and_when() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let limit = "{ per: user, requests: 60/min, burst: 2 }";
    let gateway = Gateway::start(&config(&backend, &[(&key, "user: alice")], limit)).await;
    let request = Request::chat("m").bearer(&key.key).header("x-request-id", "one-too-many");
    for left in [1, 0] {
        let answer = gateway.send(&request.clone().without("x-request-id")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(number(&answer, "x-ratelimit-limit-requests"), 2);
        assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), left);
        assert!(answer.header("x-ratelimit-reset-requests").unwrap().ends_with('s'));
    }
    let refused = gateway.send(&request).await;
    let error = refused.openai_error(429);
    assert_eq!((error["code"].as_str(), error["type"].as_str()), (Some("rate_limit_exceeded"), Some("requests")));
    let message = error["message"].as_str().unwrap();
    for part in ["user/requests", "'alice'", "60/min", "Try again in"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(number(&refused, "retry-after"), 1);
    assert!((1..=1000).contains(&number(&refused, "retry-after-ms")));
    assert_eq!(number(&refused, "x-ratelimit-remaining-requests"), 0);
    assert_eq!(gateway.log.request("one-too-many").await["notes"]["limited_by"], "user/requests");

    let anthropic = Request::post("/v1/messages", r#"{"model":"m","max_tokens":1,"messages":[]}"#).bearer(&key.key);
    let refused = gateway.send(&anthropic).await;
    assert_eq!(refused.anthropic_error(429)["type"], "rate_limit_error");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn who_waits_as_long_as_told_is_admitted_and_who_waits_less_is_not() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: ip, requests: 2/s, burst: 1 }").await;
    for _ in 0..4 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
        let refused = gateway.send(&Request::chat("m")).await;
        let wait = Duration::from_millis(number(&refused, "retry-after-ms"));
        let told = Instant::now();
        assert!(wait > Duration::from_millis(200), "{wait:?}");
        tokio::time::sleep(wait / 2).await;
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 429);
        tokio::time::sleep(wait.saturating_sub(told.elapsed())).await;
    }
}

#[tokio::test]
async fn places_in_flight_are_free_before_the_client_knows_that_its_answer_is_over() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: global, in_flight: 1 }").await;
    backend.handle(|seen| match String::from_utf8_lossy(&seen.body).contains("\"stream\":true") {
        true => stream_of(1, 1),
        false => answer_of(1, 1),
    });
    let mut connection = gateway.connect().await;
    for n in 0..100 {
        let request = if n % 2 == 0 { Request::chat("m") } else { Request::stream("m") };
        let answer = connection.exchange(&request).await;
        assert_eq!(answer.status, 200, "request {n}: {:?}", answer.body);
    }
    backend.push(Script::stream().token("a").hang());
    connection.send(Request::stream("m").bytes()).await;
    connection.piece_after_head().await;
    let refused = gateway.send(&Request::chat("m")).await;
    let error = refused.openai_error(429);
    assert!(error["message"].as_str().unwrap().contains("in flight"), "{error}");
    assert_eq!(number(&refused, "retry-after"), 1);
    drop(connection);
    let left = Instant::now();
    while gateway.send(&Request::chat("m")).await.status != 200 {
        assert!(left.elapsed() < Duration::from_secs(2), "the place of a client that left is not free");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_refusal_by_one_limit_spends_nothing_of_the_others() {
    let backend = Backend::start().await;
    let both = "{ per: global, requests: 10/h }, { per: model, in_flight: 1 }";
    let gateway = limited(&backend, both).await;
    backend.push(Script::stream().token("a").hang());
    let mut open = gateway.connect().await;
    open.send(Request::stream("m").bytes()).await;
    open.piece_after_head().await;
    for _ in 0..20 {
        let refused = gateway.send(&Request::chat("m")).await;
        refused.openai_error(429);
        assert_eq!(number(&refused, "x-ratelimit-remaining-requests"), 9);
    }
    drop(open);
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    for left in (0..9).rev() {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!((answer.status, number(&answer, "x-ratelimit-remaining-requests")), (200, left));
    }
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 429);
    let limit = |limit, outcome| [("limit", limit), ("outcome", outcome)];
    gateway.metric_is("tidegate_limit_decisions_total", &limit("model/in_flight", "refused"), 20.0).await;
    gateway.metric_is("tidegate_limit_decisions_total", &limit("global/requests", "granted"), 10.0).await;
    gateway.metric_is("tidegate_limit_decisions_total", &limit("global/requests", "refused"), 1.0).await;
    gateway.metric_is("tidegate_limit_subjects", &[("limit", "global/requests")], 1.0).await;
}

/// What is left of the tokens, as the next answer says: all its own are given back or spent by then.
async fn left(gateway: &Gateway) -> u64 {
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    // Costs nothing itself.
    let answer = gateway.send(&Request::post("/v1/messages/count_tokens", r#"{"model":"m","messages":[]}"#)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    number(&answer, "x-ratelimit-remaining-tokens")
}

#[tokio::test]
async fn tokens_are_reserved_and_settled_by_what_the_backend_says() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: global, tokens: 10k/h }").await;
    backend.push(answer_of(100, 50));
    let answer = gateway.send(&asking(5000)).await;
    assert_eq!((answer.status, number(&answer, "x-ratelimit-limit-tokens")), (200, 10_000));
    assert!((4900..5000).contains(&number(&answer, "x-ratelimit-remaining-tokens")), "{:?}", answer.head);
    let after = left(&gateway).await;
    assert!((9850..=9855).contains(&after), "{after}");

    // Streamed, and more than was asked for.
    backend.push(stream_of(200, 1650));
    gateway.send(&Request::post("/v1/chat/completions", r#"{"model":"m","stream":true,"max_tokens":10}"#)).await;
    let after = left(&gateway).await;
    assert!((8000..=8015).contains(&after), "{after}");

    // What fails costs nothing; what is larger than all there is can never be.
    backend.push(Script::status("500 Internal Server Error", "{}"));
    assert_eq!(gateway.send(&asking(5000)).await.status, 500);
    assert!((8000..=8030).contains(&left(&gateway).await));
    let error = gateway.send(&asking(10_001)).await.openai_error(400);
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("larger_than_limit"), Some("max_tokens")));
    assert!(error["message"].as_str().unwrap().contains("global/tokens"), "{error}");
    let refused = gateway.send(&asking(9000)).await;
    assert_eq!(refused.openai_error(429)["type"], "tokens");
    assert_eq!(backend.count(), 6, "three calls, and three that only counted");
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_is_settled_by_what_it_brought() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: global, tokens: 10k/h, in_flight: 1 }").await;
    backend.push((0..20).fold(Script::stream(), |script, _| script.token("a")).hang());
    let mut connection = gateway.connect().await;
    connection
        .send(Request::post("/v1/chat/completions", r#"{"model":"m","stream":true,"max_tokens":4000}"#).bytes())
        .await;
    let mut events = connection.piece_after_head().await.len();
    let one = crate::backend::token("a").len();
    while events < one * 20 {
        events += connection.piece().await.unwrap().unwrap().len();
    }
    drop(connection);
    // 20 events, and a prompt of some 50 bytes.
    let after = left(&gateway).await;
    assert!((9950..=9975).contains(&after), "{after}");
}

#[tokio::test]
async fn streams_that_are_left_at_any_point_leave_nothing_behind() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: global, in_flight: 3, tokens: 100k/h }").await;
    let pace = Duration::from_millis(2);
    backend.handle(move |_| Script::words(&["a"; 10], pace));
    let request = Request::post("/v1/chat/completions", r#"{"model":"m","stream":true,"max_tokens":9000}"#);
    for n in 0..30_u64 {
        let mut connection = gateway.connect().await;
        connection.send(request.bytes()).await;
        // Before the request is read, before the answer's head, among its events, at its end.
        tokio::time::sleep(Duration::from_micros(n * n * 40)).await;
        match n % 3 {
            0 => connection.reset(),
            _ => drop(connection),
        }
    }
    backend.handle(|_| answer_of(0, 0));
    // At most ten tokens each, and a prompt of 60 bytes.
    let after = left(&gateway).await;
    assert!((100_000 - 30 * 25..=100_000).contains(&after), "{after}");
    backend.handle(|_| Script::stream().token("a").hang());
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = gateway.connect().await;
        connection.send(request.bytes()).await;
        connection.piece_after_head().await;
        open.push(connection);
    }
    assert_eq!(gateway.send(&request).await.status, 429);
}

#[tokio::test]
async fn parallel_requests_cannot_spend_the_same_tokens_twice() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: global, tokens: 1k/h }").await;
    let text = answer_text(10, 290);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
    backend.always(Script::new().pause(Duration::from_millis(50)).send(head + &text));
    let request = asking(290);
    let answers: Vec<u16> = futures_of(&gateway, &request, 10).await;
    let admitted = answers.iter().filter(|status| **status == 200).count();
    assert_eq!((admitted, backend.count()), (3, 3), "{answers:?}");
}

async fn futures_of(gateway: &Gateway, request: &Request, count: usize) -> Vec<u16> {
    let address = gateway.address();
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let request = request.clone();
            tokio::spawn(async move { crate::client::Connection::open(address).await.exchange(&request).await.status })
        })
        .collect();
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.unwrap());
    }
    statuses
}

#[tokio::test]
async fn each_has_a_bucket_of_its_own_and_so_have_pairs() {
    let backend = Backend::start().await;
    let (alice, bob, carol) = (Key::new("alice"), Key::new("bob"), Key::new("carol"));
    let keys =
        [(&alice, "user: alice, org: acme"), (&bob, "user: bob, org: acme"), (&carol, "user: carol, org: other")];
    let limits = "{ per: org, requests: 3/h }, { per: [user, model], requests: 2/h, name: mine }";
    let text = config(&backend, &keys, limits)
        .replace("filters:", "models: { a: { pool: main }, \"b*\": { pool: main } }\nfilters:");
    let gateway = Gateway::start(&text).await;
    let status = async |key: &Key, model: &str| gateway.send(&Request::chat(model).bearer(&key.key)).await.status;
    assert_eq!([status(&alice, "a").await, status(&alice, "a").await, status(&alice, "a").await], [200, 200, 429]);
    assert_eq!(status(&alice, "b1").await, 200);
    // The organisation has had its three.
    assert_eq!(status(&bob, "a").await, 429);
    // A client cannot make up a name to get another bucket: the file calls both of these `b*`.
    assert_eq!([status(&carol, "b1").await, status(&carol, "b2").await, status(&carol, "b3").await], [200, 200, 429]);
}

#[tokio::test]
async fn callers_without_a_user_are_exempt_or_share_one_bucket() {
    let backend = Backend::start().await;
    let (named, bare) = (Key::new("named"), Key::new("bare"));
    let keys = [(&named, "user: ann"), (&bare, "team: t")];
    for (rest, expected) in [("", [200, 200]), (", anonymous: shared", [200, 429])] {
        let gateway = Gateway::start(&config(&backend, &keys, &format!("{{ per: user, requests: 1/h{rest} }}"))).await;
        let request = Request::chat("m").bearer(&bare.key);
        assert_eq!([gateway.send(&request).await.status, gateway.send(&request).await.status], expected, "{rest}");
        assert_eq!(gateway.send(&Request::chat("m").bearer(&named.key)).await.status, 200);
    }
}

#[tokio::test]
async fn a_shadow_limit_counts_what_it_would_refuse_and_refuses_nothing() {
    let backend = Backend::start().await;
    let limits = "{ per: ip, requests: 1/h, shadow: true, models: [\"gpt-*\"] }";
    let gateway = limited(&backend, limits).await;
    for n in 0..3 {
        let request = Request::chat("gpt-4").header("x-request-id", &format!("shadow-{n}"));
        let answer = gateway.send(&request).await;
        assert_eq!((answer.status, answer.header("x-ratelimit-limit-requests")), (200, None));
        assert_eq!(gateway.send(&Request::chat("llama")).await.status, 200);
    }
    assert_eq!(gateway.log.request("shadow-2").await["notes"]["shadow_limit"], "ip/requests");
    let outcome = |outcome| [("limit", "ip/requests"), ("outcome", outcome)];
    gateway.metric_is("tidegate_limit_decisions_total", &outcome("would_refuse"), 2.0).await;
    gateway.metric_is("tidegate_limit_decisions_total", &outcome("granted"), 1.0).await;
}

#[tokio::test]
async fn a_reload_keeps_the_buckets_of_limits_that_did_not_change() {
    let backend = Backend::start().await;
    let kept = "{ per: ip, requests: 2/h }";
    let gateway = limited(&backend, &format!("{kept}, {{ per: global, requests: 50/h }}")).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    gateway.rewrite(&config(&backend, &[], &format!("{{ per: global, requests: 60/h }}, {kept}")));
    gateway.signal("HUP");
    gateway.metric_is("tidegate_limit_decisions_total", &[("limit", "global/requests")], 0.0).await;
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!((answer.status, number(&answer, "x-ratelimit-remaining-requests")), (200, 0));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 429);
}

#[tokio::test]
async fn every_route_is_limited() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: ip, requests: 4/h }").await;
    backend.push(Script::websocket_echo("x", None));
    let form = "--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--b--\r\n";
    let upload = Request::post("/v1/audio/transcriptions", form)
        .without("content-type")
        .header("content-type", "multipart/form-data; boundary=b");
    let socket = Request::get("/v1/realtime?model=m")
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "x");
    let mut connection = gateway.connect().await;
    connection.send(socket.bytes()).await;
    let head = connection.head().await;
    assert_eq!((head.status, number(&head, "x-ratelimit-remaining-requests")), (101, 3));
    for (request, left) in [(upload, 2), (Request::get("/v1/models"), 1), (Request::chat("m"), 0)] {
        let answer = gateway.send(&request).await;
        assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), left, "{}: {:?}", request.target(), answer.body);
    }
    assert_eq!(gateway.send(&Request::get("/v1/models")).await.status, 429);
}

#[test]
fn faults_in_limits_are_told_all_at_once_with_their_lines() {
    let folder = crate::gateway::Folder::new();
    let limits = "[{ per: user }, { per: [ip, ip], requests: 1/s }, { per: ip, requests: 0/s }, { per: org, in_flight: 0 },\n      { per: team, tokens: 1k/min, bytes: 1M/s, burst: 5 }, { per: key, requests: 1/s }, { per: key, requests: 2/s }]";
    let text = format!(
        "listen: 127.0.0.1:1\npools: {{ main: {{ backends: [\"http://127.0.0.1:1\"] }} }}\nfilters:\n  - limits: {limits}\n"
    );
    let file = folder.write("gateway.yaml", &text);
    let output = crate::gateway::command(&["check", file.to_str().unwrap()]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    for part in [
        "limits nothing",
        "two that differ",
        "at least one",
        "nobody could ever",
        "which of the rates",
        "another limit called key/requests",
    ] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    assert!(told.contains("gateway.yaml:5:"), "{told}");
}

#[tokio::test]
async fn what_is_refused_counts_for_the_route_of_its_model() {
    let backend = Backend::start().await;
    let limits = config(&backend, &[], "{ per: [ip, model], requests: 1/h, burst: 1 }");
    let models = "models: { \"pace-*\": { pool: main }, m: { pool: main } }\n";
    let gateway = Gateway::start(&format!("{limits}{models}")).await;
    assert_eq!(gateway.send(&Request::chat("pace-1")).await.status, 200);
    assert_eq!(gateway.send(&Request::chat("pace-1").header("x-request-id", "refused")).await.status, 429);
    let line = gateway.log.request("refused").await;
    assert_eq!((line["route"].as_str(), line["pool"].as_str()), (Some("pace-*"), Some("none")), "{line}");
    let labels = [("route", "pace-*"), ("pool", "none"), ("cause", "limit")];
    gateway.metric_is("tidegate_requests_total", &labels, 1.0).await;
    gateway.metric_is("tidegate_requests_total", &[("route", "other")], 0.0).await;
    let kept = gateway.admin("/admin/requests/refused").await.json();
    assert_eq!((kept["route"].as_str(), kept["pool"].as_str()), (Some("pace-*"), Some("none")), "{kept}");
    assert_eq!(gateway.admin("/admin/live").await.json()["routes"]["pace-*"]["requests"], 2);
    assert_eq!(gateway.send(&Request::chat("nobody")).await.status, 404);
    gateway.metric_is("tidegate_requests_total", &[("route", "other"), ("cause", "validation")], 1.0).await;
    // A reload keeps what came to no pool as long as its route is there.
    gateway.rewrite(&format!("{limits}models: {{ \"pace-*\": {{ pool: main }} }}\n"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    gateway.metric_is("tidegate_requests_total", &labels, 1.0).await;
    gateway.rewrite(&format!("{limits}models: {{ m: {{ pool: main }} }}\n"));
    gateway.signal("HUP");
    gateway.metric_is("tidegate_requests_total", &labels, 0.0).await;
}

#[tokio::test]
async fn a_count_that_cannot_be_empties_no_limit_and_stays_in_no_sum() {
    let backend = Backend::start().await;
    let gateway = limited(&backend, "{ per: global, tokens: 100k/h }").await;
    let count = 9_007_199_254_740_993;
    backend.push(answer_of(count, 5)).push(stream_of(count, 5)).push(answer_of(7, 5));
    let ask = async |request: Request, id: &str| {
        assert_eq!(gateway.send(&request.header("x-request-id", id)).await.status, 200);
        gateway.log.request(id).await
    };
    for (request, id) in [(asking(50), "whole"), (Request::stream("m"), "stream")] {
        let line = ask(request, id).await;
        assert!(line["prompt_tokens"].as_u64().unwrap() < 100 && line["estimated"] == true, "{line}");
        gateway
            .log
            .line(|line| line["request_id"] == id && line["backend"].is_string() && line["level"] == "warn")
            .await;
    }
    assert_eq!(ask(asking(50), "good").await["prompt_tokens"], 7);
    gateway.metric_is("tidegate_backend_errors_total", &[("cause", "usage")], 2.0).await;
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", "input")]) < 1000.0);
    let left = number(&gateway.send(&asking(1)).await, "x-ratelimit-remaining-tokens");
    assert!(left > 99_000, "{left}");
}
