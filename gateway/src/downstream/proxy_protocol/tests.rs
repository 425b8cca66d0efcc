use super::*;
use proptest::prelude::*;

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("short enough").to_be_bytes();
    [&SIGNATURE[..], &[command, family], &length, block].concat()
}

/// IPv4 addresses and ports, as version 2 has them.
const FOUR: &[u8] = &[192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb];

fn client(text: &str) -> Said {
    Said::Client(text.parse().expect("an address"))
}

#[test]
fn a_line_says_where_the_client_is() {
    for (line, said) in [
        ("PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n", client("192.0.2.1:4711")),
        ("PROXY TCP6 2001:db8::1 ::1 4711 443\r\n", client("[2001:db8::1]:4711")),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", client("192.0.2.1:1")),
        ("PROXY UNKNOWN\r\n", Said::Nothing),
        ("PROXY UNKNOWN ffff:f::1 ::1 65535 65535\r\n", Said::Nothing),
    ] {
        assert_eq!(parse(format!("{line}GET / HTTP/1.1\r\n").as_bytes()), Ok(Some((said, line.len()))), "{line}");
    }
}

#[test]
fn version_2_says_it_in_bytes_and_what_it_says_beside_is_skipped() {
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[1], &[0; 16], &[0x12, 0x67, 0, 1]].concat();
    let more = [FOUR, &[0x02, 0, 3, b'a', b'.', b'b', 0xea, 0, 1, 0]].concat();
    for (header, said) in [
        (binary(0x21, 0x11, FOUR), client("192.0.2.1:4711")),
        (binary(0x21, 0x11, &more), client("192.0.2.1:4711")),
        (binary(0x21, 0x21, &six), client("[2001:db8::1]:4711")),
        (binary(0x21, 0x31, &[0; 216]), Said::Nothing),
        (binary(0x21, 0x00, &[]), Said::Nothing),
        (binary(0x20, 0x00, &[]), Said::Nothing),
        (binary(0x20, 0x11, FOUR), Said::Nothing),
        (binary(0x20, 0xff, &[7; 4080]), Said::Nothing),
    ] {
        let followed = [&header[..], b"\x16\x03\x01"].concat();
        assert_eq!(parse(&followed), Ok(Some((said, header.len()))), "{header:?}");
    }
}

#[test]
fn what_is_not_exactly_a_header_is_malformed() {
    let lines = [
        "GET / HTTP/1.1\r\n",
        "\r\n\r\nGET",
        "proxy TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\n",
        "PROXY TCP4 192.0.2.1  10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n",
        "PROXY TCP4 ::1 10.0.0.1 1 2\r\n",
        "PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
        "PROXY TCP4 192.0.2.01 10.0.0.1 1 2\r\n",
        "PROXY UDP4 192.0.2.1 10.0.0.1 1 2\r\n",
        "PROXY \r\n",
    ];
    for line in lines {
        assert_eq!(parse(line.as_bytes()), Err(Malformed), "{line:?}");
    }
    assert_eq!(parse(format!("PROXY UNKNOWN {}", "x".repeat(200)).as_bytes()), Err(Malformed), "longer than a line");
    for header in [
        binary(0x22, 0x11, FOUR),
        binary(0x11, 0x11, FOUR),
        binary(0x21, 0x11, &FOUR[..11]),
        binary(0x21, 0x12, FOUR),
        binary(0x21, 0x41, FOUR),
        binary(0x21, 0x21, FOUR),
        binary(0x21, 0x31, FOUR),
        binary(0x20, 0x00, &[0; LONGEST]),
    ] {
        assert_eq!(parse(&header), Err(Malformed), "{header:?}");
    }
}

#[test]
fn a_header_is_waited_for_at_every_cut_and_no_longer() {
    let line = b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\n".to_vec();
    for header in [line, binary(0x21, 0x11, FOUR)] {
        for cut in 0..header.len() {
            assert_eq!(parse(&header[..cut]), Ok(None), "{cut}");
        }
        assert!(matches!(parse(&header), Ok(Some((Said::Client(_), all))) if all == header.len()));
    }
}

#[tokio::test]
async fn what_comes_behind_the_header_is_kept() {
    let mut stream = tokio_test_stream(b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 443\r\nGET / HTTP/1.1\r\n");
    let (said, behind) = read(&mut stream).await.expect("no end").expect("a header");
    assert_eq!((said, &behind[..]), (client("192.0.2.1:4711"), &b"GET / HTTP/1.1\r\n"[..]));
    assert!(read(&mut tokio_test_stream(b"PROXY TCP4 192.0.2.1")).await.is_err(), "it ends before its end");
}

fn tokio_test_stream(bytes: &'static [u8]) -> &'static [u8] {
    bytes
}

proptest! {
    #[test]
    fn any_bytes_are_judged_within_bounds(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0..3) {
        let begun: &[u8] = match version { 1 => WORD, 2 => SIGNATURE, _ => &[] };
        let bytes = [begun, &bytes].concat();
        match parse(&bytes) {
            Ok(Some((_, length))) => prop_assert!(length <= bytes.len() && length <= LONGEST),
            // More is only waited for within the bounds.
            Ok(None) => prop_assert!(bytes.len() < LONGEST),
            Err(Malformed) => {}
        }
    }

    #[test]
    fn more_bytes_never_change_what_a_header_says(
        from in any::<[u8; 4]>(), port in any::<u16>(), behind in prop::collection::vec(any::<u8>(), 0..40), six in any::<bool>(),
    ) {
        let (four, ipv6) = (Ipv4Addr::from(from), Ipv4Addr::from(from).to_ipv6_mapped());
        let line = if six { format!("PROXY TCP6 {ipv6} ::1 {port} 1\r\n") } else { format!("PROXY TCP4 {four} 10.0.0.1 {port} 1\r\n") };
        let bytes = [line.as_bytes(), &behind].concat();
        prop_assert_eq!(parse(&bytes), Ok(Some((Said::Client((four, port).into()), line.len()))));
    }

    #[test]
    fn a_prefix_of_what_is_malformed_is_never_a_header(bytes in "PROXY [TCP46U ]{0,6}[0-9a-f:. ]{0,60}(\r\n)?") {
        let whole = parse(bytes.as_bytes());
        for cut in 0..bytes.len() {
            if let Ok(Some(found)) = parse(&bytes.as_bytes()[..cut]) {
                prop_assert_eq!(whole, Ok(Some(found)));
            }
        }
    }
}
