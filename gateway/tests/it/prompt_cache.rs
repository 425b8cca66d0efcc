//! Answers that are given again: to whom, for how long, in which form, and to whom never.

use std::time::Duration;

use serde_json::{Value, json};

use crate::backend::{Backend, Script, chat, finish};
use crate::client::{Answer, End, Request};
use crate::gateway::{Gateway, Key, pool_of};

/// One pool behind keys, and a cache.
fn config(backend: &Backend, keys: &[(&Key, &str)], cache: &str) -> String {
    format!("{}{}  - prompt_cache: {cache}\n", pool_of(&[backend]), filters(keys))
}

fn filters(keys: &[(&Key, &str)]) -> String {
    let mut filters = String::from("filters:\n");
    if !keys.is_empty() {
        filters.push_str("  - api_key:\n      keys:\n");
        for (at, (key, who)) in keys.iter().enumerate() {
            filters.push_str(&format!("        - {{ id: k{at}, hash: \"{}\", {who} }}\n", key.hash));
        }
    }
    filters
}

/// A cache that everybody shares.
async fn shared(backend: &Backend, settings: &str) -> Gateway {
    Gateway::start(&config(backend, &[], &format!("{{ scope: global, {settings} }}"))).await
}

fn status(answer: &Answer) -> &str {
    answer.header("cache-status").unwrap_or_else(|| panic!("no Cache-Status: {:?}", answer.head))
}

fn is_hit(answer: &Answer) -> bool {
    status(answer).starts_with("tidegate; hit; ttl=")
}

/// Without what differs between two tellings.
fn plain(answer: &Answer) -> Value {
    let mut json = answer.json();
    (json["id"], json["created"]) = (Value::Null, Value::Null);
    json
}

fn usage() -> Value {
    json!({ "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 })
}

/// A chat stream that tells its usage, as backends do that are asked to.
fn stream_with_usage(words: &[&str]) -> Script {
    let last = json!({ "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000,
        "model": "tiny-random", "choices": [], "usage": usage() });
    let script = words.iter().fold(Script::stream(), |script, word| script.token(word));
    script.chunk(finish()).chunk(format!("data: {last}\n\n")).done().end()
}

/// What a chat stream says.
fn said(answer: &Answer) -> String {
    let events = answer.text().split("\n\n").filter_map(|event| event.strip_prefix("data: {"));
    let events = events.map(|event| serde_json::from_str::<Value>(&format!("{{{event}")).unwrap());
    events.filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn two_tenants_that_ask_the_same_are_two_calls() {
    let (backend, keys) = (Backend::start().await, ["a", "b", "c"].map(Key::new));
    let who = [(&keys[0], "user: x, org: one"), (&keys[1], "user: x, org: two"), (&keys[2], "user: y, org: one")];
    let gateway = Gateway::start(&config(&backend, &who, "{}")).await;
    backend.always(Script::chat("hello"));
    for (key, calls) in [(0, 1), (0, 1), (1, 2), (1, 2), (2, 2)] {
        let answer = gateway.send(&Request::chat("m").bearer(&keys[key].key)).await;
        assert_eq!(answer.json()["choices"][0]["message"]["content"], "hello");
        assert_eq!(backend.count(), calls, "key {key}: {}", status(&answer));
    }
    for scope in ["key", "user"] {
        let (backend, before) = (Backend::start().await, 0);
        backend.always(Script::chat("hello"));
        let gateway = Gateway::start(&config(&backend, &who, &format!("{{ scope: {scope} }}"))).await;
        for key in &keys {
            gateway.send(&Request::chat("m").bearer(&key.key)).await;
        }
        assert_eq!(backend.count(), before + if scope == "key" { 3 } else { 2 }, "{scope}");
    }
}

#[tokio::test]
async fn strangers_share_nothing_unless_the_file_says_so() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let gateway = Gateway::start(&config(&backend, &[], "{}")).await;
    for calls in [1, 2] {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!((status(&answer), backend.count()), ("tidegate; fwd=bypass; detail=anonymous", calls));
    }
    let gateway = shared(&backend, "").await;
    assert_eq!(status(&gateway.send(&Request::chat("m")).await), "tidegate; fwd=miss; stored");
    assert!(is_hit(&gateway.send(&Request::chat("m")).await));
}

#[tokio::test]
async fn a_hit_is_the_same_answer_under_a_fresh_id_and_says_how_old_it_is() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    for (ids, fresh) in [("fresh", true), ("original", false)] {
        let gateway = shared(&backend, &format!("ids: {ids}")).await;
        let first = gateway.send(&Request::chat("m")).await;
        let again = gateway.send(&Request::chat("m").header("x-request-id", ids)).await;
        assert!(is_hit(&again), "{}", status(&again));
        assert_eq!(again.header("age"), Some("0"));
        assert_eq!(again.header("content-type"), Some("application/json"));
        assert_eq!(again.header("content-length"), Some(&*again.body.len().to_string()));
        assert_eq!(plain(&first), plain(&again));
        assert_eq!(again.json()["created"] == 1_700_000_000, !fresh);
        assert_eq!(gateway.log.request(ids).await["notes"]["cache"], "hit");
        gateway.metric_is("tidegate_cache_requests_total", &[("outcome", "hit")], 1.0).await;
        gateway.metric_is("tidegate_cache_saved_tokens_total", &[("gen_ai_token_type", "output")], 5.0).await;
        gateway.metric_is("tidegate_cache_entries", &[], 1.0).await;
    }
}

#[tokio::test]
async fn what_means_the_same_hits_and_what_does_not_misses() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let gateway = shared(&backend, "").await;
    let ask = |body: &str| Request::post("/v1/chat/completions", body.to_owned());
    let first = r#"{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"user":"me"}"#;
    let same = "{ \"temperature\": 1.0, \"messages\": [ { \"content\": \"\\u00e9\", \"role\": \"user\" } ], \"model\": \"m\", \"metadata\": {\"a\": \"b\"} }";
    gateway.send(&ask(first)).await;
    assert!(is_hit(&gateway.send(&ask(same)).await));
    for other in [
        r#"{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":0.9}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"e"}],"temperature":1}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"seed":1}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"x_new":null}"#,
        r#"{"model":"m2","messages":[{"role":"user","content":"é"}],"temperature":1}"#,
    ] {
        assert_eq!(status(&gateway.send(&ask(other)).await), "tidegate; fwd=miss; stored", "{other}");
    }
    let beta = ask(first).header("openai-beta", "x");
    assert!(!is_hit(&gateway.send(&beta).await) && is_hit(&gateway.send(&beta).await));
}

