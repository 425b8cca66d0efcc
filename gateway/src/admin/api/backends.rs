//! `/admin/backends`: who answers, and how they are; `/admin/backends/POOL/NAME/drain` and `.../undrain`.

use super::{json, problem};
use crate::admin::House;
use crate::core::Core;
use crate::upstream::Backend;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use std::sync::Arc;

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route(
            "/admin/backends",
            get(async |State(core): State<Arc<Core>>| json(StatusCode::OK, &core.health()["pools"])),
        )
        .route("/admin/backends/{*what}", post(change))
}

/// `POOL/NAME/drain`; a name may have slashes of its own.
async fn change(State(core): State<Arc<Core>>, Path(what): Path<String>) -> Response {
    let asked = what.rsplit_once('/').and_then(|(id, verb)| {
        let draining = match verb {
            "drain" => true,
            "undrain" => false,
            _ => return None,
        };
        Some((id.split_once('/')?, draining))
    });
    let Some(((pool, name), draining)) = asked else {
        return problem(StatusCode::NOT_FOUND, "there are /admin/backends/POOL/NAME/drain and .../undrain");
    };
    let Some(backend) = find(&core, pool, name) else {
        return problem(StatusCode::NOT_FOUND, "there is no such backend; see /admin/backends");
    };
    backend.drain(draining);
    json(StatusCode::OK, &backend.describe())
}

fn find(core: &Core, pool: &str, name: &str) -> Option<Arc<Backend>> {
    let snapshot = core.snapshot.load();
    let pool = snapshot.pools.iter().find(|known| &*known.name == pool)?;
    pool.backends().into_iter().find(|backend| &*backend.settings.name == name)
}
