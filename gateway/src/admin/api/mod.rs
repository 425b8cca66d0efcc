//! What lies under `/admin`: one file for each thing that can be looked at or changed. Faults are
//! `application/problem+json`.

mod backends;
mod cache;
mod config;
mod keys;
mod limits;
mod live;
mod log;
mod playground;
mod requests;
mod spenders;
mod upgrade;
mod usage;
mod wanted;

use super::routes::{JSON, answer, problem};
use crate::core::Core;
use crate::reload::Reloads;
use crate::upgrade::Upgrades;
use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use std::sync::Arc;

pub use keys::shown as shown_key;

/// All of it. What lets strangers in is only managed by those who have a token.
pub(crate) fn router(core: Arc<Core>, reloads: &Arc<Reloads>, upgrades: &Arc<Upgrades>, has_token: bool) -> Router {
    Router::new()
        .merge(backends::routes())
        .merge(cache::routes())
        .merge(keys::routes(has_token))
        .merge(limits::routes())
        .merge(live::routes())
        .merge(playground::routes())
        .merge(requests::routes())
        .merge(spenders::routes())
        .merge(usage::routes())
        .with_state(core)
        .merge(config::routes(has_token).merge(log::routes()).with_state(reloads.clone()))
        .merge(upgrade::routes().with_state(upgrades.clone()))
}

fn json(status: StatusCode, body: &serde_json::Value) -> Response {
    answer(status, JSON, body.to_string())
}
