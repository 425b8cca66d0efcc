//! Two organisations that each have somebody of the same name: who they are apart by, wherever callers are counted.

use serde_json::{Value, json};

use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Folder, Gateway, Key, pool_of};

/// A gateway with one key for each of these entries, named k0, k1 and so on.
fn config(backend: &Backend, entries: &[&str], keys: &[Key], tenants: &str, limits: &str) -> String {
    let entry =
        |(at, (entry, key)): (usize, (&&str, &Key))| format!("{{ id: k{at}, hash: \"{}\", {entry} }}", key.hash);
    let entries: Vec<_> = entries.iter().zip(keys).enumerate().map(entry).collect();
    format!(
        "{}models: {{ m: {{ pool: main }} }}\nstorage: {{ path: $DIR/spent.db }}\n{tenants}filters:\n  - api_key: {{ keys: [ {} ] }}\n  - limits: [ {limits} ]\n",
        pool_of(&[backend]),
        entries.join(", ")
    )
}

const ANNS: [&str; 3] = ["org: acme, team: blue, user: ann", "org: globex, team: blue, user: ann", "user: ann"];

async fn ask(gateway: &Gateway, key: &Key) -> Answer {
    gateway.send(&Request::chat("m").bearer(&key.key)).await
}

fn left(answer: &Answer) -> Option<&str> {
    answer.header("x-ratelimit-remaining-requests")
}

async fn buckets(gateway: &Gateway, subject: &str) -> Vec<Value> {
    let answer = gateway.admin(&format!("/admin/limits/{subject}")).await;
    assert_eq!(answer.status, 200, "{subject}: {}", answer.text());
    answer.json()["buckets"].as_array().unwrap().clone()
}

#[tokio::test]
async fn users_teams_and_services_have_buckets_of_their_own_in_each_organisation() {
    let backend = Backend::start().await;
    let services = ["org: acme, service: nightly", "org: globex, service: nightly"];
    for (per, entries) in [("user", &ANNS[..]), ("team", &ANNS[..2]), ("service", &services), ("[user, model]", &ANNS)]
    {
        let keys: Vec<_> = entries.iter().map(|_| Key::new("k")).collect();
        let limits = format!("{{ per: {per}, requests: 2/h }}");
        let gateway = Gateway::start(&config(&backend, entries, &keys, "", &limits)).await;
        for key in &keys {
            for remaining in ["1", "0"] {
                let answer = ask(&gateway, key).await;
                assert_eq!((answer.status, left(&answer)), (200, Some(remaining)), "per {per}");
            }
            assert_eq!(ask(&gateway, key).await.status, 429, "per {per}");
        }
    }
}

#[tokio::test]
async fn a_refusal_and_its_event_say_of_which_organisation() {
    let (backend, keys) = (Backend::start().await, [Key::new("k"), Key::new("k")]);
    let limits = "{ per: [user, model], requests: 1/h }";
    let gateway = Gateway::start(&config(&backend, &ANNS[..2], &keys, "", limits)).await;
    assert_eq!(ask(&gateway, &keys[1]).await.status, 200);
    let refused = gateway.send(&Request::chat("m").bearer(&keys[1].key).header("x-request-id", "second")).await;
    let error = refused.openai_error(429);
    assert!(error["message"].as_str().unwrap().contains("user 'ann' of 'globex' with model 'm' 1/h"), "{error}");
    assert_eq!(gateway.log.event("limited", "second").await["subject"], "org:globex/user:ann+model:m");
    // What the log says is what the admin page is asked for.
    let seen = buckets(&gateway, "org:globex/user:ann%2Bmodel:m").await;
    assert_eq!((seen.len(), &seen[0]["left"]), (1, &json!(0)));
    assert_eq!(buckets(&gateway, "org:acme/user:ann+model:m").await[0]["left"], 1);
}

