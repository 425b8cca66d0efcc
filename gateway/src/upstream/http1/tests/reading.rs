use super::*;
use proptest::prelude::*;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

fn body(answer: &str) -> Result<String, Fault> {
    read([answer.as_bytes()]).map(|read| String::from_utf8(read.body).unwrap())
}

fn chunks(rest: &str) -> Result<String, Fault> {
    body(&format!("{CHUNKED}{rest}"))
}

#[test]
fn an_answer_is_read_by_its_framing() {
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").unwrap(), "hi");
    assert_eq!(body("HTTP/1.1 200\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nhi").unwrap(), "hi");
    assert_eq!(body("HTTP/1.1 200 OK\r\n\r\nto the end").unwrap(), "to the end");
    assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nto the end").unwrap(), "to the end");
    assert_eq!(body("HTTP/1.1 204 No Content\r\n\r\n").unwrap(), "");
    assert_eq!(body("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n").unwrap(), "");
    assert_eq!(chunks("2\r\nhi\r\n0A;x=\"y\"\r\n0123456789\r\n0\r\n\r\n").unwrap(), "hi0123456789");
    let whole = read([b"HTTP/1.1 299 Fine\xe9\r\nX: \t a b \r\nX: c\r\nContent-Length: 0\r\n\r\n".as_slice()]).unwrap();
    assert_eq!(whole.headers.get_all("x").iter().collect::<Vec<_>>(), ["a b", "c"]);
    assert_eq!(whole.status, 299);
}

