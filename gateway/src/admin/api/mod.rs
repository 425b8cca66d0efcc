//! What lies under `/admin`: one file for each thing that can be looked at or changed. Faults are
//! `application/problem+json`.

mod backends;
mod cache;
mod keys;
mod limits;
mod spenders;

use super::routes::{JSON, answer, problem};
use crate::core::Core;
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;

pub use keys::shown as shown_key;

/// All of it. What lets strangers in is only managed by those who have a token.
pub(crate) fn router(core: Arc<Core>, has_token: bool) -> Router {
    Router::new()
        .merge(backends::routes())
        .merge(cache::routes())
        .merge(keys::routes(has_token))
        .merge(limits::routes())
        .merge(spenders::routes())
        .with_state(core)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    answer(status, JSON, body.to_string())
}
