//! `/admin/usage`: what was used, by whom, added up over days.

use super::{json, problem};
use crate::core::Core;
use crate::usage::report::{self, Asked, Question};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value, json};
use std::ops::Bound;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// Rows on a page, if the request does not say; and the most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;

/// Between the names in what a page ends with: in none of them.
const BETWEEN: char = '\u{1f}';

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    by: Option<String>,
    since: Option<String>,
    until: Option<String>,
    org: Option<String>,
    team: Option<String>,
    user: Option<String>,
    service: Option<String>,
    key: Option<String>,
    model: Option<String>,
    cause: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route("/admin/usage", get(usage))
}

async fn usage(State(core): State<Arc<Core>>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let bad = |detail: &str| problem(StatusCode::BAD_REQUEST, detail);
    let wanted = match wanted {
        Ok(Query(wanted)) => wanted,
        Err(fault) => return bad(&fault.body_text()),
    };
    let limit = wanted.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return bad(&format!("`limit` is a number from 1 to {LARGEST_PAGE}"));
    }
    let Wanted { by, since, until, org, team, user, service, key, model, cause, after, .. } = wanted;
    let only = [org, team, user, service, key, model, cause];
    let question = match Question::read(Asked { by, since, until, only }) {
        Ok(question) => question,
        Err(fault) => return bad(&fault),
    };
    let Some((storage, place)) = core.storage.clone().zip(core.keeper.as_ref().map(|keeper| keeper.place().clone()))
    else {
        return problem(StatusCode::NOT_FOUND, "there is no `storage` in the file, where usage is kept");
    };
    let asked = question.clone();
    let answer = spawn_blocking(move || storage.read(|connection| place.answer(connection, &asked))).await;
    match answer {
        Ok(Ok(answer)) => {
            let currency = core.snapshot.load().prices.currency().to_owned();
            json(StatusCode::OK, &page(&question, &answer, after.as_deref(), limit, &currency))
        }
        Ok(Err(error)) => {
            let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            answer
        }
        Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "usage could not be added up"),
    }
}

fn page(question: &Question, answer: &report::Answer, after: Option<&str>, limit: usize, currency: &str) -> Value {
    let after = after.map(|after| after.split(BETWEEN).map(str::to_owned).collect::<Vec<_>>());
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rows = answer.range((from, Bound::Unbounded));
    let shown: Vec<_> = rows.by_ref().take(limit).collect();
    let last = shown.last().filter(|_| rows.next().is_some());
    let next = last.map(|(names, _)| names.join(&BETWEEN.to_string()));
    let [since, until] = question.period();
    let rows: Vec<Value> = shown.iter().map(|(names, sums)| report::row_in_json(question, names, sums)).collect();
    json!({
        "by": question.by,
        "since": since,
        "until": until,
        "currency": currency,
        "usage": rows,
        "total": report::in_json(&report::total(answer)),
        "next": next,
    })
}
