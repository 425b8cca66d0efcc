//! Metrics, the log, traces, what is kept of usage and what clients were told: the same, for each request.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::mixed::{self, KINDS, Kind, Told, send};
use crate::backend::Backend;
use crate::gateway::Gateway;
use crate::traces::{self, Span};

const REQUESTS: usize = 1001;

/// All of them, eight at a time: what each client was told.
async fn all(gateway: &Gateway) -> Vec<Told> {
    let (next, address) = (Arc::new(AtomicUsize::new(0)), gateway.address());
    let worker = |next: Arc<AtomicUsize>| async move {
        let mut told = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            if number >= REQUESTS {
                return told;
            }
            told.push((number, send(address, number).await));
        }
    };
    let workers: Vec<_> = (0..8).map(|_| tokio::spawn(worker(next.clone()))).collect();
    let mut all = vec![Told::default(); REQUESTS];
    for worker in workers {
        for (number, told) in worker.await.unwrap() {
            all[number] = told;
        }
    }
    all
}

/// The lines of all requests, by their ids.
async fn lines(gateway: &Gateway) -> HashMap<String, Value> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let lines = gateway.log.json().into_iter().filter(|line| line["event"] == "request");
        let lines: Vec<_> = lines.map(|line| (line["request_id"].as_str().unwrap().to_owned(), line)).collect();
        let by_id: HashMap<_, _> = lines.iter().cloned().collect();
        assert_eq!(by_id.len(), lines.len(), "one line a request");
        if by_id.len() == REQUESTS {
            return by_id;
        }
        assert!(Instant::now() < until, "{} lines", by_id.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The spans of all requests, by their ids, as a collector has got them.
async fn traced(gateway: &Gateway, collector: &Backend) -> HashMap<String, Span> {
    let until = Instant::now() + Duration::from_secs(30);
    while gateway.metrics().await.sum("tidegate_traces_total", &[("outcome", "sent")]) != REQUESTS as f64 {
        assert!(Instant::now() < until, "{}", gateway.metrics().await.with("tidegate_traces"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut by_id = HashMap::new();
    for message in 0..collector.count() {
        for span in traces::spans(&collector.seen(message).await.json()) {
            if let Some(id) = span.attributes.get("tidegate.request_id") {
                let before = by_id.insert(id.as_str().unwrap().to_owned(), span.clone());
                assert!(before.is_none(), "one span a request: {before:?} {span:?}");
            }
        }
    }
    assert_eq!(by_id.len(), REQUESTS);
    by_id
}

/// All rows, by the name that they are told by first.
async fn usage(gateway: &Gateway, by: &str) -> HashMap<String, Value> {
    let (mut rows, mut after) = (HashMap::new(), String::new());
    loop {
        let page = gateway.admin(&format!("/admin/usage?by={by}&limit=1000{after}")).await.json();
        let first = by.split(',').next().unwrap();
        for row in page["usage"].as_array().unwrap() {
            let before = rows.insert(row[first].as_str().unwrap_or_default().to_owned(), row.clone());
            assert!(before.is_none(), "{before:?} {row}");
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", next.replace('\u{1f}', "%1f")),
            None => return rows,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_log_traces_usage_and_clients_agree_on_each_of_a_thousand_mixed_requests() {
    let (backend, collector) = (Backend::start().await, traces::collector().await);
    backend.handle(mixed::answering());
    let traces = format!("traces: {{ endpoint: '{}', every: 50ms, queue: {REQUESTS} }}\n", collector.url());
    let gateway = Gateway::start(&(traces + &mixed::config(&backend))).await;
    let told = all(&gateway).await;
    gateway.metric_is("tidegate_requests_total", &[], REQUESTS as f64).await;
    let rows = usage(&gateway, "user,cause").await;
    assert_eq!(rows.len(), REQUESTS);
    let (lines, spans) = (lines(&gateway).await, traced(&gateway, &collector).await);

    let (mut by_kind, mut sums) = (HashMap::new(), [0, 0, 0]);
    for (number, told) in told.iter().enumerate() {
        let (kind, user) = (Kind::of(number), mixed::user(number));
        *by_kind.entry((kind as usize, told.again)).or_insert(0) += 1;
        let (row, line, span) = (&rows[&user], &lines[&user], &spans[&user]);
        let about = format!("{kind:?} {told:?}\n{row}\n{line}");
        let cause = mixed::cause(kind, told);
        assert_eq!(
            (&row["cause"], &line["cause"], &row["requests"]),
            (&cause.into(), &cause.into(), &1.into()),
            "{about}"
        );
        let said = |name: &str| span.attributes.get(name).cloned().unwrap_or_default();
        assert_eq!((said("tidegate.cause"), said("tidegate.user")), (cause.into(), user.clone().into()), "{about}");
        assert_eq!(said("error.type"), if cause == "none" { Value::Null } else { cause.into() }, "{about}");
        assert_eq!(said("http.response.status_code"), line["status"], "{about}");
        assert_eq!((told.whole, line["user"] == *user), (kind != Kind::Cancelled, true), "{about}");
        if kind != Kind::Cancelled {
            assert_eq!(line["status"], told.status, "{about}");
        }
        let count = |from: &Value, name: &str| from[name].as_u64().unwrap_or(0);
        let logged = (count(line, "prompt_tokens"), count(line, "completion_tokens"));
        for (name, tokens) in [("gen_ai.usage.input_tokens", logged.0), ("gen_ai.usage.output_tokens", logged.1)] {
            assert_eq!(said(name).as_u64().unwrap_or(0), tokens, "{name}: {about}\n{span:?}");
        }
        let kept = (count(row, "prompt_tokens"), count(row, "completion_tokens"));
        let saved = (count(row, "saved_prompt_tokens"), count(row, "saved_completion_tokens"));
        assert_eq!(logged, if told.again { saved } else { kept }, "{about}");
        assert_eq!((count(row, "again") == 1, if told.again { kept } else { saved }), (told.again, (0, 0)), "{about}");
        match told.tokens {
            Some(tokens) => assert_eq!(logged, tokens, "{about}"),
            // Nobody told what came: the token is counted, and its prompt estimated.
            None if matches!(kind, Kind::Broken | Kind::Cancelled) => {
                assert!(logged.0 > 0 && logged.1 == 1 && line["estimated"] == true && row["estimated"] == 1, "{about}");
            }
            None => assert_eq!(logged, (0, 0), "{about}"),
        }
        sums = [sums[0] + logged.0, sums[1] + logged.1, sums[2] + kept.0 * 3000 + kept.1 * 7000];
    }
    // All kinds were there, and so were answers that were kept.
    assert!(KINDS.iter().all(|kind| by_kind[&(*kind as usize, false)] > 0), "{by_kind:?}");
    assert!(by_kind[&(Kind::Cached as usize, true)] > 100, "{by_kind:?}");

    let metrics = gateway.metrics().await;
    let tokens = |kind| metrics.sum("gen_ai_client_token_usage_sum", &[("gen_ai_token_type", kind)]) as u64;
    assert_eq!([tokens("input"), tokens("output")], [sums[0], sums[1]]);
    for (cause, row) in usage(&gateway, "cause").await {
        let counted = metrics.sum("tidegate_requests_total", &[("cause", &cause)]);
        assert_eq!(row["requests"], counted as u64, "{cause}");
    }
    let total = gateway.admin("/admin/usage?by=").await.json()["total"].clone();
    assert_eq!(total["requests"], REQUESTS);
    let (kept, counted) = (total["cost"].as_f64().unwrap(), metrics.sum("tidegate_cost_total", &[]));
    assert!((kept - counted).abs() < 1e-6, "{kept} {counted}");
    // Each request that used anything costs a thousandth besides its tokens.
    let asked = rows.values().filter(|row| row["cost"].as_f64().unwrap() > 0.0).count();
    assert!((kept - sums[2] as f64 / 1e9 - asked as f64 / 1e3).abs() < 1e-6, "{kept} {sums:?} {asked}");
    assert_eq!(metrics.sum("tidegate_usage_records_total", &[("outcome", "dropped")]), 0.0);
    assert_eq!(metrics.sum("tidegate_usage_records_total", &[("outcome", "memory")]), 0.0);
}
