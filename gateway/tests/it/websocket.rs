//! Realtime: the handshake as the backend sees it, then bytes both ways, closes and pings intact.

use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;

use crate::backend::{Backend, Script};
use crate::client::{Connection, Request};
use crate::gateway::{Gateway, Key, pool_of};

const NONCE: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What RFC 6455 section 1.3 makes of the nonce.
pub(crate) fn accept() -> String {
    let text = format!("{NONCE}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(digest)
}

pub(crate) fn handshake(target: &str) -> Request {
    Request::get(target)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", NONCE)
}

/// A masked frame, as a client must send it.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [1, 2, 3, 4];
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ mask[n % 4]));
    frame
}

pub(crate) async fn open(gateway: &Gateway, request: &Request) -> Connection {
    let mut connection = gateway.connect().await;
    connection.send(request.bytes()).await;
    let head = connection.head().await;
    assert_eq!(head.status, 101);
    assert_eq!(head.header("sec-websocket-accept"), Some(accept().as_str()));
    assert_eq!(head.header("upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
    connection
}

/// Reads until this many bytes have come.
async fn read(connection: &mut Connection, length: usize) -> Bytes {
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let more = connection.raw().await;
        assert!(!more.is_empty(), "the connection ended after {} of {length} bytes", bytes.len());
        bytes.extend_from_slice(&more);
    }
    bytes.into()
}

#[tokio::test]
async fn frames_of_every_kind_and_size_pass_both_ways() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::websocket_echo(&accept(), None));
    let mut connection = open(&gateway, &handshake("/v1/realtime?model=m")).await;
    let big = vec![b'x'; 1 << 20];
    for sent in [
        frame(1, b"hello"),
        frame(9, b"ping"),
        frame(10, b"pong"),
        frame(2, &[0, 255]),
        frame(1, &[b'y'; 300]),
        frame(2, &big),
    ] {
        connection.send(&sent).await;
        assert!(read(&mut connection, sent.len()).await == sent, "a frame of {} bytes changed", sent.len());
    }
    let seen = backend.only().await;
    assert_eq!(seen.target, "/v1/realtime?model=m");
    assert_eq!((seen.header("sec-websocket-key"), seen.header("sec-websocket-version")), (Some(NONCE), Some("13")));
    seen.assert_clean();
}

#[tokio::test]
async fn bytes_sent_together_with_the_handshake_are_not_lost() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::websocket_echo(&accept(), None));
    let mut connection = gateway.connect().await;
    let first = frame(1, b"eager");
    connection.send([handshake("/v1/realtime?model=m").bytes().as_ref(), &first].concat()).await;
    assert_eq!(connection.head().await.status, 101);
    assert_eq!(read(&mut connection, first.len()).await, first);
}

#[tokio::test]
async fn either_side_may_end_it_and_the_other_one_sees_that() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::websocket_echo(&accept(), None));
    let mut connection = open(&gateway, &handshake("/v1/realtime?model=m")).await;
    connection.send(frame(8, b"\x03\xe8bye")).await;
    assert_eq!(read(&mut connection, frame(8, b"\x03\xe8bye").len()).await, frame(8, b"\x03\xe8bye"));
    let left = Instant::now();
    drop(connection);
    assert!(backend.seen(0).await.gone().await.duration_since(left) < Duration::from_millis(200));

    let goodbye: &[u8] = &[0x88, 0x02, 0x03, 0xe8];
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {}\r\n\r\n",
        accept()
    );
    backend.push(Script::new().send(head).pause(Duration::from_millis(20)).send(goodbye).fin());
    let mut connection = open(&gateway, &handshake("/v1/realtime?model=m")).await;
    assert_eq!(read(&mut connection, 4).await, goodbye);
    assert!(connection.closes_within(Duration::from_secs(1)).await);
}

