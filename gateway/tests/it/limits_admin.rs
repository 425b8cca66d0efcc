//! Who was limited, and how buckets stand: the admin pages, the metric and the event.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, Key, pool_of};

const PRICES: &str = "prices: { models: { m: { prompt: 1, completion: 2 } } }\n";

async fn house(backend: &Backend, keys: &[(&Key, &str)], limits: &str, more: &str) -> Gateway {
    let entry = |(at, (key, who)): (usize, &(&Key, &str))| format!("{{ id: k{at}, hash: \"{}\", {who} }}", key.hash);
    let entries = keys.iter().enumerate().map(entry).collect::<Vec<_>>().join(", ");
    let pool = pool_of(&[backend]);
    let text = format!(
        "{pool}models: {{ m: {{ pool: main }}, n: {{ pool: main }} }}\n{more}filters:\n  - api_key: {{ keys: [ {entries} ] }}\n  - limits: [ {limits} ]\n"
    );
    Gateway::start(&text).await
}

async fn look(gateway: &Gateway, path: &str) -> Value {
    let answer = gateway.admin(path).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")), "{path}");
    answer.json()
}

/// Looks until it is so: a request is settled when it is over, which is after its client has read the answer.
async fn becomes(gateway: &Gateway, path: &str, is: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + Duration::from_secs(3);
    loop {
        let seen = look(gateway, path).await;
        if is(&seen) {
            return seen;
        }
        assert!(Instant::now() < until, "{path}: {seen}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn answer_of(prompt: u64, completion: u64) -> Script {
    let usage =
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion });
    let body = json!({ "object": "chat.completion", "model": "m", "choices": [], "usage": usage });
    Script::json(body.to_string())
}

fn asking(model: &str, max_tokens: u64) -> Request {
    let body = json!({ "model": model, "max_tokens": max_tokens, "messages": [] });
    Request::post("/v1/chat/completions", body.to_string())
}

#[tokio::test]
async fn a_subject_shows_what_is_left_reserved_owed_and_when_there_is_more() {
    let (backend, key) = (Backend::start().await, Key::new("k1"));
    let limits = "{ per: user, tokens: 3600/h, requests: 100/h, in_flight: 7 }, { per: [user, model], tokens: 1k/h }";
    let gateway = house(&backend, &[(&key, "user: ann")], limits, "").await;
    backend.push(Script::stream().token("a").hang());
    let mut open = gateway.connect().await;
    let body = json!({ "model": "m", "max_tokens": 500, "stream": true, "messages": [] }).to_string();
    open.send(Request::post("/v1/chat/completions", body).bearer(&key.key).bytes()).await;
    open.piece_after_head().await;

    let seen = look(&gateway, "/admin/limits/user:ann").await;
    assert_eq!(seen["subject"], "user:ann");
    let bucket = |kind: &str| {
        let buckets = seen["buckets"].as_array().unwrap();
        buckets.iter().find(|bucket| bucket["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {seen}")).clone()
    };
    let tokens = bucket("tokens");
    let reserved = tokens["reserved"].as_u64().unwrap();
    assert!((500..600).contains(&reserved), "{tokens}");
    assert!(tokens["left"].as_u64().unwrap().abs_diff(3600 - reserved) <= 2, "{tokens}");
    assert_eq!((&tokens["most"], &tokens["owed"], &tokens["allows"]), (&json!(3600), &json!(0), &json!("3600/h")));
    assert!(tokens["next_in_ms"].as_u64().unwrap() <= 1000 && tokens["full_in_ms"].as_u64().unwrap() > 400_000);
    let places = bucket("in_flight");
    assert_eq!(
        (&places["left"], &places["reserved"], &places["limit"]),
        (&json!(6), &json!(1), &json!("user/in_flight"))
    );
    assert_eq!(look(&gateway, "/admin/limits/user:bob").await["buckets"][0]["reserved"], 0);
    let pair = look(&gateway, "/admin/limits/user:ann%2Bmodel:m").await;
    assert_eq!((pair["buckets"].as_array().unwrap().len(), &pair["buckets"][0]["reserved"]), (1, &json!(reserved)));

    drop(open);
    becomes(&gateway, "/admin/limits/user:ann", |seen| {
        seen["buckets"].as_array().unwrap().iter().all(|bucket| bucket["reserved"] == 0)
    })
    .await;
    // More than there is becomes a debt.
    backend.push(answer_of(9000, 10));
    assert_eq!(gateway.send(&asking("m", 5).bearer(&key.key)).await.status, 200);
    let owing = becomes(&gateway, "/admin/limits/user:ann+model:m", |seen| seen["buckets"][0]["owed"] != 0).await;
    assert!(owing["buckets"][0]["next_in_ms"].as_u64().unwrap() > 1_000_000, "{owing}");
}

