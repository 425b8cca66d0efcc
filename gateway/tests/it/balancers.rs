//! Balancers from outside: what belongs together goes together, the slow get less, and settings that cannot be meant are
//! refused with their place.

use std::collections::HashSet;
use std::time::Duration;

use serde_json::json;

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Folder, Gateway, command, pool_of};

async fn three() -> [Backend; 3] {
    [Backend::start().await, Backend::start().await, Backend::start().await]
}

fn balanced(backends: &[Backend], balance: &str) -> String {
    format!("{}    balance: {balance}\n", pool_of(&backends.iter().collect::<Vec<_>>()))
}

fn counts(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::count).collect()
}

/// The conversation `name` with so many messages.
fn turn(name: &str, messages: usize) -> Request {
    let text = |n: usize| format!("{name} {n} {}", "and then this happened ".repeat(20));
    let list: Vec<_> = (0..messages).map(|n| json!({ "role": "user", "content": text(n) })).collect();
    Request::post("/v1/chat/completions", json!({ "model": "m", "messages": list }).to_string())
}

#[tokio::test]
async fn a_session_stays_where_it_began_and_sessions_spread() {
    let backends = three().await;
    let gateway = Gateway::start(&balanced(&backends, "session")).await;
    let mut homes = HashSet::new();
    for session in 0..12 {
        let before = counts(&backends);
        let request = Request::chat("m").header("x-session-id", &format!("s{session}"));
        for _ in 0..3 {
            assert_eq!(gateway.send(&request).await.status, 200);
        }
        let after = counts(&backends);
        let home: Vec<_> = (0..3).filter(|n| after[*n] > before[*n]).collect();
        assert_eq!(home.len(), 1, "{before:?} {after:?}");
        homes.insert(home[0]);
    }
    assert!(homes.len() > 1, "all sessions at one backend");
}

#[tokio::test]
async fn the_session_may_be_named_in_the_body() {
    let backends = three().await;
    let gateway = Gateway::start(&balanced(&backends, "{ session: { by: [user] } }")).await;
    for _ in 0..6 {
        let request = Request::post("/v1/chat/completions", r#"{"model":"m","user":"anna","messages":[]}"#);
        assert_eq!(gateway.send(&request).await.status, 200);
    }
    let mut counts = counts(&backends);
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 6]);
}

#[tokio::test]
async fn a_chain_of_responses_stays_where_it_is_stored_whole_or_streamed() {
    let backends = three().await;
    for (n, backend) in backends.iter().enumerate() {
        let turn = std::sync::atomic::AtomicUsize::new(0);
        backend.handle(move |seen| {
            let id = format!("resp_{n}_{}", turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
            let response = json!({ "id": id, "object": "response", "status": "completed", "output": [] });
            if seen.json()["stream"] != true {
                return Script::json(response.to_string());
            }
            let event =
                |kind: &str| format!("event: {kind}\ndata: {}\n\n", json!({ "type": kind, "response": response }));
            Script::stream().chunk(event("response.created")).chunk(event("response.completed")).end()
        });
    }
    let gateway = Gateway::start(&balanced(&backends, "session")).await;
    for stream in [false, true] {
        let before = counts(&backends);
        let mut previous = serde_json::Value::Null;
        for _ in 0..8 {
            let body = json!({ "model": "m", "input": "hi", "stream": stream, "previous_response_id": previous });
            let answer = gateway.send(&Request::post("/v1/responses", body.to_string())).await;
            assert_eq!(answer.status, 200, "{:?}", answer.body);
            let id = answer.text().split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
            previous = json!(id);
        }
        let grown = counts(&backends).iter().zip(&before).filter(|(after, before)| after > before).count();
        assert_eq!(grown, 1, "{before:?} {:?}", counts(&backends));
    }
}

#[tokio::test]
async fn a_conversation_goes_where_its_beginning_is_known_also_after_a_reload() {
    let backends = three().await;
    let config = balanced(&backends, "prefix_affinity");
    let gateway = Gateway::start(&config).await;
    for name in ["anna", "bert", "carl"] {
        assert_eq!(gateway.send(&turn(name, 2)).await.status, 200);
    }
    assert_eq!(counts(&backends), [1, 1, 1], "new conversations spread");
    gateway.rewrite(&format!("{config}    retries: 1\n"));
    gateway.signal("HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    for name in ["anna", "bert", "carl"] {
        let before = counts(&backends);
        for messages in [4, 5, 3] {
            assert_eq!(gateway.send(&turn(name, messages)).await.status, 200);
        }
        let grown = counts(&backends).iter().zip(&before).filter(|(after, before)| after > before).count();
        assert_eq!(grown, 1, "{name}");
    }
    assert_eq!(counts(&backends), [4, 4, 4]);
}

#[tokio::test]
async fn peak_ewma_sends_less_to_the_slow_one() {
    let backends = three().await;
    for (backend, time) in backends.iter().zip([300, 5, 5]) {
        backend.handle(move |_| Script::new().pause(Duration::from_millis(time)).send(answer()));
    }
    let gateway = Gateway::start(&balanced(&backends, "peak_ewma")).await;
    for _ in 0..30 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    let counts = counts(&backends);
    assert!(counts[0] <= 2 && counts[1] + counts[2] >= 28, "{counts:?}");
}

fn answer() -> String {
    let body = crate::backend::chat("x");
    format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_model_goes_to_the_backends_that_have_it() {
    let backends = three().await;
    for (n, backend) in backends.iter().enumerate() {
        backend.probes_get(move |_| match n {
            1 => Script::models(&["base", "my-lora"]),
            _ => Script::models(&["base"]),
        });
    }
    let urls: Vec<_> = backends.iter().map(Backend::url).collect();
    let config = format!("pools:\n  main:\n    health: {{ every: 50ms }}\n    backends: [{}]\n", urls.join(", "));
    let gateway = Gateway::start(&config).await;
    for backend in &backends {
        backend.probe(1).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("my-lora")).await.status, 200);
    }
    assert_eq!(counts(&backends), [0, 6, 0]);
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("base")).await.status, 200);
    }
    assert!(counts(&backends).iter().all(|count| *count >= 2), "{:?}", counts(&backends));
}

