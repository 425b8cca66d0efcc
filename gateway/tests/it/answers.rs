//! Answers that are not what they look like: errors under a 200, bytes packed unasked, errors in another dialect.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::backend::{Backend, Script, chat, token};
use crate::client::{End, Request};
use crate::faults::{ANTHROPIC, still_works};
use crate::gateway::{Gateway, pool_of};

fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn an_error_under_a_200_is_502_and_counts_as_the_backends() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let failed = r#"{"error":{"message":"boom"}}"#;
    backend.always(Script::json(failed));
    let asked = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"];
    for path in asked {
        let answer = gateway.send(&Request::post(path, r#"{"model":"m"}"#).header("x-request-id", path)).await;
        answer.openai_error(502);
        assert_eq!(gateway.log.request(path).await["cause"], "upstream_error", "{path}");
    }
    let messages = Request::post("/v1/messages", r#"{"model":"m","max_tokens":9,"messages":[]}"#);
    let answer = gateway.send(&messages.header("x-request-id", "messages")).await;
    assert_eq!(answer.anthropic_error(502)["type"], "api_error");
    assert_eq!(gateway.log.request("messages").await["cause"], "upstream_error");
    let count = (asked.len() + 1) as f64;
    gateway.metric_is("tidegate_requests_total", &[("status", "5xx"), ("cause", "upstream_error")], count).await;
    backend.always(Script::json("{}"));
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn a_backends_own_499_is_an_answer_and_not_a_client_that_left() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let said = r#"{"error":{"message":"closed","type":"x","param":null,"code":null}}"#;
    backend.push(Script::status("499 Client Closed", said));
    let answer = gateway.send(&Request::chat("m").header("x-request-id", "own")).await;
    assert_eq!((answer.status, answer.text()), (499, said));
    let line = gateway.log.request("own").await;
    assert_eq!((line["status"].as_u64(), line["cause"].as_str()), (Some(499), Some("client")), "{line}");
    gateway.metric_is("tidegate_requests_total", &[("status", "4xx"), ("cause", "client")], 1.0).await;
    gateway.metric_is("tidegate_failures_total", &[("cause", "client_gone")], 0.0).await;
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    let kept = gateway.admin("/admin/requests/own").await.json();
    assert_eq!((kept["status"].as_u64(), kept["cause"].as_str()), (Some(499), Some("client")), "{kept}");
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn an_answer_whose_error_is_null_passes() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for (path, body) in [
        ("/v1/responses", r#"{"id":"resp_1","object":"response","status":"completed","error":null,"output":[]}"#),
        ("/v1/chat/completions", r#"{"error" : null,"id":"x","object":"chat.completion","choices":[]}"#),
        ("/v1/chat/completions", r#"{"id":"x","choices":[{"error":{"message":"deeper"}}]}"#),
    ] {
        backend.push(Script::json(body));
        let answer = gateway.send(&Request::post(path, r#"{"model":"m"}"#)).await;
        assert_eq!((answer.status, answer.text()), (200, body), "{path}");
    }
}

#[tokio::test]
async fn a_whole_answer_that_a_backend_packs_unasked_arrives_unpacked_and_renamed() {
    let backend = Backend::start().await;
    let config = format!("{}models: {{ asked: {{ pool: main, as: tiny-random }} }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let text = "a".repeat(100_000);
    for encoding in ["gzip", "GZIP"] {
        let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
        backend.push(Script::answer("200 OK", &headers, gzip(chat(&text))));
        let answer = gateway.send(&Request::chat("asked")).await;
        assert_eq!((answer.status, answer.end), (200, End::Whole), "{encoding}");
        assert_eq!(answer.header("content-encoding"), None, "{encoding}");
        let renamed = chat(&text).replace("\"model\":\"tiny-random\"", "\"model\":\"asked\"");
        assert!(answer.text() == renamed, "{encoding}: {:.300}", answer.text());
        assert!(answer.header("content-length").is_none_or(|length| length == renamed.len().to_string()));
    }
}

#[tokio::test]
async fn a_packed_event_stream_is_502() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let headers = [("content-type", "text/event-stream"), ("content-encoding", "gzip")];
    backend.always(Script::answer("200 OK", &headers, gzip(format!("{}data: [DONE]\n\n", token("a")))));
    gateway.send(&Request::stream("m")).await.openai_error(502);
    gateway.send(&Request::post("/v1/messages", ANTHROPIC)).await.anthropic_error(502);
    backend.always(Script::json("{}"));
    still_works(&backend, &gateway).await;
}

#[tokio::test]
async fn a_backends_complaint_in_another_dialect_is_told_in_the_callers() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let openai = r#"{"error":{"message":"m is too long","type":"invalid_request_error","param":null,"code":null}}"#;
    let anthropic = r#"{"type":"error","error":{"type":"invalid_request_error","message":"m is too long"}}"#;
    let flat = r#"{"object":"error","message":"m is too long","code":400}"#;
    let detail = r#"{"detail":"m is too long"}"#;
    for body in [openai, flat, detail] {
        backend.push(Script::status("400 Bad Request", body));
        let error = gateway.send(&Request::post("/v1/messages", ANTHROPIC)).await.anthropic_error(400);
        assert_eq!((&error["type"], &error["message"]), (&"invalid_request_error".into(), &"m is too long".into()));
    }
    for body in [anthropic, flat, detail] {
        for request in [Request::chat("m"), Request::stream("m"), Request::post("/v1/embeddings", r#"{"model":"m"}"#)] {
            backend.push(Script::status("400 Bad Request", body));
            let answer = gateway.send(&request).await;
            assert_eq!(answer.openai_error(400)["message"], "m is too long");
            assert_eq!(answer.json().as_object().unwrap().len(), 1, "only `error`: {}", answer.text());
        }
    }
    assert_eq!(backend.count(), 12, "a 4xx is never retried");
}

#[tokio::test]
async fn errors_under_a_good_status_and_packed_ones_are_told_as_errors() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for body in [r#"{"error":"boom"}"#, r#"{"object":"error","message":"boom","code":400}"#] {
        backend.push(Script::json(body));
        gateway.send(&Request::chat("m")).await.openai_error(502);
    }
    let packed = gzip(br#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#);
    let head = [("content-type", "application/json"), ("content-encoding", "gzip")];
    backend.push(Script::answer("422 Unprocessable Entity", &head, &packed));
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!(answer.openai_error(422)["message"], "field required");
    assert_eq!(answer.header("content-encoding"), None);
}
