//! What a client gets, and what backends are asked, where a broken stream goes on.

use serde_json::json;

use super::teller::{CHAT, Teller, body, events, is_rest, text_of, usage_of, whole};
use super::{plain_request, two};
use crate::backend::{Backend, Gate, Script};
use crate::client::{End, Request};
use crate::gateway::{Gateway, pool_of};

/// A pool of these backends that resumes so, with these further lines.
async fn pool(backends: &[&Backend], resume: &str, more: &str) -> Gateway {
    let lines = format!("    breaker: off\n    retries: {{ always: 1000 }}\n    resume: {{{resume}}}\n{more}");
    Gateway::start(&(pool_of(backends) + &lines)).await
}

#[tokio::test]
async fn a_stream_may_break_twice() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    for backend in &backends {
        backend.handle(|seen| match body(seen)["messages"][1]["content"].as_str().map(str::len) {
            None => Teller::chat("one").breaks(seen, 31).fin(),
            Some(..250) => Teller::chat("second").breaks(seen, 29).fin(),
            Some(_) => Teller::chat("number three").tells(seen),
        });
    }
    let [a, b, c] = &backends;
    let gateway = pool(&[a, b, c], "", "").await;
    let answer = gateway.send(&plain_request().header("x-request-id", "r")).await;
    assert_eq!(text_of(&answer, true), whole());
    assert_eq!(usage_of(&answer), (10, 97, 107));
    assert_eq!([a.count(), b.count(), c.count()], [1, 1, 1], "nobody who broke it is asked again");
    let line = gateway.log.request("r").await;
    assert_eq!((&line["resumed"], &line["attempts"]), (&json!(2), &json!(3)));
    gateway.metric_is("tidegate_backend_errors_total", &[("cause", "truncated")], 2.0).await;
}

#[tokio::test]
async fn a_backend_that_stops_in_the_middle_is_left_for_another() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.handle(|seen| match is_rest(seen) {
            true => Teller::chat("second").tells(seen),
            false => Teller::chat("one").breaks(seen, 20).hang(),
        });
    }
    let gateway = pool(&[&a, &b], "", "    timeouts: { idle: 300ms }\n").await;
    let answer = gateway.send(&plain_request()).await;
    assert_eq!(text_of(&answer, true), whole());
    a.seen(0).await.gone().await;
    gateway.metric_is("tidegate_backend_errors_total", &[("cause", "timeout")], 1.0).await;
}

#[tokio::test]
async fn the_rest_has_what_is_left_of_the_length_and_keeps_what_else_was_asked() {
    // Broken after the role and all 20 tokens: only the end is missing.
    for (after, rest) in [(11, 10), (21, 1)] {
        let (a, b, gateway) = two("").await;
        for backend in [&a, &b] {
            backend.handle(move |seen| match is_rest(seen) {
                true => Teller::chat("second").tells(seen),
                false => Teller::chat("one").breaks(seen, after).fin(),
            });
        }
        let asked = CHAT.replace("\"stream\":", "\"max_tokens\":20,\"seed\":7,\"stop\":[\"x\"],\"stream\":");
        let answer = gateway.send(&Request::post("/v1/chat/completions", asked)).await;
        let twenty: String = super::teller::pieces()[..20].concat();
        assert_eq!(text_of(&answer, true), twenty);
        assert_eq!(usage_of(&answer), (10, 20, 30));
        let reasons = events(&answer);
        assert!(reasons.iter().any(|event| event["choices"][0]["finish_reason"] == "length"));
        let asked = body(&*b.seen(0).await);
        assert_eq!((&asked["max_tokens"], &asked["seed"], &asked["stop"]), (&json!(rest), &json!(7), &json!(["x"])));
    }
}

#[tokio::test]
async fn a_client_that_did_not_ask_for_the_usage_does_not_get_it() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    for backend in [&a, &b] {
        backend.handle(|seen| match is_rest(seen) {
            true => Teller::chat("second").tells(seen),
            false => Teller::chat("one").breaks(seen, 40).fin(),
        });
    }
    let gateway = pool(&[&a, &b], "", "    usage: ask\n").await;
    let asked = CHAT.replace(",\"stream_options\":{\"include_usage\":true}", "");
    let answer = gateway.send(&Request::post("/v1/chat/completions", asked).header("x-request-id", "r")).await;
    assert_eq!(text_of(&answer, true), whole());
    assert!(!answer.text().contains("usage"), "{}", answer.text());
    let line = gateway.log.request("r").await;
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(10), &json!(97)));
}

