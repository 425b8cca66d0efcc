//! What lies under `/admin`: one file for each thing that can be looked at or changed. Faults are
//! `application/problem+json`.

mod backends;

use super::routes::{JSON, answer, problem};
use crate::core::Core;
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;

/// All of it.
pub(crate) fn router(core: Arc<Core>) -> Router {
    Router::new().merge(backends::routes()).with_state(core)
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    answer(status, JSON, body.to_string())
}
