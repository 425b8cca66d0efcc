//! Which headers pass, in both directions. Hop-by-hop headers end here (RFC 9110 section 7.6.1), credentials and
//! claims of identity too; everything else passes untouched.

use crate::upstream::Fields;
use http::header::{self, AsHeaderName, HeaderMap, HeaderName, HeaderValue};

/// Never forwarded, in neither direction.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// What a client says about itself or to us, and no backend is told. Credentials are the gateway's business; a backend
/// that trusts identity or forwarding headers would otherwise trust the client's word for them. Servers that read
/// CGI-style names cannot tell `x_user_id` from `x-user-id`: so no name with an underscore passes.
fn is_for_us(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(
        name,
        "host"
            | "content-length"
            | "expect"
            | "authorization"
            | "cookie"
            | "x-api-key"
            | "api-key"
            | "x-goog-api-key"
            | "x-user-id"
            | "x-org-id"
            | "x-team-id"
            | "forwarded"
            | "x-forwarded-for"
            | "x-forwarded-host"
            | "x-forwarded-proto"
            | "x-forwarded-port"
            | "x-real-ip"
            | "x-request-id"
            | "x-tidegate-shadow"
    ) || name.contains('_')
}

/// Tells a backend that it gets a copy, whose answer is for nobody. Only the gateway says so.
pub(super) const SHADOW: HeaderName = HeaderName::from_static("x-tidegate-shadow");

/// What a backend says and no client is told: it would speak for the gateway. Which pages may read an answer is for the
/// gateway's own file to say.
fn speaks_for_us(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "set-cookie" | "alt-svc" | "strict-transport-security" | "x-request-id")
        || name.starts_with("access-control-")
        || name.starts_with("x-tidegate-")
}

// Names that every request meets: read once, when this is compiled.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const BACKENDS_REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
pub(super) const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");
pub(super) const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What of a client's headers goes on to a backend, with room for what the gateway adds.
pub(super) fn forwarded(client: &HeaderMap, upgrade: bool) -> Fields {
    const ADDED: usize = 8;
    let named = named_by_connection(client);
    let mut headers = Fields::with_capacity(client.len() + ADDED);
    for (name, value) in client {
        // Of the handshake only what asks for a WebSocket may pass: browsers put the key among the subprotocols.
        let handshake = !upgrade && name.as_str().starts_with("sec-websocket-");
        if !is_hop_by_hop(name) && !is_for_us(name) && !handshake && !named.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// Removes what ends at the gateway on the way to a client. The backend's own request id is kept under another name.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    if let Some(id) = headers.get(REQUEST_ID).cloned() {
        headers.insert(UPSTREAM_REQUEST_ID, id);
    }
    let mut ending = named_by_connection(headers);
    ending.extend(headers.keys().filter(|name| is_hop_by_hop(name) || speaks_for_us(name)).cloned());
    for name in ending {
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
    let misplaced = |name: &&HeaderName| is_for_us(name) || NOT_TRAILERS.contains(name);
    let misplaced: Vec<_> = trailers.keys().filter(misplaced).cloned().collect();
    for name in misplaced {
        trailers.remove(name);
    }
}

/// The headers that `Connection` names end here with it.
fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|name| !["close", "keep-alive", "upgrade"].iter().any(|token| name.eq_ignore_ascii_case(token)))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect()
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
pub(super) fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The media type without its parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = text(headers, header::CONTENT_TYPE).unwrap_or_default();
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

    fn names(fields: &Fields) -> Vec<&HeaderName> {
        fields.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_connection_names_ends_here_with_it() {
        let map = headers(&[("connection", "close, X-Secret"), ("x-secret", "1"), ("x-kept", "1"), ("te", "gzip")]);
        assert_eq!(names(&forwarded(&map, false)), ["x-kept"]);
    }

    #[test]
    fn credentials_and_claims_of_identity_end_here() {
        let map = headers(&[
            ("authorization", "Bearer x"),
            ("x-api-key", "x"),
            ("cookie", "x"),
            ("x-user-id", "root"),
            ("x_user_id", "root"),
            ("anthropic-version", "2023-06-01"),
        ]);
        assert_eq!(names(&forwarded(&map, false)), ["anthropic-version"]);
    }

    #[test]
    fn the_backends_request_id_comes_back_under_another_name() {
        let mut map = headers(&[("x-request-id", "b1"), ("content-type", "text/plain")]);
        strip_response(&mut map);
        assert_eq!(map["x-upstream-request-id"], "b1");
        assert!(!map.contains_key("x-request-id"));
    }
}
