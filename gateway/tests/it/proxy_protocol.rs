//! Connections that a proxy introduces with a header of the PROXY protocol, in the clear and before TLS.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::certs::Certs;
use crate::client::{Connection, H2Connection, Request};
use crate::gateway::{Folder, Gateway, pool_of};

const LINE: &[u8] = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n";

fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, block].concat()
}

/// A binary header for this client, with TLVs behind the addresses.
fn introduction() -> Vec<u8> {
    binary(0x21, 0x11, &[192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4, 0x02, 0, 1, b'a', 0x20, 0, 2, 1, 1])
}

async fn gateway(backend: &Backend, trusted: &str, more: &str) -> Gateway {
    let listen = "listen: { address: 127.0.0.1:$PORT, proxy_protocol: true }\n";
    Gateway::start(&format!("{listen}trusted_proxies: [{trusted}]\n{more}{}", pool_of(&[backend]))).await
}

/// The client that the gateway writes down for a request behind these bytes.
async fn logged(gateway: &Gateway, introduction: &[u8], request: &Request) -> String {
    let mut connection = gateway.connect().await;
    connection.send([introduction, &request.bytes()].concat()).await;
    let answer = connection.answer().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
    line["client"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn both_versions_say_where_the_client_is() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1", "").await;
    let request = Request::chat("m");
    assert_eq!(logged(&gateway, LINE, &request).await, "192.0.2.1");
    assert_eq!(logged(&gateway, &introduction(), &request).await, "192.0.2.1");
    assert_eq!(logged(&gateway, b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", &request).await, "2001:db8::1");
}

#[tokio::test]
async fn a_proxy_that_speaks_for_itself_is_its_own_client() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1", "").await;
    for own in [b"PROXY UNKNOWN\r\n".to_vec(), binary(0x20, 0, &[]), binary(0x20, 0x11, &[9; 12]), binary(0x21, 0, &[])]
    {
        assert_eq!(logged(&gateway, &own, &Request::chat("m")).await, "127.0.0.1", "{own:?}");
    }
}

#[tokio::test]
async fn a_client_behind_the_proxy_is_no_proxy_but_another_proxy_is() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1, 10.0.0.0/8", "").await;
    let request = Request::chat("m").header("X-Forwarded-For", "198.51.100.7");
    assert_eq!(logged(&gateway, LINE, &request).await, "192.0.2.1");
    assert_eq!(logged(&gateway, b"PROXY TCP4 10.9.9.9 10.0.0.1 1 2\r\n", &request).await, "198.51.100.7");
}

#[tokio::test]
async fn a_header_in_pieces_and_requests_right_behind_it_lose_nothing() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1", "").await;
    for introduction in [LINE.to_vec(), introduction()] {
        let mut connection = gateway.connect().await;
        assert!(connection.drip(&introduction, Duration::from_millis(1)).await);
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200);
        assert_eq!(connection.exchange(&Request::chat("m")).await.status, 200, "the connection is kept");
        let mut connection = gateway.connect().await;
        let two = [Request::chat("m").bytes(), Request::chat("m").bytes()].concat();
        connection.send([introduction, two].concat()).await;
        assert_eq!((connection.answer().await.status, connection.answer().await.status), (200, 200));
    }
}

#[tokio::test]
async fn http2_behind_a_header_is_http2() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1", "clients: { deny: [192.0.2.1] }\n").await;
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(b"PROXY TCP4 192.0.2.2 10.0.0.1 4711 443\r\n").await.unwrap();
    assert_eq!(H2Connection::over(stream, "http").await.exchange(&Request::chat("m")).await.status, 200);
    let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
    stream.write_all(LINE).await.unwrap();
    assert_eq!(H2Connection::over(stream, "http").await.exchange(&Request::chat("m")).await.status, 403);
}