#[test]
fn an_answer_to_head_has_no_body() {
    let mut client = asked(Method::HEAD, Wire::of([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".as_slice()]));
    assert_eq!(now(read_all(&mut client)).unwrap().body, b"");
    assert!(client.reuse().is_some());
}

#[test]
fn trailers_are_kept() {
    let mut client =
        asked(Method::GET, Wire::of([format!("{CHUNKED}1\r\na\r\n0\r\nX-Sum: 7\r\nY: \r\n\r\n").as_bytes()]));
    let trailers = now(read_all(&mut client)).unwrap().trailers.unwrap();
    assert_eq!((&trailers["x-sum"], trailers.len()), (&HeaderValue::from_static("7"), 2));
    assert!(client.reuse().is_some());
}

#[test]
fn a_head_that_can_be_read_in_two_ways_is_refused() {
    for head in [
        "Content-Length: 1\r\nContent-Length: 2\r\n",
        "Content-Length: 1, 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x1\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "X: a\r\n b\r\n",
        " X: a\r\n",
        "X : a\r\n",
        "X\r\n",
        ": a\r\n",
        "X: a\n",
        "X: a\rb\r\n",
        "X: a\r\r\n",
        "X: a\0b\r\n",
        "X: a\x7fb\r\n",
        "X\0: a\r\n",
    ] {
        assert_eq!(body(&format!("HTTP/1.1 200 OK\r\n{head}\r\na")), Err(Fault::Malformed), "{head:?}");
    }
}

#[test]
fn what_is_no_answer_is_refused_at_once() {
    for garbage in [
        "<html>hello",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 1000 High\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 200 O\rK\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        // The connection stays open: there is nothing to wait for.
        let mut client = asked(Method::GET, Wire { open: true, ..Wire::of([garbage.as_bytes()]) });
        assert!(matches!(now(client.read_head()), Err(Error::Malformed(_))), "{garbage:?}");
    }
}

#[test]
fn heads_are_bounded() {
    let many = "X: 1\r\n".repeat(100);
    assert!(body(&format!("HTTP/1.1 204 Many\r\n{many}\r\n")).is_ok());
    assert_eq!(body(&format!("HTTP/1.1 204 Many\r\n{many}X: 1\r\n\r\n")), Err(Fault::Malformed));
    let long = "a".repeat(60 << 10);
    assert!(body(&format!("HTTP/1.1 204 Long\r\nX: {long}\r\n\r\n")).is_ok());
    assert_eq!(body(&format!("HTTP/1.1 204 Long\r\nX: {long}{long}")), Err(Fault::Malformed));
    let mut client = asked(Method::GET, Wire::of([format!("HTTP/1.1 204 Long\r\nX: {long}").repeat(99).as_bytes()]));
    assert!(now(client.read_head()).is_err());
    assert!(client.buffer.capacity() <= 256 << 10, "{} bytes for a head", client.buffer.capacity());
}

#[test]
fn chunks_that_are_none_are_refused() {
    let endless = format!("1;{}", "x".repeat(9000));
    let many_extensions = format!("1;{}\r\na\r\n", "x".repeat(200)).repeat(100);
    let long_trailers = format!("0\r\nX: {}\r\n\r\n", "a".repeat(17 << 10));
    let many_trailers = format!("0\r\n{}\r\n", "X: 1\r\n".repeat(101));
    for rest in [
        "\r\n",
        "zz\r\n",
        "-1\r\n",
        "0x1\r\na\r\n",
        " 1\r\na\r\n",
        "1 \r\na\r\n",
        "1\na\r\n",
        "1\r\na\n",
        "1\r\nab\r\n",
        "1\r\naX\n",
        "1;a\0\r\na\r\n",
        "1;a\rb\r\na\r\n",
        "1 x\r\na\r\n",
        "10000000000000000\r\na\r\n",
        "00000000000000001\r\na\r\n",
        "0\r\nX: a\n\r\n",
        "0\r\n X: a\r\n\r\n",
        "0\r\nX : a\r\n\r\n",
        "0\r\nX: a\0\r\n\r\n",
        "0\r\na",
        &endless,
        &many_extensions,
        &long_trailers,
        &many_trailers,
    ] {
        let expected = if rest == "0\r\na" { Fault::Disconnected { bytes_read: true } } else { Fault::Malformed };
        assert_eq!(chunks(rest), Err(expected), "{rest:.40?}");
    }
}

#[test]
fn an_answer_cut_short_is_never_whole() {
    for whole in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
        format!("{CHUNKED}3\r\nabc\r\n2;x\r\nde\r\n0\r\nX: 1\r\n\r\n"),
    ] {
        for end in 0..whole.len() {
            assert_eq!(body(&whole[..end]), Err(Fault::Disconnected { bytes_read: end > 0 }), "cut at {end}");
        }
    }
}

/// Answers of all kinds, right and wrong.
fn samples() -> Vec<String> {
    let mut samples: Vec<String> = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\n\r\nto the end",
        "HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\n\r\n",
        "HTTP/9",
    ]
    .map(str::to_owned)
    .into();
    for rest in [
        "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        "1\r\na\r\n0\r\nX-Sum: 7\r\nY: 1\r\n\r\n",
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
        let whole = read([sample]);
        for at in 0..=sample.len() {
            let halves = [&sample[..at], &sample[at..]].into_iter().filter(|half| !half.is_empty());
            assert_eq!(read(halves), whole, "cut at {at}");
        }
        assert_eq!(read(sample.chunks(1)), whole, "byte by byte");
    }
}

proptest! {
    #[test]
    fn anything_is_read_the_same_however_it_is_cut(
        sample in prop::sample::select(samples()),
        noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in 1..40_usize,
    ) {
        let mut bytes = sample.into_bytes();
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (whole, pieces) = (read([&bytes[..]]), read(bytes.chunks(cut)));
        // Bytes behind an answer belong to none, and are only seen if they come with it.
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1..99_usize, framed in 0..3_u8) {
        let begin = ["", "HTTP/1.1 200 OK\r\n", CHUNKED][usize::from(framed)];
        let bytes = [begin.as_bytes(), &bytes].concat();
        prop_assert_eq!(read([&bytes[..]]), read(bytes.chunks(cut)));
    }
}

#[test]
fn each_chunk_that_has_come_is_handed_out_without_another_read() {
    let wire =
        Wire { open: true, ..Wire::of([format!("{CHUNKED}1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n").as_bytes()]) };
    let mut client = asked(Method::GET, wire);
    now(client.read_head()).unwrap();
    for expected in ["a", "b", "c"] {
        assert!(!client.is_done());
        assert_eq!(now(client.read_body()).unwrap().unwrap(), expected);
    }
    assert!(client.is_done(), "the end had come with the last chunk");
    assert_eq!(now(client.read_body()).unwrap(), None);
    assert_eq!(client.stream.reads, 1);
}

#[test]
fn waiting_can_be_given_up_and_taken_up_again() {
    let mut client = asked(Method::GET, Wire { open: true, ..Wire::of([b"HTTP/1.1 200 OK\r\nContent-".as_slice()]) });
    assert!(client.read_head().now_or_never().is_none());
    client.stream.pieces.push_back(b"Length: 3\r\n\r\na".to_vec());
    assert_eq!(now(client.read_head()).unwrap().status, 200);
    assert_eq!(now(client.read_body()).unwrap().unwrap(), "a");
    assert!(client.read_body().now_or_never().is_none());
    client.stream.pieces.push_back(b"bc".to_vec());
    assert_eq!(now(client.read_body()).unwrap().unwrap(), "bc");
    assert!(client.is_done());
}

#[test]
fn an_interim_answer_is_followed_by_the_real_one() {
    let answers = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut client = asked(Method::GET, Wire::of([answers.as_slice()]));
    assert_eq!(now(client.read_head()).unwrap().status, 103);
    assert_eq!(now(client.read_head()).unwrap().status, 200);
    assert!(client.is_done());
}

#[test]
fn a_large_body_is_read_in_large_pieces_and_a_trickle_holds_little() {
    let large = vec![b'a'; 1 << 20];
    let head = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
    let mut client = asked(Method::GET, Wire { open: true, ..Wire::of([head, &large]) });
    now(client.read_head()).unwrap();
    let mut left = large.len();
    while left > 0 {
        left -= now(client.read_body()).unwrap().unwrap().len();
    }
    assert!(client.stream.reads < 25, "{} reads", client.stream.reads);
    for _ in 0..3 {
        client.stream.pieces.push_back(b"event".to_vec());
        assert_eq!(now(client.read_body()).unwrap().unwrap(), "event");
    }
    assert!(client.read_body().now_or_never().is_none());
    assert!(client.buffer.capacity() <= 2 * FIRST_PIECE, "{} bytes held", client.buffer.capacity());
}