#[tokio::test]
async fn a_backend_that_does_not_say_what_it_has_gets_its_share() {
    let backends = three().await;
    for (n, backend) in backends.iter().enumerate() {
        backend.probes_get(move |_| match n {
            1 => Script::status("404 Not Found", "{}"),
            _ => Script::models(&["m"]),
        });
    }
    let urls: Vec<_> = backends.iter().map(Backend::url).collect();
    let config = format!("pools:\n  main:\n    health: {{ every: 50ms }}\n    backends: [{}]\n", urls.join(", "));
    let gateway = Gateway::start(&config).await;
    for backend in &backends {
        backend.probe(2).await;
    }
    for _ in 0..9 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert!(counts(&backends).iter().all(|count| *count >= 2), "{:?}", counts(&backends));
}

#[tokio::test]
async fn what_a_backend_takes_at_once_is_found_out() {
    let backend = Backend::start().await;
    let config = format!(
        "pools:\n  main:\n    health: off\n    retries: 0\n    backends: [{{ url: {}, max_in_flight: auto }}]\n",
        backend.url()
    );
    let gateway = Gateway::start(&config).await;
    gateway.metric_is("tidegate_backend_max_in_flight", &[("pool", "main")], 16.0).await;
    backend.handle(|_| Script::status("429 Too Many Requests", "{}"));
    for _ in 0..40 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 429);
    }
    gateway.metric_is("tidegate_backend_max_in_flight", &[("pool", "main")], 1.0).await;
    backend.handle(|_| Script::new().pause(Duration::from_millis(20)).send(answer()));
    let request = Request::chat("m");
    for _ in 0..20 {
        futures_util::future::join_all((0..8).map(|_| gateway.send(&request))).await;
    }
    // How far depends on how busy this machine is; that it comes back does not.
    let found = gateway.metrics().await.sum("tidegate_backend_max_in_flight", &[]);
    assert!((2.0..=40.0).contains(&found), "{found}");
}

#[tokio::test]
async fn picks_are_counted_and_explained() {
    let backends = three().await;
    let gateway = Gateway::start(&balanced(&backends, "{ session: { imbalance: 2 } }")).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    gateway.metric_is("tidegate_backend_picks_total", &[("pool", "main"), ("kind", "balanced")], 1.0).await;
    let file = gateway.folder.path().join("gateway.yaml");
    let said = command(&["explain", "--config", &file.display().to_string(), "--model", "m"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("session"), "{said}");
}

/// `check` refuses this file, and says where.
fn refused_at(config: &str, path: &str) {
    let folder = Folder::new();
    let file = folder.write("gateway.yaml", config).display().to_string();
    let output = command(&["check", "--format", "json", &file]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{config}\n{said}");
    assert!(said.contains(&format!("\"path\": \"{path}\"")), "{config}: not at {path}\n{said}");
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let pool = |settings: &str| format!("pools:\n  main:\n    backends: [http://127.0.0.1:1]\n    {settings}\n");
    for (settings, path) in [
        ("balance: { session: { by: [] } }", "pools.main.balance.session.by"),
        ("balance: { session: { imbalance: 0.5 } }", "pools.main.balance.session.imbalance"),
        ("balance: { prefix_affinity: { pieces: 0 } }", "pools.main.balance.prefix_affinity.pieces"),
        ("balance: { peak_ewma: { memory: 0 } }", "pools.main.balance.peak_ewma.memory"),
        ("balance: { peak_ewma: { memry: 1 } }", "pools.main.balance.peak_ewma.memry"),
        ("balance: { a: {}, b: {} }", "pools.main.balance"),
        ("balance: fastest", "pools.main.balance"),
        ("breaker: { ratio: 2 }", "pools.main.breaker.ratio"),
        ("breaker: { panic_below: -1 }", "pools.main.breaker.panic_below"),
        ("breaker: { pause: 0s }", "pools.main.breaker.pause"),
        ("breaker: { consecutive: 0, ratio: 0 }", "pools.main.breaker"),
        ("health: { by: generate }", "pools.main.health.by"),
        ("health: { model: m }", "pools.main.health.model"),
        ("signals: { every: 5s, believe: 1s }", "pools.main.signals.believe"),
        ("signals: { path: metrics }", "pools.main.signals.path"),
        ("discover: { dns: http://localhost:1 }", "pools.main.discover"),
    ] {
        refused_at(&pool(settings), path);
    }
    for (discover, path) in [
        ("{ every: 1s }", "pools.main.discover"),
        ("{ dns: http://127.0.0.1:1 }", "pools.main.discover.dns"),
        ("{ file: nowhere.yaml }", "pools.main.discover.file"),
        ("{ dns: http://localhost:1, every: 0s }", "pools.main.discover.every"),
    ] {
        refused_at(&format!("pools:\n  main:\n    discover: {discover}\n"), path);
    }
}
