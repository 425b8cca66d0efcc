//! All that the gateway writes to is away at once: requests take no longer, memory stays where it is, and when it is back
//! everything is written, without a restart.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::Backend;
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Gateway, pool_of};

const TOKEN: &str = "admin-token-of-the-test";

/// What comes back, and has to be noticed, written and seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// Requests in each state; more than wait to be written to the cache's file.
const MANY: u64 = 400;

fn config(backend: &Backend) -> String {
    format!(
        "{}admin: {{ listen: 127.0.0.1:$ADMIN, token: {TOKEN} }}
storage: {{ path: $DIR/store.db }}
filters:
  - api_key: {{ managed: true }}
  - limits: [{{ per: global, requests: 1M/month }}]
  - prompt_cache: {{ scope: key, size: 8MiB, max_entry: 1MiB, file: {{ path: $DIR/cache.db }} }}
",
        pool_of(&[backend])
    )
}

async fn admin(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::new(method, path).bearer(TOKEN).header("connection", "close").body(body);
    Connection::open(gateway.admin_address()).await.exchange(&request).await
}

async fn new_key(gateway: &Gateway, id: &str) -> String {
    let made = admin(gateway, "POST", "/admin/keys", &json!({ "id": id })).await;
    assert_eq!(made.status, 201, "{}", made.text());
    made.json()["key"].as_str().unwrap().to_owned()
}

fn question(key: &str, n: u64) -> Request {
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{n}"}}]}}"#);
    Request::post("/v1/chat/completions", body).bearer(key)
}

/// Asks `MANY` times what nobody has asked; the median time it took.
async fn ask(gateway: &Gateway, key: &str, first: u64) -> Duration {
    let mut connection = gateway.connect().await;
    let mut times = Vec::new();
    for n in first..first + MANY {
        let begun = Instant::now();
        let answer = connection.exchange(&question(key, n)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        times.push(begun.elapsed());
    }
    times.sort();
    times[times.len() / 2]
}

/// In KiB.
fn memory(gateway: &Gateway) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What of the budget is spent, as the file has it.
fn spent(store: &Path) -> i64 {
    let store = rusqlite::Connection::open(store).unwrap();
    store.query_row("SELECT coalesce(sum(amount), 0) FROM spent", [], |row| row.get(0)).unwrap_or(0)
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < until, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn up(gateway: &Gateway) -> f64 {
    gateway.metrics_with(TOKEN).await.sum("tidegate_store_up", &[])
}

#[tokio::test]
async fn with_every_store_away_requests_take_no_longer_and_nothing_is_lost_when_they_are_back() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    let key = new_key(&gateway, "one").await;
    until("the key is known", async || gateway.send(&question(&key, 0)).await.status == 200).await;
    let usual = ask(&gateway, &key, 1).await;
    let before = memory(&gateway);

    let folder = gateway.folder.path();
    let away = |name: &str| (folder.join(name), folder.join(format!("{name}.away")));
    let stores = [away("store.db"), away("cache.db")];
    for (here, aside) in &stores {
        std::fs::rename(here, aside).unwrap();
        // Nothing that it could be taken for.
        std::fs::create_dir(here).unwrap();
    }
    until("the stores are noticed to be away", async || up(&gateway).await == 0.0).await;
    let without = ask(&gateway, &key, 1 + MANY).await;
    assert!(without < usual * 4 + Duration::from_millis(50), "{usual:?} with the stores, {without:?} without");
    let after = memory(&gateway);
    assert!(after < before + 32 * 1024, "from {before} KiB to {after} KiB");
    assert_eq!(admin(&gateway, "POST", "/admin/keys", &json!({ "id": "two" })).await.status, 503);

    for (here, aside) in &stores {
        std::fs::remove_dir(here).unwrap();
        std::fs::rename(aside, here).unwrap();
    }
    until("the store is back", async || up(&gateway).await >= 1.0).await;
    until("what was spent meanwhile is written", async || spent(&stores[0].0) >= 1 + 2 * MANY as i64).await;
    let two = new_key(&gateway, "two").await;
    until("a new key lets in", async || gateway.send(&question(&two, 1)).await.status == 200).await;
    let kept =
        async || admin(&gateway, "GET", "/admin/cache", &Value::Null).await.json()["files"][0]["answers"].as_u64();
    let were = kept().await;
    ask(&gateway, &key, 1 + 2 * MANY).await;
    until("answers are kept again", async || kept().await > were).await;
}
