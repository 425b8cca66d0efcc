//! A second backend for a stream whose first token is late, and streams that are held until they prove real.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::backend::{Backend, Script, chat, finish};
use crate::client::{End, Request};
use crate::gateway::{Gateway, pool_of};

const SLOW: Duration = Duration::from_secs(3);

fn words(wait: Duration, word: &str) -> Script {
    Script::stream().pause(wait).token(word).chunk(finish()).done().end()
}

#[tokio::test]
async fn the_second_is_heard_when_the_first_is_slow_and_the_first_is_let_go_of() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.always(words(SLOW, "slow"));
    b.always(words(Duration::ZERO, "quick"));
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    hedge: { after: 100ms, budget: 100% }\n")).await;
    let mut won = 0.0;
    for n in 0..2 {
        let began = Instant::now();
        let id = format!("r{n}");
        let answer = gateway.send(&Request::stream("m").header("x-request-id", &id)).await;
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        assert!(answer.text().contains("quick") && !answer.text().contains("slow"), "{}", answer.text());
        assert_eq!(answer.text().matches("[DONE]").count(), 1);
        assert!(began.elapsed() < SLOW / 2, "{:?}", began.elapsed());
        if answer.header("x-tidegate-attempts") == Some("2") {
            assert_eq!(answer.header("x-tidegate-backend"), Some(b.address().to_string().as_str()));
            assert_eq!(gateway.log.request(&id).await["hedge"], "won");
            won += 1.0;
        }
    }
    a.seen(0).await.gone().await;
    gateway.metric_is("tidegate_hedges_total", &[("outcome", "won")], won).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn the_first_is_heard_when_it_is_quicker_after_all() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let asked = Arc::new(AtomicUsize::new(0));
    for backend in [&a, &b] {
        let asked = asked.clone();
        backend.handle(move |_| match asked.fetch_add(1, SeqCst) {
            0 => words(Duration::from_millis(400), "first"),
            _ => words(SLOW, "second"),
        });
    }
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    hedge: { after: 50ms, budget: 100% }\n")).await;
    let answer = gateway.send(&Request::stream("m").header("x-request-id", "r")).await;
    assert!(answer.text().contains("first"), "{}", answer.text());
    assert_eq!(gateway.log.request("r").await["hedge"], "lost");
    assert_eq!(asked.load(SeqCst), 2);
}

#[tokio::test]
async fn what_must_not_be_run_twice_is_not() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.always(words(Duration::from_millis(250), "x"));
    }
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    hedge: { after: 20ms, budget: 100% }\n")).await;
    let tools = r#"{"model":"m","messages":[],"stream":true,"tools":[]}"#;
    let requests = [
        Request::post("/v1/chat/completions", tools),
        Request::stream("m").header("x-tidegate-hedge", "off"),
        Request::chat("m"),
    ];
    for (n, request) in requests.iter().enumerate() {
        gateway.send(request).await;
        assert_eq!(a.count() + b.count(), n + 1);
    }
}

#[tokio::test]
async fn a_whole_answer_that_is_late_is_asked_of_another_where_the_file_says_so() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let late = |wait: Duration, text: &str| {
        let body = chat(text);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        Script::new().send(head).pause(wait).send(body)
    };
    // Its head comes at once: what counts is all of it.
    a.always(late(SLOW, "slow"));
    b.always(late(Duration::ZERO, "quick"));
    let hedge = "    balance: round_robin\n    hedge: { whole: 100ms, budget: 100% }\n";
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + hedge)).await;
    for n in 0..2 {
        let began = Instant::now();
        let answer = gateway.send(&Request::chat("m").header("x-request-id", &format!("r{n}"))).await;
        assert!(answer.status == 200 && answer.text().contains("quick"), "{}", answer.text());
        assert!(began.elapsed() < SLOW / 2, "{:?}", began.elapsed());
        let line = gateway.log.request(&format!("r{n}")).await;
        assert_eq!(line["completion_tokens"], 5, "counted once: {line}");
    }
    a.seen(0).await.gone().await;
    assert_eq!((a.count(), b.count()), (2, 2));
    gateway.metric_is("tidegate_hedges_total", &[("outcome", "won")], 2.0).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
    let once = Request::chat("m").header("x-tidegate-hedge", "off").header("x-stainless-timeout", "0.5");
    assert_eq!(gateway.send(&once).await.status, 504);
    assert_eq!((a.count(), b.count()), (3, 2));
}

