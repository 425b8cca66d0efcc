//! What browsers are told (Fetch standard, section 3.3): which pages may call, and with which headers.

use super::headers;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use tidegate_config::{AllowedHeaders, Cors, Origins};
use tidegate_plugins::Reply;

/// Headers of ours that a page may read.
const EXPOSED: &str = "x-request-id, x-upstream-request-id, x-tidegate-backend, x-tidegate-attempts, \
                       x-tidegate-overhead-ms, retry-after, retry-after-ms";

/// Answers a preflight.
pub(super) fn preflight(cors: &Cors, request: &HeaderMap, mut reply: Reply) -> Reply {
    reply.headers.insert(header::VARY, HeaderValue::from_static("origin, access-control-request-headers"));
    if !allow(cors, request, &mut reply.headers) {
        return reply;
    }
    let allowed = match &cors.headers {
        AllowedHeaders::Asked => {
            headers::text(request, "access-control-request-headers").unwrap_or_default().to_owned()
        }
        AllowedHeaders::These(names) => names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", "),
    };
    reply
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, OPTIONS")
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed)
        .header(header::ACCESS_CONTROL_MAX_AGE, cors.max_age.as_secs().to_string())
}

/// Adds to an answer what lets a page read it.
pub(super) fn expose(cors: &Cors, request: &HeaderMap, answer: &mut HeaderMap) {
    answer.append(header::VARY, HeaderValue::from_static("origin"));
    if allow(cors, request, answer) {
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

fn allow(cors: &Cors, request: &HeaderMap, answer: &mut HeaderMap) -> bool {
    let Some(origin) = request.get(header::ORIGIN) else { return false };
    let value = match &cors.origins {
        Origins::Any => HeaderValue::from_static("*"),
        Origins::These(known) if known.iter().any(|known| known.as_bytes() == origin.as_bytes()) => origin.clone(),
        Origins::These(_) => return false,
    };
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, value);
    true
}