#[tokio::test]
async fn all_limits_are_listed_and_what_is_no_subject_is_a_problem() {
    let (backend, key) = (Backend::start().await, Key::new("k1"));
    let limits = "{ per: ip, requests: 2/h }, { per: model, tokens: 1M/h, models: [m], shadow: true }";
    let gateway = house(&backend, &[(&key, "user: ann")], limits, "").await;
    for status in [200, 200, 429] {
        assert_eq!(gateway.send(&asking("m", 5).bearer(&key.key)).await.status, status);
    }
    let seen = look(&gateway, "/admin/limits").await;
    let limit = &seen["limits"][0];
    assert_eq!((&limit["limit"], &limit["per"], &limit["subjects"]), (&json!("ip/requests"), &json!("ip"), &json!(1)));
    assert_eq!((&limit["decisions"]["granted"], &limit["decisions"]["refused"]), (&json!(2), &json!(1)));
    assert_eq!((&seen["limits"][1]["shadow"], &seen["limits"][1]["models"]), (&json!(true), &json!(["m"])));
    assert_eq!(look(&gateway, "/admin/limits/ip:127.0.0.1").await["buckets"][0]["left"], 0);
    for (path, status, says) in [
        ("/admin/limits/ann", 400, "names nobody"),
        ("/admin/limits/ip:here", 400, "no IP address"),
        ("/admin/limits/user:ann", 404, "limits per ip, model"),
        ("/admin/spenders", 400, "by=org"),
        ("/admin/spenders?by=planet", 400, "by=org"),
        ("/admin/spenders?by=org&window=7d", 400, "window=5m"),
    ] {
        let answer = gateway.admin(path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some("application/problem+json")),
            "{path}"
        );
        assert!(answer.text().contains(says), "{path}: {}", answer.text());
    }
    // A reload that drops a limit drops it from the page.
    let text = format!("{}models: {{ m: {{ pool: main }} }}\n", pool_of(&[&backend]));
    gateway.rewrite(&text);
    gateway.signal("HUP");
    becomes(&gateway, "/admin/limits", |seen| seen["limits"] == json!([])).await;
    assert_eq!(gateway.admin("/admin/limits/ip:127.0.0.1").await.status, 404);
}

#[tokio::test]
async fn limits_that_tenants_have_for_themselves_say_whose_they_are_and_what_there_is_to_ask_for() {
    let (backend, key) = (Backend::start().await, Key::new("k1"));
    let tenants = "tenants:\n  acme:\n    limits: [ { requests: 9/h } ]\n    teams: { red: { users: { ann: { limits: [ { requests: 2/h } ] } } } }\n  \
                   globex: { users: { ann: { limits: [ { requests: 2/h } ] }, bob: { limits: [ { requests: 3/h } ] } } }\n";
    let gateway = house(&backend, &[(&key, "user: ann, org: acme, limits: [ { in_flight: 2 } ]")], "", tenants).await;
    let seen = look(&gateway, "/admin/limits").await;
    let limits = seen["limits"].as_array().unwrap();
    let of: Vec<_> =
        limits.iter().map(|limit| (limit["limit"].as_str().unwrap(), &limit["of"], &limit["allows"])).collect();
    let expected = [
        ("tenants.key/in_flight", &json!(["key:k0"]), &json!("2")),
        ("tenants.org/requests", &json!(["org:acme"]), &json!("9/h")),
        ("tenants.user/requests", &json!(["org:acme/user:ann", "org:globex/user:ann"]), &json!("2/h")),
        ("tenants.user/requests", &json!(["org:globex/user:bob"]), &json!("3/h")),
    ];
    assert_eq!(of, expected, "{seen}");
    for subject in ["user", "org:acme/team:red/user:ann", "team:red"] {
        let answer = gateway.admin(&format!("/admin/limits/{subject}")).await;
        assert_eq!(answer.status, 404);
        let says = "limits that these have of their own: key:k0, org:acme, org:acme/user:ann, org:globex/user:ann, org:globex/user:bob";
        assert!(answer.text().contains(says), "{}", answer.text());
    }
    assert_eq!(look(&gateway, "/admin/limits/org:acme/user:ann").await["buckets"][0]["left"], 2);
}

#[tokio::test]
async fn a_name_that_keys_of_two_organisations_have_is_nobodys_alone() {
    let (backend, keys) = (Backend::start().await, ["a", "b", "c"].map(Key::new));
    let who =
        [(&keys[0], "user: ann, org: acme"), (&keys[1], "user: ann, org: globex"), (&keys[2], "user: bob, org: acme")];
    let gateway = house(&backend, &who, "{ per: user, requests: 5/h }", "").await;
    for key in &keys {
        assert_eq!(gateway.send(&asking("m", 5).bearer(&key.key)).await.status, 200);
    }
    let answer = gateway.admin("/admin/limits/user:ann").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("say org:acme/user:ann or org:globex/user:ann"), "{}", answer.text());
    for subject in ["org:acme/user:ann", "org:globex/user:ann", "user:bob"] {
        let seen = look(&gateway, &format!("/admin/limits/{subject}")).await;
        assert_eq!(seen["buckets"][0]["left"], 4, "{seen}");
    }
}

