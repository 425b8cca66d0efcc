//! Organisations, teams, users and services: the strictest applies, and what ends above ends below.

use crate::backend::Backend;
use crate::client::Request;
use crate::gateway::{Folder, Gateway, Key, command, pool_of};

const TENANTS: &str = "tenants:
  acme:
    models: [llama*, qwen-2]
    priority: 6
    metadata: { contract: gold }
    teams:
      research:
        models: [llama-3*, qwen*]
        users:
          ann: { priority: 3 }
          bob: { disabled: true }
          \"*\": { models: [qwen-2] }
        services: [nightly]
      closed: { expires: 2020-01-01, users: [eve] }
  asleep: { disabled: true, users: [zoe] }
";

/// A gateway with one key for each of these entries, named as they are.
async fn with_keys(backend: &Backend, entries: &[&str]) -> (Gateway, Vec<String>) {
    let keys: Vec<Key> = entries.iter().map(|_| Key::new("k")).collect();
    let mut config = format!("{}{TENANTS}filters:\n  - api_key:\n      keys:\n", pool_of(&[backend]));
    for (index, (entry, key)) in entries.iter().zip(&keys).enumerate() {
        config += &format!("        - {{ id: k{index}, hash: \"{}\", {entry} }}\n", key.hash);
    }
    (Gateway::start(&config).await, keys.into_iter().map(|key| key.key).collect())
}

#[tokio::test]
async fn each_may_use_what_all_above_allow() {
    let backend = Backend::start().await;
    let entries = ["user: ann", "user: ann, models: [llama-3.1*]", "team: research, user: carol", "org: acme"];
    let (gateway, keys) = with_keys(&backend, &entries).await;
    for (key, models, others) in [
        (0, &["llama-3", "llama-3.1-8b", "qwen-2"][..], &["llama-2", "qwen-3", "mistral"][..]),
        (1, &["llama-3.1-8b"], &["llama-3", "qwen-2"]),
        (2, &["qwen-2"], &["llama-3"]),
        (3, &["llama-2", "qwen-2"], &["qwen-3"]),
    ] {
        for (model, status) in models.iter().map(|model| (model, 200)).chain(others.iter().map(|model| (model, 403))) {
            let answer = gateway.send(&Request::chat(model).bearer(&keys[key])).await;
            assert_eq!(answer.status, status, "{} {model}", entries[key]);
        }
    }
}

