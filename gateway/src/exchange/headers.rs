//! Which headers pass, in both directions. Hop-by-hop headers end here (RFC 9110 section 7.6.1), credentials and
//! claims of identity too; everything else passes untouched.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Never forwarded, in neither direction.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What a client says about itself or to us, and no backend is told. Credentials are the gateway's business; a
/// backend that trusts identity or forwarding headers would otherwise trust the client's word for them.
const FROM_CLIENTS: [HeaderName; 18] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("x-user-id"),
    HeaderName::from_static("x-org-id"),
    HeaderName::from_static("x-team-id"),
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
];

/// What a backend says and no client is told: it would speak for the gateway.
const FROM_BACKENDS: [HeaderName; 4] = [
    header::SET_COOKIE,
    header::ALT_SVC,
    HeaderName::from_static("strict-transport-security"),
    HeaderName::from_static("x-request-id"),
];

/// Removes what ends at the gateway on the way to a backend.
pub(super) fn strip_request(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    for name in &FROM_CLIENTS {
        headers.remove(name);
    }
    // Servers that read CGI-style names cannot tell `x_user_id` from `x-user-id`.
    let look_alikes: Vec<_> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in look_alikes {
        headers.remove(name);
    }
}

/// Removes what ends at the gateway on the way to a client. The backend's own request id is kept under another name.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    if let Some(id) = headers.remove("x-request-id") {
        headers.insert(HeaderName::from_static("x-upstream-request-id"), id);
    }
    for name in &FROM_BACKENDS {
        headers.remove(name);
    }
}

/// What says how to read a message, or what may be done with it, comes too late after it (RFC 9110 section 6.5.1).
const NOT_TRAILERS: [HeaderName; 8] = [
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::LOCATION,
    header::VARY,
];

/// Removes from trailers what has no place in them, or ends at the gateway.
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    strip_response(trailers);
    for name in FROM_CLIENTS.iter().chain(&NOT_TRAILERS) {
        trailers.remove(name);
    }
}

/// Removes hop-by-hop headers, those named by `Connection` included.
fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !matches!(name.as_str(), "close" | "keep-alive" | "upgrade"))
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Whether a comma-separated header contains `token`, in any case.
pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// A header's text, if it is one line of visible characters.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The media type without its parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = text(headers, "content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// A number as a header's value.
pub(super) fn number(value: impl Into<u64>) -> HeaderValue {
    HeaderValue::from(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_connection_names_ends_here_with_it() {
        let mut map = headers(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("x-kept", "1"), ("te", "gzip")]);
        strip_request(&mut map);
        assert_eq!(map.keys().collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn credentials_and_claims_of_identity_end_here() {
        let mut map = headers(&[
            ("authorization", "Bearer x"),
            ("x-api-key", "x"),
            ("cookie", "x"),
            ("x-user-id", "root"),
            ("x_user_id", "root"),
            ("anthropic-version", "2023-06-01"),
        ]);
        strip_request(&mut map);
        assert_eq!(map.keys().collect::<Vec<_>>(), ["anthropic-version"]);
    }

    #[test]
    fn the_backends_request_id_comes_back_under_another_name() {
        let mut map = headers(&[("x-request-id", "b1"), ("content-type", "text/plain")]);
        strip_response(&mut map);
        assert_eq!(map["x-upstream-request-id"], "b1");
        assert!(!map.contains_key("x-request-id"));
    }
}
