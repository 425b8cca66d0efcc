//! Where a request comes from: who may say so, and who may call from there.

use std::time::Duration;

use crate::backend::Backend;
use crate::client::{Connection, H2Connection, Request};
use crate::gateway::{Gateway, pool_of};

/// The tests connect from 127.0.0.1: here it is a proxy, and so is 10.0.0.0/8.
const TRUSTING: &str = "trusted_proxies: [127.0.0.1, 10.0.0.0/8]\n";

async fn gateway(backend: &Backend, lines: &str) -> Gateway {
    Gateway::start(&format!("{lines}{}", pool_of(&[backend]))).await
}

/// The client that the gateway writes down for a request with this header.
async fn logged(gateway: &Gateway, name: &str, value: &str) -> Option<String> {
    let answer = gateway.send(&Request::chat("m").header(name, value)).await;
    assert_eq!(answer.status, 200, "{value}: {:?}", answer.body);
    let line = gateway.log.request(answer.header("x-request-id").unwrap()).await;
    line["client"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_client_says_nothing_about_where_it_is() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "").await;
    assert_eq!(logged(&gateway, "X-Forwarded-For", "192.0.2.1").await.as_deref(), Some("127.0.0.1"));
    assert_eq!(logged(&gateway, "Forwarded", "for=192.0.2.1").await.as_deref(), Some("127.0.0.1"));
}

#[tokio::test]
async fn a_trusted_proxy_does_and_the_hops_before_it_as_far_as_they_are_trusted() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, TRUSTING).await;
    for (name, value, client) in [
        ("X-Forwarded-For", "192.0.2.1", "192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.66, 192.0.2.1, 10.1.2.3", "192.0.2.1"),
        ("X-Forwarded-For", "[2001:db8::1]:4711", "2001:db8::1"),
        ("X-Forwarded-For", "unknown, 10.1.2.3", "10.1.2.3"),
        ("Forwarded", "for=192.0.2.66, for=\"192.0.2.1:4711\";proto=https, for=10.1.2.3", "192.0.2.1"),
        ("Forwarded", "for=\"192.0.2.66, for=192.0.2.1", "192.0.2.1"),
        ("X-Request-Id", "x", "127.0.0.1"),
    ] {
        assert_eq!(logged(&gateway, name, value).await.as_deref(), Some(client), "{value}");
    }
}

#[tokio::test]
async fn a_request_whose_two_headers_contradict_each_other_is_refused() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, TRUSTING).await;
    let both = |forwarded: &str| {
        Request::chat("m").header("X-Forwarded-For", "192.0.2.1").header("Forwarded", &format!("for={forwarded}"))
    };
    assert_eq!(gateway.send(&both("192.0.2.1")).await.status, 200);
    let error = gateway.send(&both("192.0.2.9")).await.openai_error(400);
    assert_eq!(error["code"], "contradicting_forwarded");
    assert_eq!(backend.count(), 1);
}

#[tokio::test]
async fn what_a_client_says_about_its_address_or_itself_never_reaches_a_backend() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, TRUSTING).await;
    let names = ["X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-User-Id", "X-Org-Id", "X-Team-Id", "X_User_Id"];
    let request = names.iter().fold(Request::chat("m"), |request, name| request.header(name, "for=192.0.2.1"));
    let request = request.without("Forwarded").header("X-Forwarded-Host", "a").header("X-Forwarded-Proto", "http");
    assert_eq!(gateway.send(&request).await.status, 200);
    let seen = backend.only().await;
    for name in names.iter().chain(&["X-Forwarded-Host", "X-Forwarded-Proto"]) {
        assert_eq!(seen.header(&name.to_ascii_lowercase()), None, "{name}");
    }
}

#[tokio::test]
async fn limits_by_address_hold_for_the_clients_behind_a_proxy_and_ipv6_by_its_64() {
    let backend = Backend::start().await;
    let lines = format!("{TRUSTING}filters: [ {{ limits: [ {{ per: ip, requests: 1/h }} ] }} ]\n");
    let gateway = gateway(&backend, &lines).await;
    let status = async |client: &str| gateway.send(&Request::chat("m").header("X-Forwarded-For", client)).await.status;
    assert_eq!((status("192.0.2.1").await, status("192.0.2.2").await, status("192.0.2.1").await), (200, 200, 429));
    // Without a proxy's word it is another client, and so it is with a word that a client put before it.
    assert_eq!((status("192.0.2.1, 192.0.2.2").await, status("192.0.2.3, 192.0.2.1").await), (429, 429));
    assert_eq!(
        (status("2001:db8::1").await, status("2001:db8::ffff").await, status("2001:db8:0:1::1").await),
        (200, 429, 200)
    );
}

