//! `/admin/limits`: the limits there are, and how somebody's buckets stand.

use super::{json, problem};
use crate::core::Core;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route("/admin/limits", get(all)).route("/admin/limits/{*subject}", get(one))
}

async fn all(State(core): State<Arc<Core>>) -> Response {
    let limits = core.snapshot.load().views.limits();
    json(StatusCode::OK, &json!({ "limits": limits }))
}

async fn one(State(core): State<Arc<Core>>, Path(subject): Path<String>) -> Response {
    let views = core.snapshot.load().views.clone();
    match views.buckets(&subject).await {
        Ok(buckets) if buckets.is_empty() => {
            let there = views.there();
            problem(StatusCode::NOT_FOUND, &format!("no limit is for subjects such as {subject}; there are {there}"))
        }
        Ok(buckets) => json(StatusCode::OK, &json!({ "subject": subject, "buckets": buckets })),
        Err(fault) => problem(StatusCode::BAD_REQUEST, &fault),
    }
}
