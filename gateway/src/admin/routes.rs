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

use super::{Certified, House, page};
use crate::openapi;

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// What probes and generators ask for, and have no token for: the same of every gateway.
const OPEN: [&str; 4] = ["/livez", "/readyz", "/openapi.json", "/admin/openapi.json"];

/// What lets in. With neither, whoever is on this machine may: the listener is on loopback then.
#[derive(Clone, Default)]
pub struct Doors {
    /// What has to come as `Authorization: Bearer`.
    pub token: Option<Arc<str>>,
    /// Whether certificates let in, too; who has shown one is [`Certified`].
    pub certificates: bool,
}

pub(super) fn router(house: Arc<dyn House>, api: Router, doors: Doors) -> Router {
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
        .layer(from_fn_with_state(doors, authorize))
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

/// Lets through what is open to all, and who has the token or a certificate. Where neither is asked for that is whoever is
/// on this machine; but no web page that somebody there has open.
async fn authorize(State(doors): State<Doors>, request: Request, next: Next) -> Response {
    let (path, headers) = (request.uri().path(), request.headers());
    if OPEN.contains(&path) || page::is_file(path) {
        return next.run(request).await;
    }
    let token = doors.token.as_deref();
    let bears = token.is_some_and(|token| bears(headers, token));
    // Browsers show a certificate to their owner's listener whatever page has them ask.
    if !bears && request.extensions().get::<Certified>().is_some() {
        return match is_from_elsewhere(headers) {
            true => problem(StatusCode::FORBIDDEN, "web pages from elsewhere are not let in by a certificate"),
            false => next.run(request).await,
        };
    }
    match (token, doors.certificates) {
        (Some(_), _) if bears => next.run(request).await,
        (Some(_), false) => stranger("the admin token is missing or wrong", "Bearer"),
        (Some(_), true) => stranger("neither the admin token nor a client certificate is there", "Bearer"),
        (None, true) => stranger("there is no client certificate", "Certificate"),
        (None, false) if is_from_elsewhere(headers) || is_by_a_made_up_name(headers) => {
            let detail = "web pages are let in with a token only: set `admin.token` in the file, and restart";
            problem(StatusCode::FORBIDDEN, detail)
        }
        (None, false) => next.run(request).await,
    }
}

fn stranger(detail: &str, wanted: &'static str) -> Response {
    let mut refusal = problem(StatusCode::UNAUTHORIZED, detail);
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(wanted));
    refusal
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).map(|value| value.to_str().unwrap_or_default())
}

/// Whether a browser sends it for a page from elsewhere: what may change something says where the page is from.
fn is_from_elsewhere(headers: &HeaderMap) -> bool {
    let host = text(headers, HOST);
    text(headers, ORIGIN).is_some_and(|origin| origin.split_once("://").map(|(_, from)| from) != host)
}

/// Whether it is asked for under a name of a page's own, which was made to lead here: so could a page read it.
fn is_by_a_made_up_name(headers: &HeaderMap) -> bool {
    text(headers, HOST).is_some_and(|host| !is_local(host))
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
