use super::*;
use futures_util::FutureExt;
use proptest::prelude::*;

const START: &str = "POST /v1 HTTP/1.1\r\nHost: a\r\n";
const CHUNKED: &str = "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fn body_of(request: &str) -> Result<String, Error> {
    match hear(request) {
        Heard::Request { body, .. } => Ok(String::from_utf8(body).unwrap()),
        Heard::BadBody(error) => Err(error),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_body_is_read_by_its_framing() {
    assert_eq!(body_of(&format!("{START}\r\n")).unwrap(), "");
    assert_eq!(body_of(&format!("{START}Content-Length: 0\r\n\r\n")).unwrap(), "");
    assert_eq!(body_of(&format!("{START}Content-Length: 2\r\n\r\nhi")).unwrap(), "hi");
    assert_eq!(body_of(&format!("{START}Content-Length: 3\r\n\r\nhi")), Err(Error::Gone));
    let chunks = "3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 7\r\n\r\n";
    assert_eq!(body_of(&format!("{CHUNKED}{chunks}")).unwrap(), "abc0123456789");
}

#[test]
fn chunks_that_are_none_are_refused() {
    for chunks in [
        "zz\r\nhi\r\n0\r\n\r\n",
        "\r\nhi\r\n0\r\n\r\n",
        "2\r\nhixx0\r\n\r\n",
        "2\r\nhi0\r\n\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "2 \r\nhi\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhi",
        "2;a\rb\r\nhi\r\n0\r\n\r\n",
        "0\r\nX : 1\r\n\r\n",
        "0\r\nX: 1\n\r\n",
    ] {
        assert_eq!(body_of(&format!("{CHUNKED}{chunks}")), Err(Error::Malformed), "{chunks:?}");
    }
    for chunks in ["", "2\r\nh", "2\r\nhi\r\n", "0\r\n", "0\r\n\r"] {
        assert_eq!(body_of(&format!("{CHUNKED}{chunks}")), Err(Error::Gone), "{chunks:?}");
    }
}

/// Connections of all kinds, right and wrong.
fn samples() -> Vec<String> {
    let mut samples: Vec<String> = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: b\r\nX: y\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.0\r\n\r\nGET /unheard HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /unheard HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nX: a\n\r\n",
        "HTTP/9",
    ]
    .map(str::to_owned)
    .into();
    samples.push(format!("{START}Content-Length: 11\r\n\r\nhello world{START}Content-Length: 1\r\n\r\n!GET"));
    samples.push(format!("{START}X: {}\r\n\r\n", "a".repeat(1000)));
    for rest in [
        "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "1\r\na\r\n0\r\nX-Sum: 7\r\nY: 1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "1\r\nab\r\n0\r\n\r\n",
        "1\r\na\r\nzz\r\n",
        "1\r\na\r\n0\r\nX : 7\r\n\r\n",
    ] {
        samples.push(format!("{CHUNKED}{rest}"));
    }
    samples
}

#[test]
fn it_does_not_matter_where_the_bytes_are_cut() {
    for sample in samples() {
        let sample = sample.as_bytes();
        let whole = serve([sample], false);
        for into in [false, true] {
            for at in 0..=sample.len() {
                let halves = [&sample[..at], &sample[at..]].into_iter().filter(|half| !half.is_empty());
                assert_eq!(serve(halves, into), whole, "cut at {at}");
            }
            assert_eq!(serve(sample.chunks(1), into), whole, "byte by byte");
        }
    }
}

proptest! {
    #[test]
    fn anything_is_read_the_same_however_it_is_cut(
        sample in prop::sample::select(samples()),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in 1..40_usize,
        into in any::<bool>(),
    ) {
        let mut bytes = sample.into_bytes();
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert_eq!(serve([&bytes[..]], false), serve(bytes.chunks(cut), into));
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1..99_usize, framed in 0..3_u8) {
        let begin = ["", START, CHUNKED][usize::from(framed)];
        let bytes = [begin.as_bytes(), &bytes].concat();
        prop_assert_eq!(serve([&bytes[..]], false), serve(bytes.chunks(cut), true));
    }
}