#[tokio::test]
async fn whole_and_streamed_share_an_answer() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "").await;
    backend.push(Script::chat("hello there, and more"));
    gateway.send(&Request::chat("m")).await;
    let streamed = gateway.send(&Request::stream("m")).await;
    assert!(is_hit(&streamed) && streamed.end == End::Whole, "{}", status(&streamed));
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    assert_eq!(said(&streamed), "hello there, and more");
    assert!(streamed.text().ends_with("data: [DONE]\n\n") && !streamed.text().contains("usage"));

    backend.push(stream_with_usage(&["one ", "two"]));
    let other = |stream: bool| {
        let body = json!({ "model": "m", "messages": [], "n": 1, "stream": stream });
        Request::post("/v1/chat/completions", body.to_string())
    };
    let live = gateway.send(&other(true)).await;
    assert_eq!((said(&live).as_str(), backend.count()), ("one two", 2));
    let whole = gateway.send(&other(false)).await;
    assert!(is_hit(&whole), "{}", status(&whole));
    assert_eq!(whole.json()["choices"][0]["message"]["content"], "one two");
    assert_eq!(whole.json()["usage"], usage());
    assert_eq!(whole.json()["object"], "chat.completion");
    let again = gateway.send(&other(true)).await;
    assert!(is_hit(&again));
    let without_ids = |text: &str| {
        let events = text.split("data: ").filter_map(|event| serde_json::from_str::<Value>(event.trim()).ok());
        events.map(|event| event["choices"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(without_ids(again.text()), without_ids(live.text()));
}

#[tokio::test]
async fn the_usage_is_asked_for_behind_the_client_and_told_to_those_who_want_it() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "").await;
    backend.push(stream_with_usage(&["a"]));
    let live = gateway.send(&Request::stream("m")).await;
    assert_eq!(backend.seen(0).await.json()["stream_options"], json!({ "include_usage": true }));
    assert!(!live.text().contains("usage") && live.text().ends_with("[DONE]\n\n"), "{}", live.text());
    let body = json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "stream": true,
        "stream_options": { "include_usage": true } });
    let asking = gateway.send(&Request::post("/v1/chat/completions", body.to_string())).await;
    assert!(is_hit(&asking));
    assert_eq!(asking.text().matches("\"usage\":{\"").count(), 1, "{}", asking.text());
}

