//! Request bodies of every size, however they are framed, and what becomes of those that are too much.

use std::time::{Duration, Instant};

use base64::Engine as _;
use bytes::Bytes;

use crate::backend::{Backend, Gate, Script};
use crate::client::{H2Connection, Request, chat_body};
use crate::gateway::{Gateway, pool_of};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// A chat request of exactly this many bytes.
fn body_of(size: usize) -> Bytes {
    let (start, end) = (r#"{"model":"m","messages":[{"role":"user","content":""#, r#""}]}"#);
    let filler = "0123456789abcdef".repeat(size / 16 + 1);
    format!("{start}{}{end}", &filler[..size - start.len() - end.len()]).into()
}

async fn arrives_whole(size: usize) {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let body = body_of(size);
    let hash = blake3::hash(&body).to_hex().to_string();
    let request = Request::post("/v1/chat/completions", body);
    let h2 = H2Connection::open(gateway.address()).await;
    let length = size.to_string();
    let answers = [
        gateway.send(&request).await,
        gateway.send(&request.clone().chunked(10_000)).await,
        h2.exchange(&request.clone().header("content-length", &length)).await,
        h2.exchange(&request).await,
    ];
    for (way, answer) in answers.iter().enumerate() {
        assert_eq!(answer.status, 200, "way {way}: {:?}", answer.body);
        assert_eq!(
            (answer.json()["hash"].as_str(), answer.json()["length"].as_u64()),
            (Some(hash.as_str()), Some(size as u64))
        );
        let seen = backend.seen(way).await;
        assert_eq!(seen.header("content-length"), Some(length.as_str()), "a buffered body goes on with its length");
        seen.assert_clean();
    }
}

#[tokio::test]
async fn a_body_one_below_64_kib_arrives_whole() {
    arrives_whole(64 * KIB - 1).await;
}

#[tokio::test]
async fn a_body_of_64_kib_arrives_whole() {
    arrives_whole(64 * KIB).await;
}

#[tokio::test]
async fn a_body_one_above_64_kib_arrives_whole() {
    arrives_whole(64 * KIB + 1).await;
}

#[tokio::test]
async fn a_body_of_5_mib_arrives_whole() {
    arrives_whole(5 * MIB).await;
}

#[tokio::test]
async fn a_body_of_32_mib_arrives_whole() {
    arrives_whole(32 * MIB).await;
}

#[tokio::test]
async fn a_declared_length_beyond_the_limit_is_refused_before_a_byte_of_it_is_read() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 33554433\r\n\r\n";
    let mut connection = gateway.connect().await;
    connection.send(head).await;
    connection.answer().await.openai_error(413);
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn an_undeclared_body_is_refused_as_soon_as_it_passes_the_limit() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ body: 100KiB }}\n", pool_of(&[&backend]))).await;
    let endless = Request::post("/v1/chat/completions", body_of(100 * KIB + 1)).chunked(4096).bytes();
    let mut connection = gateway.connect().await;
    // Without the last chunk: a gateway that waits for the end waits for ever.
    connection.send(&endless[..endless.len() - 5]).await;
    connection.answer().await.openai_error(413);

    let h2 = H2Connection::open(gateway.address()).await;
    let (answer, mut stream) = h2.begin_head(&Request::post("/v1/chat/completions", "")).await.unwrap();
    drop(crate::client::send_all(&mut stream, body_of(100 * KIB + 1), false).await);
    assert_eq!(crate::client::whole(answer.await.unwrap()).await.status, 413);

    let fits = gateway.send(&Request::post("/v1/chat/completions", body_of(100 * KIB))).await;
    assert_eq!((fits.status, backend.count()), (200, 1));
}

#[tokio::test]
async fn bodies_in_flight_have_a_budget_together_and_give_it_back() {
    let backend = Backend::start().await;
    let gateway =
        Gateway::start(&format!("{}limits: {{ body: 1MiB, bodies_in_flight: 1MiB }}\n", pool_of(&[&backend]))).await;
    let request = Request::post("/v1/chat/completions", body_of(700 * KIB));
    let gate = Gate::closed();
    backend.push(Script::new().wait(&gate).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"));
    let mut first = gateway.connect().await;
    first.send(request.bytes()).await;
    backend.seen(0).await;
    let refused = gateway.send(&request).await;
    refused.openai_error(503);
    assert!(refused.header("retry-after").is_some_and(|value| value.parse::<u32>().is_ok_and(|seconds| seconds >= 1)));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200, "a small one still fits");
    gate.open();
    assert_eq!(first.answer().await.status, 200);
    let again = gateway.send(&request).await;
    assert_eq!(again.status, 200, "the budget was given back: {:?}", again.body);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_body_gives_its_budget_back() {
    let backend = Backend::start().await;
    let gateway =
        Gateway::start(&format!("{}limits: {{ body: 1MiB, bodies_in_flight: 1MiB }}\n", pool_of(&[&backend]))).await;
    let request = Request::post("/v1/chat/completions", body_of(700 * KIB));
    for _ in 0..4 {
        let mut connection = gateway.connect().await;
        connection.send(&request.bytes()[..600 * KIB]).await;
    }
    // The ends of four connections are noticed when they are.
    let until = Instant::now() + Duration::from_secs(10);
    while gateway.send(&request).await.status != 200 {
        assert!(Instant::now() < until, "the budget was not given back");
    }
    assert_eq!(backend.count(), 1, "nothing of a half body went on");
}

#[tokio::test]
async fn a_compressed_body_is_refused_unless_switched_on() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let zipped = Request::post("/v1/chat/completions", gzip(SMALL)).header("Content-Encoding", "gzip");
    gateway.send(&zipped).await.openai_error(415);
    let plain = Request::chat("m").header("Content-Encoding", "identity");
    assert_eq!(gateway.send(&plain).await.status, 200);
}

#[tokio::test]
async fn a_compressed_body_is_bounded_by_what_it_unpacks_to() {
    let backend = Backend::start().await;
    let config = format!("{}limits: {{ compressed_bodies: {{ unpacked: 1MiB }} }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let request = |body| Request::post("/v1/chat/completions", body).header("Content-Encoding", "gzip");
    assert_eq!(gateway.send(&request(gzip(SMALL))).await.status, 200);
    let seen = backend.only().await;
    assert_eq!((seen.text(), seen.header("content-encoding")), (chat_body("m", false).as_str(), None));
    gateway.send(&request(gzip(BOMB))).await.openai_error(413);
    gateway.send(&request("not gzip".into())).await.openai_error(400);
}

fn gzip(base64: &str) -> Bytes {
    base64::engine::general_purpose::STANDARD.decode(base64.replace(['\n', ' '], "")).unwrap().into()
}

/// `chat_body("m", false)`, gzipped.
const SMALL: &str =
    "H4sIAAAAAAACA6tWys1PSc1RslLKVdJRyk0tLk5MTy1WsoquVirKz0kFipcWpxYBpZLz80pS80qAAhmZSrWxtQDvNcJUOQAAAA==";

/// A chat request with two million blanks, gzipped.
const BOMB: &str = "H4sIAAAAAAACA+3JsQ2EMBAAwVZeF38FtIIIEH8iwVjCfIToHffBTLh7Ram/3GKIEt8o2dq8ZothvOKoW/b+b3n0tdT9zP3s4QMAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA \
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAALxO3NP9ALIhDjC3hB4A";