#[test]
fn requests_that_come_at_once_are_answered_in_order() {
    let (heard, written) = serve([samples()[0].as_bytes()], false);
    let [Heard::Request { line: first, .. }, Heard::Request { line: second, .. }] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!((&first[..], &second[..]), ("GET / HTTP/1.1", "GET /b HTTP/1.1"));
    let answer = |n: u8| format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ndate: today\r\n\r\n{n}");
    assert_eq!(written, answer(1) + &answer(2));
}

#[test]
fn waiting_can_be_given_up_and_taken_up_again() {
    let mut connection = Http1::new(Wire { open: true, ..Wire::of([b"POST / HT".as_slice()]) }, None);
    assert!(connection.read_head(&limits()).now_or_never().is_none());
    connection.stream.pieces.push_back(b"TP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na".to_vec());
    now(connection.read_head(&limits())).unwrap();
    let mut body = BytesMut::new();
    assert!(now(connection.read_body_into(&mut body)).unwrap());
    assert!(connection.read_body_into(&mut body).now_or_never().is_none());
    connection.stream.pieces.push_back(b"bc".to_vec());
    assert!(now(connection.read_body_into(&mut body)).unwrap());
    assert!(!now(connection.read_body_into(&mut body)).unwrap());
    assert_eq!(&body[..], b"abc");
}

#[test]
fn a_declared_body_is_read_into_one_buffer() {
    let large = vec![b'a'; 100_000];
    let head = format!("{START}Content-Length: 100000\r\n\r\n");
    let mut connection = connection([head.as_bytes(), &large]);
    now(connection.read_head(&limits())).unwrap();
    let mut body = BytesMut::new();
    assert!(now(connection.read_body_into(&mut body)).unwrap());
    assert!(!now(connection.read_body_into(&mut body)).unwrap());
    assert_eq!((body.len(), connection.stream.reads), (100_000, 2), "one read for the head, one for the body");
}

#[test]
fn a_declared_length_is_no_memory() {
    let mut connection = asked(&format!("{START}Content-Length: 900000000000\r\n\r\nabc"));
    let mut body = BytesMut::new();
    assert!(now(connection.read_body_into(&mut body)).unwrap());
    assert!(body.capacity() <= super::super::reading::FIRST_ROOM + 3, "{}", body.capacity());
}

#[test]
fn whoever_waits_for_the_client_to_leave_keeps_what_it_says_and_takes_little() {
    let mut connection = asked(&format!("{START}\r\n"));
    assert!(connection.left().now_or_never().is_none());
    connection.stream.pieces.push_back(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n".to_vec());
    connection.stream.pieces.push_back(vec![b'x'; 1 << 20]);
    assert!(connection.left().now_or_never().is_none());
    assert!(connection.buffer.len() <= 2 * super::super::reading::AHEAD, "{} bytes ahead", connection.buffer.len());
    now(connection.read_head(&limits())).unwrap();
    assert_eq!(connection.take_request().unwrap().uri, "/next");
    let mut silent = asked(&format!("{START}\r\n"));
    silent.stream.open = false;
    now(silent.left());
}

#[test]
fn a_connection_that_waits_holds_no_buffer() {
    let mut connection = asked(&format!("{START}Content-Length: 2\r\n\r\nhi"));
    assert_eq!(now(connection.read_body()).unwrap().unwrap(), "hi");
    connection.write_head(StatusCode::OK, &headers(&[])).unwrap();
    assert!(connection.left().now_or_never().is_none());
    assert_eq!(connection.buffer.capacity(), 0);
}

#[test]
fn http2_is_known_by_its_preface() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest".as_slice();
    let mut connection = connection(preface.chunks(5));
    assert!(now(connection.is_http2()).unwrap());
    assert!(preface.starts_with(&connection.into_parts().1));
    for (begin, known) in [(b"PR".as_slice(), None), (b"PRI * HTTP/1.1\r\n", Some(false)), (b"G", Some(false))] {
        assert_eq!(now(super::connection([begin]).is_http2()).ok(), known);
    }
}
