//! What the admin listener answers to which path, and to whom.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::{House, page};
use crate::openapi;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// What probes and generators ask for, and have no token for: the same of every gateway.
const OPEN: [&str; 4] = ["/livez", "/readyz", "/openapi.json", "/admin/openapi.json"];

type Token = Option<Arc<str>>;

pub(super) fn router(house: Arc<dyn House>, api: Router, token: Option<Box<str>>) -> Router {
    let token: Token = token.map(Arc::from);
    Router::new()
        .route("/livez", get(async || answer(StatusCode::OK, TEXT, "alive\n")))
        .route("/readyz", get(ready))
        .route("/healthz", get(async |State(house): State<Arc<dyn House>>| health(&*house)))
        .route("/metrics", get(async |State(house): State<Arc<dyn House>>| metrics(&*house)))
        .route("/openapi.json", get(async || answer(StatusCode::OK, JSON, openapi::proxied().to_string())))
        .route("/admin/openapi.json", get(async || answer(StatusCode::OK, JSON, openapi::admin().to_string())))
        .with_state(house)
        .merge(api)
        .merge(page::routes())
        .method_not_allowed_fallback(async || {
            problem(StatusCode::METHOD_NOT_ALLOWED, "this path takes other methods; see Allow")
        })
        .fallback(async || {
            problem(StatusCode::NOT_FOUND, "the paths are /, /docs, /livez, /readyz, /healthz, /metrics and /admin/...")
        })
        .layer(from_fn_with_state(token, authorize))
        .layer(from_fn(never_cached))
}

async fn ready(State(house): State<Arc<dyn House>>) -> Response {
    match house.ready() {
        Ok(down) => {
            let lines = down.iter().map(|pool| format!("pool '{pool}' has no backend that is up\n"));
            answer(StatusCode::OK, TEXT, format!("ready\n{}", lines.collect::<String>()))
        }
        Err(reason) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
    }
}

fn health(house: &dyn House) -> Response {
    answer(StatusCode::OK, JSON, house.health().to_string())
}

fn metrics(house: &dyn House) -> Response {
    answer(StatusCode::OK, METRICS, house.metrics())
}

/// Lets through what is open to all, and who has the token. Without a token that is whoever is on this machine, for the
/// listener is on loopback then; but no web page that somebody there has open.
async fn authorize(State(token): State<Token>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = OPEN.contains(&path) || page::is_file(path);
    match token {
        Some(token) if !open && !bears(request.headers(), &token) => {
            let mut refusal = problem(StatusCode::UNAUTHORIZED, "the admin token is missing or wrong");
            refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            refusal
        }
        None if !open && is_of_a_page(request.headers()) => {
            let detail = "web pages are let in with a token only: set `admin.token` in the file, and restart";
            problem(StatusCode::FORBIDDEN, detail)
        }
        _ => next.run(request).await,
    }
}

/// Whether a browser sends it for a page from elsewhere: what may change something says where the page is from, and what a
/// page may read is asked for under a name of its own, which was made to lead here.
fn is_of_a_page(headers: &HeaderMap) -> bool {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(HOST);
    let elsewhere = |origin: &str| origin.split_once("://").map(|(_, from)| from) != host;
    text(ORIGIN).is_some_and(elsewhere) || host.is_some_and(|host| !is_local(host))
}

/// Whether it is an address, or the name that every machine has for itself.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name.eq_ignore_ascii_case("localhost") || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    match given.split_at_checked(7) {
        Some((scheme, given)) => scheme.eq_ignore_ascii_case(b"bearer ") && same(given.trim_ascii(), token.as_bytes()),
        None => false,
    }
}

/// Compares in a time that tells nothing but the length.
fn same(given: &[u8], token: &[u8]) -> bool {
    let difference = given.iter().zip(token).fold(0, |difference, (a, b)| black_box(difference | (a ^ b)));
    given.len() == token.len() && difference == 0
}

async fn never_cached(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn answer(status: StatusCode, kind: &'static str, body: impl Into<String>) -> Response {
    (status, [(CONTENT_TYPE, kind)], body.into()).into_response()
}

/// RFC 9457.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    problem_of(status, detail, json!({}))
}

/// The same with members of its own.
pub(super) fn problem_of(status: StatusCode, detail: &str, members: serde_json::Value) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let mut body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    if let (Some(body), serde_json::Value::Object(members)) = (body.as_object_mut(), members) {
        body.extend(members);
    }
    answer(status, PROBLEM, body.to_string())
}
