//! What a backend can do wrong before or instead of an answer, and that the client is told in its own protocol.

use std::time::Duration;

use crate::backend::{Backend, Script, chat};
use crate::client::{End, Request};
use crate::gateway::{Gateway, pool_at, pool_of, refused};

pub(crate) const ANTHROPIC: &str =
    r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true}"#;

/// A backend, and a gateway before it that loses patience quickly.
pub(crate) async fn impatient() -> (Backend, Gateway) {
    let backend = Backend::start().await;
    let config =
        format!("{}    timeouts: {{ first_byte: 400ms, first_token: 400ms, idle: 400ms }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    (backend, gateway)
}

/// After every fault the next request works.
pub(crate) async fn still_works(backend: &Backend, gateway: &Gateway) {
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
    let body = r#"{"error":{"message":"slow down","type":"requests","code":"rate_limit_exceeded"}}"#;
    for hint in ["7", "99999999999", "Wed, 21 Oct 2099 07:28:00 GMT", "-5", "soon", &"9".repeat(5000)] {
        // One each: a backend that says when to come back is not asked before then, and nobody waits here.
        let backend = Backend::start().await;
        let gateway = Gateway::start(&(pool_of(&[&backend]) + "    queue: off\n")).await;
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

#[tokio::test]
async fn a_refusal_of_our_key_is_502_on_unknown_paths_too() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}other_paths: {{ pool: main }}\n", pool_of(&[&backend]))).await;
    for request in [Request::post("/v1/score", r#"{"model":"m"}"#), Request::get("/v1/things")] {
        let refusal = r#"{"error":{"message":"Incorrect API key provided: sk-upstream"}}"#;
        backend.push(Script::answer(
            "401 Unauthorized",
            &[("content-type", "application/json"), ("www-authenticate", "Bearer")],
            refusal,
        ));
        let answer = gateway.send(&request).await;
        assert!(!answer.openai_error(502).to_string().contains("sk-upstream"), "{:?}", answer.body);
        assert_eq!(answer.header("www-authenticate"), None);
    }
}

#[tokio::test]
async fn a_status_of_no_class_is_502() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}other_paths: {{ pool: main }}\n", pool_of(&[&backend]))).await;
    for status in ["600 Odd", "700 Odd", "999 Odd"] {
        backend.always(Script::status(status, "{}"));
        for request in [Request::chat("m"), Request::stream("m"), Request::post("/v1/score", r#"{"model":"m"}"#)] {
            let answer = gateway.send(&request).await;
            assert_eq!(answer.status, 502, "{status} to {}", request.target());
            answer.openai_error(502);
        }
        gateway.send(&Request::post("/v1/messages", ANTHROPIC)).await.anthropic_error(502);
    }
    backend.always(Script::json("{}"));
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn a_wait_of_no_time_becomes_one_of_a_second_at_least() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let headers = [("content-type", "application/json"), ("retry-after", "0")];
    backend.always(Script::answer("429 Too Many Requests", &headers, r#"{"error":{"message":"slow down"}}"#));
    for request in [Request::chat("m"), Request::stream("m"), Request::post("/v1/messages", ANTHROPIC)] {
        let answer = gateway.send(&request).await;
        assert_eq!(answer.status, 429, "{:?}", answer.body);
        let wait: u64 = answer.header("retry-after").expect("a wait").parse().expect("whole seconds");
        assert!(wait >= 1, "{wait}");
    }
}
