//! What the filter hands to its place, and when.

use super::*;
use crate::ask::{Answer, Ask, Question};
use crate::exchange::{Caller, Outcome};
use crate::outbound::Bounds;
use crate::records::{Draft, Memory, Sinks, State, To};
use crate::services::Shared;
use crate::testing;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::io;
use std::sync::Mutex;
use std::time::Duration;

/// A place in memory.
#[derive(Default)]
struct Place {
    memory: Arc<Memory>,
    records: Mutex<Vec<Map<String, Value>>>,
    lost: AtomicU64,
}

struct Places(Arc<Place>);

impl Sinks for Places {
    fn open(&self, _: &To) -> io::Result<Arc<dyn Sink>> {
        Ok(self.0.clone())
    }
    fn all(&self) -> Vec<Arc<dyn Sink>> {
        vec![self.0.clone()]
    }
}

#[async_trait]
impl Sink for Place {
    fn reserve(&self, bytes: usize) -> Option<Slot> {
        self.memory.reserve(bytes, 4096)
    }
    fn put(&self, _: Slot, record: Draft) {
        self.records.lock().unwrap().push(record());
    }
    fn dropped(&self) {
        self.lost.fetch_add(1, Relaxed);
    }
    fn refused(&self) {
        self.lost.fetch_add(100, Relaxed);
    }
    async fn closing(&self) {
        std::future::pending().await
    }
    fn close(&self) {}
    fn flush(&self, _: Duration) -> State {
        self.state()
    }
    fn state(&self) -> State {
        State { name: "here".into(), waiting: 0, bytes: 0, fault: None }
    }
}

/// Does the work on the test's own runtime.
struct Beside;

#[async_trait]
impl Outbound for Beside {
    async fn get(&self, _: &str, _: Bounds) -> std::result::Result<Bytes, String> {
        Err("nothing is fetched here".to_owned())
    }
    fn spawn(&self, work: BoxFuture<'static, ()>) {
        tokio::spawn(work);
    }
}

/// Says this of whatever it is asked, and remembers what that was.
struct Says(&'static str, Mutex<Vec<String>>);

#[async_trait]
impl Ask for Says {
    async fn ask(&self, question: Question) -> std::result::Result<Answer, String> {
        self.1.lock().unwrap().push(String::from_utf8_lossy(&question.body).into_owned());
        let body = json!({ "choices": [{ "message": { "content": self.0 } }] }).to_string();
        Ok(Answer { body: body.into(), usage: None })
    }
}

fn build(settings: Value, asks: Arc<dyn Ask>) -> (Record, Arc<Place>) {
    let place = Arc::new(Place::default());
    let shared =
        Shared { records: Arc::new(Places(place.clone())), outbound: Arc::new(Beside), asks, ..Shared::default() };
    let services = Services { models: ["small".into()].into(), shared, ..Services::none() };
    let mut all = json!({ "to": { "sqlite": { "path": "r.db" } }, "content": 1024, "memory": 4096 });
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    (Record::new(serde_json::from_value(all).unwrap(), &services).ok().unwrap(), place)
}

fn silent() -> Arc<Says> {
    Arc::new(Says("", Mutex::default()))
}

/// One request and its answer past the filter; false if it was refused.
async fn pass(filter: &Record, body: &str, answer: &str, org: Option<&str>) -> bool {
    let mut exchange = testing::exchange(body);
    exchange.identify(Arc::new(Caller { org: org.map(Into::into), ..Caller::default() }));
    match filter.request(&mut exchange).await.unwrap() {
        Verdict::Continue => true,
        Verdict::Answer(reply) => {
            assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE);
            false
        }
        Verdict::Follow(mut follower) => {
            follower.chunk(&mut exchange, &mut Bytes::copy_from_slice(answer.as_bytes()), false).unwrap();
            exchange.record(Outcome {
                status: 200,
                complete: true,
                request_bytes: body.len() as u64,
                ..Outcome::default()
            });
            follower.end(&exchange);
            true
        }
    }
}

const BODY: &str = r#"{"model":"m","messages":[{"role":"user","content":"mail ann@example.com"}]}"#;
const ANSWER: &str = r#"{"choices":[{"message":{"role":"assistant","content":"I wrote to bob@example.com"}}]}"#;

