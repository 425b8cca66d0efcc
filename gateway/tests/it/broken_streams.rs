//! Streams that break after their head: an error event in the client's protocol, and never a `[DONE]` that the
//! backend did not send.

use std::time::Duration;

use serde_json::Value;

use crate::backend::{Backend, Script, finish, token};
use crate::client::{Answer, End, Request};
use crate::faults::{ANTHROPIC, impatient, still_works};
use crate::gateway::{Gateway, pool_of};

/// The last event of a stream, as JSON.
fn last_event(answer: &Answer) -> Value {
    let events: Vec<&str> = answer.text().trim_end().split("\n\n").collect();
    let data =
        events.last().unwrap().lines().find_map(|line| line.strip_prefix("data: ")).expect("the last event has data");
    serde_json::from_str(data).unwrap_or_else(|error| panic!("{error} in the last event {data}"))
}

/// All the ways a stream can break after its head.
fn broken_streams(first: &str) -> Vec<(&'static str, Script)> {
    let begun = || Script::stream().chunk(first);
    vec![
        ("FIN", begun().fin()),
        ("RST", begun().reset()),
        ("FIN inside a chunk", begun().send("40\r\ndata: {\"cho").fin()),
        ("half an event, then a clean end", begun().chunk("data: {\"cho").end()),
        ("a chunk size that is none", begun().send("zz\r\n").fin()),
        ("silence", begun().hang()),
        ("only comments", begun().repeat(crate::wire::chunk(b": ping\n\n"), Duration::from_millis(50))),
    ]
}

#[tokio::test]
async fn a_broken_chat_stream_ends_with_an_error_event_and_no_done() {
    let (backend, gateway) = impatient().await;
    for (how, script) in broken_streams(&token("a")) {
        backend.push(script);
        let answer = gateway.send(&Request::stream("m")).await;
        assert_eq!(answer.status, 200, "{how}");
        assert!(answer.text().starts_with(&token("a")), "{how}: what came is passed on: {}", answer.text());
        assert!(!answer.text().contains("[DONE]"), "{how}: a made-up end");
        let error = &last_event(&answer)["error"];
        assert!(
            error["message"].is_string() && error["type"].is_string() && error.get("code").is_some(),
            "{how}: {error}"
        );
        assert!(!error.to_string().contains("127.0.0.1"), "{how}: {error}");
    }
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn a_stream_that_ends_cleanly_but_too_early_is_not_made_whole() {
    let (backend, gateway) = impatient().await;
    backend.push(Script::stream().token("a").end());
    let answer = gateway.send(&Request::stream("m")).await;
    assert!(!answer.text().contains("[DONE]"));
    assert!(last_event(&answer)["error"]["message"].is_string());
}

#[tokio::test]
async fn a_broken_messages_stream_ends_with_anthropics_error_event() {
    let (backend, gateway) = impatient().await;
    let first =
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"m\"}}\n\n";
    for (how, script) in broken_streams(first) {
        backend.push(script);
        let answer = gateway.send(&Request::post("/v1/messages", ANTHROPIC)).await;
        assert!(answer.text().starts_with(first), "{how}: {}", answer.text());
        let event = answer.text().trim_end().rsplit("\n\n").next().unwrap();
        assert!(event.starts_with("event: error\n"), "{how}: {event}");
        let data = last_event(&answer);
        assert_eq!(data["type"], "error", "{how}");
        assert!(data["error"]["type"].is_string() && data["error"]["message"].is_string(), "{how}: {data}");
    }
}

#[tokio::test]
async fn a_broken_responses_stream_ends_with_its_typed_error_event() {
    let (backend, gateway) = impatient().await;
    let first = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"m\"}}\n\n";
    let request = Request::post("/v1/responses", r#"{"model":"m","input":"hi","stream":true}"#);
    for (how, script) in broken_streams(first) {
        backend.push(script);
        let answer = gateway.send(&request).await;
        assert!(answer.text().starts_with(first), "{how}: {}", answer.text());
        assert!(!answer.text().contains("[DONE]") && !answer.text().contains("response.completed"), "{how}");
        let data = last_event(&answer);
        let typed = data["type"] == "error" || data["type"] == "response.failed";
        assert!(typed || data["error"]["message"].is_string(), "{how}: {data}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_before_its_first_event_is_a_whole_error() {
    let (backend, gateway) = impatient().await;
    backend.push(Script::stream().fin());
    let answer = gateway.send(&Request::stream("m")).await;
    if answer.status == 200 {
        // The head had gone out: then the error is an event.
        assert!(last_event(&answer)["error"]["message"].is_string());
    } else {
        answer.openai_error(502);
    }
}

#[tokio::test]
async fn an_error_event_of_the_backend_is_passed_on_as_it_is() {
    let (backend, gateway) = impatient().await;
    let error = "data: {\"error\":{\"message\":\"context shift failed\",\"type\":\"server_error\",\"code\":500}}\n\n";
    backend.push(Script::stream().token("a").chunk(error).end());
    let answer = gateway.send(&Request::stream("m")).await;
    assert_eq!(answer.text(), token("a") + error);
}

#[tokio::test]
async fn what_follows_done_is_dropped_and_a_backend_that_hangs_there_holds_nobody() {
    let (backend, gateway) = impatient().await;
    let whole = format!("{}{}data: [DONE]\n\n", token("a"), finish());
    let begun = || Script::stream().token("a").chunk(finish()).done();
    for (how, script) in [
        ("more events", begun().token("late").end()),
        (
            "more in the same chunk",
            Script::stream().token("a").chunk(finish()).chunk(format!("data: [DONE]\n\n{}", token("late"))).end(),
        ),
        ("hang", begun().hang()),
        ("reset", begun().reset()),
    ] {
        backend.push(script);
        let start = std::time::Instant::now();
        let answer = gateway.send(&Request::stream("m")).await;
        assert_eq!((answer.text(), answer.end), (whole.as_str(), End::Whole), "{how}");
        assert!(start.elapsed() < Duration::from_millis(300), "{how}: {:?}", start.elapsed());
    }
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn an_event_beyond_its_limit_ends_the_stream_and_not_the_memory() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ event: 64KiB }}\n", pool_of(&[&backend]))).await;
    let huge = Script::stream()
        .token("a")
        .repeat(crate::wire::chunk("x".repeat(16 << 10).as_bytes()), Duration::from_millis(1));
    backend.push(huge);
    let answer = gateway.send(&Request::stream("m")).await;
    assert!(last_event(&answer)["error"]["message"].is_string());
    backend.seen(0).await.gone().await;
    backend.push(Script::stream().chunk(token(&"b".repeat(60 << 10))).chunk(finish()).done().end());
    let fits = gateway.send(&Request::stream("m")).await;
    assert!(fits.text().ends_with("data: [DONE]\n\n"), "an event within the limit passes");
}
