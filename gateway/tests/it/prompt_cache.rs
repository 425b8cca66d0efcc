//! Answers that are given again: to whom, for how long, in which form, and to whom never.

mod embeddings;
mod forms;
mod keeping;
mod operate;

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

/// The first event of a stream.
fn first_event(answer: &Answer) -> Value {
    let event = answer.text().split("\n\n").next().and_then(|event| event.strip_prefix("data: "));
    serde_json::from_str(event.unwrap_or_else(|| panic!("no event: {}", answer.text()))).unwrap()
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
        // The backend's own is "chatcmpl-1": nobody could tell two tellings apart by one as short.
        let told = [
            again.json(),
            gateway.send(&Request::chat("m")).await.json(),
            first_event(&gateway.send(&Request::stream("m")).await),
        ];
        let told = told.map(|answer| answer["id"].as_str().unwrap().to_owned());
        let apart =
            told[0] != told[1] && told[1] != told[2] && told.iter().all(|id| id.len() == "chatcmpl-".len() + 24);
        assert!(if fresh { apart } else { told.iter().all(|id| id == "chatcmpl-1") }, "{told:?}");
        assert_eq!(gateway.log.request(ids).await["notes"]["cache"], "hit");
        gateway.metric_is("tidegate_cache_requests_total", &[("outcome", "hit")], 3.0).await;
        gateway.metric_is("tidegate_cache_saved_tokens_total", &[("gen_ai_token_type", "output")], 15.0).await;
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
