//! Names of headers that SDKs and proxies send with every request, beside those of the RFCs: kept, so that they are not
//! made anew each time they come.

use http::header::HeaderName;
use std::sync::LazyLock;

const KNOWN: [&str; 36] = [
    "anthropic-beta",
    "anthropic-dangerous-direct-browser-access",
    "anthropic-version",
    "api-key",
    "idempotency-key",
    "openai-beta",
    "openai-organization",
    "openai-project",
    "priority",
    "sec-fetch-mode",
    "traceparent",
    "tracestate",
    "x-api-key",
    "x-app",
    "x-correlation-id",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
    "x-session-id",
    "x-stainless-arch",
    "x-stainless-async",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-raw-response",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-stream-helper",
    "x-stainless-timeout",
    "x-user-id",
];

/// Those of each length.
static BY_LENGTH: LazyLock<Vec<Vec<HeaderName>>> = LazyLock::new(|| {
    let longest = KNOWN.iter().map(|name| name.len()).max().unwrap_or_default();
    let of = |length| KNOWN.into_iter().filter(move |name| name.len() == length).map(HeaderName::from_static).collect();
    (0..=longest).map(of).collect()
});

/// The name that a client has written so, if it is one of these.
pub(super) fn known(written: &[u8]) -> Option<HeaderName> {
    let alike = BY_LENGTH.get(written.len())?;
    alike.iter().find(|name| name.as_str().as_bytes().eq_ignore_ascii_case(written)).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_name_is_the_one_that_is_read_from_it() {
        for name in KNOWN {
            for written in [name.to_owned(), name.to_uppercase()] {
                assert_eq!(known(written.as_bytes()), HeaderName::from_bytes(written.as_bytes()).ok());
            }
        }
        assert!([&b""[..], b"x", b"x-api-kez", &[b'x'; 99]].iter().all(|other| known(other).is_none()));
    }
}
