//! Backends that fail requests are left alone, for their own faults only, and come back by and by.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::{Gateway, pool_of};

/// Quick to open and to look again.
const QUICK: &str = "    breaker: { consecutive: 3, pause: 1500ms, slow_start: 0s }\n    retries: 0\n";

async fn two(breaker: &str) -> (Backend, Backend, Gateway) {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&format!("{}{breaker}", pool_of(&[&a, &b]))).await;
    (a, b, gateway)
}

async fn statuses(gateway: &Gateway, request: &Request, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        statuses.push(gateway.send(request).await.status);
    }
    statuses
}

async fn breaker_is(gateway: &Gateway, backend: &Backend, state: f64) {
    let name = backend.address().to_string();
    gateway.metric_is("tidegate_backend_breaker_state", &[("backend", &name)], state).await;
}

#[tokio::test]
async fn after_faults_in_a_row_a_backend_gets_no_more_and_one_good_answer_brings_it_back() {
    let (a, b, gateway) = two(QUICK).await;
    a.always(Script::status("500 Internal Server Error", "{}"));
    let failed = statuses(&gateway, &Request::chat("m"), 20).await.iter().filter(|status| **status != 200).count();
    assert_eq!((failed, a.count()), (3, 3), "three faults, and nothing more");
    breaker_is(&gateway, &a, 2.0).await;
    gateway.metric_is("tidegate_backend_breaker_opened_total", &[("reason", "consecutive")], 1.0).await;
    let health = gateway.admin("/admin/backends").await.json();
    assert_eq!(health["main"]["backends"][a.address().to_string()]["breaker"], "open", "{health}");

    tokio::time::sleep(Duration::from_millis(1550)).await;
    breaker_is(&gateway, &a, 1.0).await;
    statuses(&gateway, &Request::chat("m"), 10).await;
    assert_eq!(a.count(), 4, "one request to see, and it failed");

    a.handle(|_| Script::chat("well"));
    tokio::time::sleep(Duration::from_millis(3050)).await;
    assert_eq!(statuses(&gateway, &Request::chat("m"), 10).await, [200; 10]);
    breaker_is(&gateway, &a, 0.0).await;
    assert!(a.count() >= 8 && b.count() >= 20, "{} {}", a.count(), b.count());
    gateway.metric_is("tidegate_backend_picks_total", &[("kind", "probe")], 2.0).await;
}