#[tokio::test]
async fn a_name_alone_is_enough_where_one_organisation_has_it() {
    let (backend, keys) = (Backend::start().await, [Key::new("k"), Key::new("k")]);
    let tenants = "tenants:\n  acme: { users: [ann, bob] }\n  globex: { users: [ann] }\n";
    let limits = "{ per: user, requests: 5/h }, { per: [org, user], requests: 7/h }";
    let entries = ["org: globex, user: ann", "user: bob"];
    let gateway = Gateway::start(&config(&backend, &entries, &keys, tenants, limits)).await;
    for key in &keys {
        assert_eq!(ask(&gateway, key).await.status, 200);
    }
    for (subject, left) in [
        ("user:bob", 4),
        ("org:acme/user:bob", 4),
        ("org:globex/user:ann", 4),
        ("org:acme/user:ann", 5),
        ("org:acme+user:bob", 6),
        ("org:globex+user:ann", 6),
        ("org:acme+user:ann", 7),
    ] {
        assert_eq!(buckets(&gateway, subject).await[0]["left"], left, "{subject}");
    }
    let unclear = gateway.admin("/admin/limits/user:ann").await;
    assert_eq!((unclear.status, unclear.header("content-type")), (400, Some("application/problem+json")));
    assert!(unclear.text().contains("say org:acme/user:ann or org:globex/user:ann"), "{}", unclear.text());
}

#[tokio::test]
async fn budgets_are_kept_apart_over_a_restart() {
    let (backend, keys) = (Backend::start().await, ANNS.map(Key::new));
    let config =
        config(&backend, &ANNS, &keys, "", "{ per: user, requests: 10/month }, { per: team, requests: 20/month }");
    let mut gateway = Gateway::start(&config).await;
    for (key, times) in keys.iter().zip(1..) {
        for _ in 0..times {
            assert_eq!(ask(&gateway, key).await.status, 200);
        }
    }
    gateway.signal("TERM");
    gateway.ended(std::time::Duration::from_secs(10)).await;
    let folder = std::mem::replace(&mut gateway.folder, Folder::new());
    let gateway = Gateway::start_in(folder, &config, &[]).await;
    for (subject, left) in [("org:acme/user:ann", 9), ("org:globex/user:ann", 8), ("user:ann", 7)] {
        assert_eq!(buckets(&gateway, subject).await[0]["left"], left, "{subject}");
    }
    assert_eq!(buckets(&gateway, "org:acme/team:blue").await[0]["left"], 19);
    assert_eq!(buckets(&gateway, "org:globex/team:blue").await[0]["left"], 18);
}

