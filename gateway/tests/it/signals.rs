//! What engines tell of themselves: the load that others put on them counts, as long as it is fresh.

use std::time::Duration;

use crate::backend::{Backend, Script};
use crate::client::Request;
use crate::gateway::Gateway;

/// A backend whose metrics say this.
async fn telling(metrics: &'static str) -> Backend {
    let backend = Backend::start().await;
    backend.handle(move |seen| match seen.target.as_str() {
        "/metrics" => Script::answer("200 OK", &[("content-type", "text/plain; version=0.0.4")], metrics),
        _ => Script::chat("x"),
    });
    backend
}

fn pool(backends: [&Backend; 2], believe: &str) -> String {
    let [a, b] = backends.map(|backend| format!("{{ url: {}, key: sk-up }}", backend.url()));
    format!(
        "pools:\n  main:\n    balance: least_busy\n    health: off\n    signals: {{ every: 50ms, believe: {believe} }}\n    backends: [{a}, {b}]\n"
    )
}

/// How many requests of clients it got, readings left out.
async fn asked(backend: &Backend) -> usize {
    let mut count = 0;
    for n in 0..backend.count() {
        count += usize::from(backend.seen(n).await.target != "/metrics");
    }
    count
}

#[tokio::test]
async fn a_backend_that_is_busy_for_others_gets_less() {
    const BUSY: &str = "vllm:num_requests_running{model_name=\"m\"} 5\nvllm:num_requests_waiting{model_name=\"m\"} 3\nvllm:kv_cache_usage_perc{model_name=\"m\"} 0.4\n";
    const IDLE: &str = "sglang:num_running_reqs 0\nsglang:num_queue_reqs 0\nsglang:token_usage 0.0\n";
    let (a, b) = (telling(BUSY).await, telling(IDLE).await);
    let gateway = Gateway::start(&pool([&a, &b], "10s")).await;
    for backend in [&a, &b] {
        let reading = backend.seen(1).await;
        assert_eq!((reading.method.as_str(), reading.header("authorization")), ("GET", Some("Bearer sk-up")));
    }
    for _ in 0..10 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((asked(&a).await, asked(&b).await), (0, 10));
    let about = gateway.admin("/admin/backends").await.json()["main"]["backends"][a.address().to_string()].clone();
    assert!(about["elsewhere"].as_f64().is_some_and(|n| (10.0..=11.0).contains(&n)), "{about}");
    assert!(gateway.metrics().await.sum("tidegate_backend_signals_total", &[("outcome", "read")]) >= 2.0);
}

#[tokio::test]
async fn what_was_told_long_ago_or_cannot_be_read_does_not_count() {
    let (a, b) = (telling("llamacpp:requests_processing 9\n").await, telling("nothing that is known 1\n").await);
    let gateway = Gateway::start(&pool([&a, &b], "400ms")).await;
    a.seen(1).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(asked(&a).await, 0);
    a.handle(|seen| match seen.target.as_str() {
        "/metrics" => Script::status("500 Internal Server Error", "{}"),
        _ => Script::chat("x"),
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    for _ in 0..20 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert!(asked(&a).await >= 3, "{}", asked(&a).await);
    assert!(gateway.metrics().await.sum("tidegate_backend_signals_total", &[("outcome", "failed")]) >= 3.0);
}
