//! HTTP/2, TLS and Unix sockets, towards clients and towards backends.

use std::time::Duration;

use futures_util::future::join_all;

use crate::backend::{Backend, H2Backend, Part, Reply, Script, finish, token};
use crate::certs::Certs;
use crate::client::{Connection, End, H2Connection, Request};
use crate::gateway::{Folder, Gateway, pool_of};

#[tokio::test]
async fn http2_in_the_clear_and_http1_share_a_port() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    let h2 = H2Connection::open(gateway.address()).await;
    assert_eq!(h2.exchange(&Request::chat("m")).await.status, 200);
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    // Shorter than the preface of HTTP/2: a load balancer's check must not hang.
    let mut old = gateway.connect().await;
    old.send("GET / HTTP/1.0\r\n\r\n").await;
    let status = old.answer().await.status;
    assert!(matches!(status, 400 | 404), "{status}");
    backend.seen(0).await.assert_clean();
}

#[tokio::test]
async fn streams_and_trailers_pass_over_http2() {
    let backend = Backend::start().await;
    let gateway = Gateway::before(&backend).await;
    backend.push(
        Script::stream()
            .token("a")
            .pause(Duration::from_millis(80))
            .token("b")
            .chunk(finish())
            .done()
            .send("0\r\nx-sum: 7\r\n\r\n"),
    );
    let answer = H2Connection::open(gateway.address()).await.exchange(&Request::stream("m")).await;
    assert_eq!(answer.text(), format!("{}{}{}data: [DONE]\n\n", token("a"), token("b"), finish()));
    assert!(answer.pieces[1].0 - answer.pieces[0].0 > Duration::from_millis(40), "events come as they are made");
    assert_eq!(answer.trailers.get("x-sum"), Some("7"));
    for name in ["connection", "transfer-encoding", "keep-alive"] {
        assert!(!answer.headers.has(name), "{name} has no place in HTTP/2");
    }
}

#[tokio::test]
async fn many_requests_share_one_http2_connection_up_to_its_limit() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ streams_per_connection: 8 }}\n", pool_of(&[&backend]))).await;
    backend.handle(|_| {
        Script::new().pause(Duration::from_millis(30)).send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
    });
    let h2 = H2Connection::open(gateway.address()).await;
    // The peer's settings must have come before its limit can be kept.
    assert_eq!(h2.exchange(&Request::chat("m")).await.status, 200);
    let request = Request::chat("m");
    let answers = join_all((0..40).map(|_| h2.exchange(&request))).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert!(backend.most_in_flight() <= 8, "{} streams at once", backend.most_in_flight());
}

fn tls_listener(certs: &Certs, folder: &Folder) -> &'static str {
    certs.write_to(folder.path());
    "listen: [{ address: 127.0.0.1:$PORT, tls: { cert: $DIR/cert.pem, key: $DIR/key.pem } }]\n"
}

#[tokio::test]
async fn tls_serves_http1_and_http2_as_the_client_prefers() {
    let (certs, folder) = (Certs::new(), Folder::new());
    let backend = Backend::start().await;
    let config = format!("{}{}", tls_listener(&certs, &folder), pool_of(&[&backend]));
    let gateway = Gateway::start_in(folder, &config, &[]).await;
    let mut h1 = Connection::open_tls(gateway.address(), &certs).await;
    assert_eq!(h1.exchange(&Request::chat("m")).await.status, 200);
    let h2 = H2Connection::open_tls(gateway.address(), &certs).await;
    backend.push(Script::words(&["a", "b"], Duration::ZERO));
    let answer = h2.exchange(&Request::stream("m")).await;
    assert!(answer.text().ends_with("data: [DONE]\n\n"));
    assert_eq!(answer.end, End::Whole);
}

#[tokio::test]
async fn a_gateway_listens_on_several_addresses_and_a_unix_socket() {
    let backend = Backend::start().await;
    let config = format!("listen: [127.0.0.1:$PORT, \"unix:$DIR/front.sock\"]\n{}", pool_of(&[&backend]));
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    let mut connection = Connection::open_unix(&gateway.folder.path().join("front.sock")).await;
    assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
    assert_eq!(connection.exchange(&Request::get("/v1/models")).await.status, 200);
}

#[tokio::test]
async fn a_backend_may_sit_on_a_unix_socket() {
    let folder = Folder::new();
    let backend = Backend::start_unix(&folder.path().join("back.sock"));
    let gateway = Gateway::start_in(folder, &pool_of(&[&backend]), &[]).await;
    for _ in 0..2 {
        assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    }
    assert_eq!(backend.connections(), 1);
    backend.seen(0).await.assert_clean();
}

