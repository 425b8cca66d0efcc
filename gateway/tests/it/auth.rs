//! Who may come in, and that no credential crosses to the other side.

use serde_json::Value;

use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Gateway, Key};

fn config(backend: &Backend, key: &Key, rest: &str) -> String {
    format!(
        "pools:\n  main:\n    health: off\n    backends: [{{ url: {}, key: sk-upstream-secret }}]\nfilters:\n  - api_key: {{ keys: [ {{ id: alice, hash: \"{}\", user: alice, team: red, org: acme{rest} }} ] }}\n",
        backend.url(),
        key.hash
    )
}

#[tokio::test]
async fn a_good_key_opens_in_each_of_its_forms_and_stays_here() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let gateway = Gateway::start(&config(&backend, &key, "")).await;
    for (n, request) in [
        Request::chat("m").bearer(&key.key),
        Request::chat("m").header("authorization", &format!("bearer {}", key.key)),
        Request::chat("m").header("X-Api-Key", &key.key),
        Request::chat("m").header("api-key-of-mine", "kept").header("x-api-key", &key.key),
    ]
    .iter()
    .enumerate()
    {
        let answer = gateway.send(request).await;
        assert_eq!(answer.status, 200, "form {n}: {:?}", answer.body);
        let seen = backend.seen(n).await;
        assert_eq!(seen.headers.all("authorization"), ["Bearer sk-upstream-secret"]);
        assert!(!String::from_utf8_lossy(&seen.head).contains(&key.key), "the client's key went upstream");
        assert_eq!(seen.header("x-api-key"), None);
        assert!(!format!("{answer:?}").contains("sk-upstream-secret"));
    }
}

#[tokio::test]
async fn a_backend_may_want_its_key_in_x_api_key() {
    let backend = Backend::start().await;
    let config = format!(
        "pools:\n  main:\n    health: off\n    backends: [{{ url: {}, key: sk-upstream, auth: x-api-key }}]\n",
        backend.url()
    );
    let gateway = Gateway::start(&config).await;
    gateway
        .send(
            &Request::post("/v1/messages", r#"{"model":"m"}"#)
                .header("x-api-key", "clients-own")
                .header("anthropic-version", "2023-06-01")
                .header("anthropic-beta", "x-1"),
        )
        .await;
    let seen = backend.only().await;
    assert_eq!(seen.headers.all("x-api-key"), ["sk-upstream"]);
    assert_eq!(seen.header("authorization"), None);
    assert_eq!((seen.header("anthropic-version"), seen.header("anthropic-beta")), (Some("2023-06-01"), Some("x-1")));
}

#[tokio::test]
async fn a_clients_credential_never_goes_upstream_even_where_nobody_asks_for_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let request = Request::chat("m").bearer("sk-mine").header("x-api-key", "sk-mine").header("Cookie", "key=sk-mine");
    gateway.send(&request).await;
    let head = String::from_utf8_lossy(&backend.only().await.head).into_owned();
    assert!(!head.contains("sk-mine"), "{head}");
}

fn invalid(answer: &Answer) -> Value {
    let error = answer.openai_error(401);
    assert_eq!(error["code"], "invalid_api_key");
    error
}

#[tokio::test]
async fn anything_but_a_good_key_is_401_in_the_callers_protocol() {
    let (backend, key, stranger) = (Backend::start().await, Key::new("alice"), Key::new("bob"));
    let gateway = Gateway::start(&config(&backend, &key, "")).await;
    let mut near = key.key.clone();
    let last = near.pop().unwrap();
    near.push(if last == 'a' { 'b' } else { 'a' });
    let long = "x".repeat(5000);
    let bad = [near.as_str(), &key.key[..key.key.len() - 1], &stranger.key, "", "x", "' OR 1=1 --", &long, &key.hash];
    for wrong in bad {
        let answer = gateway.send(&Request::chat("m").bearer(wrong)).await;
        let error = invalid(&answer);
        assert!(wrong.len() < 8 || !error.to_string().contains(wrong), "the key is echoed");
        let answer = gateway.send(&Request::post("/v1/messages", r#"{"model":"m"}"#).header("x-api-key", wrong)).await;
        assert_eq!(answer.anthropic_error(401)["type"], "authentication_error");
    }
    invalid(&gateway.send(&Request::chat("m")).await);
    invalid(&gateway.send(&Request::chat("m").header("Authorization", &format!("Basic {}", key.key))).await);
    invalid(&gateway.send(&Request::get("/v1/models")).await);
    let in_url = Request::post(&format!("/v1/chat/completions?api_key={}", key.key), r#"{"model":"m"}"#);
    assert_eq!(gateway.send(&in_url).await.openai_error(400)["code"], "credential_in_url");
    assert_eq!(backend.count(), 0);
    let log = gateway.log.text();
    assert!(!log.contains(&key.key) && !log.contains(&stranger.key), "a key in the log");
}

#[tokio::test]
async fn two_different_credentials_are_refused() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let gateway = Gateway::start(&config(&backend, &key, "")).await;
    let twice = Request::chat("m").bearer(&key.key).bearer("other");
    let status = gateway.send(&twice).await.status;
    assert!(matches!(status, 400 | 401), "{status}");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_key_may_be_kept_to_some_models() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    backend.probes_get(|_| Script::models(&["llama-3", "qwen-2"]));
    let gateway = Gateway::start(&config(&backend, &key, ", models: [\"llama*\", exact]")).await;
    for (model, status) in [("llama-3", 200), ("exact", 200), ("exactly", 404), ("qwen-2", 404)] {
        let answer = gateway.send(&Request::chat(model).bearer(&key.key)).await;
        assert!(answer.status == status || (status == 404 && answer.status == 403), "{model}: {}", answer.status);
    }
    let list = gateway.send(&Request::get("/v1/models").bearer(&key.key)).await;
    let ids: Vec<Value> = list.json()["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
    assert!(ids.contains(&"llama-3".into()) && !ids.contains(&"qwen-2".into()), "{ids:?}");
    assert_ne!(gateway.send(&Request::get("/v1/models/qwen-2").bearer(&key.key)).await.status, 200);
}

#[tokio::test]
async fn who_called_is_in_the_log_and_cannot_be_claimed_by_headers() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let gateway = Gateway::start(&config(&backend, &key, "")).await;
    let request = Request::chat("m")
        .bearer(&key.key)
        .header("x-request-id", "who-1")
        .header("x-user-id", "mallory")
        .header("x-org-id", "evil")
        .header("X_User_Id", "mallory");
    assert_eq!(gateway.send(&request).await.status, 200);
    let line = gateway.log.request("who-1").await.to_string();
    assert!(line.contains("alice") && line.contains("red") && line.contains("acme"), "{line}");
    assert!(!line.contains("mallory") && !line.contains("evil"), "{line}");
    let head = String::from_utf8_lossy(&backend.only().await.head).to_lowercase();
    assert!(!head.contains("mallory") && !head.contains("evil"), "{head}");
}

#[tokio::test]
async fn a_backend_that_refuses_our_key_is_our_fault_and_not_the_clients() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let gateway = Gateway::start(&config(&backend, &key, "")).await;
    for status in ["401 Unauthorized", "403 Forbidden"] {
        backend.push(Script::status(
            status,
            r#"{"error":{"message":"Incorrect API key provided: sk-upstream-secret","code":"invalid_api_key"}}"#,
        ));
        let answer = gateway.send(&Request::chat("m").bearer(&key.key)).await;
        let error = answer.openai_error(502);
        assert!(!error.to_string().contains("sk-upstream"), "{error}");
    }
}