#[tokio::test]
async fn a_stream_without_usage_is_told_as_a_stream_only() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "ask_usage: false").await;
    backend.push(Script::words(&["a"], Duration::ZERO)).push(Script::chat("whole"));
    gateway.send(&Request::stream("m")).await;
    assert!(backend.seen(0).await.json().get("stream_options").is_none());
    assert!(is_hit(&gateway.send(&Request::stream("m")).await));
    let whole = gateway.send(&Request::chat("m")).await;
    assert_eq!((status(&whole), backend.count()), ("tidegate; fwd=miss; stored", 2));
}

#[tokio::test]
async fn what_is_not_whole_and_good_is_not_kept() {
    let large = chat(&"x".repeat(3000));
    let filtered = chat("cut").replace("\"stop\"", "\"content_filter\"");
    let error_event = Script::stream().token("a").chunk("data: {\"error\":{\"message\":\"x\"}}\n\n").done().end();
    let cases: Vec<(&str, bool, Script)> = vec![
        ("an error", false, Script::status("500 Oops", "{\"error\":{\"message\":\"x\"}}")),
        ("a mistake", false, Script::status("400 Bad Request", "{\"error\":{\"message\":\"x\"}}")),
        ("too large", false, Script::json(large)),
        ("filtered", false, Script::json(filtered)),
        (
            "not to be kept",
            false,
            Script::answer("200 OK", &[("content-type", "application/json"), ("cache-control", "no-store")], chat("a")),
        ),
        ("no answer", false, Script::json("{\"error\":{\"message\":\"x\"}}")),
        ("truncated", true, Script::stream().token("a").end()),
        ("cut", true, Script::stream().token("a").fin()),
        ("reset", true, Script::stream().token("a").reset()),
        ("an error event", true, error_event),
        ("too large a stream", true, Script::stream().token(&"x".repeat(3000)).chunk(finish()).done().end()),
    ];
    let backend = Backend::start().await;
    let gateway = shared(&backend, "max_entry: 2KiB").await;
    for (calls, (what, stream, script)) in cases.into_iter().enumerate() {
        let request = if stream { Request::stream(what) } else { Request::chat(what) };
        backend.push(script).push(if stream { Script::words(&["b"], Duration::ZERO) } else { Script::chat("b") });
        gateway.send(&request).await;
        let again = gateway.send(&request).await;
        assert!(!is_hit(&again), "{what}");
        assert_eq!(backend.count(), 2 * calls + 2, "{what}");
    }
    let metrics = gateway.metrics().await;
    for (reason, count) in [("error", 3.0), ("large", 2.0), ("no-store", 1.0)] {
        assert_eq!(metrics.sum("tidegate_cache_unstored_total", &[("reason", reason)]), count, "{reason}");
    }
}

#[tokio::test]
async fn requests_say_what_they_want_of_the_cache() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let gateway = shared(&backend, "").await;
    let ask = |control: &str| Request::chat("m").header("cache-control", control);
    let missed = gateway.send(&ask("only-if-cached")).await;
    assert_eq!((missed.openai_error(504)["code"].as_str(), backend.count()), (Some("not_cached"), 0));
    assert_eq!(missed.header("x-should-retry"), Some("false"));
    for calls in [1, 2] {
        assert_eq!(status(&gateway.send(&ask("no-store")).await), "tidegate; fwd=bypass; detail=no-store");
        assert_eq!(backend.count(), calls);
    }
    assert_eq!(status(&gateway.send(&Request::chat("m")).await), "tidegate; fwd=miss; stored");
    assert!(is_hit(&gateway.send(&ask("only-if-cached")).await) && is_hit(&gateway.send(&ask("max-age=60")).await));
    assert_eq!(status(&gateway.send(&ask("no-cache")).await), "tidegate; fwd=request; stored");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let aged = gateway.send(&Request::chat("m")).await;
    assert_eq!((is_hit(&aged), aged.header("age")), (true, Some("1")));
    assert_eq!(status(&gateway.send(&ask("max-age=0")).await), "tidegate; fwd=request; stored");
    assert_eq!(backend.count(), 5);

    let gateway = shared(&backend, "http: false").await;
    gateway.send(&ask("no-store")).await;
    let answer = gateway.send(&ask("no-store")).await;
    assert_eq!((backend.count(), answer.header("cache-status"), answer.header("age")), (6, None, None));
}

