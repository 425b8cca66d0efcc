//! Uploads: routed by their `model` part, streamed on byte for byte, any size up to the limit.

use std::time::Duration;

use bytes::Bytes;

use crate::backend::{Backend, Script};
use crate::client::{H2Connection, Request};
use crate::gateway::{Gateway, pool_of};

const KIND: &str = "multipart/form-data; boundary=XyZ.123";

fn part(name: &str, value: &str) -> String {
    format!("--XyZ.123\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(size: usize) -> Vec<u8> {
    let head = "--XyZ.123\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\n";
    // Bytes of every value, and now and then something that looks like a boundary.
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend((0..size).map(|n| (n * 31 % 251) as u8));
    bytes.extend_from_slice(b"\r\n--XyZ.12\r\n--XyZ\r\n");
    bytes
}

fn upload(path: &str, parts: &[&[u8]]) -> Request {
    let body = [&parts.concat(), b"--XyZ.123--\r\n".as_slice()].concat();
    Request::new("POST", path).header("Content-Type", KIND).body(body)
}

#[tokio::test]
async fn an_upload_is_routed_by_its_model_and_arrives_byte_for_byte() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let config = format!(
        "pools:\n  a: {{ health: off, backends: [{}] }}\n  b: {{ health: off, backends: [{}] }}\nmodels: {{ whisper: {{ pool: a }}, dalle: {{ pool: b }} }}\n",
        a.url(),
        b.url()
    );
    let gateway = Gateway::start(&config).await;
    let file = file(700_000);
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/edits"] {
        for request in [
            upload(path, &[part("model", "whisper").as_bytes(), &file]),
            upload(path, &[part("model", "whisper").as_bytes(), &file, part("language", "de").as_bytes()])
                .chunked(9_999),
        ] {
            let before = a.count();
            let answer = gateway.send(&request).await;
            assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
            let seen = a.seen(before).await;
            assert!(seen.body == request.content(), "{path}: the body changed");
            assert_eq!(seen.header("content-type"), Some(KIND));
            seen.assert_clean();
        }
    }
    assert_eq!(
        gateway.send(&upload("/v1/images/edits", &[part("model", "dalle").as_bytes(), &file])).await.status,
        200
    );
    assert_eq!(b.count(), 1);
}

#[tokio::test]
async fn a_model_that_comes_after_the_file_is_found_too() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}models: {{ whisper: {{ pool: main }} }}\n", pool_of(&[&backend]))).await;
    let file = file(300_000);
    let request = upload("/v1/audio/transcriptions", &[&file, part("model", "whisper").as_bytes()]);
    let answer = gateway.send(&request).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert!(backend.only().await.body == request.content());
}

#[tokio::test]
async fn an_upload_of_30_mib_passes_over_http1_and_http2() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let file = file(30 << 20);
    let request = upload("/v1/audio/transcriptions", &[part("model", "m").as_bytes(), &file]);
    let hash = blake3::hash(&request.content()).to_hex().to_string();
    assert_eq!(gateway.send(&request).await.json()["hash"], hash);
    let h2 = H2Connection::open(gateway.address()).await;
    assert_eq!(h2.exchange(&request).await.json()["hash"], hash);
}

#[tokio::test]
async fn an_upload_beyond_the_limit_is_413() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ body: 100KiB }}\n", pool_of(&[&backend]))).await;
    let request = upload("/v1/audio/transcriptions", &[part("model", "m").as_bytes(), &file(200 << 10)]);
    let mut connection = gateway.connect().await;
    connection.send(request.head()).await;
    connection.answer().await.openai_error(413);
    let chunked = request.chunked(4096).bytes();
    let mut connection = gateway.connect().await;
    connection.send(&chunked[..150 << 10]).await;
    connection.answer().await.openai_error(413);
}

#[tokio::test]
async fn renaming_the_model_changes_its_part_only() {
    let backend = Backend::start().await;
    let config = format!("{}models: {{ whisper-1: {{ pool: main, as: large-v3-turbo }} }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    let file = file(10_000);
    let with = |model: &str| {
        upload(
            "/v1/audio/transcriptions",
            &[part("prompt", "whisper-1").as_bytes(), part("model", model).as_bytes(), &file],
        )
    };
    let answer = gateway.send(&with("whisper-1")).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    assert!(backend.only().await.body == with("large-v3-turbo").content());
}

#[tokio::test]
async fn an_upload_without_a_model_or_with_two_is_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let file = file(1000);
    let model = part("model", "m");
    for request in [
        upload("/v1/audio/transcriptions", &[&file]),
        upload("/v1/audio/transcriptions", &[model.as_bytes(), part("model", "x").as_bytes(), &file]),
        Request::new("POST", "/v1/audio/transcriptions").header("Content-Type", "multipart/form-data").body("x"),
        Request::new("POST", "/v1/audio/transcriptions").header("Content-Type", KIND).body("no part at all"),
    ] {
        let answer = gateway.send(&request).await;
        answer.openai_error(400);
    }
    assert_eq!(gateway.send(&upload("/v1/audio/transcriptions", &[model.as_bytes(), &file])).await.status, 200);
}

#[tokio::test]
async fn an_unknown_model_in_an_upload_is_404() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}models: {{ whisper: {{ pool: main }} }}\n", pool_of(&[&backend]))).await;
    let answer =
        gateway.send(&upload("/v1/audio/transcriptions", &[part("model", "other").as_bytes(), &file(10)])).await;
    assert_eq!(answer.openai_error(404)["code"], "model_not_found");
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn an_answer_that_is_no_json_passes_where_none_is_expected() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let sound = Bytes::from((0..70_000u32).map(|n| (n % 256) as u8).collect::<Vec<u8>>());
    backend.push(Script::answer("200 OK", &[("content-type", "audio/mpeg")], &sound));
    let answer = gateway.send(&Request::post("/v1/audio/speech", r#"{"model":"m","input":"hi","voice":"x"}"#)).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("audio/mpeg")));
    assert!(answer.body == sound);
    backend.push(Script::answer("200 OK", &[("content-type", "text/plain")], "1\n00:00:00,000 --> 00:00:01,000\nhi\n"));
    let answer = gateway.send(&upload("/v1/audio/transcriptions", &[part("model", "m").as_bytes(), &file(10)])).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain")));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_upload_leaves_no_half_message_behind() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let request = upload("/v1/audio/transcriptions", &[part("model", "m").as_bytes(), &file(500_000)]);
    let mut connection = gateway.connect().await;
    connection.send(&request.bytes()[..300_000]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(connection);
    tokio::time::sleep(Duration::from_millis(150)).await;
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!(answer.json()["hash"], blake3::hash(&Request::chat("m").content()).to_hex().to_string());
    assert!(backend.open() <= 1);
}

#[tokio::test]
async fn the_default_model_is_for_json_and_not_for_forms() {
    let backend = Backend::start().await;
    let config = format!("{}models: {{ whisper: {{ pool: main }} }}\ndefault_model: whisper\n", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    for request in [
        upload("/v1/audio/transcriptions", &[&file(1000)]),
        upload("/v1/images/edits", &[part("prompt", "x").as_bytes(), &file(1000)]),
    ] {
        gateway.send(&request).await.openai_error(400);
    }
    assert_eq!(backend.count(), 0);
    assert_eq!(gateway.send(&Request::post("/v1/chat/completions", r#"{"messages":[]}"#)).await.status, 200);
}
