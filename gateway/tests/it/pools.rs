//! Several backends behind one name: who is chosen, who is left out, and that the client notices nothing.

use std::collections::HashSet;
use std::time::Duration;

use crate::backend::{Backend, Gate, OnAccept, Script};
use crate::client::{End, Request};
use crate::gateway::{Gateway, pool_at, pool_of, refused};

#[tokio::test]
async fn round_robin_gives_each_backend_its_turn_by_weight() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = format!(
        "pools:\n  main:\n    balance: round_robin\n    health: off\n    backends: [{{ url: {}, weight: 3 }}, {}]\n",
        a.url(),
        b.url()
    );
    let gateway = Gateway::start(&config).await;
    for _ in 0..8 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((a.count(), b.count()), (6, 2));
}

#[tokio::test]
async fn least_busy_avoids_the_backend_that_still_works() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = format!("{}    balance: least_busy\n", pool_of(&[&a, &b]));
    let gateway = Gateway::start(&config).await;
    let gate = Gate::closed();
    for backend in [&a, &b] {
        backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    }
    let mut busy = gateway.connect().await;
    busy.send(Request::chat("m").bytes()).await;
    while a.count() + b.count() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let (held, free) = if a.count() == 1 { (&a, &b) } else { (&b, &a) };
    // The other one's held answer is not what this is about.
    let mut second = gateway.connect().await;
    second.send(Request::chat("m").bytes()).await;
    free.seen(0).await;
    gate.open();
    assert_eq!((busy.answer().await.status, second.answer().await.status), (200, 200));
    assert_eq!((held.count(), free.count()), (1, 1));
}

#[tokio::test]
async fn a_refused_connection_moves_on_without_the_client_noticing() {
    let backend = Backend::start().await;
    let (down, down_too) = (refused(), refused());
    let gateway = Gateway::start(&pool_at(&[&down, &down_too, backend.url()])).await;
    for n in 0..6 {
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status, 200, "request {n}: {:?}", answer.body);
        assert_eq!(answer.json()["length"], Request::chat("m").content().len());
    }
    assert_eq!(backend.count(), 6);
}

#[tokio::test]
async fn a_connection_lost_while_the_request_is_sent_moves_on_with_the_whole_body() {
    for loss in [OnAccept::Close, OnAccept::Reset] {
        let (a, b) = (Backend::start().await, Backend::start().await);
        (0..3).for_each(|_| _ = a.on_accept(loss));
        let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
        // More than sockets hold: it cannot have been delivered whole, so it cannot have been run.
        let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(16 << 20));
        for _ in 0..2 {
            let answer = gateway.send(&Request::post("/v1/chat/completions", body.clone())).await;
            assert_eq!((answer.status, answer.json()["length"].as_u64()), (200, Some(body.len() as u64)), "{loss:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_dies_with_the_request_in_hand_is_followed_by_at_most_one_other() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    for backend in &backends {
        backend.always(Script::new().fin());
    }
    let gateway = Gateway::start(&pool_of(&[&backends[0], &backends[1], &backends[2]])).await;
    gateway.send(&Request::chat("m")).await.openai_error(502);
    let asked: usize = backends.iter().map(Backend::count).sum();
    assert!(asked <= 2, "a query of death reached {asked} backends");
}

#[tokio::test]
async fn an_answer_given_before_the_body_was_read_is_passed_on() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(8 << 20));
    backend.push(Script::status("413 Payload Too Large", r#"{"error":{"message":"too long for me"}}"#).at_head());
    let answer = gateway.send(&Request::post("/v1/chat/completions", body)).await;
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (413, Some("too long for me")));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn nothing_is_tried_twice_once_the_client_has_seen_a_byte() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.always(Script::stream().token("a").fin());
    }
    let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
    let answer = gateway.send(&Request::stream("m")).await;
    assert_eq!(answer.text().matches("\"content\":\"a\"").count(), 1);
    assert_eq!(a.count() + b.count(), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_backend_has_closed_is_replaced_unseen() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    backend.close_after_each_answer();
    for n in 0..20 {
        let answer = connection.exchange(&Request::chat("m")).await;
        assert_eq!(answer.status, 200, "request {n}: {:?}", answer.body);
    }
    assert_eq!(backend.count(), 21, "each was run once");
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_the_request_is_retried_once_on_a_fresh_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let mut connection = gateway.connect().await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    backend.push(Script::new().fin());
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    assert_eq!((backend.count(), backend.connections()), (3, 2));
}