#[tokio::test]
async fn an_answer_is_good_for_its_time_and_models_have_times_of_their_own() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let pools = format!(
        "models: {{ short: {{ pool: main }}, never: {{ pool: main }}, '*': {{ pool: main }} }}\n{}",
        pool_of(&[&backend])
    );
    let cache = "  - prompt_cache: { scope: global, for: 1h, models: { short: 300ms, never: 0 } }\n";
    let gateway = Gateway::start(&format!("{pools}filters:\n{cache}")).await;
    for model in ["short", "never", "other"] {
        gateway.send(&Request::chat(model)).await;
    }
    assert!(is_hit(&gateway.send(&Request::chat("short")).await));
    assert_eq!(status(&gateway.send(&Request::chat("never")).await), "tidegate; fwd=bypass; detail=model");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(!is_hit(&gateway.send(&Request::chat("short")).await));
    assert!(is_hit(&gateway.send(&Request::chat("other")).await));
}

#[tokio::test]
async fn an_old_answer_is_given_while_a_new_one_is_fetched_behind_it() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "for: 200ms, stale_while_revalidate: 1m").await;
    backend.push(Script::chat("old")).always(Script::chat("new"));
    gateway.send(&Request::chat("m")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let stale = gateway.send(&Request::chat("m")).await;
    assert_eq!(stale.json()["choices"][0]["message"]["content"], "old");
    assert_eq!(status(&stale), "tidegate; hit; ttl=-1; detail=stale-while-revalidate");
    backend.seen(1).await;
    for _ in 0..50 {
        let answer = gateway.send(&Request::chat("m")).await;
        if answer.json()["choices"][0]["message"]["content"] == "new" {
            gateway.metric_is("tidegate_cache_stores_total", &[], backend.count() as f64).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the new answer never came: {}", gateway.log.text());
}

#[tokio::test]
async fn a_backend_that_is_out_is_bridged_by_old_answers_that_say_so() {
    let backend = Backend::start().await;
    let file = config(&backend, &[], "{ scope: global, for: 100ms, stale_if_error: 1m }");
    let gateway = Gateway::start(&file.replace("health: off", "health: off\n    retries: 0")).await;
    backend.push(Script::chat("old"));
    gateway.send(&Request::chat("m")).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    backend
        .push(Script::status("500 Oops", "{\"error\":{\"message\":\"broken\"}}"))
        .push(Script::status("503 Busy", "{}"));
    for _ in 0..2 {
        let stale = gateway.send(&Request::chat("m")).await;
        assert_eq!((stale.status, status(&stale)), (200, "tidegate; hit; ttl=-1; detail=stale-if-error"));
        assert_eq!(stale.json()["choices"][0]["message"]["content"], "old");
    }
    backend.push(Script::status("400 Bad Request", "{\"error\":{\"message\":\"yours\"}}"));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 400, "a client's own mistake is no outage");
    backend.push(Script::status("500 Oops", "{\"error\":{\"message\":\"broken\"}}"));
    assert_eq!(gateway.send(&Request::chat("another")).await.status, 500, "nothing is kept for it");
    drop(backend);
    let stale = gateway.send(&Request::chat("m").header("x-request-id", "out")).await;
    assert_eq!((stale.status, stale.json()["choices"][0]["message"]["content"].as_str()), (200, Some("old")));
    assert!(status(&stale).ends_with("detail=stale-if-error"));
    assert!(gateway.log.request("out").await["error"].is_string(), "the outage is told in the log");
}

#[tokio::test]
async fn embeddings_are_asked_for_input_by_input() {
    let backend = Backend::start().await;
    backend.handle(|seen| {
        let (asked, base64) = (seen.json()["input"].clone(), seen.json()["encoding_format"] == "base64");
        let inputs = asked.as_array().cloned().unwrap_or_else(|| vec![asked]);
        let vector = |text: &Value| match base64 {
            true => json!({ "a": "AADAPw==", "b": "AAAgQA==", "c": "AABgQA==" })[text.as_str().unwrap()].clone(),
            false => json!({ "a": [1.5], "b": [2.5], "c": [3.5] })[text.as_str().unwrap()].clone(),
        };
        let data: Vec<Value> = inputs
            .iter()
            .enumerate()
            .map(|(index, text)| json!({ "object": "embedding", "index": index, "embedding": vector(text) }))
            .collect();
        let usage = json!({ "prompt_tokens": 2 * data.len(), "total_tokens": 2 * data.len() });
        Script::json(json!({ "object": "list", "data": data, "model": "tiny-random", "usage": usage }).to_string())
    });
    let gateway = shared(&backend, "").await;
    let ask = |input: Value, format: &str| {
        let body = json!({ "model": "m", "input": input, "encoding_format": format });
        Request::post("/v1/embeddings", body.to_string())
    };
    let vectors = |answer: &Answer| -> Vec<Value> {
        let data = answer.json()["data"].as_array().unwrap().clone();
        assert!(data.iter().enumerate().all(|(at, item)| item["index"] == at), "{data:?}");
        data.into_iter().map(|item| item["embedding"].clone()).collect()
    };
    let first = gateway.send(&ask(json!(["a", "b"]), "float")).await;
    assert_eq!((vectors(&first), status(&first)), (vec![json!([1.5]), json!([2.5])], "tidegate; fwd=miss; stored"));
    let mixed = gateway.send(&ask(json!(["c", "b", "a"]), "float")).await;
    assert_eq!(backend.seen(1).await.json()["input"], json!(["c"]));
    assert_eq!(vectors(&mixed), [json!([3.5]), json!([2.5]), json!([1.5])]);
    assert_eq!(mixed.json()["usage"], json!({ "prompt_tokens": 6, "total_tokens": 6 }));
    assert_eq!(status(&mixed), "tidegate; fwd=partial; stored; detail=\"2 of 3 kept\"");
    let kept = gateway.send(&ask(json!(["b", "c"]), "base64")).await;
    assert_eq!(vectors(&kept), ["AAAgQA==", "AABgQA=="]);
    assert!(is_hit(&kept) && kept.json()["model"] == first.json()["model"] && kept.json()["object"] == "list");
    let one = gateway.send(&ask(json!("a"), "float")).await;
    assert_eq!((vectors(&one), backend.count()), (vec![json!([1.5])], 2));
    let short = json!({ "model": "m", "input": "a", "dimensions": 1 });
    gateway.send(&Request::post("/v1/embeddings", short.to_string())).await;
    assert_eq!(backend.count(), 3, "another size is another vector");
}

#[tokio::test]
async fn a_canarys_answers_are_not_mixed_with_the_others() {
    let backends = [Backend::start().await, Backend::start().await];
    backends[0].always(Script::chat("old"));
    backends[1].always(Script::chat("canary"));
    let file = format!(
        "models: {{ m: {{ split: [{{ pool: a, weight: 1 }}, {{ pool: b, weight: 1 }}] }} }}\n\
         pools: {{ a: {{ backends: ['{}'] }}, b: {{ backends: ['{}'] }} }}\nfilters:\n  - prompt_cache: {{ scope: global }}\n",
        backends[0].url(),
        backends[1].url()
    );
    let gateway = Gateway::start(&file).await;
    let mut said = Vec::new();
    for _ in 0..20 {
        let answer = gateway.send(&Request::chat("m")).await;
        said.push(answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned());
    }
    let canary = said.iter().filter(|text| *text == "canary").count();
    assert!((8..=12).contains(&canary), "{said:?}");
    assert_eq!((backends[0].count(), backends[1].count()), (1, 1));
}

#[tokio::test]
async fn who_may_not_ask_for_a_model_gets_no_kept_answer_of_it() {
    let (backend, keys) = (Backend::start().await, ["a", "b"].map(Key::new));
    backend.always(Script::chat("secret"));
    let who = [(&keys[0], "org: one"), (&keys[1], "org: one, models: [other]")];
    let gateway = Gateway::start(&config(&backend, &who, "{}")).await;
    assert_eq!(gateway.send(&Request::chat("m").bearer(&keys[0].key)).await.status, 200);
    assert_eq!(gateway.send(&Request::chat("m").bearer(&keys[1].key)).await.status, 403);
}

#[tokio::test]
async fn only_what_comes_out_the_same_is_kept_where_the_file_says_so() {
    let backend = Backend::start().await;
    backend.always(Script::chat("hello"));
    let gateway = shared(&backend, "cache: deterministic").await;
    let ask = |more: &str| Request::post("/v1/chat/completions", format!("{{\"model\":\"m\",\"messages\":[]{more}}}"));
    assert_eq!(status(&gateway.send(&ask("")).await), "tidegate; fwd=bypass; detail=not-deterministic");
    for more in [",\"temperature\":0", ",\"seed\":7", ",\"temperature\":0.0,\"top_p\":1"] {
        assert_eq!(status(&gateway.send(&ask(more)).await), "tidegate; fwd=miss; stored", "{more}");
    }
    assert!(!is_hit(&gateway.send(&ask(",\"temperature\":0.1,\"seed\":null")).await));
}

#[tokio::test]
async fn what_is_kept_survives_a_reload_and_is_free_of_tokens() {
    let (backend, key) = (Backend::start().await, Key::new("a"));
    backend.always(Script::chat("hello"));
    let limits = "  - limits: [{ per: org, tokens: 100/h }]\n  - prompt_cache: { for: 1h }\n";
    let file = format!("{}{}{limits}", pool_of(&[&backend]), filters(&[(&key, "org: one")]));
    let gateway = Gateway::start(&file).await;
    let body = json!({ "model": "m", "messages": [], "max_tokens": 10 }).to_string();
    let ask = || Request::post("/v1/chat/completions", body.clone()).bearer(&key.key);
    gateway.send(&ask()).await;
    let mut left = Vec::new();
    // What a hit has reserved is given back a moment after its answer.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = gateway.send(&ask()).await;
        left.push(answer.header("x-ratelimit-remaining-tokens").unwrap().parse::<u64>().unwrap());
    }
    assert_eq!(backend.count(), 1);
    assert!(left.iter().filter(|tokens| **tokens == left[0]).count() >= 4, "hits cost nothing: {left:?}");
    gateway.rewrite(&file.replace("for: 1h", "for: 2h"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    assert!(is_hit(&gateway.send(&ask()).await));
}

#[tokio::test]
async fn a_paced_stream_takes_its_time() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "pace: 50").await;
    backend.push(stream_with_usage(&["a", "b", "c", "d"]));
    gateway.send(&Request::stream("m")).await;
    let begun = std::time::Instant::now();
    let again = gateway.send(&Request::stream("m")).await;
    assert!(is_hit(&again) && said(&again) == "abcd");
    assert!(begun.elapsed() >= Duration::from_millis(100), "{:?}", begun.elapsed());
    assert!(again.pieces.len() >= 5, "{}", again.pieces.len());
}

