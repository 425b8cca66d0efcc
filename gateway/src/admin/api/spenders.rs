//! `/admin/spenders`: who spends most.

use super::{json, problem};
use crate::core::Core;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use tidegate_plugins::prices::NANOS;
use tidegate_plugins::spenders::{By, Of, Sums, Window};

/// The most that are told at once.
const MOST: usize = 500;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    by: By,
    #[serde(default = "hour")]
    window: Window,
    #[serde(default = "tokens")]
    of: Of,
    #[serde(default = "twenty")]
    limit: usize,
}

fn hour() -> Window {
    Window::Hour
}

fn tokens() -> Of {
    Of::Tokens
}

fn twenty() -> usize {
    20
}

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route("/admin/spenders", get(top))
}

async fn top(State(core): State<Arc<Core>>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let Query(Asked { by, window, of, limit }) = match asked {
        Ok(asked) => asked,
        Err(fault) => {
            let expected = "by=org|user|key|model, window=5m|1h|24h, of=tokens|requests|cost|limited, limit=20";
            return problem(StatusCode::BAD_REQUEST, &format!("{}; expected {expected}", fault.body_text()));
        }
    };
    let snapshot = core.snapshot.load();
    let top = snapshot.shared.spenders.top(by, window, of, limit.min(MOST));
    let spenders: Vec<Value> = top
        .spenders
        .iter()
        .map(|spender| {
            let mut told = told(&spender.spent);
            told["name"] = spender.name().into();
            if let Some(org) = spender.org() {
                told["org"] = org.into();
            }
            told
        })
        .collect();
    let body = json!({
        "by": by,
        "of": of,
        "window": window,
        "covers_seconds": top.covers.as_secs(),
        "currency": snapshot.prices.currency(),
        "spenders": spenders,
        "total": told(&top.total),
        "error_at_most": told(&top.error),
    });
    json(StatusCode::OK, &body)
}

fn told(&[requests, tokens, cost, limited]: &Sums) -> Value {
    json!({ "requests": requests, "tokens": tokens, "cost": cost as f64 / NANOS as f64, "limited": limited })
}
