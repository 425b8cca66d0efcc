//! Money: what requests cost by the file's prices, and how backends are asked what they have used.

use serde_json::{Value, json};

use crate::backend::{Backend, Script, token};
use crate::client::{Answer, Request};
use crate::gateway::{Folder, Gateway, command, pool_of};

/// A cent for a token of a prompt, a tenth of that for one from the cache, ten cents for one of an answer; one for each.
const PRICES: &str = "prices:
  currency: EUR
  models:
    m: { prompt: 10000, cached_prompt: 1000, completion: 100000, request: 1 }
    \"*\": {}
";

async fn priced(backend: &Backend, limits: &str) -> Gateway {
    Gateway::start(&format!("{}{PRICES}filters:\n  - limits: [{limits}]\n", pool_of(&[backend]))).await
}

fn usage(prompt: u64, cached: u64, completion: u64) -> Value {
    json!({ "prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": { "cached_tokens": cached } })
}

fn whole(usage: &Value) -> Script {
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    Script::json(json!({ "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage }).to_string())
}

fn asking(max_tokens: u64) -> Request {
    Request::post("/v1/chat/completions", json!({ "model": "m", "max_tokens": max_tokens, "messages": [] }).to_string())
}

fn streaming(more: &str) -> Request {
    Request::post(
        "/v1/chat/completions",
        format!(r#"{{"model":"m","stream":true,"max_tokens":9,"messages":[]{more}}}"#),
    )
}

/// What is left of a budget of 100, as a refusal tells that needs almost all of it.
async fn left(gateway: &Gateway) -> f64 {
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let error = gateway.send(&asking(980)).await.openai_error(429);
    let message = error["message"].as_str().unwrap().to_owned();
    let (before, _) = message.split_once(" EUR are left").unwrap_or_else(|| panic!("{message}"));
    before.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn each_kind_of_token_costs_what_the_file_says_and_cached_prompts_less() {
    let backend = Backend::start().await;
    let gateway = priced(&backend, "{ per: global, cost: 100/day }").await;
    let mut expected = 100.0;
    for (script, costs) in [
        (whole(&usage(100, 0, 50)), 1.0 + 1.0 + 5.0),
        (whole(&usage(1000, 400, 10)), 1.0 + 6.0 + 0.4 + 1.0),
        (Script::status("500 Internal Server Error", "{}"), 0.0),
        (Script::status("400 Bad Request", r#"{"error":{"message":"no"}}"#), 0.0),
    ] {
        backend.push(script);
        gateway.send(&asking(20)).await;
        expected -= costs;
        assert!((left(&gateway).await - expected).abs() < 1e-6, "{expected}");
    }
    // Anthropic counts the cache beside the input.
    let message = json!({ "type": "message", "model": "m", "content": [], "usage":
        { "input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1 } });
    backend.push(Script::json(message.to_string()));
    let request = r#"{"model":"m","max_tokens":9,"messages":[]}"#;
    assert_eq!(gateway.send(&Request::post("/v1/messages", request)).await.status, 200);
    expected -= 1.0 + 0.1 + 0.1 + 0.1;
    assert!((left(&gateway).await - expected).abs() < 1e-6, "{expected}");
}

#[tokio::test]
async fn money_is_reserved_so_that_parallel_requests_cannot_spend_it_twice() {
    let backend = Backend::start().await;
    let gateway = priced(&backend, "{ per: model, cost: 100/day }").await;
    backend.handle(|_| Script::stream().token("a").hang());
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut connection = gateway.connect().await;
        let request = r#"{"model":"m","stream":true,"max_tokens":300,"messages":[]}"#;
        connection.send(Request::post("/v1/chat/completions", request).bytes()).await;
        open.push(connection);
    }
    let mut granted = 0;
    // None is dropped before all are told: what the first gives back when it leaves would do for the last.
    for connection in &mut open {
        granted += u32::from(connection.head().await.status == 200);
    }
    assert_eq!(granted, 3, "31 each, and a little for the prompt");
}

#[tokio::test]
async fn a_rate_of_money_refills_and_tells_when() {
    let backend = Backend::start().await;
    let gateway = priced(&backend, "{ per: global, cost: 3600/h, burst: 12 }").await;
    backend.always(whole(&usage(0, 0, 90)));
    assert_eq!(gateway.send(&asking(90)).await.status, 200);
    let refused = gateway.send(&asking(90)).await;
    let error = refused.openai_error(429);
    assert_eq!(error["code"], "rate_limit_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("3600 EUR/h") && message.contains("12.00 EUR at once"), "{message}");
    let wait: u64 = refused.header("retry-after-ms").unwrap().parse().unwrap();
    assert!((7000..9000).contains(&wait), "{wait}");
    let error = gateway.send(&asking(200)).await.openai_error(400);
    assert_eq!(error["code"], "larger_than_limit");
}

/// A stream as OpenAI's servers give it to those who ask for its usage.
fn told() -> (String, String) {
    let with = |json: &str| json.replace("}]}\n", "}],\"usage\":null}\n");
    let (one, two) = (token("a"), token("b"));
    let finish = crate::backend::finish();
    let last =
        format!("data: {}\n\n", json!({ "object": "chat.completion.chunk", "choices": [], "usage": usage(10, 0, 2) }));
    let done = "data: [DONE]\n\n";
    (format!("{}{}{}{last}{done}", with(&one), with(&two), with(&finish)), format!("{one}{two}{finish}{done}"))
}

fn stream_of(events: &str) -> Script {
    events.split_inclusive("\n\n").fold(Script::stream(), |script, event| script.chunk(event)).end()
}

#[tokio::test]
async fn a_backend_is_asked_for_the_usage_and_the_client_that_did_not_ask_sees_nothing_of_it() {
    let backend = Backend::start().await;
    let gateway = priced(&backend, "{ per: global, cost: 100/day }").await;
    let (with, without) = told();
    let answer = |with: &str| stream_of(with);
    backend.push(answer(&with));
    let seen = gateway.send(&streaming("").header("x-request-id", "asked")).await;
    assert_eq!(seen.text(), without);
    let body = backend.only().await;
    let expected =
        r#"{"model":"m","stream":true,"max_tokens":9,"messages":[],"stream_options":{"include_usage":true}}"#;
    assert_eq!(body.text(), expected);
    let line = gateway.log.request("asked").await;
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(10), &json!(2)));
    assert!((left(&gateway).await - (100.0 - 1.0 - 0.1 - 0.2)).abs() < 1e-6);

    // Who asks gets it all, byte for byte, and the request goes out as it came.
    backend.push(answer(&with));
    let request = streaming(r#","stream_options":{"include_usage":true}"#);
    assert_eq!(gateway.send(&request).await.text(), with);
    assert_eq!(backend.seen(1).await.body, request.content());
}

#[tokio::test]
async fn nobody_is_asked_where_nothing_counts_or_the_file_says_so() {
    let backend = Backend::start().await;
    let pool = pool_of(&[&backend]);
    let (with, _) = told();
    let limits = "filters: [{ limits: [{ per: global, tokens: 10k/h }] }]\n";
    for (config, asks) in [
        (pool.clone(), false),
        (format!("{pool}filters: [{{ limits: [{{ per: global, requests: 10/h }}] }}]\n"), false),
        (format!("{}{limits}", pool.replace("health: off", "health: off\n    usage: off")), false),
        (pool.replace("health: off", "health: off\n    usage: ask"), true),
        (format!("{pool}{limits}"), true),
    ] {
        let gateway = Gateway::start(&config).await;
        backend.push(stream_of(&with));
        let before = backend.count();
        assert_eq!(gateway.send(&streaming("")).await.status, 200);
        let sent = backend.seen(before).await;
        assert_eq!(sent.text().contains("include_usage"), asks, "{config}");
    }
}

#[tokio::test]
async fn a_stream_that_does_not_tell_is_counted_and_said_to_be_an_estimate() {
    let backend = Backend::start().await;
    let gateway = priced(&backend, "{ per: global, cost: 100/day }").await;
    backend.push(Script::words(&["a"; 30], std::time::Duration::ZERO));
    let answer = gateway.send(&streaming("").header("x-request-id", "counted")).await;
    assert_eq!(answer.status, 200);
    let line = gateway.log.request("counted").await;
    assert_eq!((&line["completion_tokens"], &line["estimated"]), (&json!(30), &json!(true)), "{line}");
    gateway.metric_is("tidegate_limit_estimated_total", &[("limit", "global/cost/day")], 1.0).await;
    // Ten cents each, one for the request, and the prompt by its bytes.
    let spent = 100.0 - left(&gateway).await;
    assert!((4.0..4.5).contains(&spent), "{spent}");
}

#[test]
fn a_model_without_a_price_is_a_fault_where_money_counts() {
    let folder = Folder::new();
    let text = "pools: { p: { backends: [http://127.0.0.1:1] } }
models: { a: { pool: p }, \"b*\": { pool: p } }
prices: { models: { a: { prompt: 1 } } }
filters: [{ limits: [{ per: global, cost: 1/day }] }]
storage: { path: x.db }
";
    let path = folder.write("unpriced.yaml", text);
    let output = command(&["check", &path.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("no price is known for b*"), "{said}");
}

#[tokio::test]
async fn after_a_fallback_the_model_that_answered_is_paid_for() {
    let (backend, dead) = (Backend::start().await, crate::gateway::refused());
    let prices = "prices:
  currency: EUR
  models: { m: { request: 1 }, big: { request: 7 }, mini: { request: 3 }, \"*\": { request: 20 } }
";
    for (fallback, costs) in [
        ("fallback: [{ model: big }]", 7.0),
        ("fallback: [{ pool: cloud, as: mini }]", 3.0),
        ("fallback: [{ pool: cloud, as: unpriced }]", 1.0),
        ("fallback: [{ pool: cloud }]", 1.0),
        // A step of the model that was fallen back to: that model's, unless it has another name there.
        ("fallback: [{ model: far }]", 20.0),
    ] {
        let text = format!(
            "pools:\n  local: {{ health: off, backends: [\"{dead}\"] }}\n  cloud: {{ health: off, backends: [\"{}\"] }}\nmodels:\n  m: {{ pool: local, {fallback} }}\n  big: {{ pool: cloud }}\n  far: {{ pool: local, fallback: [{{ pool: cloud, as: there }}] }}\n{prices}filters:\n  - limits: [{{ per: global, cost: 100/day }}]\n",
            backend.url()
        );
        let gateway = Gateway::start(&text).await;
        backend.handle(|_| whole(&usage(10, 0, 5)));
        let request = Request::post("/v1/chat/completions", r#"{"model":"m","max_tokens":5,"messages":[]}"#);
        assert_eq!(gateway.send(&request).await.status, 200, "{fallback}");
        gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
        let bucket = gateway.admin("/admin/limits/global").await.json()["buckets"][0].clone();
        assert_eq!(
            (bucket["left"].as_f64(), bucket["reserved"].as_f64()),
            (Some(100.0 - costs), Some(0.0)),
            "{fallback}"
        );
        let spent = gateway.admin("/admin/spenders?by=model&of=cost").await.json();
        assert_eq!(spent["total"]["cost"].as_f64(), Some(costs), "{fallback}");
    }
}

#[tokio::test]
async fn what_is_retried_is_paid_once() {
    let backend = Backend::start().await;
    let dead = crate::gateway::refused();
    let pool = format!("pools:\n  main:\n    health: off\n    backends: [{dead}, {}]\n", backend.url());
    let config = format!("{pool}{PRICES}filters:\n  - limits: [{{ per: global, cost: 100/day, tokens: 10k/h }}]\n");
    let gateway = Gateway::start(&config).await;
    backend.handle(|_| whole(&usage(100, 0, 50)));
    for n in 1..=4 {
        let answer: Answer = gateway.send(&asking(100)).await;
        assert_eq!(answer.status, 200);
        assert!((left(&gateway).await - (100.0 - 7.0 * f64::from(n))).abs() < 1e-6);
    }
}
