use super::*;

fn judged(head: &str) -> Result<bool, BadHead> {
    let mut connection = connection([head.as_bytes()]);
    match now(connection.read_head(&Limits::default())) {
        Ok(()) => Ok(connection.keeps_alive()),
        Err(Unreadable::Refused(refused)) => Err(refused.reason),
        Err(Unreadable::Gone) => panic!("{head:?} is no whole head"),
    }
}

#[test]
fn an_ordinary_head_passes() {
    for head in [
        "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
        "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /v1/models/a%20b?c=d HTTP/1.1\r\nhost:[::1]:80 \r\nX-Empty:\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a:\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(judged(head), Ok(true), "{head:?}");
    }
}

#[test]
fn two_readings_are_one_too_many() {
    for headers in [
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        "Transfer-Encoding: \x0cchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer\u{e9}-Encoding: chunked\r\n",
        ": chunked\r\n",
        "X: 1\n",
        "X: 1\r\n folded\r\n",
        "X: 1\r\n\tfolded\r\n",
        " X: 1\r\n",
        "Content-Length : 5\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X\0: a\r\n",
        "no colon\r\n",
        "Host: b\r\n",
        "Content-Length:\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 9999999999999999999\r\n",
    ] {
        let head = format!("POST /v1 HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        assert_eq!(judged(&head), Err(BadHead::Framing), "{headers:?}");
    }
    for head in [
        "POST /v1 HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST /v1 HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\n\n",
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET //a\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(judged(head), Err(BadHead::Framing), "{head:?}");
    }
}

#[test]
fn what_is_no_request_line_is_refused() {
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / a HTTP/1.1",
        "GET /",
        "GET\t/ HTTP/1.1",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "G(T / HTTP/1.1",
        "nonsense",
    ] {
        assert_eq!(judged(&format!("{line}\r\nHost: a\r\n\r\n")), Err(BadHead::Malformed), "{line:?}");
    }
    assert_eq!(judged("\x16\x03\x01"), Err(BadHead::Malformed), "a TLS handshake is seen from its first byte");
}

#[test]
fn a_host_is_a_host_and_perhaps_a_port() {
    for host in ["", "a, b", "a/b", "a?x", "a b", "a:99999", "a:+1", "a@b", "a#b", "[::1", "[g]", ":80", "a:b:c"] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(judged(&head), Err(BadHead::Framing), "{host:?}");
    }
}

#[test]
fn size_and_number_are_bounded() {
    let of = |fields: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(fields - 1));
    assert_eq!(judged(&of(100)), Ok(true));
    assert_eq!(judged(&of(101)), Err(BadHead::TooManyHeaders));
    let large = |size: usize| {
        let (begin, end) = ("GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n");
        format!("{begin}{}{end}", "a".repeat(size - begin.len() - end.len()))
    };
    assert_eq!(judged(&large(64 << 10)), Ok(true));
    assert_eq!(judged(&large((64 << 10) + 1)), Err(BadHead::TooLarge));
    assert_eq!(judged(&"a".repeat(64 << 10)), Err(BadHead::TooLarge), "without waiting for its end");
}

#[test]
fn a_connection_is_kept_as_its_version_and_the_client_say() {
    for (version, connection, kept) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Connection: x, CLOSE\r\n", false),
        ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{connection}\r\n");
        assert_eq!(judged(&head), Ok(kept), "{head:?}");
    }
}
