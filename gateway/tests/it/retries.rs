//! What is tried again, and what never is: after what, how often, within which budget, and when a backend is left alone.

use std::time::Duration;

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, pool_at, pool_of, refused};

/// A refusal that says nothing of when to come back.
fn refusal(status: &str) -> Script {
    Script::status(status, r#"{"error":{"message":"no","type":"x","param":null,"code":"x"}}"#)
}

/// A refusal that says when.
fn refusal_for(status: &str, header: (&str, &str)) -> Script {
    let body = r#"{"error":{"message":"no","type":"x","param":null,"code":"x"}}"#;
    Script::answer(status, &[("content-type", "application/json"), header], body)
}

#[tokio::test]
async fn a_refusal_that_proves_that_nothing_was_run_moves_on() {
    for status in ["429 Too Many Requests", "503 Service Unavailable", "529 Overloaded"] {
        let (a, b) = (Backend::start().await, Backend::start().await);
        a.always(refusal(status));
        let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
        for _ in 0..4 {
            let answer = gateway.send(&Request::chat("m").header("x-request-id", "r")).await;
            assert_eq!((answer.status, answer.json()["length"].as_u64().is_some()), (200, true), "{status}");
        }
        assert_eq!(b.count(), 4, "{status}");
        let retried = a.count() as f64;
        let line = gateway.log.line(|line| line["attempts"] == 2).await;
        assert!(["rate_limited", "overloaded"].contains(&line["retried"].as_str().unwrap()), "{line}");
        gateway.metric_is("tidegate_retries_total", &[], retried).await;
    }
}

#[tokio::test]
async fn what_may_have_been_run_is_not_run_again() {
    for script in [refusal("500 Internal Server Error"), refusal("502 Bad Gateway"), Script::new().fin()] {
        let (a, b) = (Backend::start().await, Backend::start().await);
        for backend in [&a, &b] {
            backend.always(script.clone());
        }
        let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
        assert!(gateway.send(&Request::chat("m")).await.status >= 500);
        assert_eq!(a.count() + b.count(), 1);
    }
}

/// A gateway with a kept connection to a backend.
async fn with_a_kept_connection(backend: &Backend, rules: &str) -> Gateway {
    let gateway = Gateway::start(&(pool_of(&[backend]) + rules)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    gateway
}

#[tokio::test]
async fn what_was_worked_on_is_not_run_again_on_a_kept_connection_either() {
    for end in [Script::fin, Script::reset] {
        let backend = Backend::start().await;
        let gateway = with_a_kept_connection(&backend, "    retries: 0\n").await;
        backend.push(end(Script::new().pause(Duration::from_millis(400))));
        gateway.send(&Request::chat("m")).await.openai_error(502);
        assert_eq!((backend.count(), backend.connections()), (2, 1), "it may have been run, and is not run twice");
    }
}

#[tokio::test]
async fn what_was_worked_on_is_run_again_where_the_pool_allows_what_is_lost() {
    let backend = Backend::start().await;
    let gateway = with_a_kept_connection(&backend, "    retries: { on: [lost] }\n").await;
    backend.push(Script::new().pause(Duration::from_millis(400)).fin());
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(backend.count(), 3);
    gateway.metric_is("tidegate_retries_total", &[("cause", "lost")], 1.0).await;
}

#[tokio::test]
async fn a_connection_that_was_closed_before_its_request_came_is_replaced_however_many_retries_there_are() {
    let backend = Backend::start().await;
    let gateway = with_a_kept_connection(&backend, "    retries: 0\n").await;
    backend.push(Script::new().fin());
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((backend.count(), backend.connections()), (3, 2));
    gateway.metric_is("tidegate_retries_total", &[], 0.0).await;
}

#[tokio::test]
async fn a_connection_whose_backend_refused_to_read_a_request_is_not_kept() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(1 << 20));
    backend.push(Script::status("413 Payload Too Large", r#"{"error":{"message":"too long"}}"#).at_head());
    assert_eq!(gateway.send(&Request::post("/v1/chat/completions", body)).await.status, 413);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!((backend.count(), backend.connections()), (2, 2), "the second came on a connection of its own");
}

#[tokio::test]
async fn a_pool_may_allow_that_it_is_run_again() {
    for script in [refusal("500 Internal Server Error"), Script::new().fin(), Script::new().hang()] {
        let (a, b) = (Backend::start().await, Backend::start().await);
        a.always(script);
        let rules = "    retries: { on: [connect, lost, timeout, 500] }\n    timeouts: { first_byte: 200ms }\n";
        let gateway = Gateway::start(&(pool_of(&[&a, &b]) + rules)).await;
        for _ in 0..2 {
            assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
        }
        assert_eq!(b.count(), 2);
        assert!((1..=2).contains(&a.count()));
    }
}

/// What breaks off while nothing of it has gone to the client.
fn broken_unseen() -> [(&'static str, Request, Script); 4] {
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"id\": \"x\", ";
    [
        ("half an answer", Request::chat("m"), Script::new().send(half).reset()),
        ("a stream's head", Request::stream("m"), Script::stream().fin()),
        ("half an event", Request::stream("m"), Script::stream().chunk("data: {\"choices\"").reset()),
        ("an empty stream", Request::stream("m"), Script::stream().end()),
    ]
}

#[tokio::test]
async fn what_broke_off_before_the_client_got_anything_is_asked_of_another_where_the_pool_allows_it() {
    for (what, request, script) in broken_unseen() {
        let (a, b) = (Backend::start().await, Backend::start().await);
        a.always(script);
        b.handle(|seen| match seen.json()["stream"] == true {
            true => Script::words(&["fine"], Duration::ZERO),
            false => Script::chat("fine"),
        });
        let rules = "    balance: round_robin\n    retries: { on: [connect, lost] }\n";
        let gateway = Gateway::start(&(pool_of(&[&a, &b]) + rules)).await;
        for _ in 0..2 {
            let answer = gateway.send(&request).await;
            assert!(answer.status == 200 && answer.text().contains("fine"), "{what}: {}", answer.text());
            assert!(!answer.text().contains("error"), "{what}: {}", answer.text());
        }
        assert_eq!((a.count(), b.count()), (2, 2), "{what}");
        gateway.metric_is("tidegate_retries_total", &[("cause", "lost")], 2.0).await;
        gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
    }
    for (what, request, script) in broken_unseen() {
        let backend = Backend::start().await;
        backend.always(script);
        let gateway = Gateway::before(&backend).await;
        assert_eq!(gateway.send(&request).await.status, 502, "{what}");
        assert_eq!(backend.count(), 1, "{what}: it may have been run");
    }
}

#[tokio::test]
async fn a_backend_that_cannot_be_reached_takes_nothing_out_of_the_budget() {
    let good = Backend::start().await;
    let rules = "    balance: round_robin\n    breaker: off\n    retries: { budget: 1%, always: 0 }\n";
    let gateway = Gateway::start(&(pool_at(&[&refused(), good.url()]) + rules)).await;
    let mut connection = gateway.connect().await;
    for _ in 0..60 {
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    }
    assert_eq!(good.count(), 60);
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tidegate_retries_total", &[("cause", "connect")]) > 11.0, "more than the budget has");
    assert_eq!(metrics.sum("tidegate_retries_refused_total", &[]), 0.0);
}

#[tokio::test]
async fn the_last_refusal_is_told_as_it_came_when_there_is_nobody_else() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.always(refusal("429 Too Many Requests"));
    }
    let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!(answer.openai_error(429)["message"], "no");
    assert_eq!(a.count() + b.count(), 3, "the first, and the two retries that there are");
    assert_eq!(answer.header("x-tidegate-attempts"), Some("3"));
}

#[tokio::test]
async fn one_backend_alone_is_asked_again_after_a_moment() {
    let backend = Backend::start().await;
    backend.push(refusal("503 Service Unavailable"));
    let gateway = Gateway::before(&backend).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn an_sdk_that_retries_by_itself_is_not_multiplied() {
    for (made, asked) in [("0", 3), ("1", 2), ("2", 1), ("9", 1)] {
        let backend = Backend::start().await;
        backend.always(refusal("503 Service Unavailable"));
        let gateway = Gateway::before(&backend).await;
        gateway.send(&Request::chat("m").header("x-stainless-retry-count", made)).await.openai_error(503);
        assert_eq!(backend.count(), asked, "retry count {made}");
    }
}

#[tokio::test]
async fn a_backend_that_has_said_when_to_come_back_has_its_turn_then() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.push(refusal_for("429 Too Many Requests", ("retry-after-ms", "150")));
    let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
    for _ in 0..2 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..4 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert!(a.count() >= 2, "it has its turn again when its time is over");
}

#[tokio::test]
async fn when_all_have_said_so_the_client_is_told_when_the_first_comes_back() {
    let backend = Backend::start().await;
    backend.always(refusal_for("429 Too Many Requests", ("retry-after", "60")));
    let gateway = Gateway::before(&backend).await;
    gateway.send(&Request::chat("m")).await.openai_error(429);
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!(answer.openai_error(503)["code"], "overloaded");
    let wait: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&wait), "{wait}");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn an_outage_is_not_multiplied() {
    let backend = Backend::start().await;
    backend.always(refusal("503 Service Unavailable"));
    let rules = "    retries: { most: 2, budget: 10%, always: 0, backoff: 1ms }\n";
    let gateway = Gateway::start(&(pool_of(&[&backend]) + rules)).await;
    let mut connection = gateway.connect().await;
    for _ in 0..200 {
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 503);
    }
    let extra = backend.count() - 200;
    assert!((20..=31).contains(&extra), "{extra} retries of 200 requests: 10 % and the 10 that were saved");
    assert!(gateway.metrics().await.sum("tidegate_retries_refused_total", &[]) >= 150.0);
}

