//! What operators see of the cache, and how they have it forget: in memory and in the file alike.

use super::*;
use crate::client::Connection;
use crate::gateway::{Folder, command};

const SECRET: &str = "a secret that is long enough";

/// Two organisations, two models, a file behind the memory.
struct House {
    backend: Backend,
    keys: [Key; 2],
    config: String,
    _folder: Folder,
}

impl House {
    async fn new() -> Self {
        let (backend, keys, folder) = (Backend::start().await, ["a", "b"].map(Key::new), Folder::new());
        backend.always(Script::chat("kept"));
        let who = [(&keys[0], "org: a"), (&keys[1], "org: b")];
        let file = folder.path().join("answers.db");
        let cache =
            format!("  - prompt_cache: {{ for: 1h, secret: {SECRET}, file: {{ path: {} }} }}\n", file.display());
        let models = "models: { m1: { pool: main }, m2: { pool: main } }\n\
                      prices: { models: { m1: { prompt: 1, completion: 2 } } }\n";
        let config = format!("{models}{}{}{cache}", pool_of(&[&backend]), filters(&who));
        Self { backend, keys, config, _folder: folder }
    }

    fn request(&self, org: usize, model: &str) -> Request {
        Request::chat(model).bearer(&self.keys[org].key)
    }

    /// Which of the four there can be are kept.
    async fn kept(&self, gateway: &Gateway) -> Vec<(usize, &'static str)> {
        let mut kept = Vec::new();
        for (org, model) in ALL {
            let asked = self.request(org, model).header("cache-control", "only-if-cached");
            match gateway.send(&asked).await {
                answer if answer.status == 200 => kept.push((org, model)),
                answer => assert_eq!(answer.status, 504, "{}", answer.text()),
            }
        }
        kept
    }
}

const ALL: [(usize, &str); 4] = [(0, "m1"), (0, "m2"), (1, "m1"), (1, "m2")];

