//! All that the gateway writes to is away at once, stores, records and the collector: requests take no longer, memory stays
//! where it is, and when it is back everything is written, without a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{Backend, Script};
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Folder, Gateway, command, pool_of};

const TOKEN: &str = "admin-token-of-the-test";

/// What comes back, and has to be noticed, written and seen.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is there and away in turn, so that what else goes on on the machine meets both.
const ROUNDS: u64 = 3;

/// Requests in each; more than wait to be written to the cache's file, and for the collector.
const MANY: u64 = 200;

/// What waits for the collector at most.
const QUEUE: f64 = 50.0;

fn config(backend: &Backend, collector: &Backend) -> String {
    format!(
        "{}admin: {{ listen: 127.0.0.1:$ADMIN, token: {TOKEN} }}
storage: {{ path: $DIR/store.db }}
traces: {{ endpoint: '{}', every: 20ms, queue: {QUEUE} }}
filters:
  - api_key: {{ managed: true }}
  - record: {{ to: {{ files: {{ path: $DIR/records }} }}, what: full, chain: {{}}, content: 4KiB, memory: 128KiB }}
  - limits: [{{ per: global, requests: 1M/month }}]
  - prompt_cache: {{ scope: key, size: 8MiB, max_entry: 1MiB, file: {{ path: $DIR/cache.db }} }}
",
        pool_of(&[backend]),
        collector.url()
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

/// Asks `MANY` times what nobody has asked; how long each took.
async fn ask(gateway: &Gateway, key: &str, first: u64) -> Vec<Duration> {
    let mut connection = gateway.connect().await;
    let mut times = Vec::new();
    for n in first..first + MANY {
        let begun = Instant::now();
        let answer = connection.exchange(&question(key, n)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        times.push(begun.elapsed());
    }
    times
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[expect(clippy::print_stderr, reason = "what is measured is worth seeing: --no-capture")]
fn tell(text: &str) {
    eprintln!("{text}");
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

async fn sum(gateway: &Gateway, name: &str, labels: &[(&str, &str)]) -> f64 {
    gateway.metrics_with(TOKEN).await.sum(name, labels)
}

/// All that is written to, by where it is and where it is put aside.
struct Outside<'a> {
    gateway: &'a Gateway,
    /// Whether the collector takes nothing.
    is_away: Arc<AtomicBool>,
    files: [(PathBuf, PathBuf); 3],
}

impl<'a> Outside<'a> {
    fn of(gateway: &'a Gateway, collector: &Backend) -> Self {
        let is_away = Arc::<AtomicBool>::default();
        let state = is_away.clone();
        collector.handle(move |_| match state.load(SeqCst) {
            true => Script::status("503 Service Unavailable", "{}"),
            false => Script::json(r#"{"partialSuccess":{}}"#),
        });
        let folder = gateway.folder.path();
        let away = |name: &str| (folder.join(name), folder.join(format!("{name}.away")));
        Self { gateway, is_away, files: ["store.db", "cache.db", "records"].map(away) }
    }

    async fn goes(&self) {
        self.is_away.store(true, SeqCst);
        for (here, aside) in &self.files {
            std::fs::rename(here, aside).unwrap();
            // Nothing that it could be taken for.
            if here.extension().is_some() {
                std::fs::create_dir(here).unwrap();
            }
        }
        until("the store is noticed to be away", async || up(self.gateway).await == 0.0).await;
    }

    async fn comes_back(&self) {
        self.is_away.store(false, SeqCst);
        for (here, aside) in &self.files {
            if here.extension().is_some() {
                std::fs::remove_dir(here).unwrap();
            }
            std::fs::rename(aside, here).unwrap();
        }
        until("the store is back", async || up(self.gateway).await >= 1.0).await;
        until("records are written again", async || sum(self.gateway, "tidegate_records_waiting", &[]).await == 0.0)
            .await;
        let sent = async || sum(self.gateway, "tidegate_traces_total", &[("outcome", "sent")]).await;
        let before = sent().await;
        until("traces are sent again", async || {
            self.gateway.send(&Request::get("/v1/nothing")).await;
            sent().await > before
        })
        .await;
    }
}

#[tokio::test]
async fn with_every_store_sink_and_collector_away_requests_take_no_longer_and_all_is_written_when_they_are_back() {
    let (backend, collector, folder) = (Backend::start().await, crate::traces::collector().await, Folder::new());
    std::fs::create_dir(folder.path().join("records")).unwrap();
    let gateway = Gateway::start_in(folder, &config(&backend, &collector), &[]).await;
    let key = new_key(&gateway, "one").await;
    until("the key is known", async || gateway.send(&question(&key, 0)).await.status == 200).await;
    let outside = Outside::of(&gateway, &collector);
    let (mut usual, mut without, mut before, mut next) = (Vec::new(), Vec::new(), None, 1);
    for _ in 0..ROUNDS {
        usual.extend(ask(&gateway, &key, next).await);
        let before = *before.get_or_insert_with(|| memory(&gateway));
        outside.goes().await;
        without.extend(ask(&gateway, &key, next + MANY).await);
        next += 2 * MANY;
        let after = memory(&gateway);
        assert!(after < before + 32 * 1024, "from {before} KiB to {after} KiB");
        assert!(sum(&gateway, "tidegate_traces_waiting", &[]).await <= 2.0 * QUEUE);
        assert!(sum(&gateway, "tidegate_memory_bytes", &[("purpose", "records")]).await <= 128.0 * 1024.0);
        until("records are known to wait", async || sum(&gateway, "tidegate_records_up", &[]).await == 0.0).await;
        assert_eq!(admin(&gateway, "POST", "/admin/keys", &json!({ "id": "two" })).await.status, 503);
        outside.comes_back().await;
    }
    let (usual, without) = (median(usual), median(without));
    tell(&format!("median with everything there: {usual:?}, with everything away: {without:?}"));
    assert!(without < usual * 4 + Duration::from_millis(50), "{usual:?} with all of it, {without:?} without");

    // Nothing of the budget, and nothing of usage, is lost; of records and traces what found no room was counted.
    let asked = 2 * ROUNDS * MANY;
    until("what was spent meanwhile is written", async || spent(&outside.files[0].0) > asked as i64).await;
    let used = async || admin(&gateway, "GET", "/admin/usage?model=*", &Value::Null).await.json()["total"].clone();
    until("what was used is in the store", async || used().await["requests"] == asked + 1).await;
    let outcome = async |outcome: &str| sum(&gateway, "tidegate_records_total", &[("outcome", outcome)]).await as u64;
    let ended = async || sum(&gateway, "tidegate_requests_total", &[("cause", "none")]).await as u64;
    until("each request has a record or is missed", async || {
        outcome("written").await + outcome("dropped").await >= asked.min(ended().await)
    })
    .await;
    let records = outside.files[2].0.display().to_string();
    let verified = command(&["records", "verify", &records]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let two = new_key(&gateway, "two").await;
    until("a new key lets in", async || gateway.send(&question(&two, 1)).await.status == 200).await;
    let kept =
        async || admin(&gateway, "GET", "/admin/cache", &Value::Null).await.json()["files"][0]["answers"].as_u64();
    let were = kept().await;
    ask(&gateway, &key, next).await;
    until("answers are kept again", async || kept().await > were).await;
}
