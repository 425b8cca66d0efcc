//! Answers the gateway gives itself, in the caller's protocol. The only place that knows the shapes of errors.

use crate::call::Endpoint;
use crate::exchange::Source;
use crate::filter::ResponseFilter;
use crate::usage::Usage;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// An answer that no backend gave to this request.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers, without framing (`content-length`, `transfer-encoding`), which the gateway adds.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Whose words these are. Any but the gateway's own stand for a backend's answer: the caller must be one that may
    /// ask for the model, and the answer counts for the route.
    pub source: Source,
    /// Whether this request pays for the tokens, although another one, or an earlier one, has had them made.
    pub charged: bool,
    /// The tokens of a whole body, where that stands for a backend's answer and they are known.
    pub usage: Option<Usage>,
    /// Whether the caller has asked for exactly this: then it is no failure of the gateway's, whatever its status.
    pub asked_for: bool,
    /// Follows another answer to this request, which is fetched from a backend behind this one, for no client.
    pub renewal: Option<Box<Renewal>>,
}

/// Another answer that is wanted behind the one that is given, and who follows it.
pub struct Renewal(pub Box<dyn ResponseFilter>);

/// The body of an answer.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Pieces as they come; of an event stream, whole events.
    Pieces(Box<dyn Pieces>),
}

/// A body that comes piece by piece, when it is asked for the next one. Dropped if the client leaves.
pub trait Pieces: Send {
    /// The next piece; none at the end. A refusal is why there is no more although it is not complete: the client is
    /// told, in its protocol, if it can be.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>>;

    /// The tokens of the answer, as far as they are known; asked at the end.
    fn usage(&self) -> Option<Usage> {
        None
    }
}

impl dyn Pieces {
    /// The next piece; none at the end.
    ///
    /// # Errors
    /// Why there is no more.
    pub async fn next(&mut self) -> Option<Result<Bytes, Refusal>> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }
}

/// Any stream of pieces is a body.
impl<S> Pieces for Pin<Box<S>>
where
    S: futures_util::Stream<Item = Result<Bytes, Refusal>> + Send + ?Sized,
{
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Refusal>>> {
        futures_util::Stream::poll_next(self.as_mut(), context)
    }
}

impl Body {
    /// The body if it is whole.
    pub fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(body) => Some(body),
            Self::Pieces(_) => None,
        }
    }
}

impl<B: Into<Bytes>> From<B> for Body {
    fn from(body: B) -> Self {
        Self::Whole(body.into())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(body) => f.debug_tuple("Whole").field(body).finish(),
            Self::Pieces(_) => f.write_str("Pieces"),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, source) = (self.status, self.source);
        f.debug_struct("Reply").field("status", &status).field("source", &source).field("body", &self.body).finish()
    }
}

impl Reply {
    /// A JSON document.
    pub fn json(status: StatusCode, body: impl Into<Bytes>) -> Self {
        let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self::new(status, headers, body.into())
    }

    /// An answer without a body.
    pub fn empty(status: StatusCode) -> Self {
        Self::new(status, HeaderMap::new(), Bytes::new())
    }

    /// An answer of the gateway's own.
    pub fn new(status: StatusCode, headers: HeaderMap, body: impl Into<Body>) -> Self {
        Self {
            status,
            headers,
            body: body.into(),
            source: Source::Gateway,
            charged: true,
            usage: None,
            asked_for: false,
            renewal: None,
        }
    }

    /// Says that this stands for a backend's answer, where it comes from, and whether its tokens are to be paid again.
    #[must_use]
    pub fn stands_for(mut self, source: Source, charged: bool) -> Self {
        (self.source, self.charged) = (source, charged);
        self
    }

    /// The body, if it is whole; empty otherwise.
    pub fn text(&self) -> &[u8] {
        self.body.whole().map_or(&[], |body| body)
    }

    /// What an error says to its caller; empty if it is none.
    pub fn message(&self) -> String {
        let error = serde_json::from_slice::<serde_json::Value>(self.text()).unwrap_or_default();
        error["error"]["message"].as_str().unwrap_or_default().to_owned()
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

/// The type of what the client has to change.
pub(crate) const INVALID: &str = "invalid_request_error";

impl Refusal {
    /// A refusal with `status`, `code` and what to tell the caller; the type follows from the status.
    pub fn new(status: StatusCode, code: impl Into<Option<&'static str>>, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            400..=499 => INVALID,
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

    /// As an event of the realtime API, about the client's event of the name `asked`.
    pub fn realtime(&self, event_id: &str, asked: Option<&str>) -> String {
        let mut error = self.openai();
        error["event_id"] = asked.into();
        json!({ "type": "error", "event_id": event_id, "error": error }).to_string()
    }

    fn openai(&self) -> serde_json::Value {
        json!({ "message": self.message, "type": self.kind, "param": self.param, "code": self.code })
    }

    fn anthropic(&self, request_id: &str) -> serde_json::Value {
        let kind = match self.status.as_u16() {
            413 => "request_too_large",
            503 | 529 => "overloaded_error",
            // Where the client is at fault nevertheless.
            500.. if self.kind == INVALID => INVALID,
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
            serde_json::from_slice(refusal.reply(endpoint, "r1").text()).expect("a reply is JSON")
        };
        assert_eq!(body(Endpoint::Chat)["error"]["code"], "upstream_error");
        assert_eq!(body(Endpoint::Messages)["error"]["type"], "api_error");
        assert_eq!(body(Endpoint::Messages)["request_id"], "r1");
        assert!(refusal.event(Endpoint::Responses, "r1").starts_with(b"event: error\ndata: {"));
        assert!(refusal.event(Endpoint::Chat, "r1").starts_with(b"data: {\"error\":"));
    }
}