#[tokio::test]
async fn spenders_of_one_name_are_told_with_their_organisations() {
    let (backend, keys) = (Backend::start().await, ANNS.map(Key::new));
    let gateway = Gateway::start(&config(&backend, &ANNS, &keys, "", "{ per: user, requests: 1k/h }")).await;
    backend.handle(|_| {
        let usage = json!({ "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15 });
        Script::json(json!({ "object": "chat.completion", "model": "m", "choices": [], "usage": usage }).to_string())
    });
    for (key, times) in keys.iter().zip(1..) {
        for _ in 0..times {
            assert_eq!(ask(&gateway, key).await.status, 200);
        }
    }
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let seen = gateway.admin("/admin/spenders?by=user&of=requests").await.json();
    let spenders: Vec<_> = seen["spenders"].as_array().unwrap().iter().collect();
    let told: Vec<_> = spenders.iter().map(|one| (&one["name"], one.get("org"), &one["requests"])).collect();
    let (ann, acme, globex) = (json!("ann"), json!("acme"), json!("globex"));
    let expected = [(&ann, None, &json!(3)), (&ann, Some(&globex), &json!(2)), (&ann, Some(&acme), &json!(1))];
    assert_eq!(told, expected);
    assert_eq!(gateway.admin("/admin/spenders?by=org").await.json()["spenders"].as_array().unwrap().len(), 2);
}

/// The limits that tenants and keys have for themselves.
#[tokio::test]
async fn limits_of_their_own_are_seen_with_their_fill_reservations_and_next_refill() {
    let backend = Backend::start().await;
    let tenants = "tenants:
  acme:
    limits: [{ tokens: 3600/h }]
    teams:
      blue: { limits: [{ requests: 100/h }], users: { ann: { limits: [{ tokens: 3600/h, in_flight: 3 }] } } }
  globex: { teams: { blue: { users: { ann: { limits: [{ tokens: 3600/h, in_flight: 3 }] } } } } }
";
    let entries = ["org: acme, user: ann, limits: [{ tokens: 1800/h }]", "org: globex, user: ann"];
    let keys = [Key::new("k"), Key::new("k")];
    let gateway = Gateway::start(&config(&backend, &entries, &keys, tenants, "")).await;
    backend.push(Script::stream().token("a").hang());
    let mut open = gateway.connect().await;
    let body = json!({ "model": "m", "max_tokens": 500, "stream": true, "messages": [] }).to_string();
    open.send(Request::post("/v1/chat/completions", body).bearer(&keys[0].key).bytes()).await;
    open.piece_after_head().await;
    let mut reserved = Vec::new();
    for (subject, most) in [("org:acme", 3600), ("org:acme/user:ann", 3600), ("key:k0", 1800)] {
        let seen = buckets(&gateway, subject).await;
        let bucket = seen.iter().find(|bucket| bucket["kind"] == "tokens").unwrap();
        let taken = bucket["reserved"].as_u64().unwrap();
        assert!((500..600).contains(&taken), "{subject}: {bucket}");
        assert!(bucket["left"].as_u64().unwrap().abs_diff(most - taken) <= 2, "{subject}: {bucket}");
        assert!(bucket["next_in_ms"].as_u64().unwrap() <= 2000, "{subject}: {bucket}");
        assert!(bucket["full_in_ms"].as_u64().unwrap() > 400_000, "{subject}: {bucket}");
        reserved.push(taken);
    }
    assert!(reserved.iter().all(|taken| *taken == reserved[0]), "{reserved:?}");
    let places = |seen: Vec<Value>| seen.into_iter().find(|bucket| bucket["kind"] == "in_flight").unwrap();
    let place = places(buckets(&gateway, "org:acme/user:ann").await);
    assert_eq!((&place["left"], &place["limit"]), (&json!(2), &json!("tenants.user/in_flight")));
    assert_eq!(places(buckets(&gateway, "org:globex/user:ann").await)["left"], 3);
    let team = buckets(&gateway, "org:acme/team:blue").await;
    assert_eq!((team.len(), &team[0]["left"], &team[0]["allows"]), (1, &json!(99), &json!("100/h")));
}

#[tokio::test]
async fn limits_of_their_own_are_listed_once_each_and_managed_keys_among_them() {
    let (backend, key) = (Backend::start().await, Key::new("k"));
    let tenants = "tenants:\n  acme: { limits: [{ requests: 50/h }], users: { ann: { limits: [{ requests: 9/h }] }, bob: { limits: [{ requests: 9/h }] } } }\n";
    let text = format!(
        "admin: {{ listen: \"127.0.0.1:$ADMIN\", token: secret }}\n{}",
        config(&backend, &["user: ann, limits: [{ requests: 3/h }]"], &[key], tenants, "{ per: ip, requests: 1k/h }")
    );
    let gateway = Gateway::start(&text.replace("api_key: {", "api_key: { managed: true,")).await;
    let asked = async |request: Request| {
        let mut connection = crate::client::Connection::open(gateway.admin_address()).await;
        connection.exchange(&request.bearer("secret")).await
    };
    let made = json!({ "id": "managed", "user": "bob", "limits": [{ "requests": "4/h" }] });
    let made = asked(Request::post("/admin/keys", made.to_string())).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let managed = made.json()["key"].as_str().unwrap().to_owned();
    let listed = asked(Request::get("/admin/limits")).await.json();
    let told: Vec<_> =
        listed["limits"].as_array().unwrap().iter().map(|limit| (&limit["limit"], &limit["allows"])).collect();
    let count =
        |limit: &str, allows: &str| told.iter().filter(|told| **told == (&limit.into(), &allows.into())).count();
    for (limit, allows) in [
        ("ip/requests", "1k/h"),
        ("tenants.org/requests", "50/h"),
        ("tenants.user/requests", "9/h"),
        ("tenants.key/requests", "3/h"),
        ("tenants.key/requests", "4/h"),
    ] {
        assert_eq!(count(limit, allows), 1, "{limit} {allows}: {told:?}");
    }
    assert_eq!(told.len(), 5, "{told:?}");
    assert_eq!(gateway.send(&Request::chat("m").bearer(&managed)).await.status, 200);
    let bucket = asked(Request::get("/admin/limits/key:managed")).await.json()["buckets"].clone();
    assert_eq!((&bucket[0]["left"], &bucket[1]), (&json!(3), &Value::Null), "{bucket}");
}
