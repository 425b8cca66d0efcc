//! The table of endpoints: which path, which method, which handler.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::asked::{Asked, Refusal};
use super::plan::{self, Body, Plan};
use super::{Server, chat, completions, messages, responses, status, vectors};

/// The largest body it reads: twice what the gateway lets through by default.
const LARGEST_BODY: usize = 64 << 20;

type Handler = fn(&Server, &Asked) -> Result<Plan, Refusal>;

pub(super) async fn answer(server: &Arc<Server>, request: Request<Incoming>) -> Response<Body> {
    let anthropic = request.uri().path().starts_with("/v1/messages");
    match route(server, request).await {
        Ok(response) => response,
        Err(refusal) => plan::refuse(&refusal, anthropic),
    }
}

async fn route(server: &Arc<Server>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let path = request.uri().path();
    if path != "/health" {
        admit(server, request.headers())?;
    }
    if let Some(handler) = generator(path) {
        if request.method() != Method::POST {
            return Ok(wrong_method("POST"));
        }
        let asked = Asked::read(server, &read(request).await?)?;
        return Ok(plan::perform(server, handler(server, &asked)?).await);
    }
    if path == "/tokenize" {
        if request.method() != Method::POST {
            return Ok(wrong_method("POST"));
        }
        return Ok(plan::json(StatusCode::OK, &status::tokenize(&read(request).await?)?));
    }
    let found = status::page(server, path)?;
    if matches!(*request.method(), Method::GET | Method::HEAD) { Ok(found) } else { Ok(wrong_method("GET, HEAD")) }
}

fn generator(path: &str) -> Option<Handler> {
    Some(match path {
        "/v1/chat/completions" => chat::answer,
        "/v1/completions" => completions::answer,
        "/v1/embeddings" => vectors::embed,
        "/v1/rerank" | "/rerank" => vectors::rerank,
        "/v1/responses" => responses::answer,
        "/v1/messages" => messages::answer,
        "/v1/messages/count_tokens" => messages::count,
        _ => return None,
    })
}

fn admit(server: &Server, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(key) = &server.settings.key else { return Ok(()) };
    let bearer =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    let plain = headers.get("x-api-key").and_then(|value| value.to_str().ok());
    if bearer.or(plain) == Some(key.as_str()) {
        return Ok(());
    }
    Err(Refusal {
        code: Some("invalid_api_key"),
        ..Refusal::of(StatusCode::UNAUTHORIZED, "The simulator was started with a key, and this is not it")
    })
}

async fn read(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    match Limited::new(request.into_body(), LARGEST_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refusal::of(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 64 MiB"))
        }
        Err(error) => Err(Refusal::of(StatusCode::BAD_REQUEST, format!("The body could not be read: {error}"))),
    }
}

fn wrong_method(allowed: &'static str) -> Response<Body> {
    let refusal = Refusal::of(StatusCode::METHOD_NOT_ALLOWED, format!("Use {allowed} here"));
    let mut response = plan::refuse(&refusal, false);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
