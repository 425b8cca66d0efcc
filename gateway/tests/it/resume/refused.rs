//! Streams that break and do not go on: the error event is told as it is without the setting, and why is counted.

use serde_json::{Value, json};

use super::teller::{CHAT, Teller, is_rest, text_of, whole};
use super::{plain_request, two};
use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Gateway, pool_of};

/// The error that a stream ends with.
fn error_of(answer: &Answer) -> Value {
    assert!(!answer.text().contains("[DONE]"), "a made-up end: {}", answer.text());
    let last = answer.text().trim_end().rsplit("\n\n").next().unwrap();
    let event: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert!(event["error"]["message"].is_string(), "{event}");
    event["error"].clone()
}

async fn outcome(gateway: &Gateway, outcome: &str) {
    gateway.metric_is("tidegate_resumes_total", &[("outcome", outcome)], 1.0).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
}

/// Breaks all of its streams after 40 events.
fn breaks(backends: &[&Backend]) {
    for backend in backends {
        backend.handle(|seen| Teller::chat("one").breaks(seen, 40).fin());
    }
}

#[tokio::test]
async fn where_nobody_else_is_the_error_is_told_and_counted_once() {
    let backend = Backend::start().await;
    breaks(&[&backend]);
    let gateway = Gateway::start(&(pool_of(&[&backend]) + "    resume: {}\n")).await;
    let answer = gateway.send(&plain_request().header("x-request-id", "r")).await;
    assert_eq!(error_of(&answer)["code"], "upstream_error");
    assert_eq!(backend.count(), 1, "nothing shows that it is back");
    let line = gateway.log.request("r").await;
    assert_eq!((&line["resumed"], &line["resume"]), (&json!(0), &json!("nobody")));
    assert_eq!((&line["cause"], &line["status"]), (&json!("upstream_error"), &json!(200)));
    outcome(&gateway, "nobody").await;
    gateway.metric_is("tidegate_backend_errors_total", &[("cause", "truncated")], 1.0).await;
}

