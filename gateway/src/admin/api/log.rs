//! `/admin/log`: how loud the log is, and how it is made louder for a while.

use super::super::routes::problem;
use super::json;
use crate::reload::Reloads;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::json as value;
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Reloads>> {
    Router::new().route("/admin/log", get(show).put(change))
}

async fn show(State(reloads): State<Arc<Reloads>>) -> Response {
    let written = reloads.history().now().config.log.clone();
    let level = reloads.core().log.level();
    let by_hand = level != written.level.as_str();
    json(
        StatusCode::OK,
        &value!({ "level": level, "level_in_file": written.level, "by_hand": by_hand, "sample": written.sample }),
    )
}

/// What the log is to be like.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// A level, or targets with levels: `info,tidegate=debug`. Null: as the file says. Not to say it is a mistake.
    #[serde(deserialize_with = "Option::deserialize")]
    level: Option<String>,
}

async fn change(State(reloads): State<Arc<Reloads>>, body: Bytes) -> Response {
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(wanted) => wanted,
        Err(error) => {
            let detail = format!("expected {{\"level\": \"debug\"}}, or null for the level of the file: {error}");
            return problem(StatusCode::BAD_REQUEST, &detail);
        }
    };
    let in_file = reloads.history().now().config.log.level;
    let level = wanted.level.as_deref().unwrap_or(in_file.as_str());
    let log = &reloads.core().log;
    let before = log.level();
    if let Err(error) = log.set_level_with(level, || {
        tracing::warn!(from = before, to = level, "the log level was changed by hand");
    }) {
        return problem(StatusCode::BAD_REQUEST, &error);
    }
    show(State(reloads)).await
}
