//! Sixty-four clients on one bucket: never more than the file says, and never more than 1 % less.
//!
//! Runs about a second for each kind with the other tests, and ten with `make hammer`, which also prints what was seen.
//! It does not depend on how busy the machine is: what is allowed is reckoned from the clock that the clients see, and a
//! bucket is never full again in between, since its burst is worth two seconds.

mod addresses;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Script, finish};
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, pool_of};

const CLIENTS: usize = 64;

/// What each request spends of prompt and answer; its body has four bytes for each token of the prompt.
const PROMPT: u64 = 100;
const COMPLETION: u64 = 40;

/// How long clients ask: a second, or what `HAMMER` says.
fn time() -> Duration {
    let seconds = std::env::var("HAMMER").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or(1.0))
}

fn asking(stream: bool) -> Request {
    let body = |content: &str| {
        let message = json!({ "role": "user", "content": content });
        json!({ "model": "m", "stream": stream, "max_tokens": COMPLETION, "messages": [message] }).to_string()
    };
    let room = PROMPT as usize * 4 - body("").len();
    Request::post("/v1/chat/completions", body(&"x".repeat(room)))
}

fn answer() -> String {
    let usage =
        json!({ "prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "total_tokens": PROMPT + COMPLETION });
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    json!({ "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage }).to_string()
}

async fn limited(backend: &Backend, limit: &str) -> Gateway {
    // A request costs one unit of money: a hundredth of it for each token of the prompt.
    let prices = "prices: { models: { \"*\": { prompt: 10000, completion: 0 } } }";
    Gateway::start(&format!("{}{prices}\nfilters:\n  - limits: [ {{ per: global, {limit} }} ]\n", pool_of(&[backend])))
        .await
}

/// What the clients saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    admitted: u64,
    first: Option<Instant>,
    first_refused: Option<Instant>,
    refused: Option<Instant>,
}

/// How long the burst may take to be spent, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(15);

/// Sixty-four clients ask again and again, for so long after the first of them was refused.
async fn hammer(gateway: &Gateway, time: Duration) -> Seen {
    let (address, seen) = (gateway.address(), Arc::new(Mutex::new(Seen::default())));
    let give_up = Instant::now() + time + PATIENCE;
    let client = |_| {
        let (seen, request) = (seen.clone(), asking(false));
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            let is_over = || seen.lock().unwrap().first_refused.is_some_and(|first: Instant| first.elapsed() > time);
            while !is_over() && Instant::now() < give_up {
                let sent = Instant::now();
                let status = connection.exchange(&request).await.status;
                {
                    let mut seen = seen.lock().unwrap();
                    match status {
                        200 => seen.admitted += 1,
                        429 => {
                            seen.refused = seen.refused.max(Some(sent));
                            seen.first_refused.get_or_insert(sent);
                        }
                        other => panic!("status {other}"),
                    }
                    seen.first.get_or_insert_with(Instant::now);
                }
                if status == 429 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    };
    for client in (0..CLIENTS).map(client).collect::<Vec<_>>() {
        client.await.unwrap();
    }
    *seen.lock().unwrap()
}

/// The one bucket, once all requests are settled.
async fn settled(gateway: &Gateway) -> Value {
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        let buckets = gateway.admin("/admin/limits/global").await.json()["buckets"].clone();
        if buckets.as_array().unwrap().iter().all(|bucket| bucket["reserved"].as_f64() == Some(0.0)) {
            return buckets;
        }
        assert!(Instant::now() < until, "reserved although nothing is under way: {buckets}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[expect(clippy::print_stdout, reason = "`make hammer` shows it")]
fn tell(row: &str) {
    println!("{row}");
}

/// `limit` lets `rate` through each second, and twice that at once; a request takes `each`.
async fn rate(limit: &str, rate: f64, each: f64) {
    let backend = Backend::start().await;
    backend.handle(|_| Script::json(answer()));
    let (gateway, burst) = (limited(&backend, limit).await, rate * 2.0);
    let start = Instant::now();
    let seen = hammer(&gateway, time()).await;
    let spent = seen.admitted as f64 * each;
    let bucket = settled(&gateway).await[0].clone();
    // What is owed was spent beyond what anybody had expected; it is paid off before anybody gets more.
    let (most, owed) = (burst + rate * start.elapsed().as_secs_f64(), bucket["owed"].as_f64().unwrap());
    let (first, refused) = (seen.first.unwrap(), seen.refused.expect("nobody was refused: the clients were too slow"));
    let least = burst + rate * refused.saturating_duration_since(first).as_secs_f64();
    tell(&format!(
        "{limit:44} spent {spent:9.0} owed {owed:7.0} allowed {least:9.0} to {most:9.0}  {:+.2} %",
        (spent - least) / least * 100.0
    ));
    assert!(spent - owed <= most, "{limit}: {spent} spent, {owed} owed, {most} allowed");
    assert!(spent >= least * 0.99 - each, "{limit}: {spent} spent, {least} allowed");
}

#[tokio::test]
async fn requests() {
    rate("requests: 40/s, burst: 80", 40.0, 1.0).await;
}

#[tokio::test]
async fn tokens() {
    rate("tokens: 5600/s, burst: 11200", 5_600.0, (PROMPT + COMPLETION) as f64).await;
}

#[tokio::test]
async fn prompt_tokens() {
    rate("prompt_tokens: 4k/s, burst: 8k", 4_000.0, PROMPT as f64).await;
}

#[tokio::test]
async fn completion_tokens() {
    rate("completion_tokens: 1600/s, burst: 3200", 1_600.0, COMPLETION as f64).await;
}

#[tokio::test]
async fn money() {
    rate("cost: 40/s, burst: 80", 40.0, 1.0).await;
}

#[tokio::test]
async fn bytes() {
    let each = PROMPT as usize * 4 + answer().len();
    rate("bytes: 30k/s, burst: 60k", 30_000.0, each as f64).await;
}

#[tokio::test]
async fn a_budget_is_spent_to_the_last_and_not_beyond() {
    let backend = Backend::start().await;
    backend.handle(|_| Script::json(answer()));
    let gateway = limited(&backend, "requests: 500/day").await;
    let seen = hammer(&gateway, time()).await;
    assert_eq!((seen.admitted, settled(&gateway).await[0]["left"].as_u64()), (500, Some(0)));
    tell("requests: 500/day                            admitted 500");
}

#[tokio::test]
async fn in_flight() {
    let backend = Backend::start().await;
    backend.handle(|_| Script::new().pause(Duration::from_millis(200)).send(whole()));
    let gateway = limited(&backend, "in_flight: 8").await;
    let seen = hammer(&gateway, time()).await;
    assert_eq!(backend.most_in_flight(), 8, "of {} admitted", seen.admitted);
    assert_eq!(settled(&gateway).await[0]["left"], 8);
    tell(&format!("in_flight: 8                                 at most 8 at a time, {} admitted", seen.admitted));
}

fn whole() -> String {
    let body = answer();
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Twenty tokens, and at the end how many they were.
fn stream() -> Script {
    let usage = json!({ "prompt_tokens": PROMPT, "completion_tokens": 20, "total_tokens": PROMPT + 20 });
    let last = json!({ "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage });
    let tokens = (0..20).fold(Script::stream(), |script, _| script.token("a").pause(Duration::from_millis(1)));
    tokens.chunk(finish()).chunk(format!("data: {last}\n\n")).done().end()
}

/// Begins a stream and leaves: before it begins, after some of its pieces, or at its end.
async fn leave(address: SocketAddr, random: u64) {
    let mut connection = Connection::open(address).await;
    connection.send(asking(true).bytes()).await;
    let pieces = random >> 33 & 31;
    if pieces > 0 && connection.head().await.status == 200 {
        for _ in 1..pieces {
            if !matches!(connection.piece().await, Ok(Some(_))) {
                return;
            }
        }
    }
    if random >> 63 == 0 {
        connection.reset();
    }
}

#[tokio::test]
async fn streams_that_are_left_at_random_points_leave_nothing_reserved_and_spend_what_they_used() {
    let backend = Backend::start().await;
    backend.handle(|_| stream());
    // Next to nothing comes back while this runs.
    let limits = "completion_tokens: 1k/h, burst: 500k }, { per: global, requests: 100/h, burst: 50k, in_flight: 48";
    let gateway = limited(&backend, limits).await;
    let (address, until) = (gateway.address(), Instant::now() + time());
    let client = |n: u64| {
        tokio::spawn(async move {
            let mut random = n * 7919 + 1;
            while Instant::now() < until {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                leave(address, random).await;
            }
        })
    };
    for client in (0..CLIENTS as u64).map(client).collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let buckets = settled(&gateway).await;
    let bucket = |kind: &str| buckets.as_array().unwrap().iter().find(|bucket| bucket["kind"] == kind).unwrap().clone();
    let spent = |kind| bucket(kind)["most"].as_u64().unwrap() - bucket(kind)["left"].as_u64().unwrap();
    assert_eq!(bucket("in_flight")["left"], 48);
    // What the log says of each, refusals aside, is what the bucket has lost.
    let all_there = gateway.metrics().await.sum("tidegate_requests_total", &[]);
    let until = Instant::now() + Duration::from_secs(3);
    let used = loop {
        let lines: Vec<_> = gateway.log.json().into_iter().filter(|line| line["event"] == "request").collect();
        if lines.len() as f64 == all_there {
            break lines.iter().filter_map(|line| line["completion_tokens"].as_u64()).sum::<u64>();
        }
        assert!(Instant::now() < until, "{} lines of {all_there} requests", lines.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    tell(&format!("streams left at random points: {all_there} requests, {used} tokens used, reserved 0"));
    assert!(used > 0);
    assert!(
        spent("completion_tokens").abs_diff(used) <= 2,
        "{} spent, {used} used: {buckets}",
        spent("completion_tokens")
    );
}