#[tokio::test]
async fn a_backend_that_is_silent_costs_its_timeout_once() {
    let (silent, good) = (Backend::start().await, Backend::start().await);
    silent.always(Script::new().hang());
    let config = pool_of(&[&silent, &good]) + "    timeouts: { first_byte: 300ms }\n    retries: { on: [timeout] }\n";
    let gateway = Gateway::start(&config).await;
    for _ in 0..2 {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status, 200);
        let attempts = answer.header("x-tidegate-attempts").unwrap();
        assert!(["1", "2"].contains(&attempts), "{attempts}");
    }
    assert!(silent.count() <= 2, "{}", silent.count());
}

#[tokio::test]
async fn no_retries_are_none() {
    let good = Backend::start().await;
    let gateway = Gateway::start(&(pool_at(&[&refused(), good.url()]) + "    retries: 0\n")).await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(gateway.send(&Request::chat("m")).await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

/// A pool of a silent backend and two good ones, where a first byte may take this long.
fn with_silent(silent: &Backend, good: [&Backend; 2], lines: &str) -> String {
    silent.always(Script::new().hang());
    let rules = "    balance: round_robin\n    timeouts: { first_byte: 400ms }\n";
    pool_of(&[silent, good[0], good[1]]) + rules + lines
}

#[tokio::test]
async fn a_backend_that_never_answers_costs_one_request_its_time_and_the_others_nothing() {
    let (silent, a, b) = (Backend::start().await, Backend::start().await, Backend::start().await);
    let rules = "    breaker: { pause: 1h }\n    retries: { on: [timeout] }\n";
    let gateway = Gateway::start(&with_silent(&silent, [&a, &b], rules)).await;
    let mut connection = gateway.connect().await;
    let mut slow = 0;
    for _ in 0..60 {
        let answer = connection.exchange(&Request::chat("m")).await;
        assert_eq!(answer.status, 200);
        slow += usize::from(answer.header("x-tidegate-attempts") == Some("2"));
    }
    assert_eq!((silent.count(), a.count() + b.count(), slow), (1, 60, 1));
    gateway.metric_is("tidegate_retries_total", &[], 1.0).await;
    gateway.metric_is("tidegate_backend_breaker_opened_total", &[("reason", "silent")], 1.0).await;
}

#[tokio::test]
async fn what_a_silent_backend_owes_is_asked_of_the_others_within_the_budget() {
    let (silent, a, b) = (Backend::start().await, Backend::start().await, Backend::start().await);
    // It is asked again and again.
    let rules = "    breaker: off\n    retries: { on: [timeout], budget: 10%, always: 0 }\n";
    let gateway = Gateway::start(&with_silent(&silent, [&a, &b], rules)).await;
    let request = Request::chat("m");
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let answers = futures_util::future::join_all((0..30).map(|_| gateway.send(&request))).await;
        statuses.extend(answers.iter().map(|answer| answer.status));
    }
    // A first attempt each; what there was besides were retries, all of them at the others or again at the silent one.
    let (asked, all) = (statuses.len(), silent.count() + a.count() + b.count());
    let (retries, good) = (all - asked, statuses.iter().filter(|status| **status == 200).count());
    assert_eq!(asked, 180);
    assert!((18..=10 + 18).contains(&retries), "{retries} retries of {asked} requests, {} silent", silent.count());
    assert_eq!(good, a.count() + b.count(), "whoever was answered was so by one of the others");
    gateway.metric_is("tidegate_retries_total", &[], retries as f64).await;
}
