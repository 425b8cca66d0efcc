use super::*;

fn post(headers: HeaderMap) -> RequestHead {
    RequestHead { method: Method::POST, target: "/v1?x=%2F".into(), headers: headers.into() }
}

fn written(client: &Client<Wire>) -> &str {
    std::str::from_utf8(&client.stream.written).unwrap()
}

#[test]
fn head_and_body_leave_together() {
    let mut client = Client::new(Wire::default());
    let head = post(headers(&[(header::CONTENT_LENGTH, "2"), (header::HOST, "not.this"), (header::ACCEPT, "a")]));
    now(client.send(&head, "backend:80", b"hi")).unwrap();
    now(client.send_end()).unwrap();
    let expected = "POST /v1?x=%2F HTTP/1.1\r\nhost: backend:80\r\ncontent-length: 2\r\naccept: a\r\n\r\nhi";
    assert_eq!(written(&client), expected);
    assert_eq!(client.stream.writes, 1);
}

#[test]
fn a_body_of_unknown_length_is_chunked() {
    let mut client = Client::new(Wire::default());
    now(client.send(&post(headers(&[(header::TRANSFER_ENCODING, "chunked")])), "b", b"")).unwrap();
    now(client.send_body(b"0123456789abcdefg")).unwrap();
    now(client.send_body(b"")).unwrap();
    now(client.send_end()).unwrap();
    let (_, body) = written(&client).split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "11\r\n0123456789abcdefg\r\n0\r\n\r\n");
    assert_eq!(client.stream.writes, 3);
}

#[test]
fn a_body_is_as_long_as_declared() {
    let head = post(headers(&[(header::CONTENT_LENGTH, "2")]));
    let mut client = Client::new(Wire::default());
    assert!(matches!(now(client.send(&head, "b", b"hi!")), Err(Error::Unsendable(_))));
    assert_eq!(client.stream.writes, 0);

    let mut client = Client::new(Wire::default());
    now(client.send(&head, "b", b"h")).unwrap();
    assert!(matches!(now(client.send_end()), Err(Error::Unsendable(_))));
    assert!(matches!(now(client.send_body(b"i!")), Err(Error::Unsendable(_))));
    now(client.send_body(b"i")).unwrap();
    now(client.send_end()).unwrap();
}

#[test]
fn nothing_that_would_be_a_second_request_is_sent() {
    let targets = ["/a b", "/a\r\nx: y", "/a\n", "/a\0", "", "a", "/\x7f"];
    let odd_targets = targets.map(|target| RequestHead { target: target.into(), ..post(HeaderMap::new()) });
    let mut twice = headers(&[(header::CONTENT_LENGTH, "1")]);
    twice.append(header::CONTENT_LENGTH, HeaderValue::from(1));
    let odd_framings = [
        headers(&[(header::CONTENT_LENGTH, "1x")]),
        headers(&[(header::CONTENT_LENGTH, "1"), (header::TRANSFER_ENCODING, "chunked")]),
        twice,
    ]
    .map(post);
    for head in odd_targets.into_iter().chain(odd_framings) {
        let mut client = Client::new(Wire::default());
        assert!(matches!(now(client.send(&head, "b", b"")), Err(Error::Unsendable(_))), "{:?}", head.target);
        assert_eq!(written(&client), "");
    }
    let mut client = Client::new(Wire::default());
    assert!(matches!(now(client.send(&post(HeaderMap::new()), "b\r\nx: y", b"")), Err(Error::Unsendable(_))));
}
