//! Streams that break after their client has seen some of them, and are continued by another backend.

mod refused;
mod teller;
mod ways;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::backend::Backend;
use crate::client::{End, Request};
use crate::gateway::{Gateway, pool_of};
use teller::{CHAT, COMPLETION, Teller, is_rest, text_of, usage_of, whole};

/// Two backends in a pool that resumes; the first request goes to the first.
async fn two(more: &str) -> (Backend, Backend, Gateway) {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let pool =
        format!("{}    breaker: off\n    retries: {{ always: 1000 }}\n    resume: {{{more}}}\n", pool_of(&[&a, &b]));
    let gateway = Gateway::start(&pool).await;
    (a, b, gateway)
}

/// A chat that asks for the text.
fn plain_request() -> Request {
    Request::post("/v1/chat/completions", CHAT)
}

/// Whoever is asked first breaks off after as many events as the path's query says, in one of several ways; whoever is
/// asked for the rest tells it.
fn breaking_as_asked(teller: fn(&'static str) -> Teller, names: [&'static str; 2], backends: [&Backend; 2]) {
    let asked: Arc<Mutex<HashSet<String>>> = Arc::default();
    for (backend, name) in backends.into_iter().zip(names) {
        let asked = asked.clone();
        backend.handle(move |seen| {
            let teller = teller(name);
            let query = seen.target.split_once('?').unwrap().1.to_owned();
            let after: usize = query.split('&').next().unwrap().parse().unwrap();
            if !asked.lock().unwrap().insert(query) {
                return teller.tells(seen);
            }
            let begun = teller.breaks(seen, after);
            match after % 4 {
                0 => begun.reset(),
                1 => begun.fin(),
                // Half an event, in the middle of a letter.
                2 => begun
                    .send(&b"40\r\ndata: {\"id\":\"x\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\xc3"[..])
                    .fin(),
                _ => begun.chunk(b"data: {\"error\":{\"message\":\"gone\",\"code\":500}}\n\n").done().end(),
            }
        });
    }
}

/// Each of the first `count` events is the last of the first backend.
async fn broken_at_every_event(teller: fn(&'static str) -> Teller, path: &str, body: &str, count: usize) {
    let chat = path.contains("chat");
    let (a, b, gateway) = two("").await;
    breaking_as_asked(teller, ["one", "second"], [&a, &b]);
    let cases = (0..=count).map(|after| {
        let request = Request::post(&format!("{path}?{after}"), body.to_owned());
        let gateway = &gateway;
        async move { (after, gateway.send(&request).await) }
    });
    for (after, answer) in futures_util::future::join_all(cases).await {
        if after == count {
            // The usage and the end are lost with the backend that knew them, and nobody makes them up.
            assert_eq!(answer.end, End::Whole);
            assert!(!answer.text().contains("[DONE]"), "{after}");
            continue;
        }
        assert_eq!(text_of(&answer, chat), whole(), "broken after {after} events");
        assert_eq!(usage_of(&answer), (10, 97, 107), "broken after {after} events");
    }
    // Each was broken once, and asked for once more but where the text was whole.
    assert_eq!(a.count() + b.count(), 2 * count + 1);
    gateway.metric_is("tidegate_resumes_total", &[("outcome", "won")], count as f64).await;
    gateway.metric_is("tidegate_resumes_total", &[], count as f64).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_chat_of_a_hundred_events_may_break_at_each_of_them() {
    // A role, 97 pieces, a reason and the usage are 100 events; the text is whole with the 99th.
    broken_at_every_event(Teller::chat, "/v1/chat/completions", CHAT, 99).await;
}

#[tokio::test]
async fn a_completion_may_break_at_each_of_its_events() {
    broken_at_every_event(Teller::completions, "/v1/completions", COMPLETION, 98).await;
}

#[tokio::test]
async fn a_broken_stream_is_continued_by_another_backend() {
    let (a, b, gateway) = two("").await;
    for (backend, name) in [(&a, "one"), (&b, "second")] {
        backend.handle(move |seen| {
            let teller = Teller::chat(name);
            if is_rest(seen) { teller.tells(seen) } else { teller.breaks(seen, 40).reset() }
        });
    }
    let request = plain_request().header("x-request-id", "r");
    let answer = gateway.send(&request).await;
    assert_eq!(text_of(&answer, true), whole());
    assert_eq!(usage_of(&answer), (10, 97, 107));
    assert_eq!((a.count(), b.count()), (1, 1));
    let line = gateway.log.request("r").await;
    assert_eq!((&line["resumed"], &line["resume"], &line["cause"]), (&json!(1), &json!("won"), &json!("none")));
    assert_eq!((&line["completion_tokens"], &line["estimated"]), (&json!(97), &json!(true)));
    gateway.metric_is("tidegate_resumes_total", &[("outcome", "won")], 1.0).await;
    gateway.metric_is("tidegate_backend_errors_total", &[("cause", "truncated")], 1.0).await;
}