#[tokio::test]
async fn an_idle_socket_outlives_the_idle_time_of_streams() {
    let backend = Backend::start().await;
    let config =
        format!("{}    timeouts: {{ first_byte: 200ms, first_token: 200ms, idle: 200ms }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    backend.push(Script::websocket_echo(&accept(), None));
    let mut connection = open(&gateway, &handshake("/v1/realtime?model=m")).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let sent = frame(1, b"still there");
    connection.send(&sent).await;
    assert_eq!(read(&mut connection, sent.len()).await, sent);
}

#[tokio::test]
async fn a_key_in_the_subprotocol_opens_and_is_taken_out() {
    let backend = Backend::start().await;
    let Key { key, hash } = Key::new("browser");
    let config = format!(
        "pools:\n  main:\n    health: off\n    backends: [{{ url: {}, key: sk-upstream }}]\nfilters:\n  - api_key: {{ keys: [ {{ id: browser, hash: \"{hash}\" }} ] }}\n",
        backend.url()
    );
    let gateway = Gateway::start(&config).await;
    backend.push(Script::websocket_echo(&accept(), Some("realtime")));
    let protocols = format!("realtime, openai-insecure-api-key.{key}, openai-beta.realtime-v1");
    let request =
        handshake("/v1/realtime?model=m").header("Sec-WebSocket-Protocol", &protocols).header("x-request-id", "ws-1");
    let mut connection = open(&gateway, &request).await;
    let seen = backend.only().await;
    assert!(!String::from_utf8_lossy(&seen.head).contains(&key), "the key went upstream");
    assert_eq!(seen.header("authorization"), Some("Bearer sk-upstream"));
    let offered = seen.header("sec-websocket-protocol").unwrap();
    assert!(offered.contains("realtime") && offered.contains("openai-beta.realtime-v1"), "{offered}");
    let sent = frame(1, b"x");
    connection.send(&sent).await;
    assert_eq!(read(&mut connection, sent.len()).await, sent);
    drop(connection);
    assert_eq!(gateway.log.request("ws-1").await["status"], 101);
    assert!(!gateway.log.text().contains(&key));

    let wrong =
        handshake("/v1/realtime?model=m").header("Sec-WebSocket-Protocol", "realtime, openai-insecure-api-key.nope");
    gateway.send(&wrong).await.openai_error(401);
}

#[tokio::test]
async fn a_refusal_of_the_backend_reaches_the_client() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(Script::status(
        "400 Bad Request",
        r#"{"error":{"message":"no such voice","type":"invalid_request_error","param":null,"code":null}}"#,
    ));
    let answer = gateway.send(&handshake("/v1/realtime?model=m")).await;
    assert_eq!((answer.status, answer.json()["error"]["message"].as_str()), (400, Some("no such voice")));
    let mut connection = gateway.connect().await;
    backend.push(Script::json("{}"));
    connection.send(handshake("/v1/realtime?model=m").bytes()).await;
    assert_ne!(connection.head().await.status, 101, "a 200 is no upgrade");
}

#[tokio::test]
async fn other_upgrades_are_not_tunnelled() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let h2c = Request::chat("m")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let answer = gateway.send(&h2c).await;
    assert!(matches!(answer.status, 200 | 400 | 426 | 501), "{}", answer.status);
    for n in 0..backend.count() {
        assert_eq!(backend.seen(n).await.header("upgrade"), None);
    }
    let plain = gateway.send(&Request::get("/v1/realtime?model=m")).await;
    assert!((400..500).contains(&plain.status), "{}", plain.status);
}

#[tokio::test]
async fn a_socket_needs_a_known_model() {
    let backend = Backend::start().await;
    let config = format!("{}models: {{ gpt-realtime: {{ pool: main, as: local }} }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    gateway.send(&handshake("/v1/realtime?model=other")).await.openai_error(404);
    backend.push(Script::websocket_echo(&accept(), None));
    open(&gateway, &handshake("/v1/realtime?model=gpt-realtime&x=1")).await;
    assert_eq!(backend.only().await.target, "/v1/realtime?model=local&x=1");
}

#[tokio::test]
async fn a_model_that_can_be_read_in_two_ways_is_refused_before_any_backend_is_asked() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    for query in ["model=a&mod%65l=b", "Model=b&model=a", "model=a&+model=b", "mod%65l=a", "model=a&model=b"] {
        let answer = gateway.send(&handshake(&format!("/v1/realtime?{query}"))).await;
        assert_eq!(answer.status, 400, "{query}: {:?}", answer.body);
        answer.openai_error(400);
    }
    assert_eq!(backend.count(), 0);
    backend.push(Script::websocket_echo(&accept(), None));
    open(&gateway, &handshake("/v1/realtime?model=a&remodel=b")).await;
}