#[tokio::test]
async fn who_is_idle_is_forgotten_although_nobody_else_comes() {
    let (backend, key) = (Backend::start().await, Key::new("k1"));
    let gateway = house(&backend, &[(&key, "user: ann")], "{ per: ip, requests: 20/s }", "").await;
    assert_eq!(gateway.send(&asking("m", 5).bearer(&key.key)).await.status, 200);
    let until = Instant::now() + Duration::from_secs(30);
    while gateway.metrics().await.sum("tidegate_limit_subjects", &[("limit", "ip/requests")]) > 0.0 {
        assert!(Instant::now() < until, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn who_was_limited_is_an_event_and_a_metric() {
    let (backend, key) = (Backend::start().await, Key::new("k1"));
    let limits = "{ per: [user, model], requests: 1/h }, { per: org, requests: 2/h, shadow: true, name: pace }";
    let gateway = house(&backend, &[(&key, "user: ann, org: acme")], limits, "").await;
    for (model, status) in [("m", 200), ("m", 429), ("n", 200), ("nothing", 404), ("nothing-else", 429)] {
        let request = asking(model, 5).bearer(&key.key).header("x-request-id", &format!("to-{model}-{status}"));
        assert_eq!(gateway.send(&request).await.status, status, "{model}");
    }
    let name = "tidegate_limited_requests_total";
    let labels = |limit, per, model, outcome| [("limit", limit), ("per", per), ("model", model), ("outcome", outcome)];
    let pair = "user+model/requests";
    gateway.metric_is(name, &labels(pair, "user+model", "m", "refused"), 1.0).await;
    gateway.metric_is(name, &labels(pair, "user+model", "unknown", "refused"), 1.0).await;
    gateway.metric_is(name, &labels("pace/requests", "org", "unknown", "would_refuse"), 2.0).await;
    gateway.metric_is(name, &[], 4.0).await;
    let event = gateway.log.event("limited", "to-m-429").await;
    assert_eq!((&event["subject"], &event["limit"]), (&json!("org:acme/user:ann+model:m"), &json!(pair)));
    assert_eq!(
        (&event["model"], &event["outcome"], &event["per"]),
        (&json!("m"), &json!("refused"), &json!("user+model"))
    );
    assert!(event["wait"].as_f64().unwrap() > 3000.0, "{event}");
}

#[tokio::test]
async fn spenders_are_ranked_by_requests_tokens_money_and_refusals() {
    let backend = Backend::start().await;
    let keys = ["k1", "k2", "k3"].map(Key::new);
    let who = ["user: ann, org: acme", "user: bob, org: acme", "user: eve, org: other"];
    let all: Vec<_> = keys.iter().zip(who).collect();
    let gateway = house(&backend, &all, "{ per: user, requests: 4/h }", PRICES).await;
    backend.handle(|seen| match String::from_utf8_lossy(&seen.body).contains("\"max_tokens\":1,") {
        true => answer_of(1_000_000, 500_000),
        false => answer_of(10, 5),
    });
    for (key, tokens, times) in [(&keys[0], 1, 1), (&keys[1], 5, 3), (&keys[2], 5, 6)] {
        for _ in 0..times {
            gateway.send(&asking("m", tokens).bearer(&key.key)).await;
        }
    }
    let by_tokens =
        becomes(&gateway, "/admin/spenders?by=user&window=5m", |seen| seen["total"]["requests"] == 10).await;
    let names = |seen: &Value| -> Vec<String> {
        let name = |spender: &Value| spender["name"].as_str().unwrap().to_owned();
        seen["spenders"].as_array().unwrap().iter().map(name).collect()
    };
    assert_eq!(names(&by_tokens), ["ann", "eve", "bob"]);
    assert_eq!(
        by_tokens["spenders"][0],
        json!({ "name": "ann", "org": "acme", "requests": 1, "tokens": 1_500_000, "cost": 2.0, "limited": 0 })
    );
    assert_eq!((&by_tokens["error_at_most"]["tokens"], &by_tokens["currency"]), (&json!(0), &json!("USD")));
    assert_eq!(names(&look(&gateway, "/admin/spenders?by=user&of=requests").await), ["eve", "bob", "ann"]);
    let limited = look(&gateway, "/admin/spenders?by=user&window=24h&of=limited").await;
    assert_eq!((names(&limited), &limited["spenders"][0]["limited"]), (vec!["eve".to_owned()], &json!(2)));
    assert_eq!(names(&look(&gateway, "/admin/spenders?by=org&limit=1&of=cost").await), ["acme"]);
    assert_eq!(look(&gateway, "/admin/spenders?by=key&of=cost").await["spenders"][0]["name"], "k0");
    // Those that were refused before their bodies were read have no model.
    assert_eq!(look(&gateway, "/admin/spenders?by=model").await["spenders"][0]["requests"], 8);
}
