//! Traces: what a collector is sent, of which requests, and what becomes of requests when there is none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::net::TcpListener;

use crate::backend::{Backend, Gate, OnAccept, Script};
use crate::client::{Connection, Request, chat_body};
use crate::gateway::{Folder, Gateway, Metrics, free_port, pool_of};

const SHORT: Duration = Duration::from_millis(20);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that takes everything.
pub(crate) async fn collector() -> Backend {
    let collector = Backend::start().await;
    collector.always(Script::json(r#"{"partialSuccess":{}}"#));
    collector
}

/// A file with traces to this address, at once, and nothing else.
fn traced(to: &str, more: &str, pools: &str) -> String {
    format!("traces: {{ endpoint: '{to}', every: 1ms{more} }}\n{pools}")
}

/// A span, its attributes as they are meant.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    name: String,
    id: String,
    parent: String,
    kind: u64,
    began: u128,
    ended: u128,
    pub(crate) is_error: bool,
    trace: String,
    pub(crate) attributes: HashMap<String, Value>,
    events: Vec<String>,
}

fn attributes(of: &Value) -> HashMap<String, Value> {
    let meant = |value: &Value| match value["intValue"].as_str() {
        Some(number) => number.parse::<u64>().unwrap().into(),
        None => value.as_object().unwrap().values().next().unwrap().clone(),
    };
    let pairs = of.as_array().into_iter().flatten();
    pairs.map(|pair| (pair["key"].as_str().unwrap().to_owned(), meant(&pair["value"]))).collect()
}

pub(crate) fn spans(message: &Value) -> Vec<Span> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let spans = message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let span = |span: &Value| Span {
        name: text(&span["name"]),
        id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        trace: text(&span["traceId"]),
        kind: span["kind"].as_u64().unwrap(),
        began: text(&span["startTimeUnixNano"]).parse().unwrap(),
        ended: text(&span["endTimeUnixNano"]).parse().unwrap(),
        is_error: span["status"]["code"] == 2,
        attributes: attributes(&span["attributes"]),
        events: span["events"].as_array().into_iter().flatten().map(|event| text(&event["name"])).collect(),
    };
    spans.iter().map(span).collect()
}

/// The spans of the request with this id, in whatever message they come, waiting for them.
async fn of_request(collector: &Backend, id: &str) -> Vec<Span> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        for n in 0..collector.count() {
            let all = spans(&collector.seen(n).await.json());
            let is = |span: &&Span| span.attributes.get("tidegate.request_id").is_some_and(|given| given == id);
            let trace = all.iter().find(is).map(|root| root.trace.clone());
            if let Some(trace) = trace {
                return all.into_iter().filter(|span| span.trace == trace).collect();
            }
        }
        assert!(Instant::now() < until, "no trace of {id}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the metrics say so.
async fn until(gateway: &Gateway, holds: impl Fn(&Metrics) -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let metrics = gateway.metrics().await;
        if holds(&metrics) {
            return;
        }
        assert!(Instant::now() < until, "{}", metrics.with("tidegate_traces"));
        tokio::time::sleep(SHORT).await;
    }
}

async fn counted(gateway: &Gateway, outcome: &str, number: f64) {
    until(gateway, |metrics| metrics.sum("tidegate_traces_total", &[("outcome", outcome)]) == number).await;
}

async fn reload(gateway: &Gateway) {
    let request = Request::new("POST", "/admin/reload").header("connection", "close");
    assert_eq!(Connection::open(gateway.admin_address()).await.exchange(&request).await.status, 200);
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let of_name: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(of_name.len(), 1, "{name} in {spans:#?}");
    of_name[0]
}

fn is_within(inner: &Span, outer: &Span) -> bool {
    // Read from another clock, but the same for both.
    inner.parent == outer.id && inner.began >= outer.began && inner.ended <= outer.ended && inner.began <= inner.ended
}