#[tokio::test]
async fn a_clients_mistakes_and_a_full_backend_are_nobodys_outage() {
    let (a, _b, gateway) = two(QUICK).await;
    for (n, status) in
        ["400 Bad Request", "404 Not Found", "429 Too Many Requests", "503 Service Unavailable"].iter().enumerate()
    {
        a.always(Script::status(status, r#"{"error":{"message":"no"}}"#));
        statuses(&gateway, &Request::chat("m"), 12).await;
        assert_eq!(a.count(), 6 * (n + 1), "{status}: it still gets its turns");
    }
    breaker_is(&gateway, &a, 0.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_says_nothing_about_the_backend() {
    let (a, b, gateway) = two(QUICK).await;
    for backend in [&a, &b] {
        backend.always(Script::new().hang());
    }
    for n in 0..12 {
        let mut client = gateway.connect().await;
        client.send(Request::chat("m").bytes()).await;
        if n % 2 == 0 { &a } else { &b }.seen(n / 2).await;
        client.reset();
    }
    gateway.metric_is("tidegate_requests_total", &[("cause", "client_gone")], 12.0).await;
    breaker_is(&gateway, &a, 0.0).await;
}

#[tokio::test]
async fn error_events_empty_streams_and_nonsense_are_the_backends_faults() {
    let error = Script::stream().chunk("data: {\"error\":{\"message\":\"out of memory\"}}\n\n").end();
    let late = Script::stream().token("a").chunk("data: {\"error\":{\"message\":\"out of memory\"}}\n\n").end();
    let done = Script::stream().done().end();
    for unwell in [error, late, done, Script::stream().end(), Script::stream().token("a").fin(), Script::json("<html>")]
    {
        let (a, b, gateway) = two(QUICK).await;
        a.always(unwell.clone());
        b.handle(|_| Script::words(&["a"], Duration::ZERO));
        statuses(&gateway, &Request::stream("m"), 12).await;
        assert_eq!(a.count(), 3, "{unwell:?}");
    }
}

#[tokio::test]
async fn one_model_may_be_broken_and_the_others_not() {
    let (a, _b, gateway) = two(QUICK).await;
    a.handle(|seen| match seen.model().as_str() {
        "broken" => Script::status("500 Internal Server Error", "{}"),
        _ => Script::chat("well"),
    });
    statuses(&gateway, &Request::chat("broken"), 12).await;
    assert_eq!(a.count(), 3);
    assert_eq!(statuses(&gateway, &Request::chat("fine"), 6).await, [200; 6]);
    assert_eq!(a.count(), 6);
}

#[tokio::test]
async fn a_backend_that_accepts_and_never_answers_costs_its_time_once_and_then_nothing() {
    let breaker = "    breaker: { pause: 60s }\n    retries: 0\n    timeouts: { first_byte: 300ms }\n";
    let (a, b, gateway) = two(breaker).await;
    a.always(Script::new().hang());
    let (mut slow, began) = (0, Instant::now());
    for _ in 0..40 {
        let began = Instant::now();
        let status = gateway.send(&Request::chat("m")).await.status;
        slow += usize::from(began.elapsed() > Duration::from_millis(250));
        assert!(status == 200 || status == 504, "{status}");
    }
    assert_eq!((slow, a.count(), b.count()), (1, 1, 39), "in {:?}", began.elapsed());
    gateway.metric_is("tidegate_backend_breaker_opened_total", &[("reason", "silent")], 1.0).await;
}

#[tokio::test]
async fn a_slow_answer_of_a_backend_that_talks_to_others_is_not_silence() {
    let backend = Backend::start().await;
    let config = format!("{}    retries: 0\n    timeouts: {{ first_byte: 300ms }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    backend.push((0..100).fold(Script::stream(), |script, _| script.token("a").pause(Duration::from_millis(10))).end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;
    backend.push(Script::new().hang());
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 504);
    breaker_is(&gateway, &backend, 0.0).await;
}

#[tokio::test]
async fn one_that_comes_back_gets_its_share_by_and_by() {
    let (a, b, gateway) = two("    breaker: { consecutive: 1, pause: 200ms, slow_start: 4s }\n    retries: 0\n").await;
    a.push(Script::status("500 Internal Server Error", "{}"));
    statuses(&gateway, &Request::chat("m"), 2).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    let before = (a.count(), b.count());
    statuses(&gateway, &Request::chat("m"), 40).await;
    let (of_a, of_b) = (a.count() - before.0, b.count() - before.1);
    assert!((2..=12).contains(&of_a), "{of_a} and {of_b} just after it came back");
}

#[tokio::test]
async fn when_most_are_out_all_are_used() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await, Backend::start().await];
    for backend in &backends[..3] {
        backend.always(Script::status("500 Internal Server Error", "{}"));
    }
    let pool = pool_of(&backends.iter().collect::<Vec<_>>());
    let breaker = |below: f64| {
        format!("{pool}    breaker: {{ consecutive: 1, pause: 60s, panic_below: {below} }}\n    retries: 0\n")
    };
    let trusting = Gateway::start(&breaker(0.0)).await;
    statuses(&trusting, &Request::chat("m"), 4).await;
    assert_eq!(statuses(&trusting, &Request::chat("m"), 12).await, [200; 12], "the one that works gets everything");
    let panicking = Gateway::start(&breaker(0.3)).await;
    statuses(&panicking, &Request::chat("m"), 4).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let used = statuses(&panicking, &Request::chat("m"), 12).await;
    assert_eq!(used.iter().filter(|status| **status == 200).count(), 3, "{used:?}");
    // The last of the first four may have been one already.
    let panic = panicking.metrics().await.sum("tidegate_backend_picks_total", &[("kind", "panic")]);
    assert!((12.0..=13.0).contains(&panic), "{panic}");
}

#[tokio::test]
async fn a_pool_of_one_is_used_whatever_it_does() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}{QUICK}", pool_of(&[&backend]))).await;
    backend.always(Script::status("500 Internal Server Error", "{}"));
    statuses(&gateway, &Request::chat("m"), 6).await;
    backend.handle(|_| Script::chat("well"));
    assert_eq!(statuses(&gateway, &Request::chat("m"), 3).await, [200; 3]);
}

#[tokio::test]
async fn switched_off_it_trusts_everybody() {
    let (a, _b, gateway) = two("    breaker: off\n    retries: 0\n").await;
    a.always(Script::status("500 Internal Server Error", "{}"));
    statuses(&gateway, &Request::chat("m"), 20).await;
    assert_eq!(a.count(), 10);
}

fn probed(backend: &Backend, health: &str) -> String {
    format!(
        "pools:\n  main:\n    health: {{ every: 60ms, timeout: 200ms, down_after: 2, {health} }}\n    backends: [{{ url: {}, key: sk-up }}]\n",
        backend.url()
    )
}

#[tokio::test]
async fn a_probe_may_be_a_token_that_is_generated_with_the_backends_key() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&probed(&backend, "by: generate, model: tiny")).await;
    let seen = backend.seen(0).await;
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!((seen.model().as_str(), seen.json()["max_tokens"].as_u64()), ("tiny", Some(1)));
    assert_eq!(seen.header("authorization"), Some("Bearer sk-up"));
    seen.assert_clean();
    readyz_becomes(&gateway, 200).await;
    backend.always(Script::status("400 Bad Request", "{}"));
    readyz_becomes(&gateway, 503).await;
    backend.always(Script::chat("H"));
    readyz_becomes(&gateway, 200).await;
}

#[tokio::test]
async fn a_probe_may_be_no_more_than_a_connection() {
    let backend = Backend::start().await;
    backend.probes_get(|_| Script::status("500 Internal Server Error", "{}"));
    let gateway = Gateway::start(&probed(&backend, "by: tcp")).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(gateway.admin("/readyz").await.status, 200, "it takes connections");
    assert_eq!(backend.count(), 0);
}

async fn readyz_becomes(gateway: &Gateway, status: u16) {
    let until = Instant::now() + Duration::from_secs(3);
    while gateway.admin("/readyz").await.status != status {
        assert!(Instant::now() < until, "/readyz is not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