/// Waits until memory and file have so many.
async fn both_have(gateway: &Gateway, count: u64) {
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let said = gateway.admin("/admin/cache").await.json();
        let has = [&said["memory"]["answers"], &said["files"][0]["answers"]];
        if has.iter().all(|has| has.as_u64() == Some(count)) {
            return;
        }
        assert!(std::time::Instant::now() < until, "{said}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn purge(gateway: &Gateway, what: &Value) -> (Value, Value) {
    let request = Request::post("/admin/cache/purge", what.to_string()).header("Connection", "close");
    let answer = Connection::open(gateway.admin_address()).await.exchange(&request).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    (answer.json()["memory"].clone(), answer.json()["files"].clone())
}

/// What `explain` says of a request, with more arguments.
fn explained(config: &str, body: &str, more: &[&str]) -> String {
    let folder = Folder::new();
    let (config, body) = (folder.write("gateway.yaml", config), folder.write("body.json", body));
    let (config, body) = (config.display().to_string(), body.display().to_string());
    let arguments = ["explain", "--config", &config, "--body", &body];
    let output = command(&arguments.into_iter().chain(more.iter().copied()).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The key that `explain` says.
fn key_in(said: &str) -> &str {
    let is_key = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    said.split_whitespace().find(is_key).unwrap_or_else(|| panic!("no key: {said}"))
}

#[tokio::test]
async fn a_purge_forgets_what_it_names_in_memory_and_in_the_file_and_leaves_the_rest() {
    let house = House::new().await;
    let gateway = Gateway::start(&house.config).await;
    let body = Request::chat("m1").content();
    let said =
        explained(&house.config, std::str::from_utf8(&body).unwrap(), &["--model", "m1", "--key", &house.keys[1].key]);
    let key = key_in(&said);
    for (what, gone) in [
        (json!({ "tenant": "org/a" }), vec![(0, "m1"), (0, "m2")]),
        (json!({ "model": "m2" }), vec![(0, "m2"), (1, "m2")]),
        (json!({ "tenant": "org/b", "model": "m1" }), vec![(1, "m1")]),
        (json!({ "key": key }), vec![(1, "m1")]),
    ] {
        for (org, model) in ALL {
            assert_eq!(gateway.send(&house.request(org, model)).await.status, 200);
        }
        both_have(&gateway, 4).await;
        let count = json!(gone.len());
        assert_eq!(purge(&gateway, &what).await, (count.clone(), count), "{what}");
        let left: Vec<_> = ALL.into_iter().filter(|one| !gone.contains(one)).collect();
        assert_eq!(house.kept(&gateway).await, left, "{what}");
        both_have(&gateway, left.len() as u64).await;
    }
}

#[tokio::test]
async fn a_purge_takes_the_key_that_the_log_has_of_a_request_whatever_it_was_made_with() {
    let backend = Backend::start().await;
    let gateway = shared(&backend, "").await;
    backend.always(Script::chat("hello"));
    for id in ["stored", "hit"] {
        gateway.send(&Request::chat("m").header("x-request-id", id)).await;
    }
    let noted = |id: &'static str| async { gateway.log.request(id).await["notes"]["cache_key"].clone() };
    let key = noted("stored").await;
    assert_eq!(key, noted("hit").await);
    assert_eq!(purge(&gateway, &json!({ "key": key })).await.0, 1);
    let data: Vec<_> = (0..2).map(|index| json!({ "index": index, "embedding": [index] })).collect();
    backend.always(Script::json(json!({ "object": "list", "data": data }).to_string()));
    let batch = json!({ "model": "m", "input": ["a", "b"] }).to_string();
    gateway.send(&Request::post("/v1/embeddings", batch).header("x-request-id", "batch")).await;
    let keys = noted("batch").await;
    assert_eq!(keys.as_str().unwrap().split(' ').count(), 2, "each input has its own: {keys}");
    assert_eq!(purge(&gateway, &json!({ "key": keys })).await.0, 2);
}

#[tokio::test]
async fn a_purge_by_age_takes_the_old_and_leaves_the_new() {
    let house = House::new().await;
    let gateway = Gateway::start(&house.config).await;
    gateway.send(&house.request(0, "m1")).await;
    both_have(&gateway, 1).await;
    tokio::time::sleep(Duration::from_millis(4100)).await;
    let begun = std::time::Instant::now();
    gateway.send(&house.request(1, "m2")).await;
    both_have(&gateway, 2).await;
    // Older than the second is, younger than the first.
    let age = begun.elapsed() + Duration::from_secs(3);
    assert_eq!(purge(&gateway, &json!({ "older_than": format!("{}ms", age.as_millis()) })).await, (json!(1), json!(1)));
    assert_eq!(house.kept(&gateway).await, [(1, "m2")]);
}

#[tokio::test]
async fn what_was_acknowledged_is_in_the_file_when_the_process_has_ended() {
    let house = House::new().await;
    let mut gateway = Gateway::start(&house.config.replace("pools:", "drain: { delay: 0s }\npools:")).await;
    let long = "x".repeat(200_000);
    house.backend.always(Script::chat(&long));
    let ask = |n: usize| {
        let body = json!({ "model": "m1", "messages": [{ "role": "user", "content": n.to_string() }] });
        Request::post("/v1/chat/completions", body.to_string()).bearer(&house.keys[0].key)
    };
    for n in 0..60 {
        assert_eq!(gateway.send(&ask(n)).await.status, 200);
    }
    gateway.signal("TERM");
    assert!(gateway.ended(Duration::from_secs(20)).await.success());
    let gateway = Gateway::start(&house.config).await;
    for n in 0..60 {
        let answer = gateway.send(&ask(n).header("cache-control", "only-if-cached")).await;
        assert_eq!(answer.status, 200, "{n}");
    }
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidegate_cache_file_reads_total", &[("outcome", "hit")]), 60.0);
    assert_eq!(metrics.sum("tidegate_cache_file_entries", &[]), 60.0);
    assert_eq!(metrics.sum("tidegate_cache_file_faults_total", &[]), 0.0);
}

#[tokio::test]
async fn what_was_saved_is_counted_in_tokens_and_in_money_by_route() {
    let house = House::new().await;
    let gateway = Gateway::start(&house.config).await;
    house.backend.always(Script::json(
        json!({ "id": "chatcmpl-1", "object": "chat.completion", "choices": [],
        "usage": { "prompt_tokens": 1_000_000, "completion_tokens": 500_000, "total_tokens": 1_500_000 } })
        .to_string(),
    ));
    for model in ["m1", "m2"] {
        for _ in 0..3 {
            gateway.send(&house.request(0, model)).await;
        }
    }
    let metrics = gateway.metrics().await;
    let (m1, m2) = ([("route", "m1")], [("route", "m2")]);
    assert_eq!(metrics.sum("tidegate_cache_saved_tokens_total", &m1), 3_000_000.0);
    assert_eq!(metrics.sum("tidegate_cache_saved_cost_total", &m1), 4.0);
    assert_eq!(metrics.sum("tidegate_cache_saved_tokens_total", &m2), 3_000_000.0);
    assert_eq!(metrics.sum("tidegate_cache_saved_cost_total", &m2), 0.0, "it has no price");
    both_have(&gateway, 2).await;
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tidegate_cache_file_writes_total", &[("outcome", "stored")]), 2.0);
    assert!(metrics.sum("tidegate_cache_file_bytes", &[]) > 400.0);
    assert_eq!(metrics.sum("tidegate_cache_file_reads_total", &[("outcome", "miss")]), 2.0);
    gateway.send(&house.request(0, "whatever-a-client-makes-up")).await;
    assert!(!gateway.metrics().await.text().contains("makes-up"));
}

#[tokio::test]
async fn explain_says_the_key_or_why_there_is_none() {
    let house = House::new().await;
    let plain = r#"{"model":"m1","messages":[]}"#;
    let say = |cache: &str, body: &str, more: &[&str]| {
        let config = house.config.replace("{ for: 1h,", &format!("{{ for: 1h, {cache}"));
        explained(&config, body, more)
    };
    let key = ["--model", "m1", "--key", &house.keys[0].key];
    let with = |more: &[&'static str]| key.into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
    let said = say("", plain, &key);
    assert!(said.contains("cached 3600 s for org/a; answered by m1 of main") && said.contains("key "), "{said}");
    // The same request, written otherwise, has the same key; another one has another.
    assert_eq!(key_in(&said), key_in(&say("", r#"{ "messages": [], "user": "x", "model": "m1" }"#, &key)));
    assert_ne!(key_in(&said), key_in(&say("", r#"{"model":"m1","messages":[],"seed":1}"#, &key)));
    for (cache, body, more, why) in [
        ("", plain, vec!["--model", "m1"], "nobody knows who asks"),
        ("models: { m1: 0 },", plain, key.to_vec(), "this model's answers are good for no time"),
        ("cache: deterministic,", plain, key.to_vec(), "neither `temperature` 0 nor a `seed`"),
        ("", plain, with(&["--header", "cache-control: no-store"]), "the request says `no-store`"),
        (
            "",
            r#"{"model":"m1","input":"a","conversation":"c"}"#,
            with(&["--path", "/v1/responses"]),
            "changes what the backend remembers",
        ),
        ("", plain, with(&["--path", "/v1/messages/count_tokens"]), "are not cached"),
        ("", "{", key.to_vec(), "not cached"),
    ] {
        let said = say(cache, body, &more);
        assert!(said.contains(why), "{why}:\n{said}");
    }
}