#[tokio::test]
async fn a_request_is_a_span_with_its_attempts_its_first_token_and_its_stream_in_it() {
    let (collector, full, good) = (collector().await, Backend::start().await, Backend::start().await);
    full.always(Script::status("503 Service Unavailable", "{}"));
    let usage = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
    let script = Script::stream().pause(SHORT).token("a").pause(SHORT).token("b").chunk(crate::backend::finish());
    good.always(script.chunk(format!("{usage}\n\n")).done().end());
    let pools = format!(
        "pools:\n  main: {{ health: off, balance: round_robin, retries: {{ backoff: 1ms }}, backends: [{{ url: '{}', name: full }}, {{ url: '{}', name: good }}] }}\n",
        full.url(),
        good.url()
    );
    let gateway = Gateway::start(&traced(collector.url(), ", service: edge, resource: { region: eu }", &pools)).await;
    let parent = format!("00-{TRACE}-{PARENT}-01");
    // Whoever is first: one of two requests meets the full one before the good one.
    for id in ["r0", "r1"] {
        let request = Request::stream("m").header("x-request-id", id).header("traceparent", &parent);
        assert_eq!(gateway.send(&request).await.status, 200);
    }
    counted(&gateway, "sent", 2.0).await;
    let mut all = [of_request(&collector, "r0").await, of_request(&collector, "r1").await];
    // They are parts of one trace, as their caller has it.
    for (spans, id) in all.iter_mut().zip(["r0", "r1"]) {
        let root = spans.iter().find(|s| s.attributes.get("tidegate.request_id").is_some_and(|given| given == id));
        let root = root.unwrap().clone();
        let attempts: Vec<String> = spans.iter().filter(|s| s.parent == root.id).map(|s| s.id.clone()).collect();
        spans.retain(|s| s.id == root.id || s.parent == root.id || attempts.contains(&s.parent));
    }
    let retried = all.iter().find(|spans| spans.iter().any(|span| span.name == "attempt full")).unwrap();
    let root = named(retried, "chat m");
    assert_eq!((root.trace.as_str(), root.parent.as_str(), root.kind, root.is_error), (TRACE, PARENT, 2, false));
    for (name, value) in [
        ("gen_ai.operation.name", Value::from("chat")),
        ("gen_ai.request.model", "m".into()),
        ("gen_ai.usage.input_tokens", 7.into()),
        ("gen_ai.usage.output_tokens", 2.into()),
        ("http.response.status_code", 200.into()),
        ("tidegate.pool", "main".into()),
        ("tidegate.backend", "good".into()),
        ("tidegate.cause", "none".into()),
        ("tidegate.attempts", 2.into()),
    ] {
        assert_eq!(root.attributes.get(name), Some(&value), "{name}: {root:#?}");
    }
    assert!(!root.attributes.keys().any(|name| name.contains("body")), "{root:#?}");
    let (failed, answered) = (named(retried, "attempt full"), named(retried, "attempt good"));
    assert!(is_within(failed, root) && is_within(answered, root) && failed.ended <= answered.began);
    assert_eq!((failed.kind, failed.is_error, answered.is_error), (3, true, false));
    assert_eq!(failed.attributes["error.type"], "overloaded");
    assert_eq!(failed.attributes["http.response.status_code"], 503);
    assert_eq!(answered.events, ["sent", "head"]);
    let (first, stream) = (named(retried, "first_token"), named(retried, "stream"));
    assert!(is_within(first, answered) && is_within(stream, answered) && first.ended == stream.began, "{retried:#?}");
    assert!(first.ended - first.began >= SHORT.as_nanos());
    // What a backend records is a part of the attempt that asked it.
    let given: Vec<String> = [full.seen(0).await, good.seen(0).await, good.seen(1).await]
        .iter()
        .map(|seen| seen.header("traceparent").unwrap().to_owned())
        .collect();
    for attempt in [failed, answered] {
        assert!(given.contains(&format!("00-{TRACE}-{}-01", attempt.id)), "{given:?} {attempt:#?}");
    }
    assert_eq!(gateway.log.request("r0").await["trace_id"], TRACE);
    let message = collector.seen(0).await;
    let resource = attributes(&message.json()["resourceSpans"][0]["resource"]["attributes"]);
    assert_eq!((&resource["service.name"], &resource["region"]), (&"edge".into(), &"eu".into()));
    assert_eq!((message.target.as_str(), message.header("content-type")), ("/v1/traces", Some("application/json")));
}