#[tokio::test]
async fn before_tls_it_works_the_same_for_either_http() {
    let (backend, certs, folder) = (Backend::start().await, Certs::new(), Folder::new());
    certs.write_to(folder.path());
    let config = format!(
        "listen: [{{ address: 127.0.0.1:$PORT, proxy_protocol: true, tls: {{ cert: $DIR/cert.pem, key: $DIR/key.pem }} }}]\n\
         trusted_proxies: [127.0.0.1]\nclients: {{ deny: [192.0.2.66] }}\n{}",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start_in(folder, &config, &[]).await;
    for (client, status) in [("192.0.2.1", 200), ("192.0.2.66", 403)] {
        for alpn in ["h2", "http/1.1"] {
            let mut stream = TcpStream::connect(gateway.address()).await.unwrap();
            stream.write_all(format!("PROXY TCP4 {client} 10.0.0.1 4711 443\r\n").as_bytes()).await.unwrap();
            let connector = certs.connector(&[alpn.as_bytes()]);
            let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
            let answer = match alpn {
                "h2" => H2Connection::over(stream, "https").await.exchange(&Request::chat("m")).await,
                _ => Connection::over(stream).exchange(&Request::chat("m")).await,
            };
            assert_eq!(answer.status, status, "{client} {alpn}");
            let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
            assert_eq!(line["client"], client);
        }
    }
    // A handshake where the header should be, and a header that never ends.
    let mut stream = Connection::open(gateway.address()).await;
    stream.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc").await;
    assert!(stream.closes_within(Duration::from_secs(2)).await);
    gateway.metric_is("tidegate_bad_requests_total", &[("reason", "proxy_header")], 1.0).await;
}

#[tokio::test]
async fn anything_but_a_header_ends_the_connection_without_a_word() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1", "").await;
    let wrong = [
        Request::chat("m").bytes().to_vec(),
        b"PROXY TCP4 192.0.2.1 10.0.0.1 4711\r\n".to_vec(),
        b"PROXY TCP4 not.an.address 10.0.0.1 1 2\r\n".to_vec(),
        [&b"PROXY UNKNOWN "[..], &[b'x'; 300]].concat(),
        binary(0x21, 0x11, &[1, 2, 3]),
        binary(0x2f, 0x11, &[0; 12]),
        binary(0x21, 0x11, &[0; 60_000]),
    ];
    for (n, bytes) in wrong.iter().enumerate() {
        let mut connection = gateway.connect().await;
        connection.send(bytes).await;
        assert!(connection.closes_within(Duration::from_secs(2)).await, "{n}");
    }
    gateway.metric_is("tidegate_bad_requests_total", &[("reason", "proxy_header")], wrong.len() as f64).await;
    gateway.log.line(|line| line["reason"] == "proxy_header").await;
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn nobody_but_a_trusted_proxy_may_connect() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "10.0.0.0/8", "").await;
    for bytes in [LINE, b"GET / HTTP/1.1\r\n\r\n"] {
        let mut connection = gateway.connect().await;
        connection.send(bytes).await;
        assert!(connection.closes_within(Duration::from_secs(2)).await);
    }
    let line = gateway.log.line(|line| line["reason"] == "untrusted_proxy").await;
    assert!(line["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(backend.count(), 0);
}

#[tokio::test]
async fn a_header_is_due_when_any_head_is() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "127.0.0.1", "limits: { head_timeout: 300ms }\n").await;
    for begun in [&b""[..], b"PROXY TCP4 192", &introduction()[..14]] {
        let mut connection = gateway.connect().await;
        let begin = Instant::now();
        connection.send(begun).await;
        assert!(connection.closes_within(Duration::from_secs(3)).await);
        assert!(begin.elapsed() >= Duration::from_millis(250), "{:?}", begin.elapsed());
    }
    gateway.metric_is("tidegate_bad_requests_total", &[("reason", "timeout")], 3.0).await;
}

#[tokio::test]
async fn listeners_with_and_without_it_live_side_by_side() {
    let backend = Backend::start().await;
    let port = crate::gateway::free_port();
    let config = format!(
        "listen:\n  - 127.0.0.1:$PORT\n  - {{ address: 127.0.0.1:{port}, proxy_protocol: true }}\n  \
         - {{ address: \"unix:$DIR/in.sock\", proxy_protocol: true }}\ntrusted_proxies: [127.0.0.1, unix]\n{}",
        pool_of(&[&backend])
    );
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    let mut plain = gateway.connect().await;
    plain.send([LINE, &Request::chat("m").bytes()].concat()).await;
    assert_eq!(plain.answer().await.status, 400, "where none is due it is no request");
    let introduced = [LINE, &Request::chat("m").bytes()].concat();
    let mut behind = Connection::open(SocketAddr::from(([127, 0, 0, 1], port))).await;
    behind.send(&introduced).await;
    assert_eq!(behind.answer().await.status, 200);
    let mut unix = Connection::open_unix(&gateway.folder.path().join("in.sock")).await;
    unix.send(&introduced).await;
    let answer = unix.answer().await;
    let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
    assert_eq!((answer.status, line["client"].as_str()), (200, Some("192.0.2.1")));
}
