//! What is sent and when: a plan is made by a handler without waiting, and performed here at the pace of the
//! settings.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::Server;
use super::asked::Refusal;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a handler wants said.
pub(super) enum Plan {
    /// At once.
    Now(Value),
    /// In one piece, after the time it takes to think of that many tokens.
    Whole { body: Value, tokens: u64 },
    /// Event by event.
    Stream(Script),
}

/// The events of a stream, in order.
#[derive(Default)]
pub(super) struct Script(VecDeque<Step>);

struct Step {
    event: Bytes,
    /// Tokens that must be thought of before it; none: it goes out together with the one before.
    tokens: u64,
    waits: bool,
}

impl Script {
    /// An event that goes out together with the one before it.
    pub(super) fn event(&mut self, event: Bytes) {
        self.0.push_back(Step { event, tokens: 0, waits: false });
    }

    /// An event that carries a token, after a token's time.
    pub(super) fn token(&mut self, event: Bytes) {
        self.0.push_back(Step { event, tokens: 1, waits: true });
    }

    /// A token that another choice says at the same time as the last.
    pub(super) fn token_beside(&mut self, event: Bytes) {
        self.0.push_back(Step { event, tokens: 1, waits: false });
    }
}

/// An event without a name, as OpenAI's streams have them.
pub(super) fn data(value: &Value) -> Bytes {
    Bytes::from(format!("data: {value}\n\n"))
}

/// An event named as the `type` field of its data, as Anthropic's and the Responses streams have them.
pub(super) fn typed(value: &Value) -> Bytes {
    let name = value["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {value}\n\n"))
}

/// Carries out a plan. Whoever drops the future or the body ends the work.
pub(super) async fn perform(server: &Arc<Server>, plan: Plan) -> Response<Body> {
    match plan {
        Plan::Now(body) => json(StatusCode::OK, &body),
        Plan::Whole { body, tokens } => {
            let _work = Work::begin(server);
            for at in 0..tokens {
                think(server, at).await;
            }
            json(StatusCode::OK, &body)
        }
        Plan::Stream(script) => {
            let mut response = Response::new(tell(Work::begin(server), script));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            response
        }
    }
}

fn tell(work: Work, script: Script) -> Body {
    let events = stream::unfold((work, script, 0), |(work, mut script, at)| async move {
        let step = script.0.pop_front()?;
        let mut told = at;
        if step.waits {
            think(&work.0, at).await;
            told += step.tokens;
        } else {
            work.0.spoken_tokens.fetch_add(step.tokens, Ordering::Relaxed);
        }
        Some((Ok(Frame::data(step.event)), (work, script, told)))
    });
    BodyExt::boxed_unsync(StreamBody::new(events))
}

/// Takes the time of one token and counts it; `at` is how many came before.
async fn think(server: &Server, at: u64) {
    let wait = if at == 0 { server.settings.first_token } else { server.settings.pace };
    if wait > Duration::ZERO {
        tokio::time::sleep(wait).await;
    }
    server.spoken_tokens.fetch_add(1, Ordering::Relaxed);
}

/// A request being answered; gone from the count however it ends.
struct Work(Arc<Server>);

impl Work {
    fn begin(server: &Arc<Server>) -> Self {
        server.processing.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(server))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.0.processing.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn json(status: StatusCode, body: &Value) -> Response<Body> {
    full(status, "application/json", body.to_string())
}

pub(super) fn full(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::from(body))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// A refusal in the protocol of the path it was asked on.
pub(super) fn refuse(refusal: &Refusal, anthropic: bool) -> Response<Body> {
    let kind = match refusal.status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::NOT_FOUND if anthropic => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE if anthropic => "request_too_large",
        _ => "invalid_request_error",
    };
    let message = &refusal.message;
    let body = if anthropic {
        json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": null})
    } else {
        json!({"error": {"message": message, "type": kind, "param": refusal.param, "code": refusal.code}})
    };
    json(refusal.status, &body)
}
