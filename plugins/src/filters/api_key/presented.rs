//! Where a request carries its key.

use http::{HeaderMap, header};

/// Where browsers put the key, since they cannot set headers on a WebSocket.
pub(super) const SUBPROTOCOL: &str = "openai-insecure-api-key.";

/// What a request carries.
pub(super) enum Presented<'a> {
    None,
    One(&'a str),
    Several,
}

/// The key in a request's headers. Two different ones are a fault: which of them was meant must not depend on who
/// looks. An SDK that sends the same key in two headers means one.
pub(super) fn presented(headers: &HeaderMap) -> Presented<'_> {
    let bearer = headers.get_all(header::AUTHORIZATION).iter().map(|value| {
        let value = value.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let plain = headers.get_all("x-api-key").iter().map(|value| value.to_str().ok().map(str::trim));
    let subprotocol = headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|protocol| protocol.trim().strip_prefix(SUBPROTOCOL))
        .map(Some);
    if headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
        return Presented::Several;
    }
    let mut found = None;
    for key in bearer.chain(plain).chain(subprotocol) {
        // A header that carries no key at all (another scheme, binary) is a key that nobody knows.
        let key = key.unwrap_or_default();
        if found.is_some_and(|first| first != key) {
            return Presented::Several;
        }
        found = Some(key);
    }
    found.map_or(Presented::None, Presented::One)
}
