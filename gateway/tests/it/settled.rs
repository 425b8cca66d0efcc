//! What a request has used is settled once: budgets, spenders, the log and the metrics have the same, to the last token.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Script, token};
use crate::client::Request;
use crate::gateway::{Gateway, pool_of};

/// A cent for a token of a prompt, ten cents for one of an answer, and one for each request.
const PRICES: &str =
    "prices: { currency: EUR, models: { \"*\": { prompt: 10000, completion: 100000, request: 1 } } }\n";

const MODELS: &str = "models: { m: { pool: main }, cut: { pool: main } }\n";

const FILTERS: &str = "filters:
  - limits: [{ per: global, cost: 10000/day }, { per: global, tokens: 1M/week }, { per: global, completion_tokens: 1M/week }]
  - prompt_cache: { scope: global, for: 1h, models: { cut: 0 } }
";

/// How a stream begins with most servers: a role, and no token.
const ROLE: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";

async fn house(backend: &Backend) -> Gateway {
    Gateway::start(&format!("{}{MODELS}{PRICES}{FILTERS}", pool_of(&[backend]))).await
}

fn asking(model: &str, id: &str, stream: bool, prompt: &str) -> Request {
    let messages = json!([{ "role": "user", "content": prompt }]);
    let body = json!({ "model": model, "max_tokens": 500, "stream": stream, "messages": messages });
    Request::post("/v1/chat/completions", body.to_string()).header("x-request-id", id)
}

/// A client that leaves when it has seen the beginning of its stream, up to and with these bytes.
async fn cut(gateway: &Gateway, request: &Request, last: &str) {
    let mut connection = gateway.connect().await;
    connection.send(request.bytes()).await;
    let mut seen = connection.piece_after_head().await.to_vec();
    while !seen.ends_with(last.as_bytes()) {
        seen.extend_from_slice(&connection.piece().await.unwrap().unwrap());
    }
    drop(connection);
}

/// Tokens and money that are spent of the limits.
async fn budgets(gateway: &Gateway) -> (u64, u64, f64) {
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let buckets = gateway.admin("/admin/limits/global").await.json()["buckets"].as_array().unwrap().clone();
    let spent = |kind: &str| {
        let bucket = buckets.iter().find(|bucket| bucket["kind"] == kind).unwrap();
        assert_eq!(bucket["reserved"].as_f64(), Some(0.0), "{bucket}");
        bucket["most"].as_f64().unwrap() - bucket["left"].as_f64().unwrap()
    };
    (spent("tokens") as u64, spent("completion_tokens") as u64, spent("cost"))
}

#[tokio::test]
async fn a_stream_that_is_left_is_counted_by_its_tokens_also_when_none_has_come() {
    let backend = Backend::start().await;
    let gateway = house(&backend).await;
    let one = token("a");
    let with_role = one.replace("\"content\"", "\"role\":\"assistant\",\"content\"");
    for (id, script, last, tokens) in [
        ("one", Script::stream().token("a").hang(), &*one, 1),
        ("role", Script::stream().chunk(ROLE).hang(), ROLE, 0),
        ("role-and-one", Script::stream().chunk(ROLE).token("a").hang(), &one, 1),
        ("one-with-a-role", Script::stream().chunk(&with_role).chunk(&with_role).hang(), &with_role.repeat(2), 2),
    ] {
        backend.push(script);
        let before = budgets(&gateway).await;
        cut(&gateway, &asking("cut", id, true, "hello"), last).await;
        let line = gateway.log.request(id).await;
        let after = budgets(&gateway).await;
        assert_eq!(after.1 - before.1, tokens, "{id}");
        assert_eq!((&line["completion_tokens"], &line["estimated"]), (&json!(tokens), &json!(true)), "{line}");
        assert_eq!(line["prompt_tokens"].as_u64(), Some(after.0 - before.0 - tokens), "{line}");
    }
}

#[tokio::test]
async fn budgets_spenders_log_and_metrics_agree_about_whole_streamed_cut_failed_and_cached_requests() {
    let backend = Backend::start().await;
    let gateway = house(&backend).await;
    let choice = json!({ "index": 0, "message": { "role": "assistant", "content": "x" }, "finish_reason": "stop" });
    let mut answer = json!({ "object": "chat.completion", "model": "m", "choices": [choice] });
    let silent = answer.to_string();
    answer["usage"] = json!({ "prompt_tokens": 100, "completion_tokens": 50 });
    for (id, model, stream, script) in [
        ("whole", "m", false, Some(Script::json(answer.to_string()))),
        ("cached", "m", false, None),
        ("silent", "cut", false, Some(Script::json(silent))),
        ("streamed", "m", true, Some(Script::words(&["a"; 30], Duration::ZERO))),
        ("failed", "cut", false, Some(Script::status("500 Internal Server Error", "{}"))),
        ("refused", "cut", false, Some(Script::status("400 Bad Request", r#"{"error":{"message":"no"}}"#))),
        ("broken", "cut", true, Some(Script::stream().token("a").token("b").fin())),
    ] {
        let asked = backend.count();
        let sent = script.is_some();
        if let Some(script) = script {
            backend.push(script);
        }
        gateway.send(&asking(model, id, stream, if stream { "a stream" } else { "hello" })).await;
        assert_eq!(backend.count() > asked, sent, "{id}");
    }
    for n in 0..5 {
        backend.push(Script::stream().chunk(ROLE).token("a").hang());
        cut(&gateway, &asking("cut", &format!("cut-{n}"), true, &"word ".repeat(2000)), &token("a")).await;
    }
    let (tokens, completion, cost) = budgets(&gateway).await;
    assert!(tokens > 5 * 2000 && completion > 50 + 30 + 2 + 5, "{tokens} {completion} {cost}");

    let (mut logged, mut cached) = ([0, 0], 0);
    let cuts = (0..5).map(|n| format!("cut-{n}"));
    let ids = ["whole", "cached", "silent", "streamed", "failed", "refused", "broken"].map(str::to_owned);
    for id in ids.into_iter().chain(cuts) {
        let line = gateway.log.request(&id).await;
        let [prompt, completion] = ["prompt_tokens", "completion_tokens"].map(|name| line[name].as_u64().unwrap_or(0));
        match line["served_by"].is_null() {
            true => logged = [logged[0] + prompt, logged[1] + completion],
            false => cached += prompt + completion,
        }
    }
    assert_eq!((logged[0] + logged[1], logged[1], cached), (tokens, completion, 150));

    let until = Instant::now() + Duration::from_secs(10);
    let spenders: Value = loop {
        let seen = gateway.admin("/admin/spenders?by=model").await.json();
        if seen["total"]["requests"] == 12 {
            break seen;
        }
        assert!(Instant::now() < until, "{seen}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(spenders["total"]["tokens"], tokens);
    assert!((spenders["total"]["cost"].as_f64().unwrap() - cost).abs() < 1e-6, "{cost} {spenders}");
    let metrics = gateway.metrics().await;
    assert!((metrics.sum("tidegate_cost_total", &[]) - cost).abs() < 1e-6, "{cost}");
    let of = |kind| metrics.sum("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", kind)]);
    assert_eq!(of("input") + of("output"), (tokens + cached) as f64);
}
