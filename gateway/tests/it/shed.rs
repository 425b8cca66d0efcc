//! The gateway's own limits near: the less urgent are refused first, the more urgent pass until there is no room at all.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, Script, finish};
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Gateway, Key, command, pool_of};

struct Keys {
    low: Key,
    high: Key,
}

/// A gateway with a key of priority 1 and one of priority 9, and these limits; `above` goes before the keys.
async fn with_keys(backend: &Backend, limits: &str, above: &str) -> (Gateway, Keys) {
    let keys = Keys { low: Key::new("low"), high: Key::new("high") };
    let entries = format!(
        "        - {{ id: low, hash: {}, priority: 1 }}\n        - {{ id: high, hash: {}, priority: 9 }}\n",
        keys.low.hash, keys.high.hash
    );
    let filters = format!("filters:\n{above}  - api_key:\n      keys:\n{entries}");
    let pools = pool_of(&[backend]);
    let file = format!("{pools}models: {{ m: {{ pool: main }} }}\nlimits: {limits}\n{filters}");
    (Gateway::start(&file).await, keys)
}

/// Streams that have begun, all held at the gate.
async fn open(gateway: &Gateway, key: &Key, count: usize) -> Vec<Connection> {
    let mut streams = Vec::new();
    while streams.len() < count {
        let mut stream = gateway.connect().await;
        stream.send(Request::stream("m").bearer(&key.key).bytes()).await;
        // One that has been answered may still be counted for a moment.
        if stream.head().await.status == 200 {
            streams.push(stream);
        }
    }
    streams
}

