//! The rig itself: what the client sends is what the backend sees, and the other way round.

use std::time::{Duration, Instant};

use crate::backend::{Backend, Gate, H2Backend, OnAccept, Part, Reply, Script};
use crate::certs::Certs;
use crate::client::{Connection, End, H2Connection, Request};

const SHORT: Duration = Duration::from_millis(20);

#[tokio::test]
async fn a_request_is_recorded_byte_for_byte_and_hashed() {
    let backend = Backend::start().await;
    let request = Request::chat("m").header("X-Odd", "  a\tb ");
    let answer = Connection::open(backend.address()).await.exchange(&request).await;
    let seen = backend.only().await;
    assert_eq!([&seen.head[..], &seen.body[..]].concat(), request.bytes());
    assert_eq!(answer.json()["hash"], seen.hash());
    assert_eq!(answer.json()["length"], seen.body.len());
    seen.assert_clean();
}

#[tokio::test]
async fn a_chunked_body_is_put_together_and_kept_alive() {
    let backend = Backend::start().await;
    let body = vec![b'x'; 200_000];
    let mut connection = Connection::open(backend.address()).await;
    for _ in 0..2 {
        let answer = connection.exchange(&Request::post("/x", body.clone()).chunked(7_777)).await;
        assert_eq!(answer.json()["hash"], blake3::hash(&body).to_hex().to_string());
    }
    assert_eq!((backend.count(), backend.connections()), (2, 1));
}

#[tokio::test]
async fn a_stream_arrives_event_by_event_at_its_own_pace() {
    let backend = Backend::start().await;
    backend.push(Script::words(&["a", "b", "c"], SHORT));
    let answer = Connection::open(backend.address()).await.exchange(&Request::stream("m")).await;
    assert_eq!(answer.pieces.len(), 5);
    assert!(answer.pieces[2].0 - answer.pieces[0].0 >= SHORT);
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(answer.end, End::Whole);
}

#[tokio::test]
async fn the_backend_notices_at_once_that_its_peer_left() {
    let backend = Backend::start().await;
    backend.push(Script::new().hang());
    let mut connection = Connection::open(backend.address()).await;
    connection.send(Request::chat("m").bytes()).await;
    let seen = backend.only().await;
    assert!(!seen.is_gone());
    let left = Instant::now();
    drop(connection);
    assert!(seen.gone().await - left < Duration::from_millis(50));
}

#[tokio::test]
async fn connections_are_closed_reset_stalled_and_cut_as_told() {
    let backend = Backend::start().await;
    backend.on_accept(OnAccept::Close).on_accept(OnAccept::Reset).on_accept(OnAccept::Stall);
    for stalls in [false, false, true] {
        let mut connection = Connection::open(backend.address()).await;
        connection.send(Request::chat("m").bytes()).await;
        assert_eq!(connection.closes_within(SHORT * 5).await, !stalls);
    }
    assert_eq!(backend.count(), 0);
    backend.push(Script::stream().token("a").reset()).push(Script::stream().token("a").fin());
    for _ in 0..2 {
        let answer = Connection::open(backend.address()).await.exchange(&Request::stream("m")).await;
        assert_eq!(answer.end, End::Cut);
    }
}

#[tokio::test]
async fn a_gate_holds_an_answer_until_it_is_opened() {
    let backend = Backend::start().await;
    let gate = Gate::closed();
    backend.push(Script::new().wait(&gate)).always(Script::chat("x"));
    let mut connection = Connection::open(backend.address()).await;
    connection.send(Request::chat("m").bytes()).await;
    assert!(!connection.closes_within(SHORT).await);
    gate.open();
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn a_websocket_echoes_what_comes_with_the_handshake_and_after_it() {
    let backend = Backend::start().await;
    backend.push(Script::websocket_echo("x", None));
    let mut connection = Connection::open(backend.address()).await;
    connection.send([Request::get("/v1/realtime").bytes().as_ref(), b"one"].concat()).await;
    assert_eq!(connection.head().await.status, 101);
    assert_eq!(connection.raw().await, "one");
    connection.send("two").await;
    assert_eq!(connection.raw().await, "two");
    drop(connection);
    backend.only().await.gone().await;
}

#[tokio::test]
async fn the_same_works_in_tls_and_on_a_unix_socket() {
    let certs = Certs::new();
    let backend = Backend::start_tls(&certs).await;
    let mut connection = Connection::open_tls(backend.address(), &certs).await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);

    let folder = crate::gateway::Folder::new();
    let path = folder.path().join("backend.sock");
    let backend = Backend::start_unix(&path);
    assert_eq!(Connection::open_unix(&path).await.exchange(&Request::get("/v1/models")).await.status, 200);
    assert_eq!(backend.probe(0).await.target, "/v1/models");
}

#[tokio::test]
async fn http2_carries_large_bodies_streams_and_trailers() {
    let certs = Certs::new();
    let stream = |seen: &crate::backend::Seen| {
        let parts = vec![Part::Data("data: 1\n\n".into()), Part::Pause(SHORT), Part::Trailer("x-checksum", "7")];
        seen.target.ends_with("completions").then_some(Reply { status: 200, content_type: "text/event-stream", parts })
    };
    for tls in [None, Some(&certs)] {
        let backend = H2Backend::start(tls, stream).await;
        let address =
            std::net::SocketAddr::from(([127, 0, 0, 1], backend.url().rsplit(':').next().unwrap().parse().unwrap()));
        let connection = match tls {
            None => H2Connection::open(address).await,
            Some(certs) => H2Connection::open_tls(address, certs).await,
        };
        let body = vec![b'x'; 3 << 20];
        let answer = connection.exchange(&Request::post("/v1/embeddings", body.clone())).await;
        assert_eq!(answer.json()["hash"], blake3::hash(&body).to_hex().to_string());
        let answer = connection.exchange(&Request::stream("m")).await;
        assert_eq!((answer.text(), answer.trailers.get("x-checksum")), ("data: 1\n\n", Some("7")));
        assert_eq!((backend.seen().len(), backend.connections()), (2, 1));
    }
}
