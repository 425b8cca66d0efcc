//! Backends that say when to come back: in which ways, who waits for it, and what clients are told.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, pool_of};

const BODY: &str = r#"{"error":{"message":"no","type":"x","param":null,"code":"x"}}"#;

/// A refusal with these headers.
fn refusal(status: &str, headers: &[(&str, &str)]) -> Script {
    Script::answer(status, &[&[("content-type", "application/json")], headers].concat(), BODY)
}

fn busy_for(millis: &str) -> Script {
    refusal("503 Service Unavailable", &[("retry-after-ms", millis)])
}

/// How often two backends, of which one always answers so, are asked for six requests that all get an answer.
async fn six_requests_to(answer: Script) -> (usize, usize) {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.always(answer);
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    balance: round_robin\n")).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    (a.count(), b.count())
}

#[tokio::test]
async fn a_backend_is_left_alone_until_then_in_whatever_way_it_says_so() {
    let date = ("date", "Sat, 21 Nov 2026 10:00:00 GMT");
    let ways: [&[(&str, &str)]; 9] = [
        &[("retry-after", "60")],
        &[("retry-after-ms", "60000")],
        &[("retry-after", "Sat, 21 Nov 2026 10:01:00 GMT"), date],
        &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")],
        &[("x-ratelimit-reset", "1795255260"), date],
        &[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")],
        &[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "60s")],
        &[
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", "2026-11-21T10:01:00Z"),
            date,
        ],
        &[("retry-after", "99999999999")],
    ];
    for headers in ways {
        assert_eq!(six_requests_to(refusal("429 Too Many Requests", headers)).await, (1, 6), "{headers:?}");
    }
}

#[tokio::test]
async fn no_time_is_made_up_for_what_says_none() {
    let ways: [&[(&str, &str)]; 5] = [
        &[],
        &[("retry-after", "soon")],
        &[("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")],
        &[("x-ratelimit-remaining-tokens", "7"), ("x-ratelimit-reset-tokens", "6m0s")],
        &[("x-ratelimit-remaining", "7"), ("x-ratelimit-reset", "60")],
    ];
    for headers in ways {
        assert_eq!(six_requests_to(refusal("429 Too Many Requests", headers)).await, (6, 6), "{headers:?}");
    }
}

#[tokio::test]
async fn an_answer_that_says_that_it_was_the_last_for_now_is_believed() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let window = [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "60")];
    a.always(Script::answer("200 OK", &[&[("content-type", "application/json")], &window[..]].concat(), "{}"));
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + "    balance: round_robin\n")).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((a.count(), b.count()), (1, 5));
}

#[tokio::test]
async fn who_is_refused_waits_for_it_as_the_next_one_does() {
    let backend = Backend::start().await;
    // With one place, which the first must not hold while it waits.
    let config =
        format!("pools:\n  main:\n    health: off\n    backends: [{{ url: {}, max_in_flight: 1 }}]\n", backend.url());
    let gateway = Gateway::start(&config).await;
    backend.push(busy_for("700"));
    let began = Instant::now();
    let mut first = gateway.connect().await;
    first.send(Request::chat("m").header("x-request-id", "first").bytes()).await;
    backend.seen(0).await;
    let next = gateway.send(&Request::chat("m")).await;
    let first = first.answer().await;
    assert_eq!((first.status, next.status, backend.count()), (200, 200, 3));
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    for answer in [&first, &next] {
        assert!(answer.header("x-tidegate-queue-ms").is_some(), "it waited in the queue: {:?}", answer.head);
    }
    assert_eq!((first.header("x-tidegate-attempts"), next.header("x-tidegate-attempts")), (Some("2"), Some("1")));
    assert_eq!(gateway.log.request("first").await["retried"], "overloaded");
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_stream_that_is_refused_is_told_how_it_stands_while_it_waits() {
    let backend = Backend::start().await;
    backend.push(busy_for("500")).push(Script::words(&["fine"], Duration::ZERO));
    let gateway = Gateway::start(&(pool_of(&[&backend]) + "    queue: { tell: 100ms }\n")).await;
    let answer = gateway.send(&Request::stream("m")).await;
    assert!(answer.text().starts_with(": queue: position 1") && answer.text().contains("fine"), "{}", answer.text());
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
}

#[tokio::test]
async fn nobody_waits_longer_than_it_can_or_where_there_is_no_queue() {
    for (rules, wait) in [("    queue: off\n", "60000"), ("", "60000"), ("    queue: { max_wait: 100ms }\n", "5000")] {
        let backend = Backend::start().await;
        backend.always(busy_for(wait));
        let gateway = Gateway::start(&(pool_of(&[&backend]) + rules)).await;
        for code in ["x", "overloaded"] {
            let answer = gateway.send(&Request::chat("m")).await;
            if code == "overloaded" {
                assert_eq!(answer.openai_error(503)["code"], code, "{rules}");
            }
            let told: u64 = answer.header("retry-after-ms").unwrap().parse().unwrap();
            assert!(answer.status == 503 && told <= wait.parse().unwrap(), "{rules}: {told}");
        }
        assert_eq!(backend.count(), 1, "{rules}");
        gateway.metric_is("tidegate_retries_total", &[], 0.0).await;
    }
}

#[tokio::test]
async fn what_is_told_is_when_the_first_of_the_pool_comes_back() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.always(refusal("503 Service Unavailable", &[("retry-after", "20")]));
    b.always(refusal("429 Too Many Requests", &[("retry-after", "500")]));
    let rules = "    queue: off\n    balance: round_robin\n";
    let gateway = Gateway::start(&(pool_of(&[&a, &b]) + rules)).await;
    for _ in 0..3 {
        let answer = gateway.send(&Request::chat("m")).await;
        let (seconds, millis) = (answer.header("retry-after").unwrap(), answer.header("retry-after-ms").unwrap());
        let (seconds, millis): (u64, u64) = (seconds.parse().unwrap(), millis.parse().unwrap());
        // Rounded up: who comes back when he was told is not too early.
        let is_told = (10_000..=20_001).contains(&millis) && millis.div_ceil(1000) == seconds;
        assert!(is_told, "{seconds} s, {millis} ms");
    }
    assert_eq!((a.count(), b.count()), (1, 1));
}

#[tokio::test]
async fn a_refusal_for_a_date_is_told_in_seconds() {
    let backend = Backend::start().await;
    let date = ("date", "Sat, 21 Nov 2026 10:00:00 GMT");
    backend.always(refusal("429 Too Many Requests", &[("retry-after", "Sat, 21 Nov 2026 10:00:40 GMT"), date]));
    let gateway = Gateway::start(&(pool_of(&[&backend]) + "    queue: off\n")).await;
    let answer = gateway.send(&Request::chat("m")).await;
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!(answer.status == 429 && (30..=40).contains(&seconds), "{:?}", answer.head);
}

#[tokio::test]
async fn who_has_somewhere_else_to_go_does_not_wait() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.always(busy_for("20000"));
    let pool = |name: &str, backend: &Backend| format!("  {name}: {{ health: off, backends: [{}] }}\n", backend.url());
    let models = "models:\n  m: { pool: main, fallback: [other] }\n";
    let gateway = Gateway::start(&format!("pools:\n{}{}{models}", pool("main", &a), pool("other", &b))).await;
    for _ in 0..3 {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!((answer.status, answer.header("x-tidegate-pool")), (200, Some("other")));
        assert_eq!(answer.header("x-tidegate-queue-ms"), None);
    }
    assert_eq!((a.count(), b.count()), (1, 3));
}
