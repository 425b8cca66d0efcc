//! What a backend can do wrong, and what the client is told: a whole error before the head, an error event after
//! it, in its own protocol, and never a `[DONE]` that the backend did not send.

use std::time::Duration;

use serde_json::Value;

use crate::backend::{Backend, Script, chat, finish, token};
use crate::client::{Answer, End, Request};
use crate::gateway::{Gateway, pool_at, pool_of, refused};

const ANTHROPIC: &str = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true}"#;

/// A backend, and a gateway before it that loses patience quickly.
async fn impatient() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let config =
        format!("{}    timeouts: {{ first_byte: 400ms, first_token: 400ms, idle: 400ms }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    (backend, gateway)
}

/// After every fault the next request works.
async fn still_works(backend: &Backend, gateway: &Gateway) {
    let before = backend.count();
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!(answer.status, 200, "the request after a fault: {:?}", answer.body);
    assert_eq!(backend.count(), before + 1);
}

#[tokio::test]
async fn a_refused_connection_is_502_in_the_callers_protocol() {
    let gateway = Gateway::start(&pool_at(&[&refused()])).await;
    let answer = gateway.send(&Request::chat("m")).await;
    assert!(matches!(answer.status, 502 | 503), "{}", answer.status);
    let error = answer.openai_error(answer.status);
    assert!(!error.to_string().contains("127.0.0.1"), "an address of ours in {error}");
    let answer = gateway.send(&Request::post("/v1/messages", ANTHROPIC)).await;
    assert_eq!(answer.anthropic_error(answer.status)["type"], "api_error");
}