#[tokio::test]
async fn who_is_below_something_disabled_or_over_is_told_so_in_its_protocol() {
    let backend = Backend::start().await;
    let entries =
        ["user: bob", "user: zoe", "user: eve", "user: ann, disabled: true", "user: ann, expires: 2021-02-03"];
    let (gateway, keys) = with_keys(&backend, &entries).await;
    for (key, status, code, said) in [
        (0, 403, "tenant_disabled", "user 'bob' is disabled"),
        (1, 403, "tenant_disabled", "organisation 'asleep' is disabled"),
        (2, 403, "tenant_expired", "team 'closed' ended on 2020-01-01"),
        (3, 401, "api_key_disabled", "key is disabled"),
        (4, 401, "api_key_expired", "expired on 2021-02-03"),
    ] {
        let answer = gateway.send(&Request::chat("llama-3").bearer(&keys[key])).await;
        let error = answer.openai_error(status);
        assert_eq!(error["code"], code);
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
        let messages = Request::post("/v1/messages", r#"{"model":"llama-3","max_tokens":1,"messages":[]}"#);
        let answer = gateway.send(&messages.header("x-api-key", &keys[key])).await;
        let kind = if status == 401 { "authentication_error" } else { "permission_error" };
        assert_eq!(answer.anthropic_error(status)["type"], kind);
        assert_eq!(gateway.send(&Request::get("/v1/models").bearer(&keys[key])).await.status, status);
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn the_log_names_all_of_them_and_what_follows_from_their_names() {
    let backend = Backend::start().await;
    let (gateway, keys) = with_keys(&backend, &["service: nightly", "user: bob"]).await;
    let request = |key: usize, id: &str| Request::chat("llama-3").bearer(&keys[key]).header("x-request-id", id);
    assert_eq!(gateway.send(&request(0, "nightly")).await.status, 200);
    let line = gateway.log.request("nightly").await;
    assert_eq!([&line["org"], &line["team"], &line["service"], &line["key_id"]], ["acme", "research", "nightly", "k0"]);
    assert!(line.get("user").is_none());
    // Who was not let in is known all the same.
    gateway.send(&request(1, "bobs")).await;
    assert_eq!(gateway.log.request("bobs").await["user"], "bob");
}

#[tokio::test]
async fn the_log_has_as_much_of_the_metadata_as_its_settings_name() {
    let backend = Backend::start().await;
    let long = "x".repeat(256);
    let key = Key::new("k");
    let config = format!(
        "log: {{ format: json, metadata: [contract, cost, none] }}\n{}{TENANTS}filters:\n  - api_key: {{ keys: [ {{ id: k, hash: \"{}\", user: ann, metadata: {{ cost: \"42\", secret: s, contract: {long} }} }} ] }}\n",
        pool_of(&[&backend]),
        key.hash
    );
    let gateway = Gateway::start(&config).await;
    let ask = |id: &str| Request::chat("llama-3").bearer(&key.key).header("x-request-id", id);
    assert_eq!(gateway.send(&ask("named")).await.status, 200);
    // What is said further down counts.
    let expected = serde_json::json!({ "contract": long, "cost": "42" });
    assert_eq!(gateway.log.request("named").await["metadata"], expected);
    gateway.rewrite(&config.replace(", metadata: [contract, cost, none]", ""));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(gateway.send(&ask("unnamed")).await.status, 200);
    assert!(gateway.log.request("unnamed").await.get("metadata").is_none());
}

#[test]
fn check_bounds_metadata_and_what_the_log_has_of_it() {
    let folder = Folder::new();
    let many: Vec<_> = (0..17).map(|n| format!("m{n}: x")).collect();
    let names: Vec<_> = (0..17).map(|n| format!("m{n}")).collect();
    let file = folder.write(
        "gateway.yaml",
        &format!(
            "pools: {{ p: {{ backends: [http://127.0.0.1:1] }} }}\nlog: {{ metadata: [{}, m0] }}\ntenants:\n  a: {{ metadata: {{ {} }} }}\n  b: {{ metadata: {{ long: {} }} }}\n  c: {{ metadata: {{ fine: {} }} }}\n",
            names.join(", "),
            many.join(", "),
            "x".repeat(257),
            "x".repeat(256)
        ),
    );
    let output = command(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["a line has at most 16", "at: log.metadata[17]", "at: tenants.a.metadata", "at: tenants.b.metadata"] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!said.contains("tenants.c"), "{said}");
}

#[tokio::test]
async fn a_tenant_that_is_disabled_by_a_reload_is_out_on_open_connections() {
    let backend = Backend::start().await;
    let (gateway, keys) = with_keys(&backend, &["user: ann"]).await;
    let mut open = gateway.connect().await;
    assert_eq!(open.exchange(&Request::chat("llama-3").bearer(&keys[0])).await.status, 200);
    let text = std::fs::read_to_string(gateway.folder.path().join("gateway.yaml")).unwrap();
    gateway.rewrite(&text.replace("    priority: 6\n", "    priority: 6\n    disabled: true\n"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    assert_eq!(open.exchange(&Request::chat("llama-3").bearer(&keys[0])).await.status, 403);
}

#[test]
fn check_names_every_fault_at_its_line() {
    let folder = Folder::new();
    let hash = "233fe0fbbce05ed43eea86eb0f11d068b9dd84b61f99495e63a369b5c797ceb9";
    let file = folder.write(
        "gateway.yaml",
        &format!(
            "pools: {{ p: {{ backends: [http://127.0.0.1:1] }} }}
tenants:
  acme:
    models: [llama*]
    priority: 4
    teams:
      a.b: {{ models: [gpt-4], users: {{ ann: {{ priority: 7 }} }} }}
    users: [ann]
filters:
  - api_key:
      keys:
        - {{ id: a, hash: {hash}, org: acmee }}
        - {{ id: b, hash: {}, user: tom }}
        - {{ id: c, hash: {} }}
        - {{ id: d, hash: tg-a-plain-key-that-does-not-belong-here, org: acme }}
",
            hash.replace("23", "24"),
            hash.replace("23", "25")
        ),
    );
    let output = command(&["check", &file.display().to_string()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for (line, message) in [
        (7, "the organisation `acme` may not use `gpt-4`"),
        (7, "the organisation `acme` has priority 4"),
        (7, "there is another user `ann`"),
        (12, "there is no organisation `acmee`"),
        (13, "there is no user `tom`"),
        (14, "this key has no owner"),
        (15, "the hash must be 64 hexadecimal digits"),
    ] {
        let found = said.split("error: ").any(|fault| fault.starts_with(message) || fault.contains(message));
        assert!(found && said.contains(&format!(":{line}:")), "{message} at {line} is not in:\n{said}");
    }
    assert!(!said.contains("plain-key"), "{said}");
    assert!(said.contains("tidegate keys"), "how to mend it: {said}");
}

/// As [`with_keys`], of tenants with limits of their own, decided by a filter that has none itself.
async fn limited(backend: &Backend, tenants: &str, entries: &[&str]) -> (Gateway, Vec<String>) {
    let keys: Vec<Key> = entries.iter().map(|_| Key::new("k")).collect();
    let mut config = format!(
        "{}{tenants}filters:\n  - limits: [{{ per: ip, requests: 1000/s }}]\n  - api_key:\n      keys:\n",
        pool_of(&[backend])
    );
    for (index, (entry, key)) in entries.iter().zip(&keys).enumerate() {
        config += &format!("        - {{ id: k{index}, hash: \"{}\", {entry} }}\n", key.hash);
    }
    // Of several, the last decides over them, and it alone.
    config += "  - limits: [{ per: key, requests: 1000/s }]\n  - limits: []\n";
    (Gateway::start(&config).await, keys.into_iter().map(|key| key.key).collect())
}

#[tokio::test]
async fn limits_of_all_above_are_decided_together_and_a_refusal_spends_nothing_of_the_others() {
    let backend = Backend::start().await;
    let tenants = "tenants:
  acme:
    limits: [{ requests: 100/h }]
    teams:
      research:
        limits: [{ requests: 6/h }]
        users: { ann: { limits: [{ requests: 3/h, in_flight: 2 }] }, bob: {} }
  globex: { teams: { research: { limits: [{ requests: 6/h }], users: [dora] } } }
";
    let entries = ["user: ann", "user: ann, limits: [{ requests: 2/h }]", "user: bob", "user: dora"];
    let (gateway, keys) = limited(&backend, tenants, &entries).await;
    let ask = async |key: usize| gateway.send(&Request::chat("m").bearer(&keys[key])).await;
    for _ in 0..2 {
        assert_eq!(ask(1).await.status, 200);
    }
    for _ in 0..3 {
        let message = ask(1).await.openai_error(429)["message"].as_str().unwrap().to_owned();
        assert!(message.contains("key 'k1'") && message.contains("tenants.key/requests"), "{message}");
    }
    // One of the user's three is left, whichever key asks.
    assert_eq!(ask(0).await.status, 200);
    assert!(ask(0).await.openai_error(429)["message"].as_str().unwrap().contains("user 'ann' of 'acme' 3/h"));
    // And three of the team's six: what was refused has taken nothing.
    for _ in 0..3 {
        assert_eq!(ask(2).await.status, 200);
    }
    let refused = ask(2).await;
    assert!(refused.openai_error(429)["message"].as_str().unwrap().contains("team 'research' of 'acme' 6/h"));
    assert!(refused.header("retry-after").is_some());
    // A team of the same name elsewhere is another one.
    let other = ask(3).await;
    assert_eq!((other.status, other.header("x-ratelimit-remaining-requests")), (200, Some("5")));
    gateway
        .metric_is("tidegate_limit_decisions_total", &[("limit", "tenants.team/requests"), ("outcome", "refused")], 1.0)
        .await;
}

#[tokio::test]
async fn anybody_else_has_a_bucket_of_their_own_and_tokens_are_settled() {
    let backend = Backend::start().await;
    let tenants = "tenants:
  acme:
    limits: [{ tokens: 1M/h }]
    users: { \"*\": { limits: [{ tokens: 20k/h, requests: 1/h }] } }
";
    let (gateway, keys) = limited(&backend, tenants, &["org: acme, user: x", "org: acme, user: y"]).await;
    for (key, status) in [(0, 200), (0, 429), (1, 200), (1, 429)] {
        assert_eq!(gateway.send(&Request::chat("m").bearer(&keys[key])).await.status, status);
    }
}

#[test]
fn check_faults_limits_that_are_more_than_those_above_or_that_nobody_decides_over() {
    let folder = Folder::new();
    let check = |tenants: &str, filters: &str| {
        let text =
            format!("pools: {{ p: {{ backends: [http://127.0.0.1:1] }} }}\ntenants:\n{tenants}filters:\n{filters}");
        let file = folder.write("gateway.yaml", &text).display().to_string();
        String::from_utf8_lossy(&command(&["check", &file]).stdout).into_owned()
    };
    let tenants = "  acme:
    limits: [{ requests: 60/min, in_flight: 5 }, { tokens: 1k/min, models: [llama*] }]
    teams:
      research:
        limits: [{ requests: 2/s }, { in_flight: 6 }, { tokens: 2k/min, models: [llama-3] }, { tokens: 9k/min }]
        users: { ann: { limits: [{ per: user, requests: 1/s }] }, bob: { limits: [{ requests: 0/s }] } }
";
    let said = check(tenants, "  - api_key: { managed: false }\n");
    for (message, at) in [
        ("the organisation `acme` has 60/min: nobody below it has more", "teams.research.limits[0].requests"),
        ("the organisation `acme` has 5: nobody below it has more", "teams.research.limits[1].in_flight"),
        ("the organisation `acme` has 1k/min: nobody below it has more", "teams.research.limits[2].tokens"),
        ("unknown field `per`", "users.ann.limits[0]"),
        ("a rate allows at least one", "users.bob.limits[0].requests"),
        ("there is no filter `limits` that decides", "tenants"),
    ] {
        let found = said.split("error: ").any(|fault| fault.contains(message) && fault.contains(&format!("{at}\n")));
        assert!(found, "{message} at {at} is not in:\n{said}");
    }
    assert!(!said.contains("limits[3]"), "all models are more than some, and not held against them:\n{said}");
    let hash = "233fe0fbbce05ed43eea86eb0f11d068b9dd84b61f99495e63a369b5c797ceb9";
    let key =
        format!("  - api_key: {{ keys: [{{ id: a, hash: {hash}, org: acme, limits: [{{ requests: 61/min }}] }}] }}\n");
    let said = check("  acme: { limits: [{ requests: 60/min }] }\n", &format!("  - limits: []\n{key}"));
    assert!(said.contains("here nobody knows yet who calls"), "{said}");
    assert!(said.contains("at: filters[1].api_key.keys[0].limits[0].requests"), "{said}");
}