#[tokio::test]
async fn clients_are_let_in_or_kept_out_by_their_network_in_their_own_protocol() {
    let backend = Backend::start().await;
    let lines = format!("{TRUSTING}clients: {{ allow: [192.0.2.0/24, 2001:db8::/32], deny: [192.0.2.66] }}\n");
    let gateway = gateway(&backend, &lines).await;
    let from = |client: &str| Request::chat("m").header("X-Forwarded-For", client);
    for (client, status) in [
        ("192.0.2.1", 200),
        ("2001:db8::1", 200),
        ("192.0.2.66", 403),
        ("192.0.3.1", 403),
        ("192.0.2.1, 192.0.3.1", 403),
        ("2001:db9::1", 403),
        ("garbage", 403),
    ] {
        assert_eq!(gateway.send(&from(client)).await.status, status, "{client}");
    }
    assert_eq!(gateway.send(&from("192.0.3.1")).await.openai_error(403)["code"], "client_not_allowed");
    let messages = Request::post("/v1/messages", r#"{"model":"m","messages":[]}"#);
    assert_eq!(gateway.send(&messages).await.anthropic_error(403)["type"], "permission_error");
    // Nothing else is told either: neither what paths there are, nor what models.
    for request in [Request::get("/nothing/here"), Request::get("/v1/models"), Request::new("OPTIONS", "/v1/models")] {
        assert_eq!(gateway.send(&request).await.status, 403, "{}", request.target());
    }
    let h2 = H2Connection::open(gateway.address()).await;
    assert_eq!(h2.exchange(&from("192.0.3.1")).await.status, 403);
    assert_eq!(h2.exchange(&from("192.0.2.1")).await.status, 200);
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tidegate_failures_total", &[("cause", "auth")]) >= 8.0);
    assert_eq!(backend.count(), 3);
}

#[tokio::test]
async fn a_client_that_may_not_call_is_told_before_it_has_sent_its_body() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, "clients: { deny: [127.0.0.0/8] }\n").await;
    let mut connection = gateway.connect().await;
    connection.send("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 20000000\r\n\r\n{").await;
    let answer = connection.answer().await;
    assert_eq!(answer.openai_error(403)["code"], "client_not_allowed");
    assert_eq!(answer.header("connection"), Some("close"));
    let mut connection = gateway.connect().await;
    let expecting = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    connection.send(expecting).await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.interim), (403, vec![]));
}

#[tokio::test]
async fn each_listener_may_have_lists_of_its_own() {
    let backend = Backend::start().await;
    let port = crate::gateway::free_port();
    let listen = format!(
        "listen:\n  - 127.0.0.1:$PORT\n  - {{ address: 127.0.0.1:{port}, clients: {{ deny: [127.0.0.1] }} }}\n"
    );
    let gateway = gateway(&backend, &listen).await;
    assert_eq!(gateway.send(&Request::chat("m")).await.status, 200);
    let other = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    assert_eq!(Connection::open(other).await.exchange(&Request::chat("m")).await.status, 403);
}

#[tokio::test]
async fn a_unix_socket_has_no_address_and_is_trusted_and_let_in_by_its_own_word() {
    let backend = Backend::start().await;
    let unix = |lines: &str| format!("listen: [127.0.0.1:$PORT, \"unix:$DIR/in.sock\"]\n{lines}");
    let from = Request::chat("m").header("X-Forwarded-For", "192.0.2.1");
    for (lines, plain, forwarded) in [
        ("", 200, 200),
        ("clients: { allow: [127.0.0.1, 192.0.2.1] }\n", 403, 403),
        ("clients: { allow: [127.0.0.1, unix] }\n", 200, 200),
        ("trusted_proxies: [unix]\nclients: { allow: [127.0.0.1, 192.0.2.1] }\n", 403, 200),
        ("trusted_proxies: [unix]\nclients: { deny: [192.0.2.1] }\n", 200, 403),
    ] {
        let gateway = gateway(&backend, &unix(lines)).await;
        let path = gateway.folder.path().join("in.sock");
        let status = async |request| Connection::open_unix(&path).await.exchange(request).await.status;
        assert_eq!((status(&Request::chat("m")).await, status(&from).await), (plain, forwarded), "{lines}");
    }
}

#[tokio::test]
async fn trust_and_lists_change_with_a_reload() {
    let backend = Backend::start().await;
    let gateway = gateway(&backend, TRUSTING).await;
    let request = Request::chat("m").header("X-Forwarded-For", "192.0.2.1");
    let mut open = gateway.connect().await;
    assert_eq!(open.exchange(&request).await.status, 200);
    gateway.rewrite(&format!("{TRUSTING}clients: {{ deny: [192.0.2.1] }}\n{}", pool_of(&[&backend])));
    gateway.signal("HUP");
    gateway.log.line(|line| line["message"] == "configuration reloaded").await;
    // Also for a connection that is open already.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(open.exchange(&request).await.status, 403);
}
