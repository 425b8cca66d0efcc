//! Flights through a reload, and what those who follow are told.

use super::*;
use crate::gateway::{Folder, command, pool_at};

#[tokio::test]
async fn a_flight_outlasts_a_reload_and_who_comes_after_it_joins() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.push(last(Script::stream().token("a").wait(&gate).token("b")));
    let filter = "filters:\n  - shared_flight: { scope: global }\n";
    let file = format!("{filter}{}", pool_of(&[&backend]));
    let gateway = Gateway::start(&file).await;
    let leader = ask(&gateway, &plain(true)).await;
    backend.seen(0).await;
    let before = ask(&gateway, &plain(true)).await;
    joined(&gateway, 2).await;
    gateway.rewrite(&format!("drain: {{ time: 7s }}\n{file}"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    let after = ask(&gateway, &plain(true)).await;
    joined(&gateway, 3).await;
    gate.open();
    let leader = leader.await.unwrap();
    assert!(leader.text().ends_with("data: [DONE]\n\n"), "{}", leader.text());
    for follower in [before, after] {
        assert_eq!(follower.await.unwrap().body, leader.body);
    }
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn who_follows_is_told_so_also_where_a_cache_is_above() {
    for cache in ["", "  - prompt_cache: { scope: global }\n"] {
        let backend = Backend::start().await;
        let gate = Gate::closed();
        backend.push(last(Script::stream().wait(&gate).token("a")));
        let filters = format!("filters:\n{cache}  - shared_flight: {{ scope: global }}\n");
        let gateway = Gateway::start(&(filters + &pool_of(&[&backend]))).await;
        let leader = ask(&gateway, &plain(true)).await;
        backend.seen(0).await;
        let follower = ask(&gateway, &plain(false).header("x-request-id", "follows")).await;
        joined(&gateway, 2).await;
        gate.open();
        let (leader, follower) = (leader.await.unwrap(), follower.await.unwrap());
        let expected = if cache.is_empty() { None } else { Some("tidegate; fwd=miss; stored") };
        assert_eq!(leader.header("cache-status"), expected);
        assert_eq!(follower.header("cache-status"), Some("tidegate; fwd=miss; collapsed"));
        let notes = gateway.log.request("follows").await["notes"].clone();
        assert_eq!(notes["flight"], "followed", "{notes}");
        assert_eq!(notes["cache"].as_str(), (!cache.is_empty()).then_some("collapsed"), "{notes}");
    }
}

#[test]
fn explain_says_with_whom_a_request_would_be_shared_and_run_once_or_why_not() {
    let (folder, key) = (Folder::new(), Key::new("a"));
    let keys = format!("  - api_key: {{ keys: [{{ id: a, org: acme, hash: \"{}\" }}] }}\n", key.hash);
    let filters = format!("filters:\n{keys}  - idempotency: {{ for: 1h }}\n  - shared_flight: {{}}\n");
    let config = folder.write("gateway.yaml", &(filters + &pool_at(&["http://127.0.0.1:1"])));
    let body = folder.write("body.json", r#"{"model":"m","messages":[]}"#);
    let (config, body) = (config.display().to_string(), body.display().to_string());
    let explained = |headers: &[&str]| {
        let mut arguments = vec!["explain", "--config", &config, "--body", &body, "--model", "m", "--key", &key.key];
        headers.iter().for_each(|header| arguments.extend(["--header", header]));
        let output = command(&arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let said = explained(&[]);
    assert!(said.contains("shared within org/acme while it is under way"), "{said}");
    assert!(said.contains("does not apply: no `Idempotency-Key`"), "{said}");
    let said = explained(&["idempotency-key: k", "cache-control: no-store"]);
    assert!(said.contains("not shared: it asks for an answer of its own"), "{said}");
    assert!(said.contains("run once for org/acme; its answer is kept 3600 s"), "{said}");
}