/// Everything before a usable head, and half a head.
#[tokio::test]
async fn a_backend_that_gives_no_usable_head_is_502() {
    let (backend, gateway) = impatient().await;
    let endless_name = format!("HTTP/1.1 200 OK\r\n{}: 1\r\n\r\n", "x".repeat(2 << 20));
    let many: String = (0..2000).map(|n| format!("x-{n}: 1\r\n")).collect();
    for script in [
        Script::new().fin(),
        Script::new().reset(),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-ty").fin(),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-ty").reset(),
        Script::new().send("not http at all, but some text\r\n\r\n").fin(),
        Script::new().send("<html>hello</html>").fin(),
        Script::new().send("HTTP/1.1 999999 Odd\r\ncontent-length: 0\r\n\r\n"),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}"),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-length: -2\r\n\r\n{}").fin(),
        Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
            .fin(),
        Script::new().send("HTTP/1.1 200 OK\r\nx-nul: a\0b\r\ncontent-length: 2\r\n\r\n{}").fin(),
        Script::new().send(endless_name).fin(),
        Script::new().send(format!("HTTP/1.1 200 OK\r\n{many}content-length: 2\r\n\r\n{{}}")).fin(),
        Script::new()
            .send("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n\x01\x02")
            .hang(),
        Script::answer("302 Found", &[("location", "http://127.0.0.1:1/elsewhere")], ""),
        Script::answer("307 Temporary Redirect", &[("location", "/elsewhere")], "{}"),
    ] {
        // Twice, for a gateway that tries once more on a fresh connection.
        let twice = script.clone();
        backend.handle(move |_| twice.clone());
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status, 502, "{script:?}");
        answer.openai_error(502);
        assert_eq!(answer.header("location"), None);
    }
    backend.always(Script::json("{}"));
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn a_head_that_never_ends_is_504_however_it_is_dragged_out() {
    let (backend, gateway) = impatient().await;
    for script in [
        Script::new().hang(),
        Script::new()
            .drip("HTTP/1.1 200 OK\r\nx-slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", Duration::from_millis(50))
            .hang(),
        Script::new().repeat("HTTP/1.1 102 Processing\r\n\r\n", Duration::from_millis(50)),
        Script::new().repeat("HTTP/1.1 100 Continue\r\n\r\n", Duration::from_millis(1)),
    ] {
        backend.push(script);
        let start = std::time::Instant::now();
        let answer = gateway.send(&Request::chat("m")).await;
        assert!(matches!(answer.status, 502 | 504), "{}", answer.status);
        answer.openai_error(answer.status);
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    }
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn a_server_error_keeps_its_class_and_tells_nothing_of_the_inside() {
    let (backend, gateway) = impatient().await;
    let html = "<html><body>Traceback: File \"/opt/vllm/secret.py\" at gpu-node-7.internal</body></html>";
    for (status, kind, body) in [
        ("500 Internal Server Error", "text/html", html),
        (
            "500 Internal Server Error",
            "application/json",
            r#"{"error":{"message":"CUDA out of memory","type":"server_error"}}"#,
        ),
        ("503 Service Unavailable", "text/plain", ""),
        (
            "529 Overloaded",
            "application/json",
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
        ),
        ("502 Bad Gateway", "text/html", html),
    ] {
        backend.always(Script::answer(status, &[("content-type", kind)], body));
        let answer = gateway.send(&Request::chat("m")).await;
        assert!((500..600).contains(&answer.status), "{status} became {}", answer.status);
        let error = answer.json()["error"].clone();
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        for secret in ["Traceback", "vllm", "internal<", "<html"] {
            assert!(!error.to_string().contains(secret), "{error}");
        }
        let answer = gateway.send(&Request::post("/v1/messages", ANTHROPIC)).await;
        answer.anthropic_error(answer.status);
    }
    backend.always(Script::json("{}"));
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn too_many_requests_comes_back_with_a_bounded_wait() {
    let (backend, gateway) = impatient().await;
    let body = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    for hint in ["7", "99999999999", "Wed, 21 Oct 2099 07:28:00 GMT", "-5", "soon", &"9".repeat(5000)] {
        backend.always(Script::answer(
            "429 Too Many Requests",
            &[("content-type", "application/json"), ("retry-after", hint)],
            body,
        ));
        let start = std::time::Instant::now();
        let answer = gateway.send(&Request::chat("m")).await;
        assert!(start.elapsed() < Duration::from_secs(1), "slept on a Retry-After");
        assert_eq!(answer.status, 429);
        assert_eq!(answer.json()["error"]["message"], "slow down");
        if let Some(wait) = answer.header("retry-after") {
            let seconds: u64 = wait.parse().expect("whole seconds");
            assert!((1..=3600).contains(&seconds), "{hint} became {wait}");
            assert!(hint != "7" || seconds == 7);
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_502() {
    let (backend, gateway) = impatient().await;
    let deep = format!(r#"{{"a":{}"#, "[".repeat(200_000));
    for (kind, body) in [
        ("application/json", r#"{"id":"x","choices":["#),
        ("application/json", ""),
        ("application/json", "[1,2]"),
        ("application/json", "\"text\""),
        ("application/json", deep.as_str()),
        ("text/html", "<html>It works!</html>"),
        ("text/event-stream", "data: {}\n\ndata: [DONE]\n\n"),
    ] {
        backend.push(Script::answer("200 OK", &[("content-type", kind)], body));
        let answer = gateway.send(&Request::chat("m")).await;
        assert_eq!(answer.status, 502, "{kind} {:.60}", body);
        answer.openai_error(502);
    }
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn json_where_a_stream_was_asked_for_is_never_passed_off_as_one() {
    let (backend, gateway) = impatient().await;
    backend.push(Script::answer("200 OK", &[("content-type", "text/html")], "<html>"));
    gateway.send(&Request::stream("m")).await.openai_error(502);
    backend.push(Script::chat("whole"));
    let answer = gateway.send(&Request::stream("m")).await;
    // A backend that cannot stream may answer whole, as JSON and named so; anything else is an error.
    let passed = answer.status == 200 && answer.header("content-type") == Some("application/json");
    assert!(passed || answer.status == 502, "{} {:?}", answer.status, answer.headers);
}

#[tokio::test]
async fn a_whole_answer_cut_short_is_502_and_never_half_an_answer() {
    let (backend, gateway) = impatient().await;
    let long = chat(&"a".repeat(300));
    for script in [
        Script::new().send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{long}")).fin(),
        Script::new().send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{long}")).reset(),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n").fin(),
        Script::new().send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n").fin(),
        Script::new().send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{long}")).hang(),
    ] {
        backend.push(script);
        let answer = gateway.send(&Request::chat("m")).await;
        let visible = matches!(answer.status, 502 | 504) || answer.end == End::Cut;
        assert!(visible, "half an answer looked whole: {} {:?}", answer.status, answer.body);
    }
    still_works(&backend, &gateway).await;
}

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