#[tokio::test]
async fn hedges_stay_within_their_budget() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.always(words(Duration::from_millis(40), "x"));
    }
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    hedge: { after: 5ms, budget: 5% }\n")).await;
    let mut connection = gateway.connect().await;
    for _ in 0..60 {
        assert_eq!(connection.exchange(&Request::stream("m")).await.status, 200);
    }
    let extra = a.count() + b.count() - 60;
    assert!((8..=13).contains(&extra), "{extra}: 5 % of 60, and the 10 that were saved");
    assert!(gateway.metrics().await.sum("tidegate_hedges_total", &[("outcome", "refused")]) >= 40.0);
}

#[tokio::test]
async fn slow_first_tokens_are_cut_short_by_what_was_learned() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let asked = Arc::new(AtomicUsize::new(0));
    for backend in [&a, &b] {
        let asked = asked.clone();
        backend.handle(move |_| match asked.fetch_add(1, SeqCst) % 30 {
            29 => words(Duration::from_secs(2), "slow"),
            _ => words(Duration::from_millis(20), "x"),
        });
    }
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    hedge: { after: p90, budget: 20% }\n")).await;
    let mut slowest = Duration::ZERO;
    for n in 0..120 {
        let began = Instant::now();
        assert_eq!(gateway.send(&Request::stream("m")).await.end, End::Whole);
        if n > 60 {
            slowest = slowest.max(began.elapsed());
        }
    }
    assert!(slowest < Duration::from_millis(1500), "{slowest:?}: once learned, nobody waits for the slow one");
}

#[tokio::test]
async fn a_held_stream_that_begins_with_an_error_is_tried_elsewhere() {
    let error = "data: {\"error\":{\"message\":\"no memory\",\"type\":\"server_error\",\"code\":500}}\n\n";
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.always(Script::stream().chunk(error).end());
    b.always(words(Duration::ZERO, "fine"));
    let held = "    hold: content\n    retries: { on: [connect, error_event] }\n";
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + held)).await;
    for _ in 0..2 {
        let answer = gateway.send(&Request::stream("m")).await;
        assert!(answer.status == 200 && answer.text().contains("fine"), "{}", answer.text());
    }
    assert_eq!(b.count(), 2);
    let gateway = Gateway::start(&(pool_of(&[&a]) + "    hold: content\n")).await;
    let answer = gateway.send(&Request::stream("m")).await;
    assert!(answer.text().contains("no memory"), "told as it came where nobody else may be asked: {}", answer.text());
}

#[tokio::test]
async fn a_stream_without_content_passes_a_hold() {
    let backend = Backend::start().await;
    backend.always(Script::stream().chunk(finish()).done().end());
    let gateway = Gateway::start(&(pool_of(&[&backend]) + "    hold: content\n")).await;
    let answer = gateway.send(&Request::stream("m")).await;
    assert!(answer.status == 200 && answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
}

#[tokio::test]
async fn what_was_learned_of_a_pool_that_is_fallen_back_to_outlives_a_reload() {
    let (a, b, dead) = (Backend::start().await, Backend::start().await, crate::gateway::refused());
    for backend in [&a, &b] {
        backend.always(words(Duration::from_millis(5), "x"));
    }
    let config = format!(
        "models:\n  m: {{ pool: local, fallback: [cloud] }}\npools:\n  local: {{ health: off, retries: 0, backends: [\"{dead}\"] }}\n  cloud:\n    health: off\n    hedge: {{ after: p90, budget: 100% }}\n    backends: [{}, {}]\n",
        a.url(),
        b.url()
    );
    let gateway = Gateway::start(&config).await;
    let mut connection = gateway.connect().await;
    for _ in 0..60 {
        assert_eq!(connection.exchange(&Request::stream("m")).await.end, End::Whole);
    }
    gateway.rewrite(&(config.clone() + "limits: { body: 1MiB }\n"));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"].as_str().is_some_and(|text| text.contains("configuration"))).await;
    a.always(words(SLOW, "slow"));
    for _ in 0..4 {
        let began = Instant::now();
        assert_eq!(gateway.send(&Request::stream("m")).await.end, End::Whole);
        assert!(began.elapsed() < SLOW / 2, "{:?}: nothing is known any more", began.elapsed());
    }
}
