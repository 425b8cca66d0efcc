use super::*;
use futures_util::FutureExt;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OLD: &str = "GET / HTTP/1.0\r\n\r\n";

fn written(connection: &Http1<Wire>) -> &str {
    std::str::from_utf8(&connection.stream.written).unwrap()
}

fn length(length: &'static str) -> HeaderMap {
    headers(&[(header::CONTENT_LENGTH, length)])
}

#[test]
fn head_and_body_leave_together() {
    let mut connection = asked(GET);
    connection.write_head(StatusCode::OK, &length("2")).unwrap();
    assert_eq!(written(&connection), "");
    now(connection.write_body(b"hi")).unwrap();
    now(connection.finish(None)).unwrap();
    assert_eq!(written(&connection), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ndate: today\r\n\r\nhi");
    assert_eq!(connection.stream.writes, 1);
    assert!(connection.is_reusable());
}

#[test]
fn a_body_without_length_goes_in_chunks_and_may_have_trailers() {
    let mut connection = asked(GET);
    connection.write_head(StatusCode::OK, &headers(&[])).unwrap();
    assert!(connection.can_have_trailers());
    now(connection.flush()).unwrap();
    now(connection.write_body(b"0123456789abcdef!")).unwrap();
    now(connection.write_body(b"")).unwrap();
    let trailers = [("x-sum".parse().unwrap(), HeaderValue::from_static("7"))].into_iter().collect();
    now(connection.finish(Some(&trailers))).unwrap();
    let head = "HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(written(&connection), format!("{head}11\r\n0123456789abcdef!\r\n0\r\nx-sum: 7\r\n\r\n"));
    assert_eq!(connection.stream.writes, 3);
    assert!(connection.is_reusable());
}

#[test]
fn an_old_client_gets_everything_until_the_connection_ends() {
    let mut connection = asked(OLD);
    connection.write_head(StatusCode::OK, &headers(&[])).unwrap();
    now(connection.write_body(b"hi")).unwrap();
    now(connection.finish(None)).unwrap();
    assert_eq!(written(&connection), "HTTP/1.1 200 OK\r\ndate: today\r\nconnection: close\r\n\r\nhi");
    assert!(!connection.is_reusable());
    let mut connection = asked("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    connection.write_head(StatusCode::OK, &length("0")).unwrap();
    now(connection.finish(None)).unwrap();
    assert!(written(&connection).contains("\r\nconnection: keep-alive\r\n"));
    assert!(connection.is_reusable());
}

#[test]
fn where_no_body_can_be_none_is_written() {
    for (request, status, fields, kept) in [
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 200, length("5"), true),
        (GET, 304, length("5"), true),
        (GET, 204, length("0"), false),
        (GET, 204, headers(&[]), false),
    ] {
        let mut connection = asked(request);
        connection.write_head(StatusCode::from_u16(status).unwrap(), &fields).unwrap();
        now(connection.write_body(b"hello")).unwrap();
        now(connection.finish(None)).unwrap();
        assert!(written(&connection).ends_with("\r\n\r\n"), "{}", written(&connection));
        assert_eq!(written(&connection).contains("content-length"), kept);
        assert!(!written(&connection).contains("transfer-encoding"));
        assert!(connection.is_reusable());
    }
}

#[test]
fn the_framing_of_an_answer_is_not_what_its_headers_wish() {
    let fields = headers(&[(header::CONNECTION, "x"), (header::TRANSFER_ENCODING, "gzip")]);
    let mut connection = asked(GET);
    connection.write_head(StatusCode::OK, &fields).unwrap();
    now(connection.finish(None)).unwrap();
    let head = "HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n";
    assert_eq!(written(&connection), format!("{head}0\r\n\r\n"));
}

#[test]
fn an_answer_without_a_date_gets_one() {
    let mut connection = asked(GET);
    connection.write_head(StatusCode::NO_CONTENT, &HeaderMap::new()).unwrap();
    now(connection.finish(None)).unwrap();
    assert!(written(&connection).starts_with("HTTP/1.1 204 No Content\r\ndate: "));
    assert!(written(&connection).ends_with(" GMT\r\n\r\n"));
}

#[test]
fn more_or_less_than_was_declared_ends_the_connection() {
    let mut connection = asked(GET);
    connection.write_head(StatusCode::OK, &length("1")).unwrap();
    assert!(now(connection.write_body(b"hi")).is_err());
    let mut connection = asked(GET);
    connection.write_head(StatusCode::OK, &length("3")).unwrap();
    now(connection.write_body(b"hi")).unwrap();
    assert!(now(connection.finish(None)).is_err());
    assert!(!connection.is_reusable());
}

#[test]
fn an_answer_before_the_end_of_its_request_is_the_last() {
    let mut connection = asked("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhi");
    connection.write_head(StatusCode::OK, &length("0")).unwrap();
    now(connection.finish(None)).unwrap();
    assert!(written(&connection).contains("\r\nconnection: close\r\n"));
    connection.stream.pieces.push_back(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    assert!(!connection.is_reusable());
    connection.stream.open = false;
    now(connection.close());
}

#[test]
fn leave_to_send_is_given_once_and_only_for_a_body() {
    let mut connection = asked("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n");
    now(connection.write_continue()).unwrap();
    assert_eq!(written(&connection), "HTTP/1.1 100 Continue\r\n\r\n");
    connection.stream.pieces.push_back(b"hi".to_vec());
    assert_eq!(now(connection.read_body()).unwrap().unwrap(), "hi");
    now(connection.write_continue()).unwrap();
    connection.write_head(StatusCode::OK, &length("0")).unwrap();
    now(connection.finish(None)).unwrap();
    assert_eq!(written(&connection).matches("HTTP/1.1").count(), 2);
    assert!(connection.is_reusable());
}

#[test]
fn after_a_101_bytes_pass_as_they_are() {
    let mut connection =
        asked("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01already");
    assert!(connection.is_upgrade());
    connection.write_head(StatusCode::SWITCHING_PROTOCOLS, &headers(&[(header::UPGRADE, "websocket")])).unwrap();
    now(connection.flush()).unwrap();
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\ndate: today\r\nconnection: upgrade\r\n\r\n";
    assert_eq!(now(connection.read_body()).unwrap().unwrap(), "\x01already");
    now(connection.write_body(b"\x02back")).unwrap();
    assert_eq!(written(&connection), format!("{head}\x02back"));
    assert!(connection.read_body().now_or_never().is_none());
    assert!(!connection.is_reusable());
}

#[test]
fn one_upgrade_header_is_no_upgrade() {
    for fields in ["Upgrade: websocket", "Connection: upgrade"] {
        assert!(!asked(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n")).is_upgrade());
    }
}

#[test]
fn a_refused_head_can_be_answered_and_nothing_behind_it_is_read() {
    let mut connection = connection([b"GET / HTTP/1.1\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n".as_slice()]);
    assert!(now(connection.read_head(&limits())).is_err());
    connection.write_head(StatusCode::BAD_REQUEST, &length("0")).unwrap();
    now(connection.finish(None)).unwrap();
    assert!(written(&connection).contains("\r\nconnection: close\r\n"));
    assert!(!connection.is_reusable());
    now(connection.close());
}
