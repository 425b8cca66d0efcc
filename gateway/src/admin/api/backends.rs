//! `/admin/backends`: who answers, and how they are.

use super::json;
use crate::admin::House;
use crate::core::Core;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route(
        "/admin/backends",
        get(async |State(core): State<Arc<Core>>| json(StatusCode::OK, &core.health()["pools"])),
    )
}