#[tokio::test]
async fn another_pool_may_go_on_where_it_resumes_too() {
    for (setting, goes_on) in [("resume: { style: prefill }", true), ("hold: event", false)] {
        let (local, cloud) = (Backend::start().await, Backend::start().await);
        local.handle(|seen| Teller::completions("one").breaks(seen, 40).fin());
        cloud.handle(|seen| Teller::completions("second").tells(seen));
        let gateway = Gateway::start(&format!(
            "models:\n  m: {{ pool: local, fallback: [{{ pool: cloud, as: mini }}] }}\npools:\n  local: {{ health: off, \
             breaker: off, resume: {{}}, backends: ['{}'] }}\n  cloud: {{ health: off, {setting}, backends: ['{}'] }}\n",
            local.url(),
            cloud.url()
        ))
        .await;
        let request = Request::post("/v1/completions", super::teller::COMPLETION).header("x-request-id", "r");
        let answer = gateway.send(&request).await;
        assert_eq!((cloud.count(), local.count()), (usize::from(goes_on), 1));
        if goes_on {
            assert_eq!(text_of(&answer, false), whole());
            assert_eq!(cloud.only().await.model(), "mini");
            let line = gateway.log.request("r").await;
            assert_eq!((&line["pool"], &line["fallback"]), (&json!("cloud"), &json!("unavailable")));
        } else {
            assert!(answer.text().contains("upstream_error"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn the_only_backend_is_asked_again_if_it_says_itself_that_it_failed() {
    let error = "data: {\"error\":{\"message\":\"slot lost\",\"code\":500}}\n\n";
    let backend = Backend::start().await;
    backend.handle(move |seen| match is_rest(seen) {
        true => Teller::chat("second").tells(seen),
        false => Teller::chat("one").breaks(seen, 40).chunk(error).end(),
    });
    let gateway = pool(&[&backend], "", "").await;
    assert_eq!(text_of(&gateway.send(&plain_request()).await, true), whole());
    assert_eq!(backend.count(), 2);
}

#[tokio::test]
async fn a_stream_that_has_said_nothing_is_asked_for_once_more() {
    let (a, b, gateway) = two("").await;
    let error = "data: {\"error\":{\"message\":\"no memory\",\"code\":500}}\n\n";
    a.push(Script::stream().fin()).push(Script::stream().chunk(error).end());
    a.always(Script::stream().reset());
    b.handle(|seen| Teller::chat("second").tells(seen));
    for _ in 0..6 {
        let answer = gateway.send(&plain_request()).await;
        assert_eq!(text_of(&answer, true), whole());
    }
    assert!(a.count() >= 3, "each way of saying nothing: {}", a.count());
    assert_eq!(b.count(), 6);
    for n in 0..6 {
        assert!(!is_rest(&*b.seen(n).await), "there was nothing to continue");
    }
}

#[tokio::test]
async fn what_was_given_and_is_said_again_in_one_piece_is_left_out() {
    let (a, b, gateway) = two("").await;
    for backend in [&a, &b] {
        backend.handle(|seen| {
            let body = body(seen);
            let Some(given) = body["messages"][1]["content"].as_str() else {
                return Teller::chat("one").breaks(seen, 40).fin();
            };
            let mut events = Teller::chat("second").events(seen);
            let choice = json!([{"index": 0, "delta": {"content": given}, "finish_reason": null}]);
            events.insert(1, Teller::chat("second").event(choice, json!({})));
            events.iter().fold(Script::stream(), Script::chunk).done().end()
        });
    }
    assert_eq!(text_of(&gateway.send(&plain_request()).await, true), whole());
}

#[tokio::test]
async fn those_who_share_an_answer_read_the_same_stream_and_it_is_not_kept() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let gate = Gate::closed();
    for backend in [&a, &b] {
        let gate = gate.clone();
        backend.handle(move |seen| match is_rest(seen) {
            true => Teller::chat("second").tells(seen),
            false => Teller::chat("one").breaks(seen, 40).wait(&gate).fin(),
        });
    }
    let filters = "filters:\n  - prompt_cache: { scope: global, for: 1h }\n  - shared_flight: { scope: global }\n";
    let gateway = pool(&[&a, &b], "", filters).await;
    let mut first = gateway.connect().await;
    first.send(plain_request().bytes()).await;
    a.seen(0).await;
    let mut second = gateway.connect().await;
    second.send(plain_request().bytes()).await;
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while gateway.metrics().await.sum("tidegate_requests_in_flight", &[]) < 2.0 {
        assert!(std::time::Instant::now() < until, "the second has not come");
    }
    gate.open();
    let (one, two) = (first.answer().await, second.answer().await);
    assert_eq!((text_of(&one, true), one.text()), (whole(), two.text()));
    assert_eq!(a.count() + b.count(), 2);
    gateway.metric_is("tidegate_cache_unstored_total", &[("reason", "resumed")], 1.0).await;
    assert_eq!(gateway.send(&plain_request()).await.end, End::Whole);
    assert_eq!(a.count() + b.count(), 4, "asked anew");
}