#[tokio::test]
async fn waiting_in_a_queue_and_filters_that_answer_are_spans() {
    let (collector, backend) = (collector().await, Backend::start().await);
    let gate = Gate::closed();
    backend.push(Script::new().wait(&gate).send(chat_answer()));
    let pools = format!(
        "filters: [{{ limits: [{{ per: global, requests: 2/h }}] }}]\npools:\n  main: {{ health: off, backends: [{{ url: '{}', max_in_flight: 1 }}] }}\n",
        backend.url()
    );
    let gateway = Gateway::start(&traced(collector.url(), "", &pools)).await;
    let (first, second) = (Request::chat("m"), Request::chat("m").header("x-request-id", "waits"));
    let first = tokio::spawn({
        let address = gateway.address();
        async move { Connection::open(address).await.exchange(&first).await.status }
    });
    backend.seen(0).await;
    let second = tokio::spawn({
        let address = gateway.address();
        async move { Connection::open(address).await.exchange(&second).await.status }
    });
    until(&gateway, |metrics| metrics.sum("tidegate_queue_waiting", &[]) == 1.0).await;
    gate.open();
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    let spans = of_request(&collector, "waits").await;
    let (root, queue) = (named(&spans, "chat m"), named(&spans, "queue"));
    assert!(is_within(queue, root) && queue.attributes["tidegate.outcome"] == "served", "{spans:#?}");
    assert_eq!(gateway.send(&Request::chat("m").header("x-request-id", "limited")).await.status, 429);
    let spans = of_request(&collector, "limited").await;
    // It was refused before its body was read: nobody knows its model.
    let (root, filter) = (named(&spans, "chat"), named(&spans, "filter limits"));
    assert!(is_within(filter, root) && filter.attributes["tidegate.verdict"] == "answer", "{spans:#?}");
    assert_eq!(root.attributes["error.type"], "limit");
    assert!(!root.is_error, "a limit that works is no error of ours: {root:#?}");
}

