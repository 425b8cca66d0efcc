//! `POST /admin/upgrade`: another process takes over, of the program that is now where this one was started from.

use super::super::routes::problem;
use super::json;
use crate::upgrade::Upgrades;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde_json::json as value;
use std::sync::Arc;
use tokio::task::spawn_blocking;

pub(super) fn routes() -> Router<Arc<Upgrades>> {
    Router::new().route("/admin/upgrade", post(upgrade))
}

/// Answers when the other serves, or cannot.
async fn upgrade(State(upgrades): State<Arc<Upgrades>>) -> Response {
    match spawn_blocking(move || upgrades.run()).await {
        Ok(Ok(successor)) => json(StatusCode::OK, &value!({ "pid": successor.pid, "version": successor.version })),
        Ok(Err(reason)) => problem(StatusCode::CONFLICT, &reason),
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "a panic; see the log"),
    }
}