#[tokio::test]
async fn a_large_answer_is_compressed_and_told_as_it_was() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "compress_above: 4KiB, max_entry: 1MiB").await;
    let text = "the tide comes in and goes out ".repeat(8000);
    backend.push(Script::chat(&text));
    let first = gateway.send(&Request::chat("m")).await;
    let packed = || async { gateway.metrics().await.sum("tidegate_cache_bytes", &[]) < 20_000.0 };
    for _ in 0..100 {
        if packed().await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(packed().await, "{}", gateway.metrics().await.sum("tidegate_cache_bytes", &[]));
    let again = gateway.send(&Request::chat("m")).await;
    assert!(is_hit(&again));
    assert_eq!(plain(&again), plain(&first));
    assert_eq!(again.header("content-length"), Some(&*first.body.len().to_string()));
    assert_eq!(said(&gateway.send(&Request::stream("m")).await), text);
}

#[tokio::test]
async fn the_answer_of_a_fallback_is_not_kept_as_that_of_the_first() {
    let spare = Backend::start().await;
    spare.always(Script::chat("from the spare"));
    let gateway = Gateway::start(&format!(
        "pools:\n  first: {{ health: off, backends: [{}] }}\n  spare: {{ health: off, backends: [{}] }}\n\
         models:\n  m: {{ pool: first, fallback: [{{ pool: spare, on: [unavailable] }}] }}\n\
         filters:\n  - prompt_cache: {{ scope: global }}\n",
        crate::gateway::refused(),
        spare.url()
    ))
    .await;
    for n in 1..=2 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
        assert_eq!(spare.count(), n);
    }
}
