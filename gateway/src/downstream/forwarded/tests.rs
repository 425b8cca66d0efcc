use super::*;
use proptest::prelude::*;
use tidegate_config::Network;

/// The proxies of these tests are in 10.0.0.0/8.
fn trusted() -> Networks {
    Networks::new(&[Network::parse("10.0.0.0/8").expect("a network")])
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let header = |(name, value): &(&str, &str)| {
        (
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_bytes(value.as_bytes()).expect("one"),
        )
    };
    pairs.iter().map(header).collect()
}

fn client(pairs: &[(&str, &str)]) -> Option<String> {
    let found = source(Some([10, 0, 0, 1].into()), &headers(pairs), &trusted()).ok()?;
    assert!(found.by_proxy);
    found.client.map(|client| client.to_string())
}

fn xff(value: &str) -> String {
    client(&[("x-forwarded-for", value)]).expect("no contradiction")
}

fn rfc(value: &str) -> String {
    client(&[("forwarded", value)]).expect("no contradiction")
}

#[test]
fn a_stranger_is_who_it_is_whatever_it_says() {
    let said = headers(&[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")]);
    for peer in [Some(IpAddr::from([203, 0, 113, 9])), None] {
        assert_eq!(source(peer, &said, &trusted()), Ok(Source { client: peer, by_proxy: false }));
    }
}

#[test]
fn the_walk_ends_at_the_first_that_is_not_trusted() {
    assert_eq!(xff("192.0.2.1"), "192.0.2.1");
    assert_eq!(xff("192.0.2.9, 192.0.2.1, 10.0.0.2"), "192.0.2.1");
    assert_eq!(xff("10.0.0.3,10.0.0.2"), "10.0.0.3", "all of them are ours: the farthest");
    assert_eq!(client(&[("x-forwarded-for", "192.0.2.9"), ("x-forwarded-for", "192.0.2.1,,")]).unwrap(), "192.0.2.1");
    assert_eq!(rfc("for=192.0.2.9;by=x, for=192.0.2.1;proto=https , For=10.0.0.2"), "192.0.2.1");
    assert_eq!(client(&[]).unwrap(), "10.0.0.1");
}

#[test]
fn addresses_are_read_in_every_form_they_are_written_in() {
    for (text, address) in [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ] {
        assert_eq!(xff(text), address);
        assert_eq!(rfc(&format!("for=\"{text}\"")), address);
    }
    assert_eq!(rfc("for=192.0.2.1:80"), "192.0.2.1", "without its quotes too");
}

#[test]
fn what_cannot_be_read_ends_the_walk_where_it_is() {
    for bad in ["unknown", "_hidden", "192.0.2", "192.0.2.1.", "192.0.2.1:", "[::1", "fe80::1%eth0", "a b", "\u{e9}"] {
        assert_eq!(xff(&format!("192.0.2.9, {bad}, 10.0.0.2")), "10.0.0.2", "{bad}");
        assert_eq!(rfc(&format!("for=192.0.2.9, for=\"{bad}\", for=10.0.0.2")), "10.0.0.2", "{bad}");
    }
    for bad in [
        "proto=https",
        "for",
        "for=",
        "for=192.0.2.1;for=192.0.2.1",
        "for=\"192.0.2.1",
        "=x",
        "for=192.0.2.1 x",
        "f r=1",
    ] {
        assert_eq!(rfc(&format!("{bad}, for=10.0.0.2")), "10.0.0.2", "{bad}");
    }
}

#[test]
fn a_quote_left_open_by_a_client_swallows_nothing_that_a_proxy_adds() {
    for opened in
        ["for=\"192.0.2.9", "for=\"", "host=\"\\", "\"", "for=\"x\\\"", "for=192.0.2.9;host=\"a, for=192.0.2.8"]
    {
        assert_eq!(rfc(&format!("{opened}, for=192.0.2.1")), "192.0.2.1", "{opened}");
        assert_eq!(rfc(&format!("{opened}, for=192.0.2.1;host=\"a,b\", for=10.0.0.2")), "192.0.2.1", "{opened}");
    }
}

#[test]
fn headers_that_contradict_each_other_are_believed_neither() {
    let said = |one: &'static str, other: &'static str| client(&[("x-forwarded-for", one), ("forwarded", other)]);
    assert_eq!(said("192.0.2.1", "for=192.0.2.1").as_deref(), Some("192.0.2.1"));
    assert_eq!(said("192.0.2.1", "for=192.0.2.9"), None);
    assert_eq!(said("192.0.2.1", "garbage"), None);
    assert_eq!(said("", "for=192.0.2.9").as_deref(), Some("192.0.2.9"), "an empty one says nothing");
}

proptest! {
    /// Whatever a client sends, what the proxies add behind it is what counts.
    #[test]
    fn nothing_a_client_sends_changes_what_proxies_add(said in "[ -~]{0,80}", hops in 0_usize..3) {
        let (mut list, mut elements) = (format!("{said}, 198.51.100.7"), format!("{said}, for=198.51.100.7"));
        for hop in 0..hops {
            list += &format!(", 10.0.1.{hop}");
            elements += &format!(", for=10.0.1.{hop};proto=https;host=\"a, b\"");
        }
        prop_assert_eq!(xff(&list), "198.51.100.7");
        prop_assert_eq!(rfc(&elements), "198.51.100.7");
    }

    #[test]
    fn any_bytes_are_judged_and_never_trusted_further_than_one_hop(bytes in prop::collection::vec(0x20_u8..=0xff, 0..200)) {
        let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
        for name in [X_FORWARDED_FOR, FORWARDED] {
            let map = HeaderMap::from_iter([(name, value.clone())]);
            let found = source(Some([10, 0, 0, 1].into()), &map, &trusted());
            prop_assert!(found.is_ok());
        }
    }

    #[test]
    fn what_is_written_by_the_grammar_is_read_as_meant(address in any::<IpAddr>(), port in any::<Option<u16>>()) {
        let address = address.to_canonical();
        let bracketed = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let written = port.map_or(bracketed.clone(), |port| format!("{bracketed}:{port}"));
        prop_assert_eq!(node(written.as_bytes()), Some(address));
        prop_assert_eq!(of_element(format!("proto=http;For=\"{written}\"").as_bytes()), Some(address));
    }
}
