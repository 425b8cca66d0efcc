//! Bad input: an error in the caller's protocol, counted, and the next request works.

use serde_json::Value;

use crate::backend::Backend;
use crate::client::{H2Connection, Request};
use crate::gateway::{Gateway, pool_of};

/// Sends a body to both protocols on one connection each, and a good request after each; gives OpenAI's error.
async fn refused(body: &[u8], status: u16) -> Value {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let mut connection = gateway.connect().await;
    let body = body.to_vec();
    let error = connection.exchange(&Request::post("/v1/chat/completions", body.clone())).await.openai_error(status);
    let other = connection.exchange(&Request::post("/v1/messages", body)).await.anthropic_error(status);
    assert_eq!(other["type"], "invalid_request_error");
    assert_eq!(backend.count(), 0, "nothing of it went on");
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200, "the connection is still good");
    error
}

#[tokio::test]
async fn malformed_json_is_refused_with_its_position() {
    let error = refused(b"{\"model\":\"m\",\n  \"messages\": [}", 400).await;
    assert_eq!(error["type"], "invalid_request_error");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("line 2 column 16") || message.contains("line 2, column 16"), "{message}");
}

#[tokio::test]
async fn a_body_that_is_not_an_object_is_refused() {
    for body in ["[]", "\"text\"", "1", "null", "", "  "] {
        refused(body.as_bytes(), 400).await;
    }
}

#[tokio::test]
async fn a_missing_or_odd_model_is_named_as_the_parameter() {
    for body in [r#"{"messages":[]}"#, r#"{"model":7}"#, r#"{"model":null}"#, r#"{"model":["m"]}"#, r#"{"model":""}"#] {
        assert_eq!(refused(body.as_bytes(), 400).await["param"], "model", "{body}");
    }
}

#[tokio::test]
async fn a_model_said_twice_or_spelled_with_escapes_is_refused() {
    for body in [
        r#"{"model":"m","messages":[],"model":"m"}"#,
        r#"{"model":"m","messages":[],"mod\u0065l":"x"}"#,
        r#"{"mod\u0065l":"m","messages":[]}"#,
        r#"{"model":"m","Model":"x"}"#,
        r#"{"MODEL":"m","model":"x"}"#,
    ] {
        assert_eq!(refused(body.as_bytes(), 400).await["param"], "model", "{body}");
    }
}

#[tokio::test]
async fn other_keys_that_decide_something_may_not_be_said_twice_either() {
    refused(br#"{"model":"m","stream":true,"stream":false}"#, 400).await;
    refused(br#"{"model":"m","messages":[],"messages":[1]}"#, 400).await;
}

#[tokio::test]
async fn trailing_bytes_and_byte_order_marks_are_refused() {
    refused(br#"{"model":"m"} {"model":"x"}"#, 400).await;
    refused(b"\xef\xbb\xbf{\"model\":\"m\"}", 400).await;
}

#[tokio::test]
async fn nesting_deeper_than_128_is_refused_and_128_is_not() {
    let nested = |depth: usize| format!(r#"{{"model":"m","x":{}{}}}"#, "[".repeat(depth - 1), "]".repeat(depth - 1));
    refused(nested(129).as_bytes(), 400).await;
    refused(nested(200_000).as_bytes(), 400).await;
    refused(format!(r#"{{"model":"m","x":{}"#, "{\"a\":".repeat(100_000)).as_bytes(), 400).await;
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    assert_eq!(gateway.send(&Request::post("/v1/chat/completions", nested(128))).await.status, 200);
}

#[tokio::test]
async fn text_that_is_not_utf8_and_nul_in_keys_are_refused() {
    refused(b"{\"model\":\"m\",\"x\":\"\xff\xfe\"}", 400).await;
    refused(b"{\"model\":\"m\",\"x\":\"\xed\xa0\x80\"}", 400).await;
    refused(b"{\"model\":\"m\",\"x\\u0000y\":1}", 400).await;
    refused(b"{\"model\":\"m\0\"}", 400).await;
}

#[tokio::test]
async fn numbers_that_are_none_are_refused() {
    for number in ["NaN", "Infinity", "01", "1.", "+1", "0x1"] {
        refused(format!(r#"{{"model":"m","x":{number}}}"#).as_bytes(), 400).await;
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let mut connection = gateway.connect().await;
    for (method, path, allowed) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("PATCH", "/v1/messages", "POST"),
        ("POST", "/v1/models", "GET"),
    ] {
        let answer = connection.exchange(&Request::new(method, path).body("")).await;
        assert_eq!(answer.status, 405, "{method} {path}: {:?}", answer.body);
        let allow = answer.header("allow").expect("405 says what is allowed");
        assert!(allow.split(", ").any(|name| name == allowed), "{allow}");
        assert!(answer.json()["error"]["message"].is_string());
    }
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn an_unknown_path_is_404_in_the_callers_protocol() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let mut connection = gateway.connect().await;
    for path in
        ["/", "/v1", "/v1/nothing", "/v2/chat/completions", "/v1/chat/completions/", "/metrics", "/livez", "/admin"]
    {
        connection.exchange(&Request::get(path)).await.openai_error(404);
    }
    connection.exchange(&Request::post("/v1/messages/nothing", "{}")).await.anthropic_error(404);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn any_other_v1_path_goes_to_the_pool_the_file_names() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}other_paths: {{ pool: main }}\n", pool_of(&[&backend]))).await;
    let answer =
        gateway.send(&Request::post("/v1/brand/new?x=1", "any bytes \u{1}").header("Content-Type", "x/y")).await;
    assert_eq!(answer.status, 200);
    let seen = backend.only().await;
    assert_eq!((seen.target.as_str(), seen.text()), ("/v1/brand/new?x=1", "any bytes \u{1}"));
    assert_eq!(gateway.send(&Request::get("/v1/files/abc")).await.status, 200);
    gateway.send(&Request::get("/other")).await.openai_error(404);
}

#[tokio::test]
async fn http2_gets_the_same_errors() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let h2 = H2Connection::open(gateway.address()).await;
    assert_eq!(h2.exchange(&Request::post("/v1/chat/completions", "{")).await.status, 400);
    assert_eq!(h2.exchange(&Request::post("/v1/nothing", "{}")).await.status, 404);
    assert_eq!(h2.exchange(&Request::get("/v1/chat/completions")).await.status, 405);
    let short = h2.try_exchange(&Request::chat("m").header("content-length", "5")).await;
    assert!(short.is_err() || short.is_ok_and(|answer| answer.status == 400), "a length that lies");
    assert_eq!(backend.count(), 0);
    assert_eq!(h2.exchange(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn refusals_are_counted_by_status_class_and_cause() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for _ in 0..3 {
        gateway.send(&Request::post("/v1/chat/completions", "{")).await;
    }
    let labels = [("status", "4xx"), ("cause", "validation")];
    gateway.metric_is("tidegate_requests_total", &labels, 3.0).await;
}