#[tokio::test]
async fn a_tls_backend_is_trusted_by_the_ca_the_file_names_and_not_otherwise() {
    let (certs, folder) = (Certs::new(), Folder::new());
    certs.write_to(folder.path());
    let backend = Backend::start_tls(&certs).await;
    let trusted = format!("{}    tls: {{ ca: $DIR/ca.pem }}\n", pool_of(&[&backend]));
    let gateway = Gateway::start_in(folder, &trusted, &[]).await;
    let answer = gateway.send(&Request::chat("m")).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);

    let strict = Gateway::start(&pool_of(&[&backend])).await;
    strict.send(&Request::chat("m")).await.openai_error(502);
    let lax = Gateway::start(&format!("{}    tls: {{ verify: false }}\n", pool_of(&[&backend]))).await;
    assert_eq!(lax.send(&Request::chat("m")).await.status, 200);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_unless_the_file_gives_the_name() {
    let (certs, folder) = (Certs::new(), Folder::new());
    certs.write_to(folder.path());
    let backend = Backend::start_tls(&certs).await;
    // 127.0.0.2 is this machine too, but not in the certificate.
    let elsewhere = backend.url().replace("localhost", "127.0.0.1");
    let config = |rest: &str| {
        format!(
            "pools:\n  main:\n    health: off\n    backends: [{elsewhere}]\n    tls: {{ ca: $DIR/ca.pem, {rest} }}\n"
        )
    };
    let gateway = Gateway::start_in(folder, &config("server_name: other.example"), &[]).await;
    gateway.send(&Request::chat("m")).await.openai_error(502);
    let folder = Folder::new();
    certs.write_to(folder.path());
    let gateway = Gateway::start_in(folder, &config("server_name: localhost"), &[]).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
}

fn h2_stream(seen: &crate::backend::Seen) -> Option<Reply> {
    if seen.target.ends_with("/models") {
        let list = r#"{"object":"list","data":[{"id":"m","object":"model","created":1,"owned_by":"t"}]}"#;
        return Some(Reply { status: 200, content_type: "application/json", parts: vec![Part::Data(list.into())] });
    }
    let parts = match seen.header("x-do") {
        Some("stream") => vec![
            Part::Data(token("a").into()),
            Part::Pause(Duration::from_millis(50)),
            Part::Data(finish().into()),
            Part::Data("data: [DONE]\n\n".into()),
            Part::Trailer("x-sum", "7"),
        ],
        Some("break") => vec![
            Part::Data(token("a").into()),
            Part::Pause(Duration::from_millis(20)),
            Part::Reset(h2::Reason::INTERNAL_ERROR),
        ],
        Some("hang") => vec![Part::Hang],
        _ => return None,
    };
    Some(Reply { status: 200, content_type: "text/event-stream", parts })
}

#[tokio::test]
async fn http2_backends_are_spoken_to_in_the_clear_and_in_tls() {
    let certs = Certs::new();
    for tls in [None, Some(&certs)] {
        let folder = Folder::new();
        certs.write_to(folder.path());
        let backend = H2Backend::start(tls, h2_stream).await;
        let ca = tls.map(|_| "    tls: { ca: $DIR/ca.pem }\n").unwrap_or_default();
        let config =
            format!("pools:\n  main:\n    health: off\n    http2: true\n    backends: [{}]\n{ca}", backend.url());
        let gateway = Gateway::start_in(folder, &config, &[]).await;
        let body = format!(r#"{{"model":"m","x":"{}"}}"#, "y".repeat(300_000));
        let request = Request::post("/v1/chat/completions", body.clone());
        let answers = join_all((0..10).map(|_| gateway.send(&request))).await;
        for answer in answers {
            assert_eq!((answer.status, answer.json()["length"].as_u64()), (200, Some(body.len() as u64)));
        }
        let answer = gateway.send(&Request::stream("m").header("x-do", "stream").header("TE", "trailers")).await;
        assert_eq!(answer.text(), format!("{}{}data: [DONE]\n\n", token("a"), finish()));
        assert_eq!(answer.trailers.get("x-sum"), Some("7"));
        let answer = gateway.send(&Request::stream("m").header("x-do", "break")).await;
        assert!(answer.text().contains("\"error\"") && !answer.text().contains("[DONE]"), "{}", answer.text());
        let authority = backend.url().split("://").nth(1).unwrap();
        assert_eq!(backend.seen()[0].header(":authority"), Some(authority));
    }
}

#[tokio::test]
async fn a_client_that_leaves_resets_the_stream_of_an_http2_backend() {
    let backend = H2Backend::start(None, h2_stream).await;
    let config = format!("pools:\n  main: {{ health: off, http2: true, backends: [{}] }}\n", backend.url());
    let gateway = Gateway::start(&config).await;
    let mut connection = gateway.connect().await;
    connection.send(Request::stream("m").header("x-do", "hang").bytes()).await;
    while backend.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let left = std::time::Instant::now();
    drop(connection);
    let seen = backend.seen()[0].clone();
    assert!(seen.gone().await.duration_since(left) < Duration::from_millis(100));
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    assert_eq!(backend.connections(), 1, "the connection lives on");
}

#[tokio::test]
async fn an_http2_client_that_asks_for_nothing_is_given_up_as_any_other() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&format!("{}limits: {{ head_timeout: 300ms }}\n", pool_of(&[&backend]))).await;
    let mut connection = gateway.connect().await;
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    // The gateway's own SETTINGS come first; then nothing more, and the end.
    let end = async { while !connection.raw().await.is_empty() {} };
    assert!(tokio::time::timeout(Duration::from_secs(2), end).await.is_ok());
}