fn chat_answer() -> String {
    let body = crate::backend::chat("late");
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn of_a_share_of_none_what_failed_what_was_slow_and_what_its_caller_traces_is_kept_all_the_same() {
    let (collector, backend) = (collector().await, Backend::start().await);
    let rules = ", sample: 0%, slow: 250ms";
    let gateway = Gateway::start(&traced(collector.url(), rules, &pool_of(&[&backend]))).await;
    let traced = format!("00-{TRACE}-{PARENT}-01");
    let send = async |id: &str| gateway.send(&Request::chat("m").header("x-request-id", id)).await;
    send("plain").await;
    backend.push(Script::new().pause(Duration::from_millis(300)).send(chat_answer()));
    send("slow").await;
    backend.push(Script::status("500 Internal Server Error", "{}"));
    send("failed").await;
    gateway.send(&Request::chat("m").header("x-request-id", "parent").header("traceparent", &traced)).await;
    for id in ["slow", "failed", "parent"] {
        let spans = of_request(&collector, id).await;
        assert_eq!(named(&spans, "chat m").is_error, id == "failed");
    }
    counted(&gateway, "sent", 3.0).await;
    let flags: Vec<String> = [backend.seen(0).await, backend.seen(3).await]
        .iter()
        .map(|seen| seen.header("traceparent").unwrap().rsplit('-').next().unwrap().to_owned())
        .collect();
    assert_eq!(flags, ["00", "01"], "what is known at the beginning is what backends are told");
}

#[tokio::test]
async fn what_was_asked_and_answered_goes_along_only_where_the_file_says_so() {
    let (collector, backend) = (collector().await, Backend::start().await);
    backend.always(Script::words(&["se", "cret"], Duration::ZERO));
    let pools = pool_of(&[&backend]);
    let gateway = Gateway::start(&traced(collector.url(), "", &pools)).await;
    gateway.send(&Request::stream("m").header("x-request-id", "without")).await;
    of_request(&collector, "without").await;
    assert!(!collector.seen(0).await.text().contains("cret"), "{}", collector.seen(0).await.text());
    gateway.rewrite(&traced(collector.url(), ", content: 4KiB", &pools));
    reload(&gateway).await;
    gateway.send(&Request::stream("m").header("x-request-id", "with")).await;
    let spans = of_request(&collector, "with").await;
    let root = named(&spans, "chat m");
    assert_eq!(root.attributes["tidegate.request.body"], chat_body("m", true));
    let answer = root.attributes["tidegate.response.body"].as_str().unwrap();
    assert!(answer.contains("cret") && answer.ends_with("data: [DONE]\n\n"), "{answer}");
    gateway.rewrite(&traced(collector.url(), ", content: 10", &pools));
    reload(&gateway).await;
    gateway.send(&Request::stream("m").header("x-request-id", "short")).await;
    let spans = of_request(&collector, "short").await;
    let root = named(&spans, "chat m");
    assert_eq!(root.attributes["tidegate.request.body"], chat_body("m", true)[..10]);
    assert_eq!(root.attributes["tidegate.response.body"].as_str().unwrap().len(), 10);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_requests_nothing_and_gets_what_comes_after_its_return() {
    let backend = Backend::start().await;
    let port = free_port();
    let settings = ", queue: 3, batch: 1, retry: 1ms";
    let file = traced(&format!("http://127.0.0.1:{port}"), settings, &pool_of(&[&backend]));
    let gateway = Gateway::start(&file).await;
    for _ in 0..20 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    // Nothing listens: each is refused at once, and none is tried again for long.
    let lost = |metrics: &Metrics| {
        let count = |outcome| metrics.sum("tidegate_traces_total", &[("outcome", outcome)]);
        count("failed") + count("dropped") == 20.0
    };
    until(&gateway, lost).await;
    gateway.log.line(|line| line["message"] == "the collector takes no traces").await;
    let collector = Backend::on(TcpListener::bind(("127.0.0.1", port)).await.unwrap());
    gateway.send(&Request::chat("m").header("x-request-id", "back")).await;
    of_request(&collector, "back").await;
    gateway.log.line(|line| line["message"] == "the collector takes traces again").await;
    let told = gateway.log.json().iter().filter(|line| line["message"] == "the collector takes no traces").count();
    assert_eq!(told, 1, "said once, not with each");
}

#[tokio::test]
async fn a_collector_that_hangs_leaves_a_bounded_number_waiting_and_one_that_is_busy_is_asked_again() {
    let (collector, backend) = (collector().await, Backend::start().await);
    collector.on_accept(OnAccept::Stall);
    let settings = ", queue: 3, batch: 1, timeout: 2s";
    let gateway = Gateway::start(&traced(collector.url(), settings, &pool_of(&[&backend]))).await;
    for _ in 0..20 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    // One is being sent at most, three wait.
    let full = |metrics: &Metrics| {
        assert!(metrics.sum("tidegate_traces_waiting", &[]) <= 4.0);
        metrics.sum("tidegate_traces_total", &[("outcome", "dropped")]) >= 16.0
    };
    until(&gateway, full).await;
    // Its patience over, the rest is sent, and what is told to come again does.
    collector.push(Script::answer("503 Service Unavailable", &[("retry-after", "0")], ""));
    until(&gateway, |metrics| metrics.sum("tidegate_traces_waiting", &[]) == 0.0).await;
    let metrics = gateway.metrics().await;
    let count = |outcome| metrics.sum("tidegate_traces_total", &[("outcome", outcome)]);
    assert_eq!((count("failed"), count("refused"), count("sent") + count("dropped")), (0.0, 0.0, 20.0));
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again_and_its_key_is_seen_by_nobody_else() {
    let (collector, backend) = (collector().await, Backend::start().await);
    collector.push(Script::status("400 Bad Request", "{}"));
    let settings = ", headers: { authorization: 'Bearer ${env:OTLP_TOKEN}' }";
    let file = traced(collector.url(), settings, &pool_of(&[&backend]));
    let gateway = Gateway::start_in(Folder::new(), &file, &[("OTLP_TOKEN", "of-the-collector")]).await;
    gateway.send(&Request::chat("m").header("x-request-id", "refused")).await;
    counted(&gateway, "refused", 1.0).await;
    gateway.send(&Request::chat("m").header("x-request-id", "taken")).await;
    counted(&gateway, "sent", 1.0).await;
    assert_eq!(collector.count(), 2);
    assert_eq!(collector.seen(0).await.header("authorization"), Some("Bearer of-the-collector"));
    let shown = gateway.admin("/admin/config").await;
    assert!(shown.status == 200 && !shown.text().contains("of-the-collector"), "{}", shown.text());
    assert!(!gateway.log.text().contains("of-the-collector"));
    assert!(backend.seen(0).await.header("authorization").is_none());
}

#[tokio::test]
async fn the_last_traces_are_sent_before_the_process_ends() {
    let (collector, backend) = (collector().await, Backend::start().await);
    let file = format!("traces: {{ endpoint: '{}', every: 1h }}\n{}", collector.url(), pool_of(&[&backend]));
    let mut gateway = Gateway::start(&file).await;
    for id in ["one", "two"] {
        gateway.send(&Request::chat("m").header("x-request-id", id)).await;
    }
    until(&gateway, |metrics| metrics.sum("tidegate_traces_waiting", &[]) == 2.0).await;
    assert_eq!(collector.count(), 0);
    gateway.signal("TERM");
    assert!(gateway.ended(Duration::from_secs(10)).await.success());
    for id in ["one", "two"] {
        of_request(&collector, id).await;
    }
    assert_eq!(collector.count(), 1, "they went together");
}

#[tokio::test]
async fn what_cannot_be_meant_is_a_fault_at_its_place() {
    let folder = Folder::new();
    let file = "traces:\n  endpoint: nowhere\n  headers: { 'a b': x }\n  batch: 0\n  content: 1MiB\npools:\n  main: { backends: ['http://127.0.0.1:1'] }\n";
    let path = folder.write("gateway.yaml", file);
    let output = crate::gateway::command(&["check", &path.display().to_string()]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success());
    for part in ["not the URL of a collector", "not the name of a header", "`batch` cannot be 0", "no more than 64KiB"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
}
