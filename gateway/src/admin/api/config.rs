//! `/admin/config`: what is in use, what was, and the way back; `/admin/reload` reads the file again.

use super::super::routes::{problem, problem_of};
use super::json;
use crate::reload::{Applied, Refused, Reloads};
use crate::telemetry::ReloadBy;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json as value};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// The file is whoever's who can write it, and reading it again lets nobody in that it does not. An old version may.
pub(super) fn routes(has_token: bool) -> Router<Arc<Reloads>> {
    let rollback = if has_token { post(roll_back) } else { post(refuse) };
    Router::new()
        .route("/admin/config", get(show))
        .route("/admin/config/history", get(history))
        .route("/admin/config/rollback/{version}", rollback)
        .route("/admin/reload", post(reload))
}

async fn refuse() -> Response {
    let detail = "going back to an old configuration needs a token or a certificate: set `admin.token` or `admin.tls.client_ca` in the file, and restart";
    problem(StatusCode::FORBIDDEN, detail)
}

async fn show(State(reloads): State<Arc<Reloads>>) -> Response {
    let version = reloads.history().now().clone();
    let mut shown = version.describe();
    shown["file"] = reloads.file().map(|file| file.display().to_string()).into();
    shown["config"] = version.config.masked();
    json(StatusCode::OK, &shown)
}

async fn history(State(reloads): State<Arc<Reloads>>) -> Response {
    let versions: Vec<Value> = reloads.history().all().map(|version| version.describe()).collect();
    json(StatusCode::OK, &value!({ "versions": versions }))
}

async fn reload(State(reloads): State<Arc<Reloads>>) -> Response {
    answer(spawn_blocking(move || reloads.read(ReloadBy::Request)).await)
}

async fn roll_back(State(reloads): State<Arc<Reloads>>, Path(version): Path<String>) -> Response {
    let Ok(number) = version.parse() else {
        return problem(StatusCode::NOT_FOUND, "a version is a number; see /admin/config/history");
    };
    answer(spawn_blocking(move || reloads.roll_back(number)).await)
}

fn answer(done: Result<Result<Applied, Refused>, tokio::task::JoinError>) -> Response {
    match done {
        Ok(Ok(Applied { version, is_new, warnings })) => {
            let mut shown = version.describe();
            shown["outcome"] = if is_new { "applied" } else { "unchanged" }.into();
            shown["warnings"] = warnings.into();
            if !is_new {
                shown["changes"] = value!([]);
            }
            json(StatusCode::OK, &shown)
        }
        Ok(Err(Refused::Faults(faults))) => {
            let faults: Vec<String> = faults.0.iter().map(ToString::to_string).collect();
            let detail = "the configuration has faults, and nothing has changed";
            problem_of(StatusCode::UNPROCESSABLE_ENTITY, detail, value!({ "faults": faults }))
        }
        Ok(Err(Refused::NoFile)) => {
            problem(StatusCode::CONFLICT, "this gateway was started without a file: there is none to read again")
        }
        Ok(Err(Refused::NoVersion)) => {
            problem(StatusCode::NOT_FOUND, "there is no such version (any more); see /admin/config/history")
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "the configuration could not be read; see the log"),
    }
}
