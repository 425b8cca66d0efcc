//! Budgets: so much a day, a week or a month, whatever happens to the process meanwhile.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Folder, Gateway, Key, command, pool_of};

fn config(backend: &Backend, limits: &str) -> String {
    format!("{}storage: {{ path: $DIR/spent.db }}\nfilters:\n  - limits: [{limits}]\n", pool_of(&[backend]))
}

fn number(answer: &Answer, header: &str) -> u64 {
    let value = answer.header(header).unwrap_or_else(|| panic!("no {header}: {:?}", answer.head));
    value.parse().unwrap_or_else(|_| panic!("{header}: {value}"))
}

/// Requests that are left, as an answer says that has not taken one: this asks for what cannot be.
async fn left(gateway: &Gateway) -> u64 {
    number(&gateway.send(&Request::chat("m")).await, "x-ratelimit-remaining-requests") + 1
}

/// Starts again in the folder of a gateway that is gone.
async fn again(mut gone: Gateway, config: &str) -> Gateway {
    let folder = std::mem::replace(&mut gone.folder, Folder::new());
    drop(gone);
    Gateway::start_in(folder, config, &[]).await
}

#[tokio::test]
async fn a_spent_budget_says_so_in_a_way_that_no_sdk_tries_again() {
    let (backend, key) = (Backend::start().await, Key::new("alice"));
    let keys = format!("  - api_key: {{ keys: [{{ id: k, hash: \"{}\", user: alice }}] }}\n", key.hash);
    let limits = "  - limits: [{ per: user, requests: 2/day, zone: Europe/Berlin }, { per: user, requests: 50/h }]\n";
    let gateway = Gateway::start(&format!("{}filters:\n{keys}{limits}", pool_of(&[&backend]))).await;
    for left in [1, 0] {
        let answer = gateway.send(&Request::chat("m").bearer(&key.key)).await;
        assert_eq!((answer.status, number(&answer, "x-ratelimit-remaining-requests")), (200, left));
    }
    // Until then the second is reserved, not spent.
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let refused = gateway.send(&Request::chat("m").bearer(&key.key).header("x-request-id", "spent")).await;
    let error = refused.openai_error(429);
    assert_eq!((&error["code"], &error["type"]), (&"insufficient_quota".into(), &"insufficient_quota".into()));
    let message = error["message"].as_str().unwrap();
    for part in ["user/requests/day", "'alice'", "2/day", "0 are left", "begins anew at 20"] {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let wait = number(&refused, "retry-after");
    assert!((1..=25 * 3600).contains(&wait), "{wait}");
    assert!(number(&refused, "retry-after-ms").div_ceil(1000) == wait);
    assert_eq!(gateway.log.request("spent").await["notes"]["limited_by"], "user/requests/day");

    let anthropic = Request::post("/v1/messages", r#"{"model":"m","max_tokens":1,"messages":[]}"#).bearer(&key.key);
    let refused = gateway.send(&anthropic).await;
    assert_eq!(refused.anthropic_error(429)["type"], "rate_limit_error");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(number(&refused, "anthropic-ratelimit-requests-limit"), 2);
    assert_eq!(number(&refused, "anthropic-ratelimit-requests-remaining"), 0);
    let reset = refused.header("anthropic-ratelimit-requests-reset").unwrap();
    assert!(reset.len() == 20 && reset.ends_with('Z') && reset.contains('T'), "{reset}");
    // None of the refusals has taken anything of the other limit.
    gateway
        .metric_is("tidegate_limit_decisions_total", &[("limit", "user/requests"), ("outcome", "granted")], 2.0)
        .await;
}

#[tokio::test]
async fn anthropics_clients_get_the_rates_under_their_names_and_not_the_backends() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "{ per: global, requests: 5/h, tokens: 9k/day }")).await;
    let message = r#"{"type":"message","model":"m","content":[],"usage":{"input_tokens":5,"output_tokens":5}}"#;
    let theirs = [("content-type", "application/json"), ("anthropic-ratelimit-input-tokens-limit", "77")];
    backend.push(Script::answer("200 OK", &theirs, message));
    let answer = gateway.send(&Request::post("/v1/messages", r#"{"model":"m","max_tokens":9,"messages":[]}"#)).await;
    assert_eq!((answer.status, number(&answer, "anthropic-ratelimit-requests-remaining")), (200, 4));
    assert_eq!(number(&answer, "anthropic-ratelimit-tokens-limit"), 9000);
    assert!(answer.header("anthropic-ratelimit-input-tokens-limit").is_none());
    assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), 4);
}

