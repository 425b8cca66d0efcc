//! Answers the gateway gives itself, in the caller's protocol. The only place that knows the shapes of errors.

use crate::call::Endpoint;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use std::fmt;
use std::time::Duration;

/// An answer that no backend gave.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without framing (`content-length`, `transfer-encoding`), which the gateway adds.
    pub headers: HeaderMap,
    /// The body, whole.
    pub body: Bytes,
}

impl Reply {
    /// A JSON document.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self { status, headers, body: body.into() }
    }

    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// Adds a header; a value that is not one (control characters) is left out.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.insert(name, value);
        }
        self
    }
}

/// A refusal or a fault, before it takes the shape of a protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status; SDKs choose their exception by it.
    pub status: StatusCode,
    /// OpenAI's `type`, such as `invalid_request_error`.
    pub kind: &'static str,
    /// OpenAI's `code`, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// The parameter at fault.
    pub param: Option<&'static str>,
    /// For the caller: what is wrong and what to do next. Never a secret, an address or a backend's own words.
    pub message: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// Overrides the SDKs' own idea of whether to retry.
    pub should_retry: Option<bool>,
    /// `Allow` for a 405.
    pub allow: Option<&'static str>,
}

impl Refusal {
    /// A refusal with `status`, `code` and what to tell the caller; the type follows from the status.
    pub fn new(status: StatusCode, code: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            503 => "overloaded_error",
            _ => "server_error",
        };
        let (code, message) = (code.into(), message.into());
        Self { status, kind, code, param: None, message, retry_after: None, should_retry: None, allow: None }
    }

    /// Names the parameter at fault.
    #[must_use]
    pub fn param(mut self, param: impl Into<Option<&'static str>>) -> Self {
        self.param = param.into();
        self
    }

    /// Says when to come back.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Tells SDKs whether to retry by themselves.
    #[must_use]
    pub fn should_retry(mut self, retry: bool) -> Self {
        self.should_retry = Some(retry);
        self
    }

    /// The methods that would have been allowed.
    #[must_use]
    pub fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// As an answer in the protocol of `endpoint`. `request_id` goes into Anthropic's shape.
    pub fn reply(&self, endpoint: Endpoint, request_id: &str) -> Reply {
        let body = match protocol(endpoint) {
            Protocol::OpenAi | Protocol::Responses => json!({ "error": self.openai() }),
            Protocol::Anthropic => self.anthropic(request_id),
        };
        let mut reply = Reply::json(self.status, body.to_string()).header(header::CACHE_CONTROL, "no-store");
        if let Some(wait) = self.retry_after {
            reply = reply
                .header(header::RETRY_AFTER, wait.as_millis().div_ceil(1000).max(1).to_string())
                .header(HeaderName::from_static("retry-after-ms"), wait.as_millis().max(1).to_string());
        }
        if let Some(retry) = self.should_retry {
            reply = reply.header(HeaderName::from_static("x-should-retry"), retry.to_string());
        }
        if let Some(methods) = self.allow {
            reply = reply.header(header::ALLOW, methods);
        }
        reply
    }

    /// As the event that ends a stream whose head has already gone out.
    pub fn event(&self, endpoint: Endpoint, request_id: &str) -> Bytes {
        let event = match protocol(endpoint) {
            Protocol::OpenAi => format!("data: {}\n\n", json!({ "error": self.openai() })),
            Protocol::Anthropic => format!("event: error\ndata: {}\n\n", self.anthropic(request_id)),
            // The Responses API's own `error` event, flat: SDKs raise it by its type.
            Protocol::Responses => {
                let code = self.code.unwrap_or(self.kind);
                let error = json!({ "type": "error", "code": code, "message": self.message, "param": self.param });
                format!("event: error\ndata: {error}\n\n")
            }
        };
        event.into()
    }

    fn openai(&self) -> serde_json::Value {
        json!({ "message": self.message, "type": self.kind, "param": self.param, "code": self.code })
    }

    fn anthropic(&self, request_id: &str) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            413 => "request_too_large",
            503 | 529 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => self.kind,
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message }, "request_id": request_id })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.as_u16(), self.message)
    }
}

enum Protocol {
    OpenAi,
    Responses,
    Anthropic,
}

fn protocol(endpoint: Endpoint) -> Protocol {
    match endpoint {
        Endpoint::Messages | Endpoint::CountTokens => Protocol::Anthropic,
        Endpoint::Responses => Protocol::Responses,
        _ => Protocol::OpenAi,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_in_whole_seconds_rounded_up_and_in_milliseconds() {
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "Slow down.")
            .retry_after(Duration::from_millis(1200));
        let reply = refusal.reply(Endpoint::Chat, "r1");
        assert_eq!(reply.headers["retry-after"], "2");
        assert_eq!(reply.headers["retry-after-ms"], "1200");
    }

    #[test]
    fn each_protocol_gets_its_own_shape() {
        let refusal = Refusal::new(StatusCode::BAD_GATEWAY, "upstream_error", "Gone.");
        let body = |endpoint| -> serde_json::Value {
            serde_json::from_slice(&refusal.reply(endpoint, "r1").body).expect("a reply is JSON")
        };
        assert_eq!(body(Endpoint::Chat)["error"]["code"], "upstream_error");
        assert_eq!(body(Endpoint::Messages)["error"]["type"], "api_error");
        assert_eq!(body(Endpoint::Messages)["request_id"], "r1");
        assert!(refusal.event(Endpoint::Responses, "r1").starts_with(b"event: error\ndata: {"));
        assert!(refusal.event(Endpoint::Chat, "r1").starts_with(b"data: {\"error\":"));
    }
}
