//! Which model is served by whom, under which name, and what a client may see of it.

use std::collections::BTreeSet;

use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Gateway, refused};

fn two_pools(a: &Backend, b: &Backend, models: &str) -> String {
    format!(
        "pools:\n  a: {{ health: off, backends: [{}] }}\n  b: {{ health: off, backends: [{}] }}\nmodels:\n{models}\n",
        a.url(),
        b.url()
    )
}

fn listed(answer: &Answer) -> BTreeSet<String> {
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let json = answer.json();
    assert_eq!(json["object"], "list");
    let ids: Vec<String> =
        json["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect();
    let set: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(set.len(), ids.len(), "each model once: {ids:?}");
    set
}

/// Waits up to 2 s for the list to have these: backends are asked in the background.
async fn lists(gateway: &Gateway, wanted: &[&str]) -> Answer {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
    loop {
        let answer = gateway.send(&Request::get("/v1/models")).await;
        let ids = listed(&answer);
        if ids.is_superset(&names(wanted)) {
            return answer;
        }
        assert!(std::time::Instant::now() < until, "{wanted:?} should be in {ids:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn an_exact_name_beats_a_wildcard_and_the_longest_prefix_beats_the_others() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let models = "  \"qwen*\": { pool: a }\n  \"qwen-big*\": { pool: b }\n  qwen-big-1: { pool: a }\n  \"*\": { pool: b, as: rest }";
    let gateway = Gateway::start(&two_pools(&a, &b, models)).await;
    for (asked, at_a, served) in [
        ("qwen-small", true, "qwen-small"),
        ("qwen-big-2", false, "qwen-big-2"),
        ("qwen-big-1", true, "qwen-big-1"),
        ("other", false, "rest"),
    ] {
        let (backend, before) = if at_a { (&a, a.count()) } else { (&b, b.count()) };
        assert_eq!(gateway.send(&Request::chat(asked)).await.status, 200, "{asked}");
        assert_eq!(backend.seen(before).await.model(), served);
    }
}

#[tokio::test]
async fn a_split_shares_by_weight_and_renames_each_share() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let models = "  mix: { split: [ { pool: a, as: m1, weight: 9 }, { pool: b, as: m2, weight: 1 } ] }";
    let gateway = Gateway::start(&two_pools(&a, &b, models)).await;
    let mut connection = gateway.connect().await;
    for _ in 0..100 {
        assert_eq!(connection.exchange(&Request::chat("mix")).await.status, 200);
    }
    assert_eq!(a.count() + b.count(), 100);
    // Ten expected; a fair coin of this weight falls outside this range about once in a million runs.
    assert!((1..30).contains(&b.count()), "{} of 100 at weight 1 of 10", b.count());
    assert_eq!((a.seen(0).await.model(), b.seen(0).await.model()), ("m1".to_owned(), "m2".to_owned()));
}

#[tokio::test]
async fn an_unknown_model_is_404_with_near_names() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&two_pools(&a, &b, "  llama-3.1-8b: { pool: a }\n  qwen-2: { pool: b }")).await;
    let answer = gateway.send(&Request::chat("lama-3.1-8b")).await;
    let error = answer.openai_error(404);
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("model_not_found"), Some("model")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("llama-3.1-8b") && !message.contains("qwen"), "{message}");
    let error =
        gateway.send(&Request::post("/v1/messages", r#"{"model":"x","messages":[]}"#)).await.anthropic_error(404);
    assert_eq!(error["type"], "not_found_error");
    assert_eq!(a.count() + b.count(), 0);
}

#[tokio::test]
async fn names_match_exactly_and_nothing_in_a_header_changes_them() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&two_pools(&a, &b, "  llama: { pool: a }")).await;
    for model in ["Llama", " llama", "llama ", "openai/llama", "llama\\u200b", "llam.", "*"] {
        gateway.send(&Request::chat(model)).await.openai_error(404);
    }
    let request = Request::chat("nothing").header("x-model", "llama").header("x-tidegate-model", "llama");
    gateway.send(&request).await.openai_error(404);
}

#[tokio::test]
async fn a_request_without_a_model_gets_the_default_one_if_there_is_one() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = two_pools(&a, &b, "  one: { pool: a }\n  two: { pool: b }\ndefault_model: two");
    let gateway = Gateway::start(&config).await;
    let body = r#"{"messages":[]}"#;
    assert_eq!(gateway.send(&Request::post("/v1/chat/completions", body)).await.status, 200);
    let seen = b.only().await;
    assert_eq!(seen.json()["model"], "two");
    assert_eq!(a.count(), 0);
}

#[tokio::test]
async fn the_model_list_merges_what_backends_serve_and_what_the_file_names() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.probes_get(|_| Script::models(&["llama", "shared"]));
    b.probes_get(|_| Script::models(&["qwen", "shared"]));
    let gateway = Gateway::start(&two_pools(
        &a,
        &b,
        "  alias: { pool: a, as: llama }\n  \"*\": { pool: b }\n  \"llama*\": { pool: a }",
    ))
    .await;
    let list = lists(&gateway, &["alias", "llama", "qwen"]).await;
    let ids = listed(&list);
    assert!(ids.iter().all(|id| !id.contains('*')), "a wildcard is no model: {ids:?}");
    for model in list.json()["data"].as_array().unwrap() {
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
    }
}

#[tokio::test]
async fn the_model_list_answers_although_a_backend_is_down() {
    let a = Backend::start().await;
    a.probes_get(|_| Script::models(&["llama"]));
    let config = format!(
        "pools:\n  a: {{ health: off, backends: [{}] }}\n  b: {{ health: off, backends: [\"{}\"] }}\nmodels: {{ \"*\": {{ pool: a }}, named: {{ pool: b }} }}\n",
        a.url(),
        refused()
    );
    let gateway = Gateway::start(&config).await;
    lists(&gateway, &["llama"]).await;
}

#[tokio::test]
async fn the_model_list_survives_a_backend_that_answers_nonsense() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.probes_get(|_| Script::models(&["llama"]));
    b.probes_get(|_| Script::answer("200 OK", &[("content-type", "text/html")], "<html>"));
    let gateway = Gateway::start(&two_pools(&a, &b, "  \"l*\": { pool: a }\n  \"*\": { pool: b }")).await;
    lists(&gateway, &["llama"]).await;
}

#[tokio::test]
async fn one_model_can_be_asked_about() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.probes_get(|_| Script::models(&["org/llama"]));
    let gateway =
        Gateway::start(&two_pools(&a, &b, "  alias: { pool: a, as: org/llama }\n  \"org*\": { pool: a }")).await;
    lists(&gateway, &["org/llama"]).await;
    for id in ["alias", "org/llama", "org%2Fllama"] {
        let answer = gateway.send(&Request::get(&format!("/v1/models/{id}"))).await;
        assert_eq!(answer.status, 200, "{id}: {:?}", answer.body);
        assert_eq!(
            (answer.json()["id"].clone(), answer.json()["object"].clone()),
            (id.replace("%2F", "/").into(), "model".into())
        );
    }
    let error = gateway.send(&Request::get("/v1/models/nothing")).await.openai_error(404);
    assert_eq!(error["code"], "model_not_found");
}
