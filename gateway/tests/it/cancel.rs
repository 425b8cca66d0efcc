//! The client leaves: the backend is told at once, whatever either side was doing.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Script};
use crate::client::{Connection, H2Connection, Request};
use crate::gateway::{Gateway, pool_of};

/// Seen by the backend within this after the client left.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Leaves by FIN, or by RST, and checks that the backend saw it and the log says so.
async fn noticed(backend: &Backend, gateway: &Gateway, connection: Connection, reset: bool, id: &str) {
    let seen = backend.seen(backend.count() - 1).await;
    let left = Instant::now();
    if reset {
        connection.reset()
    } else {
        drop(connection)
    }
    let after = seen.gone().await.duration_since(left);
    assert!(after < AT_ONCE, "the backend saw it after {after:?}");
    let line = gateway.log.request(id).await;
    assert_eq!((line["status"].as_u64(), line["cause"].as_str()), (Some(499), Some("client_gone")), "{line}");
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_byte_cancels_its_request() {
    for (request, id) in [(Request::chat("m"), "whole"), (Request::stream("m"), "stream")] {
        for reset in [false, true] {
            let backend = Backend::start().await;
            let gateway = Gateway::before(&backend).await;
            backend.push(Script::new().hang());
            let mut connection = gateway.connect().await;
            connection.send(request.clone().header("x-request-id", id).bytes()).await;
            backend.seen(0).await;
            noticed(&backend, &gateway, connection, reset, id).await;
            assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_a_silent_stream_cancels_it() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::stream().token("a").hang());
    let mut connection = gateway.connect().await;
    connection.send(Request::stream("m").header("x-request-id", "mid").bytes()).await;
    connection.piece_after_head().await;
    noticed(&backend, &gateway, connection, false, "mid").await;
}

#[tokio::test]
async fn a_client_that_leaves_a_flowing_stream_cancels_it() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let event = crate::wire::chunk(crate::backend::token("a").as_bytes());
    backend.push(Script::stream().repeat(event, Duration::from_millis(5)));
    let mut connection = gateway.connect().await;
    connection.send(Request::stream("m").header("x-request-id", "flow").bytes()).await;
    connection.piece_after_head().await;
    noticed(&backend, &gateway, connection, false, "flow").await;
}

#[tokio::test]
async fn a_client_that_leaves_a_half_read_whole_answer_cancels_it() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(
        Script::new()
            .send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"a\":")
            .hang(),
    );
    let mut connection = gateway.connect().await;
    connection.send(Request::chat("m").header("x-request-id", "half").bytes()).await;
    backend.seen(0).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    noticed(&backend, &gateway, connection, false, "half").await;
}

#[tokio::test]
async fn a_reset_http2_stream_cancels_its_request_and_no_other() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend
        .push(Script::new().hang())
        .push(Script::new().pause(Duration::from_millis(300)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let connection = H2Connection::open(gateway.address()).await;
    let first = connection.begin(&Request::chat("m")).await.unwrap();
    let cancelled = backend.seen(0).await;
    let second = connection.begin(&Request::chat("m")).await.unwrap();
    backend.seen(1).await;
    let left = Instant::now();
    drop(first);
    assert!(cancelled.gone().await.duration_since(left) < AT_ONCE);
    assert_eq!(second.await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_client_that_leaves_before_its_body_is_complete_sends_nothing_on() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let bytes = Request::chat("m").header("x-request-id", "partial").bytes();
    let mut connection = gateway.connect().await;
    connection.send(&bytes[..bytes.len() - 3]).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    drop(connection);
    assert_eq!(gateway.log.request("partial").await["status"], 499);
    assert_eq!((backend.count(), backend.connections()), (0, 0));
}

#[tokio::test]
async fn a_client_that_closes_its_writing_side_does_not_hold_anything() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::new().hang());
    let mut connection = gateway.connect().await;
    connection.send(Request::chat("m").bytes()).await;
    let seen = backend.seen(0).await;
    connection.half_close().await;
    seen.gone().await;
    assert!(connection.closes_within(Duration::from_secs(1)).await);
}

#[tokio::test]
async fn slots_and_connections_of_clients_that_left_are_free_again() {
    let backend = Backend::start().await;
    let config =
        format!("pools:\n  main:\n    health: off\n    backends: [{{ url: {}, max_in_flight: 2 }}]\n", backend.url());
    let gateway = Gateway::start(&config).await;
    for n in 0..10 {
        backend.push(Script::stream().token("a").hang());
        let mut connection = gateway.connect().await;
        connection.send(Request::stream("m").bytes()).await;
        connection.piece_after_head().await;
        drop(connection);
        backend.seen(n).await.gone().await;
    }
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    gateway.metric_is("tidegate_requests_in_flight", &[], 0.0).await;
    gateway.metric_is("tidegate_backend_in_flight", &[], 0.0).await;
    gateway.metric_is("tidegate_requests_total", &[("cause", "client_gone")], 10.0).await;
    assert!(backend.open() <= 1, "{} connections left open", backend.open());
}

#[tokio::test]
async fn a_client_that_stops_reading_holds_back_its_backend_and_is_given_up() {
    let backend = Backend::start().await;
    let config = format!("{}limits: {{ write_timeout: 500ms }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let event = crate::wire::chunk(crate::backend::token(&"a".repeat(60_000)).as_bytes());
    backend.push(Script::stream().repeat(event, Duration::from_millis(1)));
    let mut connection = gateway.connect().await;
    connection.send(Request::stream("m").bytes()).await;
    connection.head().await;
    let start = Instant::now();
    backend.seen(0).await.gone().await;
    assert!(start.elapsed() > Duration::from_millis(400), "given up while it could still read");
    drop(connection);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}
