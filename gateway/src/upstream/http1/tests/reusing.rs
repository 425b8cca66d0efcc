use super::*;

fn reusable(answer: &str) -> bool {
    let mut client = asked(Method::GET, Wire { open: true, ..Wire::of([answer.as_bytes()]) });
    now(read_all(&mut client)).unwrap();
    client.reuse().is_some()
}

#[test]
fn a_connection_is_used_again_only_if_nothing_speaks_against_it() {
    assert!(reusable("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"));
    assert!(reusable("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"));
    assert!(reusable("HTTP/1.1 204 No Content\r\n\r\n"));
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 413 Content Too Large\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.1 200 OK\r\nConnection: x, Close\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na",
        "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\na",
        // Bytes that nobody asked for.
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n\r\n",
        // A body where there can be none.
        "HTTP/1.1 204 No Content\r\ncontent-length: 1\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        assert!(!reusable(answer), "{answer:?}");
    }
}

#[test]
fn an_unread_answer_or_an_unsent_request_ends_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab".as_slice();
    let client = asked(Method::GET, Wire::of([answer]));
    assert!(client.reuse().is_none(), "nothing was read");

    let mut client = asked(Method::GET, Wire::of([answer]));
    now(client.read_head()).unwrap();
    assert!(client.reuse().is_none(), "the body was not read");

    let mut client = Client::new(Wire::of([answer]));
    let headers = headers(&[(header::CONTENT_LENGTH, "5")]).into();
    let head = RequestHead { method: Method::POST, target: "/".into(), headers };
    now(client.send(&head, "backend", b"half")).unwrap();
    now(read_all(&mut client)).unwrap();
    assert!(client.reuse().is_none(), "the request was not sent whole");
}

#[test]
fn an_answer_that_overtook_the_end_of_its_request_ends_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na".as_slice();
    for (takes, again) in [(None, true), (Some(9), false)] {
        let client = asked(Method::GET, Wire { open: true, takes, ..Wire::of([answer]) });
        assert_eq!(reads_whole(client).is_some(), again, "{takes:?}");
    }
    let mut client = asked(Method::GET, Wire { open: true, takes: Some(9), ..Wire::default() });
    assert!(client.read_head().now_or_never().is_none(), "nothing has come yet");
    client.stream.pieces.push_back(answer.to_vec());
    assert!(reads_whole(client).is_some());
}

/// The connection, if it can be used again after its answer.
fn reads_whole(mut client: Client<Wire>) -> Option<Wire> {
    now(read_all(&mut client)).unwrap();
    client.reuse()
}

#[test]
fn a_connection_that_died_before_an_answer_is_told_from_one_that_died_within_it() {
    for (came, bytes_read) in [("", false), ("H", true), ("HTTP/1.1 100 Continue\r\n\r\n", true)] {
        let mut client = asked(Method::GET, Wire::of([came.as_bytes()].into_iter().filter(|came| !came.is_empty())));
        let error = now(async {
            loop {
                if let Err(error) = client.read_head().await {
                    break error;
                }
            }
        });
        assert!(matches!(error, Error::Disconnected { bytes_read: read, .. } if read == bytes_read), "{came}: {error}");
        assert_eq!(error.is_unanswered(), !bytes_read);
        assert!(error.is_disconnect());
    }
}

#[test]
fn after_a_101_bytes_pass_as_they_are() {
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nfirst".as_slice();
    let mut client = asked(Method::GET, Wire::of([answer, b"second"]));
    assert_eq!(now(client.read_head()).unwrap().status, 101);
    client.tunnel();
    client.stream.written.clear();
    now(client.send_body(b"0\r\n\r\n")).unwrap();
    assert_eq!(client.stream.written, b"0\r\n\r\n");
    assert_eq!(now(client.read_body()).unwrap().unwrap(), "first");
    assert_eq!(now(client.read_body()).unwrap().unwrap(), "second");
    assert_eq!(now(client.read_body()).unwrap(), None);
    assert!(client.reuse().is_none());
}