/// Waits until a request with this key is served.
async fn served_again(gateway: &Gateway, key: &Key) {
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.send(&Request::chat("m").bearer(&key.key)).await.status != 200 {
        assert!(Instant::now() < until, "not served again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn held_streams(backend: &Backend) -> Gate {
    let gate = Gate::closed();
    let held = gate.clone();
    backend.handle(move |seen| match seen.text().contains("\"stream\":true") {
        true => Script::stream().token("a").wait(&held).chunk(finish()).done().end(),
        false => Script::chat("x"),
    });
    gate
}

/// It is told to come back within so many seconds.
fn comes_back(refused: &Answer, within: RangeInclusive<u64>) {
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    let millis: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    assert!(within.contains(&seconds) && millis.div_ceil(1000) == seconds, "{seconds} s, {millis} ms");
}

#[tokio::test]
async fn with_many_streams_open_the_less_urgent_are_refused_and_served_again_when_they_end() {
    let backend = Backend::start().await;
    let gate = held_streams(&backend);
    for above in ["", "  - model_route: { rules: [{ when: model == \"none\", model: m }] }\n"] {
        let (gateway, keys) = with_keys(&backend, "{ requests: 20, shed: { batch: 50% } }", above).await;
        let low = Request::chat("m").bearer(&keys.low.key);
        assert_eq!(gateway.send(&low).await.status, 200);
        let mut streams = open(&gateway, &keys.high, 10).await;
        let refused = gateway.send(&low.clone().header("x-request-id", "shed")).await;
        assert_eq!(refused.openai_error(503)["code"], "overloaded");
        comes_back(&refused, 5..=15);
        let line = gateway.log.request("shed").await;
        assert_eq!((&line["cause"], &line["notes"]["shed"]), (&"gateway".into(), &"requests".into()));
        let messages = Request::post("/v1/messages", r#"{"model":"m","max_tokens":1,"messages":[]}"#);
        assert_eq!(
            gateway.send(&messages.bearer(&keys.low.key)).await.anthropic_error(503)["type"],
            "overloaded_error"
        );
        // Who asks to be less urgent is.
        let humble = Request::chat("m").bearer(&keys.high.key).header("x-tidegate-priority", "batch");
        gateway.send(&humble).await.openai_error(503);
        assert_eq!(gateway.send(&Request::chat("m").bearer(&keys.high.key)).await.status, 200);
        streams.extend(open(&gateway, &keys.high, 10).await);
        let full = gateway.send(&Request::chat("m").bearer(&keys.high.key)).await;
        full.openai_error(503);
        comes_back(&full, 1..=3);
        let metrics = gateway.metrics().await;
        let shed =
            |priority| metrics.sum("tidegate_shed_requests_total", &[("priority", priority), ("reason", "requests")]);
        assert_eq!(shed("batch"), 3.0);
        assert!(shed("interactive") >= 1.0 && shed("normal") == 0.0);
        drop(streams);
        served_again(&gateway, &keys.low).await;
    }
    gate.open();
}

#[tokio::test]
async fn with_memory_for_bodies_near_its_end_the_less_urgent_are_refused_before_theirs_is_read() {
    let backend = Backend::start().await;
    let limits = "{ body: 500KiB, bodies_in_flight: 1000KiB, shed: { batch: 60% } }";
    let (gateway, keys) = with_keys(&backend, limits, "").await;
    let gate = Gate::closed();
    backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let body = |kib: usize| format!(r#"{{"model":"m","messages":[],"x":"{}"}}"#, "y".repeat(kib << 10));
    let request = |kib: usize, key: &Key| Request::post("/v1/chat/completions", body(kib)).bearer(&key.key);
    let mut first = gateway.connect().await;
    first.send(request(400, &keys.high).bytes()).await;
    backend.seen(0).await;
    // Of its body nothing is asked for.
    let mut low = gateway.connect().await;
    low.send(request(300, &keys.low).header("expect", "100-continue").head()).await;
    let refused = low.answer().await;
    refused.openai_error(503);
    comes_back(&refused, 5..=15);
    assert!(refused.interim.is_empty());
    // One that does not say how long it is, as soon as it is more than there is for it. Not all of them at the same time.
    let mut waits = HashSet::new();
    for _ in 0..8 {
        let refused = gateway.send(&request(300, &keys.low).chunked(8 << 10)).await;
        refused.openai_error(503);
        comes_back(&refused, 5..=15);
        waits.insert(refused.header("retry-after-ms").unwrap().to_owned());
    }
    assert!(waits.len() > 2, "{waits:?}");
    // What was read of those is given back a moment after they have been told.
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.send(&request(100, &keys.low)).await.status != 200 {
        assert!(Instant::now() < until, "what fits is taken");
    }
    assert_eq!(gateway.send(&request(300, &keys.high)).await.status, 200);
    let labels = [("priority", "batch"), ("reason", "bodies")];
    assert!(gateway.metrics().await.sum("tidegate_shed_requests_total", &labels) >= 9.0);
    gate.open();
    assert_eq!(first.answer().await.status, 200);
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.send(&request(300, &keys.low)).await.status != 200 {
        assert!(Instant::now() < until, "not served again");
    }
}

#[tokio::test]
async fn an_idle_gateway_takes_the_largest_body_from_anybody() {
    let backend = Backend::start().await;
    let limits = "{ body: 1MiB, bodies_in_flight: 1MiB, shed: { batch: 10% } }";
    let (gateway, keys) = with_keys(&backend, limits, "").await;
    let body = format!(r#"{{"model":"m","messages":[],"x":"{}"}}"#, "y".repeat(900 << 10));
    assert_eq!(gateway.send(&Request::post("/v1/chat/completions", body).bearer(&keys.low.key)).await.status, 200);
}

#[test]
fn check_refuses_a_gateway_that_would_serve_the_less_urgent_first() {
    let folder = crate::gateway::Folder::new();
    let limits = "limits: { shed: { batch: 90%, normal: 80% } }\n";
    let file = folder.write("gateway.yaml", &format!("{}{limits}", crate::gateway::pool_at(&["http://127.0.0.1:1"])));
    let output = command(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success() && said.contains("`normal` is refused before `batch`"), "{said}");
}
