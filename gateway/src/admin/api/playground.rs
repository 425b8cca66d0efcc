//! `/admin/playground/PATH`: a request through the whole road, for whoever tries something out on the page.
//!
//! It takes the way of a client's: the same server reads it from a connection that is in memory, so that every filter,
//! limit and line of the log applies, wherever the listeners are, and whatever they ask of a network. Its address is the
//! operator's; its key is what the page sends as `x-tidegate-key`, for `authorization` is what let it in here.

use super::problem;
use crate::admin::Peer;
use crate::core::Core;
use crate::server::Server;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, RawQuery, State};
use axum::http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use axum::routing::get;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests at a time.
const AT_ONCE: usize = 8;

/// Bytes on their way in either direction.
const BETWEEN: usize = 64 << 10;

/// What of a page's request is the client's.
const PASSED: [HeaderName; 4] = [ACCEPT, CONTENT_TYPE, CACHE_CONTROL, HeaderName::from_static("idempotency-key")];

/// What the client's `authorization` is here.
const KEY: HeaderName = HeaderName::from_static("x-tidegate-key");

pub(super) fn routes() -> Router<Arc<Core>> {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let pass = async move |State(core): State<Arc<Core>>,
                           Extension(peer): Extension<Peer>,
                           Path(path): Path<String>,
                           RawQuery(query): RawQuery,
                           method: Method,
                           headers: HeaderMap,
                           body: Bytes| {
        let Ok(permit) = room.clone().try_acquire_owned() else {
            let detail = format!("{AT_ONCE} requests of the playground are under way: wait for one to end");
            return problem(StatusCode::TOO_MANY_REQUESTS, &detail);
        };
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let asked = request(method, &format!("/{path}{query}"), &headers, body);
        let Some(asked) = asked else {
            return problem(StatusCode::BAD_REQUEST, "this is no path, or no key, that a request could have");
        };
        match pass_through(core, peer, asked, permit).await {
            Ok(answer) => answer,
            Err(_) => problem(StatusCode::BAD_GATEWAY, "the road ended without an answer; see the log"),
        }
    };
    Router::new().route("/admin/playground/{*path}", get(pass.clone()).post(pass))
}

/// What the client sends.
fn request(method: Method, path: &str, headers: &HeaderMap, body: Bytes) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(path).header(HOST, "playground");
    for name in PASSED {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    if let Some(key) = headers.get(KEY).filter(|key| !key.is_empty()) {
        let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", key.as_bytes()].concat()).ok()?;
        bearer.set_sensitive(true);
        request = request.header(AUTHORIZATION, bearer);
    }
    request.body(Full::new(body)).ok()
}

/// Both ends of a connection in memory: the client's, and the server's. If the page leaves, so does the client.
async fn pass_through(
    core: Arc<Core>,
    Peer(client): Peer,
    request: Request<Full<Bytes>>,
    permit: OwnedSemaphorePermit,
) -> hyper::Result<Response> {
    let (near, far) = tokio::io::duplex(BETWEEN);
    tokio::spawn(Server::in_memory(core, far, client));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(near)).await?;
    tokio::spawn(async move {
        // Its fault shows in the answer.
        drop(connection.await);
        drop(permit);
    });
    let (mut head, body) = sender.send_request(request).await?.into_parts();
    for name in [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive")] {
        head.headers.remove(name);
    }
    // The sender goes with the body: a connection nobody can send on ends with its answer.
    Ok(Response::from_parts(head, Body::new(body)))
}