#[tokio::test]
async fn a_record_has_what_its_kind_has_and_nothing_else() {
    let settings = json!({ "what": "metadata", "orgs": { "all": "full", "none": "off" }, "redact": ["email"] });
    let (filter, place) = build(settings, silent());
    for org in [Some("some"), Some("all"), Some("none"), None] {
        assert!(pass(&filter, BODY, ANSWER, org).await);
    }
    let records = place.records.lock().unwrap();
    assert_eq!(records.len(), 3);
    assert_eq!((&records[0]["org"], records[0].get("request")), (&json!("some"), None));
    assert_eq!(records[1]["request"]["messages"][0]["content"], "mail [email]");
    assert_eq!(records[1]["answer"]["choices"][0]["message"]["content"], "I wrote to [email]");
    assert_eq!((&records[2]["status"], records[2].get("org")), (&json!(200), None));
    assert_eq!(place.memory.held(), 0);
}

#[tokio::test]
async fn what_is_too_long_is_not_kept_nor_held() {
    let (filter, place) = build(json!({ "what": "full" }), silent());
    let long = "x".repeat(2000);
    pass(&filter, BODY, &long, None).await;
    pass(&filter, &BODY.replace("mail", &long), ANSWER, None).await;
    let records = place.records.lock().unwrap();
    assert_eq!(records[0]["answer"], json!({ "left_out": 2000 }));
    assert_eq!(records[1]["request"], json!({ "left_out": BODY.len() + 1996 }));
}

#[tokio::test]
async fn without_memory_a_record_is_dropped_or_its_request_refused() {
    let (filter, place) = build(json!({ "what": "full" }), silent());
    let held = place.memory.reserve(3500, 4096).unwrap();
    assert!(pass(&filter, BODY, ANSWER, None).await);
    assert_eq!((place.lost.load(Relaxed), place.records.lock().unwrap().len()), (1, 0));
    drop(held);
    let (filter, place) = build(json!({ "what": "full", "when_full": "refuse" }), silent());
    assert!(pass(&filter, BODY, ANSWER, None).await);
    let held = place.memory.reserve(1100, 4096).unwrap();
    assert!(!pass(&filter, BODY, ANSWER, None).await);
    assert_eq!((place.lost.load(Relaxed), place.records.lock().unwrap().len()), (100, 1));
    drop(held);
    assert_eq!(place.memory.held(), 0);
}

#[tokio::test]
async fn a_summary_is_of_what_is_redacted_and_is_redacted_itself() {
    let says = Arc::new(Says("Somebody wrote to carol@example.com.", Mutex::default()));
    let settings =
        json!({ "what": "summary", "summary": { "model": "small" }, "redact": ["email"], "raw_when": "stream" });
    let (filter, place) = build(settings, says.clone());
    pass(&filter, BODY, ANSWER, None).await;
    while place.records.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    let record = place.records.lock().unwrap().pop().unwrap();
    assert_eq!(record["summary"], "Somebody wrote to [email].");
    assert!(record.get("request").is_none() && record.get("answer").is_none(), "{record:?}");
    let asked = says.1.lock().unwrap().pop().unwrap();
    assert!(asked.contains("I wrote to [email]") && !asked.contains("example.com"), "{asked}");
    pass(&filter, &BODY.replace("{\"model\"", "{\"stream\":true,\"model\""), ANSWER, None).await;
    let raw = place.records.lock().unwrap().pop().unwrap();
    assert_eq!(raw["request"]["messages"][0]["content"], "mail [email]");
    let (filter, place) = build(json!({ "what": "summary", "summary": { "model": "small" } }), silent());
    pass(&filter, BODY, ANSWER, None).await;
    while place.records.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(place.records.lock().unwrap()[0]["unsummarised"], "failed");
}

#[tokio::test]
async fn a_share_is_kept_evenly() {
    let (filter, place) = build(json!({ "share": "25%" }), silent());
    for _ in 0..400 {
        pass(&filter, BODY, ANSWER, None).await;
    }
    let kept = place.records.lock().unwrap().len();
    assert!((95..=105).contains(&kept), "{kept}");
}
