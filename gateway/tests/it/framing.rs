//! Heads and framings that two readers could read differently: refused, the connection closed, nothing of it run.

use std::time::Duration;

use crate::backend::{Backend, Script};
use crate::client::{Answer, Request};
use crate::gateway::{Gateway, pool_of};

/// A head that no two readers agree on: 400 in JSON, and the connection closed.
async fn refused_and_closed(gateway: &Gateway, head: &str) {
    let mut connection = gateway.connect().await;
    connection.send(head).await;
    let answer: Answer = connection.answer().await;
    assert_eq!(answer.status, 400, "{head:?} got {:?}", answer.body);
    answer.openai_error(400);
    assert!(connection.closes_within(Duration::from_secs(2)).await, "still open after {head:?}");
}

const START: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[tokio::test]
async fn conflicting_framing_is_refused_and_the_connection_closed() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for rest in [
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "Content-Length: 2, 2\r\n\r\n{}",
        "Content-Length: +2\r\n\r\n{}",
        "Content-Length: -2\r\n\r\n{}",
        "Content-Length: 0x2\r\n\r\n{}",
        "Content-Length: 99999999999999999999999\r\n\r\n{}",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "Content-Length : 2\r\n\r\n{}",
        "X-A: b\r\n folded\r\nContent-Length: 2\r\n\r\n{}",
        "X-A: b\nX-B: c\r\nContent-Length: 2\r\n\r\n{}",
        "X-A: b\rX-B: c\r\nContent-Length: 2\r\n\r\n{}",
        "X-A: b\0c\r\nContent-Length: 2\r\n\r\n{}",
        "No colon\r\nContent-Length: 2\r\n\r\n{}",
        "Content-Length: 2\n\n{}",
    ] {
        refused_and_closed(&gateway, &format!("{START}{rest}")).await;
    }
    assert_eq!(backend.count(), 0);
    gateway.metric_is("tidegate_bad_requests_total", &[], 21.0).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn bad_chunks_are_refused_and_the_connection_closed() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for chunks in [
        "zz\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "ffffffffffffffffff\r\n{}",
        "2\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
    ] {
        refused_and_closed(&gateway, &format!("{START}Transfer-Encoding: chunked\r\n\r\n{chunks}")).await;
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_request_without_exactly_one_plain_host_is_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let body = crate::client::chat_body("m", false);
    let rest = format!("Content-Length: {}\r\n\r\n{body}", body.len());
    for hosts in [
        "",
        "Host: a\r\nHost: b\r\n",
        "Host: a, b\r\n",
        "Host: a/b\r\n",
        "Host: a?x\r\n",
        "Host: a b\r\n",
        "Host: a:99999\r\n",
        "Host: a@b\r\n",
        "Host: a#b\r\n",
    ] {
        refused_and_closed(&gateway, &format!("POST /v1/chat/completions HTTP/1.1\r\n{hosts}{rest}")).await;
    }
    assert_eq!(backend.count(), 0);
    for host in ["localhost", "localhost:8080", "[::1]:80", "gateway.example.com"] {
        let request = Request::chat("m").without("Host").header("Host", host);
        assert_eq!(gateway.send(&request).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn odd_request_lines_are_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for line in [
        "POST  /v1/chat/completions HTTP/1.1",
        "POST /v1/chat/completions HTTP/1.1 x",
        "POST /v1/chat/completions HTTP/3.7",
        "POST /v1/chat completions HTTP/1.1",
        "GET /v1/models#x HTTP/1.1",
        "GET /v1/\u{e9} HTTP/1.1",
        "GET v1/models HTTP/1.1",
        "nonsense",
    ] {
        refused_and_closed(&gateway, &format!("{line}\r\nHost: a\r\n\r\n")).await;
    }
    for line in ["CONNECT a:443 HTTP/1.1", "TRACE /v1/models HTTP/1.1"] {
        let mut connection = gateway.connect().await;
        connection.send(format!("{line}\r\nHost: a\r\n\r\n")).await;
        let status = connection.answer().await.status;
        assert!(matches!(status, 400 | 405 | 501), "{line}: {status}");
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn bytes_behind_an_ambiguous_message_are_never_run() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let inner = String::from_utf8(Request::chat("smuggled").bytes().to_vec()).unwrap();
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
        "Content-Length: 5\r\nContent-Length: 6",
    ] {
        let mut connection = gateway.connect().await;
        connection.send(format!("{START}{framing}\r\n\r\n0\r\n\r\n{inner}")).await;
        connection.answer().await.openai_error(400);
        assert!(connection.closes_within(Duration::from_secs(2)).await);
    }
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn header_floods_are_refused() {
    let backend = Backend::start().await;
    let config = format!("{}limits: {{ head: 16KiB, headers: 50 }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let many = (0..51).fold(Request::chat("m"), |request, n| request.header(&format!("x-{n}"), "1"));
    let long = Request::chat("m").header("x-long", &"a".repeat(17 << 10));
    let target = Request::post(&format!("/v1/chat/completions?{}", "a".repeat(17 << 10)), "{}");
    for request in [many, long, target] {
        let mut connection = gateway.connect().await;
        connection.send(request.bytes()).await;
        let status = connection.answer().await.status;
        assert!(matches!(status, 400 | 414 | 431), "{status}");
    }
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let names = ["first", "second", "third"];
    let all = names.map(|name| Request::chat(name).bytes()).concat();
    let mut connection = gateway.connect().await;
    connection.send(all).await;
    for (n, name) in names.iter().enumerate() {
        assert_eq!(connection.answer().await.status, 200);
        assert_eq!(backend.seen(n).await.model(), *name);
    }
}

#[tokio::test]
async fn a_request_that_comes_while_another_is_answered_waits_its_turn() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::words(&["a", "b", "c"], Duration::from_millis(50)));
    let mut connection = gateway.connect().await;
    connection.send(Request::stream("first").bytes()).await;
    backend.seen(0).await;
    // More than is read ahead.
    let long = format!(r#"{{"model":"second","x":"{}"}}"#, "y".repeat(1 << 20));
    let next = Request::post("/v1/chat/completions", long).bytes();
    let other = Request::chat("other");
    let (answer, ()) = tokio::join!(gateway.send(&other), connection.send(next));
    assert_eq!(answer.status, 200);
    let answer = connection.answer().await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"), "{}", answer.text());
    assert_eq!(connection.answer().await.status, 200);
    assert_eq!(backend.seen(2).await.model(), "second");
}

#[tokio::test]
async fn a_refused_body_is_never_read_as_the_next_request() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let inner = Request::chat("smuggled").bytes();
    let mut connection = gateway.connect().await;
    let outer = Request::post("/v1/nothing", inner);
    connection.exchange(&outer).await.openai_error(404);
    connection.send(Request::chat("m").bytes()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(backend.count() <= 1, "only what was sent as a request was run");
    if backend.count() == 1 {
        assert_eq!(backend.seen(0).await.model(), "m");
    }
}
