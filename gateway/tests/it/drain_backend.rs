//! An operator takes a backend out, and puts it back.

use std::time::Duration;

use crate::backend::{Backend, Gate, Script};
use crate::client::{Answer, Connection, Request};
use crate::gateway::{Gateway, pool_of};

async fn post(gateway: &Gateway, path: &str) -> Answer {
    let request = Request::new("POST", path).header("Connection", "close").header("Content-Length", "0");
    Connection::open(gateway.admin_address()).await.exchange(&request).await
}

#[tokio::test]
async fn a_drained_backend_gets_nothing_new_and_ends_what_it_has() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = format!("{}    breaker: {{ slow_start: 0s }}\n", pool_of(&[&a, &b]));
    let gateway = Gateway::start(&config).await;
    let gate = Gate::closed();
    a.push(Script::stream().token("a").wait(&gate).chunk(crate::backend::finish()).done().end());
    let mut stream = gateway.connect().await;
    stream.send(Request::stream("m").bytes()).await;
    stream.piece_after_head().await;

    let id = format!("/admin/backends/main/{}", a.address());
    let answer = post(&gateway, &format!("{id}/drain")).await;
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("draining")));
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!((a.count(), b.count()), (1, 6));
    gateway.metric_is("tidegate_backend_draining", &[("backend", &a.address().to_string())], 1.0).await;
    gateway.rewrite(&format!("{config}    retries: 1\n"));
    gateway.signal("HUP");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(a.count(), 1, "a reload does not put it back");
    gate.open();
    while stream.piece().await.unwrap().is_some() {}

    assert_eq!(post(&gateway, &format!("{id}/undrain")).await.json()["state"], "up");
    for _ in 0..6 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert!(a.count() >= 3, "{}", a.count());
}

#[tokio::test]
async fn where_all_are_drained_nobody_answers() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let id = format!("/admin/backends/main/{}", backend.address());
    assert_eq!(post(&gateway, &format!("{id}/drain")).await.status, 200);
    gateway.send(&Request::chat("m")).await.openai_error(503);
    assert_eq!(gateway.admin("/readyz").await.status, 503);
    assert_eq!(post(&gateway, &format!("{id}/undrain")).await.status, 200);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn what_is_not_there_cannot_be_drained() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for path in ["main/nobody/drain", "nowhere/x/drain", "main/drain", &format!("main/{}/destroy", backend.address())] {
        let answer = post(&gateway, &format!("/admin/backends/{path}")).await;
        assert_eq!((answer.status, answer.header("content-type")), (404, Some("application/problem+json")), "{path}");
    }
    assert_eq!(gateway.admin(&format!("/admin/backends/main/{}/drain", backend.address())).await.status, 405);
}