#[tokio::test]
async fn a_backend_that_refuses_to_continue_is_not_asked_to_again() {
    let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
    let [a, b, c] = &backends;
    for backend in [a, c] {
        backend.handle(|seen| match is_rest(seen) {
            true => Teller::chat("second").tells(seen),
            false => Teller::chat("one").breaks(seen, 40).fin(),
        });
    }
    b.handle(|seen| match is_rest(seen) {
        true => Script::status("400 Bad Request", r#"{"error":{"message":"unknown field continue_final_message"}}"#),
        false => Teller::chat("one").breaks(seen, 40).fin(),
    });
    let lines = "    breaker: off\n    retries: { always: 1000 }\n    resume: {}\n";
    let gateway = Gateway::start(&(pool_of(&[a, b, c]) + lines)).await;
    for _ in 0..9 {
        assert_eq!(text_of(&gateway.send(&plain_request()).await, true), whole());
    }
    let mut asked = 0;
    for n in 0..b.count() {
        asked += usize::from(is_rest(&*b.seen(n).await));
    }
    assert_eq!(asked, 1, "once, and remembered");
    outcome(&gateway, "failed").await;
}

#[tokio::test]
async fn more_than_text_is_never_continued() {
    let odd = |delta: &str| {
        let event = format!(
            "data: {{\"id\":\"x\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n"
        );
        Script::stream().token("a").chunk(event).fin()
    };
    let with = |member: &str| CHAT.replace("\"stream\":", &format!("{member},\"stream\":"));
    let broken = || Script::stream().token("a").token("b").fin();
    for (how, script, request) in [
        ("a tool call", odd(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}"#), CHAT.to_owned()),
        ("reasoning", odd(r#"{"reasoning_content":"so"}"#), CHAT.to_owned()),
        ("tools", broken(), with(r#""tools":[{"type":"function"}]"#)),
        ("a schema", broken(), with(r#""response_format":{"type":"json_object"}"#)),
        ("log probabilities", broken(), with(r#""logprobs":true"#)),
    ] {
        let (a, b, gateway) = two("").await;
        for backend in [&a, &b] {
            backend.always(script.clone());
        }
        let answer = gateway.send(&Request::post("/v1/chat/completions", request)).await;
        assert_eq!(error_of(&answer)["code"], "upstream_error", "{how}");
        assert_eq!(a.count() + b.count(), 1, "{how}");
        outcome(&gateway, "not_text").await;
    }
    let (a, b, gateway) = two("").await;
    breaks(&[&a, &b]);
    error_of(&gateway.send(&plain_request().header("x-tidegate-resume", "off")).await);
    assert_eq!(a.count() + b.count(), 1, "the client does not want it");
}

#[tokio::test]
async fn a_stream_is_resumed_as_often_as_it_may_be_and_within_the_budget() {
    for (resume, retries, asked, why) in [
        ("attempts: 1", "always: 1000", 2, "attempts"),
        ("attempts: 9", "always: 1000", 3, "nobody"),
        ("text: 64B", "always: 1000", 1, "too_long"),
        ("", "budget: 0%, always: 0", 1, "budget"),
    ] {
        let backends = [Backend::start().await, Backend::start().await, Backend::start().await];
        let [a, b, c] = &backends;
        for backend in [a, b, c] {
            backend.handle(|seen| Teller::chat("one").breaks(seen, 20).fin());
        }
        let lines = format!("    breaker: off\n    retries: {{ {retries} }}\n    resume: {{ {resume} }}\n");
        let gateway = Gateway::start(&(pool_of(&[a, b, c]) + &lines)).await;
        let answer = gateway.send(&plain_request()).await;
        assert_eq!(error_of(&answer)["code"], "upstream_error", "{resume}");
        assert_eq!(a.count() + b.count() + c.count(), asked, "{resume}");
        outcome(&gateway, why).await;
        gateway.metric_is("tidegate_backend_errors_total", &[("cause", "truncated")], asked as f64).await;
    }
}

#[tokio::test]
async fn an_error_event_is_told_as_it_came_if_nobody_goes_on() {
    let error = "data: {\"error\":{\"message\":\"slot lost\",\"code\":500}}\n\n";
    let refusal = "data: {\"error\":{\"message\":\"the context is full\",\"code\":400}}\n\n";
    for (event, asked) in [(error, 2), (refusal, 1)] {
        let (a, b, gateway) = two("attempts: 1").await;
        for backend in [&a, &b] {
            backend.handle(move |seen| Teller::chat("one").breaks(seen, 20).chunk(event).end());
        }
        let answer = gateway.send(&plain_request().header("x-request-id", "r")).await;
        assert!(answer.text().ends_with(event), "{}", answer.text());
        assert_eq!(answer.text().matches("error").count(), 1);
        assert_eq!(a.count() + b.count(), asked);
        assert_eq!(gateway.log.request("r").await["cause"], "upstream_error");
    }
}

#[tokio::test]
async fn what_proves_no_continuation_is_no_continuation() {
    let (a, b, gateway) = two("attempts: 1").await;
    for backend in [&a, &b] {
        backend.handle(|seen| match is_rest(seen) {
            // It begins again, piece by piece.
            true => Teller::chat("second").again(),
            false => Teller::chat("one").breaks(seen, 40).fin(),
        });
    }
    let answer = gateway.send(&plain_request()).await;
    assert_eq!(error_of(&answer)["code"], "upstream_error");
    assert_eq!(answer.text().matches(" word0\"").count(), 1, "nothing came twice");
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_leaves_nothing_open() {
    let (a, b, gateway) = two("").await;
    for backend in [&a, &b] {
        backend.handle(|seen| match is_rest(seen) {
            true => Script::new().hang(),
            false => Teller::chat("one").breaks(seen, 40).fin(),
        });
    }
    let mut client = gateway.connect().await;
    client.send(plain_request().header("x-request-id", "r").bytes()).await;
    client.head().await;
    let rest = b.seen(0).await;
    assert!(is_rest(&rest) && !rest.is_gone());
    drop(client);
    rest.gone().await;
    assert_eq!(gateway.log.request("r").await["status"], 499);
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
}
