//! What a health check may condemn a backend for: that it is gone, not that it is busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::backend::{Backend, Gate, Script};
use crate::client::Request;
use crate::gateway::{Gateway, refused};

fn checked(url: &str) -> String {
    format!(
        "pools:\n  main:\n    health: {{ every: 100ms, timeout: 50ms, down_after: 2, up_after: 1, path: /health }}\n    backends: [\"{url}\"]\n"
    )
}

async fn readyz_becomes(gateway: &Gateway, status: u16) {
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.admin("/readyz").await.status != status {
        assert!(Instant::now() < until, "/readyz is not {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn one_pool_that_is_down_is_told_and_is_no_reason_to_be_unready() {
    let (good, bad) = (Backend::start().await, refused());
    let health = "health: { every: 50ms, path: /health }";
    let pools = format!(
        "pools:\n  good: {{ {health}, backends: [\"{}\"] }}\n  bad: {{ {health}, backends: [\"{bad}\"] }}\n",
        good.url()
    );
    let gateway = Gateway::start(&format!("{pools}models: {{ m: {{ pool: good }}, n: {{ pool: bad }} }}\n")).await;
    readyz_becomes(&gateway, 200).await;
    let until = Instant::now() + Duration::from_secs(10);
    while !gateway.admin("/readyz").await.text().contains("pool 'bad' has no backend that is up") {
        assert!(Instant::now() < until, "{}", gateway.admin("/readyz").await.text());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    assert_eq!(gateway.admin("/healthz").await.json()["down"], serde_json::json!(["bad"]));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(gateway.send(&Request::chat("n")).await.status, 503);
    drop(good);
    readyz_becomes(&gateway, 503).await;
    let text = gateway.admin("/readyz").await.text().to_owned();
    assert!(text.contains("good") && text.contains("bad"), "{text}");
}

#[tokio::test]
async fn a_backend_that_is_gone_is_down_after_some_probes_however_long_one_may_take() {
    let backend = Backend::start().await;
    let health = "health: { every: 100ms, timeout: 30s, down_after: 2, path: /health }";
    let gateway = Gateway::start(&format!("pools:\n  main: {{ {health}, backends: [\"{}\"] }}\n", backend.url())).await;
    readyz_becomes(&gateway, 200).await;
    drop(backend);
    readyz_becomes(&gateway, 503).await;
}

#[tokio::test]
async fn a_backend_that_answers_no_check_while_it_works_stays_up() {
    let late = Script::new().pause(Duration::from_millis(300)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
    for unwell in [Script::new().hang(), late] {
        let (backend, gate) = (Backend::start().await, Gate::closed());
        let gateway = Gateway::start(&checked(backend.url())).await;
        readyz_becomes(&gateway, 200).await;
        backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
        let mut working = gateway.connect().await;
        working.send(Request::chat("m").bytes()).await;
        backend.seen(0).await;
        backend.probes_get(move |_| unwell.clone());
        // Six times as long as two failed checks take.
        let until = Instant::now() + Duration::from_millis(1200);
        while Instant::now() < until {
            assert_eq!(gateway.admin("/readyz").await.status, 200, "condemned while it worked");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let second = gateway.send(&Request::chat("m")).await;
        assert_eq!((second.status, backend.count()), (200, 2), "{:?}", second.body);
        gate.open();
        assert_eq!(working.answer().await.status, 200);
    }
}

/// Is well when asked, and never answers anything else.
async fn only_well(mut stream: TcpStream) {
    let (mut head, mut piece) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece).await {
            Ok(read @ 1..) => head.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
    if head.starts_with(b"GET ") {
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").await);
    } else {
        while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    }
}

#[tokio::test]
async fn a_backend_that_refuses_connections_goes_down_whatever_it_still_works_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let posted = Arc::new(Notify::new());
    let notes = posted.clone();
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let notes = notes.clone();
            tokio::spawn(async move {
                let mut first = [0; 1];
                if stream.peek(&mut first).await.is_ok() && first == *b"P" {
                    notes.notify_one();
                }
                only_well(stream).await;
            });
        }
    });
    let gateway = Gateway::start(&checked(&url)).await;
    readyz_becomes(&gateway, 200).await;
    let mut working = gateway.connect().await;
    working.send(Request::chat("m").bytes()).await;
    posted.notified().await;
    // The listener goes, the connection with the request stays.
    accepting.abort();
    readyz_becomes(&gateway, 503).await;
    gateway.send(&Request::chat("m")).await.openai_error(503);
}