#[tokio::test]
async fn connections_are_kept_and_used_again() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for _ in 0..10 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    backend.push(Script::words(&["a"], Duration::ZERO));
    assert_eq!(gateway.send(&Request::stream("m")).await.end, End::Whole);
    // The client has its [DONE] before the backend has ended its message: the connection is back a moment later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn idle_connections_are_given_up_before_the_backend_would() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}    idle_connections: 100ms\n", pool_of(&[&backend]))).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(backend.connections(), 2);
}

#[tokio::test]
async fn bytes_after_an_answer_spoil_its_connection_for_the_next() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let surplus = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
    backend.push(Script::new().send(surplus));
    assert_eq!(gateway.send(&Request::chat("m")).await.text(), "{}");
    let next = gateway.send(&Request::chat("m")).await;
    assert!(next.json()["hash"].is_string(), "{:?}", next.body);
}

#[tokio::test]
async fn max_in_flight_is_never_passed() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.handle(|_| {
            Script::new().pause(Duration::from_millis(60)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        });
    }
    let config = format!(
        "pools:\n  main:\n    health: off\n    backends: [{{ url: {}, max_in_flight: 2 }}, {{ url: {}, max_in_flight: 1 }}]\n",
        a.url(),
        b.url()
    );
    let gateway = Gateway::start(&config).await;
    let request = Request::chat("m");
    let answers = futures_util::future::join_all((0..12).map(|_| gateway.send(&request))).await;
    assert!(a.most_in_flight() <= 2 && b.most_in_flight() <= 1, "{} and {}", a.most_in_flight(), b.most_in_flight());
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 3);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert!(matches!(answer.status, 429 | 503), "{}", answer.status);
        assert!(answer.header("retry-after").is_some());
    }
    assert_eq!(gateway.send(&request).await.status, 200, "the slots were given back");
}

const FAST: &str = "    health: { every: 50ms, timeout: 200ms, down_after: 2, up_after: 1, path: /health }\n";

fn checked(backends: &str) -> String {
    format!("pools:\n  main:\n{FAST}    backends: [{backends}]\n")
}

#[tokio::test]
async fn health_checks_carry_the_backends_credentials() {
    let backend = Backend::start().await;
    let entry = format!("{{ url: {}, key: sk-upstream, headers: {{ X-Org: acme }} }}", backend.url());
    let _gateway = Gateway::start(&checked(&entry)).await;
    let probe = backend.probe(0).await;
    assert_eq!(probe.target, "/health");
    assert_eq!((probe.header("authorization"), probe.header("x-org")), (Some("Bearer sk-upstream"), Some("acme")));
    probe.assert_clean();
}

#[tokio::test]
async fn a_backend_that_fails_its_checks_is_left_out_until_it_passes_one() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    a.probes_get(|_| Script::status("500 Internal Server Error", "{}"));
    let gateway = Gateway::start(&checked(&format!("{}, {}", a.url(), b.url()))).await;
    a.probe(4).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!(a.count(), 0, "a sick backend got a request");
    a.probes_get(|_| Script::json("{}"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert!(a.count() > 0, "a recovered backend gets requests again");
}

#[tokio::test]
async fn a_busy_backend_is_not_a_dead_one() {
    let backend = Backend::start().await;
    let probes_hang =
        |seen: &crate::backend::Seen| if seen.is_probe() { Script::new().hang() } else { Script::chat("x") };
    backend.probes_get(probes_hang);
    let gate = Gate::closed();
    backend.push(
        (0..200)
            .fold(Script::stream(), |script, _| script.token("a").pause(Duration::from_millis(10)))
            .wait(&gate)
            .end(),
    );
    let gateway = Gateway::start(&checked(backend.url())).await;
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;
    // Long past the checks that would have condemned it: tokens still come, so it lives.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn all_down_is_503_with_retry_after_and_readyz_says_so() {
    let down = refused();
    let gateway = Gateway::start(&checked(&format!("\"{down}\""))).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let answer = gateway.send(&Request::chat("m")).await;
    answer.openai_error(503);
    assert!(answer.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok_and(|seconds| seconds >= 1)));
    let answer = gateway.send(&Request::post("/v1/messages", r#"{"model":"m","messages":[]}"#)).await;
    answer.anthropic_error(503);
    assert_eq!(gateway.admin("/readyz").await.status, 503);
    assert_eq!(gateway.admin("/livez").await.status, 200);
}

#[tokio::test]
async fn requests_of_one_client_spread_over_kept_connections() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&pool_of(&[&a, &b])).await;
    let request = Request::chat("m");
    let answers = futures_util::future::join_all((0..20).map(|_| gateway.send(&request))).await;
    let statuses: HashSet<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, HashSet::from([200]));
    assert_eq!(a.count() + b.count(), 20);
}
