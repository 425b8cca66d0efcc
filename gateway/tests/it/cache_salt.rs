//! What one tenant has sent to a backend that keeps the beginnings of prompts, another cannot find out by timing.

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, Key};

#[tokio::test]
async fn each_tenant_has_a_salt_of_its_own_that_nobody_can_ask_for() {
    let backend = Backend::start().await;
    backend.always(Script::chat("x"));
    let keys = [Key::new("one"), Key::new("two")];
    let entry = |key: &Key, org: &str| format!("        - {{ id: {org}, org: {org}, hash: \"{}\" }}\n", key.hash);
    let salted = format!(
        "pools:\n  main:\n    health: off\n    cache_salt: a-secret-of-some-length\n    backends: [{}]\n",
        backend.url()
    );
    let config =
        format!("filters:\n  - api_key:\n      keys:\n{}{}{salted}", entry(&keys[0], "acme"), entry(&keys[1], "rival"));
    let gateway = Gateway::start(&config).await;
    let body = |own: &str| format!(r#"{{"model":"m","messages":[]{own}}}"#);
    let salt = async |key: &Key, own: &str| {
        let before = backend.count();
        let request = Request::post("/v1/chat/completions", body(own)).bearer(&key.key);
        assert_eq!(gateway.send(&request).await.status, 200);
        let seen = backend.seen(before).await;
        seen.assert_clean();
        let sent: serde_json::Value = serde_json::from_slice(&seen.body).unwrap();
        assert!(!String::from_utf8_lossy(&seen.body).contains("acme"));
        sent["cache_salt"].as_str().unwrap().to_owned()
    };
    let mine = salt(&keys[0], "").await;
    assert_eq!(mine.len(), 32);
    assert_eq!(salt(&keys[0], "").await, mine);
    let theirs = salt(&keys[1], "").await;
    assert_ne!(theirs, mine);
    // A salt of one's own sets apart further, and reaches no other tenant's.
    let asked = format!(r#","cache_salt":"{theirs}""#);
    let own = salt(&keys[0], &asked).await;
    assert!(own != mine && own != theirs && own != salt(&keys[1], &asked).await);
    // Off by default, byte for byte.
    let gateway = Gateway::before(&backend).await;
    let before = backend.count();
    gateway.send(&Request::post("/v1/chat/completions", body(""))).await;
    assert_eq!(backend.seen(before).await.body, body("").as_bytes());
}