#[tokio::test]
async fn what_is_spent_outlives_a_restart_exactly() {
    let backend = Backend::start().await;
    let config = config(&backend, "{ per: global, requests: 100/month }, { per: model, requests: 100/day, name: m }");
    let mut gateway = Gateway::start(&config).await;
    for _ in 0..7 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    gateway.signal("TERM");
    gateway.ended(Duration::from_secs(10)).await;
    let mut gateway = again(gateway, &config).await;
    assert_eq!(left(&gateway).await, 93);
    gateway.signal("TERM");
    gateway.ended(Duration::from_secs(10)).await;
    let gateway = again(gateway, &config).await;
    assert_eq!(left(&gateway).await, 92);
}

#[tokio::test]
async fn a_killed_process_loses_the_last_moment_and_no_more() {
    let backend = Backend::start().await;
    let config = config(&backend, "{ per: global, requests: 100k/month }");
    let gateway = Gateway::start(&config).await;
    let mut connection = gateway.connect().await;
    let start = Instant::now();
    let mut answered = Vec::new();
    while start.elapsed() < Duration::from_millis(2500) {
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
        answered.push(Instant::now());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let killed = Instant::now();
    gateway.signal("KILL");
    let gateway = again(gateway, &config).await;
    let kept = 100_000 - left(&gateway).await;
    let all = answered.len() as u64;
    assert!(kept <= all, "{kept} of {all}");
    // What had been answered for a second is kept; 200 ms and a commit are what is promised.
    let old = answered.iter().filter(|then| killed - **then > Duration::from_secs(1)).count() as u64;
    let last = answered.get(kept as usize).map(|then| killed - *then);
    assert!(kept >= old, "{kept} kept, {old} were old enough, the oldest lost {last:?}");
}

#[tokio::test]
async fn a_reload_keeps_what_is_spent_also_if_it_allows_more() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "{ per: global, requests: 3/month }")).await;
    for _ in 0..3 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    gateway.send(&Request::chat("m")).await.openai_error(429);
    gateway.rewrite(&config(&backend, "{ per: global, requests: 10/month }"));
    gateway.signal("HUP");
    let until = Instant::now() + Duration::from_secs(5);
    while gateway.send(&Request::chat("m")).await.status != 200 {
        assert!(Instant::now() < until, "the reload did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(left(&gateway).await, 6, "ten, less three and one and this one");
}

#[tokio::test]
async fn a_refusal_by_a_later_filter_takes_nothing_of_an_earlier_ones_limits() {
    let backend = Backend::start().await;
    let limits = "filters:\n  - limits: [{ per: ip, requests: 10/h }]\n  - limits: [{ per: global, requests: 2/day, name: all }]\n";
    let gateway = Gateway::start(&format!("{}{limits}", pool_of(&[&backend]))).await;
    for status in [200, 200, 429, 429, 429] {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status, status);
    }
    gateway.rewrite(&format!("{}filters:\n  - limits: [{{ per: ip, requests: 10/h }}]\n", pool_of(&[&backend])));
    gateway.signal("HUP");
    gateway.metric_is("tidegate_limit_decisions_total", &[("limit", "ip/requests"), ("outcome", "refused")], 0.0).await;
    let until = Instant::now() + Duration::from_secs(5);
    let answer = loop {
        let answer = gateway.send(&Request::chat("m")).await;
        if answer.status == 200 {
            break answer;
        }
        assert!(Instant::now() < until, "the reload did not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(number(&answer, "x-ratelimit-remaining-requests"), 7, "two and this one");
}

#[test]
fn check_warns_of_budgets_that_nobody_keeps_and_refuses_those_that_cannot_be() {
    let folder = Folder::new();
    let check = |limits: &str, more: &str| {
        let text = format!(
            "pools: {{ p: {{ backends: [http://127.0.0.1:1] }} }}\nfilters: [{{ limits: [{limits}] }}]\n{more}"
        );
        let path = folder.write("check.yaml", &text).display().to_string();
        let output = command(&["check", "--format", "json", &path]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        said.to_string()
    };
    assert!(check("{ per: global, requests: 5/day }", "").contains("begin anew with each start"));
    assert!(!check("{ per: global, requests: 5/day }", "storage: { path: x.db }\n").contains("begin anew"));
    assert!(!check("{ per: global, requests: 5/h }", "").contains("begin anew"));
    for (limits, fault) in [
        ("{ per: global, requests: 5/day, zone: Europe/Atlantis }", "there is no time zone `Europe/Atlantis`"),
        ("{ per: global, requests: 0/day }", "a budget allows something"),
        ("{ per: global, requests: 5/day, burst: 2 }", "a budget has no burst"),
        ("{ per: global, requests: 5/year }", "unknown window `year`"),
        ("{ per: global, cost: 5/day }", "no price is known for *"),
    ] {
        let said = check(limits, "");
        assert!(said.contains(fault), "{said}");
    }
}
