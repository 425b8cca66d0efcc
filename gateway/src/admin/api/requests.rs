//! `/admin/requests`: the last requests, and what each met on its way. No content, and no secret: what the log says, and when.

use super::{json, problem};
use crate::core::Core;
use crate::telemetry::{Attempted, Cause, Finished, HedgeOutcome, Stamp, Step, What};
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tidegate_plugins::prices::NANOS;
use tidegate_plugins::usage::Usage;

/// The most that are told at once.
const MOST: usize = 500;

/// What is asked for.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Asked {
    limit: Option<usize>,
    before: Option<u64>,
    status: Option<String>,
    cause: Option<String>,
    route: Option<String>,
    model: Option<String>,
    pool: Option<String>,
    backend: Option<String>,
    org: Option<String>,
    user: Option<String>,
    key: Option<String>,
    trace: Option<String>,
    slower_ms: Option<u64>,
}

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new().route("/admin/requests", get(list)).route("/admin/requests/{id}", get(one))
}

async fn list(State(core): State<Arc<Core>>, asked: Result<Query<Asked>, QueryRejection>) -> Response {
    let Query(asked) = match asked {
        Ok(asked) => asked,
        Err(fault) => {
            let expected = "limit=100, before=NEXT, status=500|5xx, cause=CAUSE|failed, slower_ms=N, and route, model, pool, \
                            backend, org, user, key, trace by name";
            return problem(StatusCode::BAD_REQUEST, &format!("{}; expected {expected}", fault.body_text()));
        }
    };
    if let Some(wrong) = asked.wrong() {
        return problem(StatusCode::BAD_REQUEST, &wrong);
    }
    let page = core.recent.page(asked.before, asked.limit.unwrap_or(100), |one| asked.wants(one));
    let currency = core.snapshot.load().prices.currency().to_owned();
    let requests: Vec<Value> = page.requests.iter().map(|(number, one)| told(*number, one, &currency)).collect();
    let (kept, bytes) = core.recent.size();
    let body = json!({ "requests": requests, "next": page.before, "kept": kept, "bytes": bytes });
    json(StatusCode::OK, &body)
}

async fn one(State(core): State<Arc<Core>>, Path(id): Path<String>) -> Response {
    let Some((number, found)) = core.recent.find(&id) else {
        let bounds = core.snapshot.load().recent;
        let why = match bounds.requests {
            0 => "none are kept: `recent.requests` is 0".to_owned(),
            most => format!("it is not over yet, or not one of the last {most} any more (`recent`)"),
        };
        return problem(StatusCode::NOT_FOUND, &format!("there is no such request: {why}"));
    };
    let currency = core.snapshot.load().prices.currency().to_owned();
    json(StatusCode::OK, &told(number, &found, &currency))
}

impl Asked {
    /// What no request could be found by.
    fn wrong(&self) -> Option<String> {
        let is_status = |text: &str| match text.strip_suffix("xx") {
            Some(class) => matches!(class, "1" | "2" | "3" | "4" | "5"),
            None => text.parse::<u16>().is_ok_and(|status| (100..600).contains(&status)),
        };
        let is_cause = |text: &str| text == "failed" || Cause::ALL.iter().any(|cause| cause.label() == text);
        if self.limit.is_some_and(|limit| !(1..=MOST).contains(&limit)) {
            return Some(format!("`limit` is a number from 1 to {MOST}"));
        }
        if self.status.as_deref().is_some_and(|status| !is_status(status)) {
            return Some("`status` is a number such as 429, or a class such as 5xx".to_owned());
        }
        let causes = || Cause::ALL.map(Cause::label).join(", ");
        let is_unknown = self.cause.as_deref().is_some_and(|cause| !is_cause(cause));
        is_unknown.then(|| format!("`cause` is one of {}, or failed", causes()))
    }

    fn wants(&self, one: &Finished) -> bool {
        let record = &one.record;
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found.is_some_and(|found| found == wanted))
        };
        let cause = match self.cause.as_deref() {
            Some("failed") => record.cause != Cause::None,
            wanted => wanted.is_none_or(|wanted| wanted == record.cause.label()),
        };
        let status = self.status.as_deref().is_none_or(|wanted| match wanted.strip_suffix("xx") {
            Some(class) => class.parse() == Ok(record.status / 100),
            None => wanted.parse() == Ok(record.status),
        });
        let model = [record.model_asked.as_deref(), record.model_served.as_deref()];
        cause
            && status
            && is(&self.route, Some(&*one.route))
            && (self.model.is_none() || model.iter().any(|found| is(&self.model, *found)))
            && is(&self.pool, Some(&*one.pool))
            && is(&self.backend, record.backend.as_deref())
            && is(&self.org, record.org.as_deref())
            && is(&self.user, record.user.as_deref())
            && is(&self.key, record.key_id.as_deref())
            && is(&self.trace, Some(record.trace.trace_id().as_str()))
            && self.slower_ms.is_none_or(|slow| record.duration() >= Duration::from_millis(slow))
    }
}

/// A request as it is shown; what there is nothing to say of is left out.
fn told(number: u64, one: &Finished, currency: &str) -> Value {
    let record = &one.record;
    let mut told = json!({
        "number": number,
        "request_id": record.request_id.as_str(),
        "trace_id": record.trace.trace_id().as_str(),
        "time": moment(one.wall(record.started)),
        "method": record.method.as_str(),
        "path": record.path,
        "endpoint": record.endpoint,
        "route": one.route,
        "model": record.model_asked,
        "model_served": record.model_served,
        "pool": one.pool,
        "backend": record.backend.as_deref(),
        "source": record.source.label(),
        "status": record.status,
        "upstream_status": record.upstream_status,
        "upstream_request_id": record.upstream_request_id,
        "cause": record.cause.label(),
        "error": record.error,
        "stream": record.stream,
        "client": record.client,
        "user": record.user.as_deref(),
        "service": record.service.as_deref(),
        "team": record.team.as_deref(),
        "org": record.org.as_deref(),
        "key_id": record.key_id.as_deref(),
        "attempts": record.attempts,
        "hedge": record.hedge.map(HedgeOutcome::label),
        "duration_ms": millis(record.duration()),
        "ttft_ms": record.time_to_first_token().map(millis),
        "overhead_ms": millis(record.overhead),
        "queue_ms": millis(record.queued),
        "upstream_ms": millis(record.upstream_time),
        "tokens": record.usage.map(|usage| tokens(&usage, record.counted)),
        "cost": (one.cost > 0).then(|| json!({ "amount": one.cost as f64 / NANOS as f64, "currency": currency })),
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
    });
    let retried: Vec<_> = record.retried.iter().map(|cause| cause.label()).collect();
    let resumes: Vec<_> = record.resumes.iter().map(|how| how.label()).collect();
    told["retried"] = none_if_empty(retried.into());
    told["fallback"] = none_if_empty(json!(record.fallback));
    told["resumes"] = none_if_empty(resumes.into());
    if !record.notes.is_empty() {
        let notes = record.notes.iter().map(|(name, text)| ((*name).to_owned(), Value::from(text.as_str())));
        told["notes"] = Value::Object(notes.collect::<Map<_, _>>());
    }
    told["steps"] = steps(one);
    if record.course.left_out() > 0 {
        told["steps_left_out"] = record.course.left_out().into();
    }
    if let Some(told) = told.as_object_mut() {
        told.retain(|_, value| !value.is_null());
    }
    told
}

fn none_if_empty(list: Value) -> Value {
    if list.as_array().is_some_and(Vec::is_empty) { Value::Null } else { list }
}

fn tokens(usage: &Usage, counted: bool) -> Value {
    json!({
        "prompt": usage.prompt,
        "completion": usage.completion,
        "cached": usage.cached_prompt,
        "reasoning": usage.reasoning,
        "estimated": usage.estimated || counted,
    })
}

/// What it met, in the order in which that began: when, after its own beginning, and for how long, in milliseconds.
fn steps(one: &Finished) -> Value {
    let record = &one.record;
    let mut steps: Vec<Value> = record.course.steps().iter().map(|step| shown(one, step)).collect();
    if let Some(first) = record.first_token {
        let since = one.answering().map_or(first, |(_, sent)| sent.min(first));
        let mut token = timed(one, "first_token", since, first);
        token["events"] = record.events.into();
        steps.push(token);
        if record.stream {
            steps.push(timed(one, "stream", first, record.ended));
        }
    }
    steps.into()
}

fn shown(one: &Finished, step: &Step) -> Value {
    let ended = step.ended(one.record.ended);
    match &step.what {
        What::Body => timed(one, "body", step.began, ended),
        What::Filter { name, verdict } => {
            let mut filter = timed(one, "filter", step.began, ended);
            (filter["name"], filter["verdict"]) = ((&**name).into(), verdict.label().into());
            filter
        }
        What::Queue { pool, outcome } => {
            let mut queue = timed(one, "queue", step.began, ended);
            (queue["pool"], queue["outcome"]) = ((&**pool).into(), (*outcome).into());
            queue
        }
        What::Pause => timed(one, "pause", step.began, ended),
        What::Attempt(attempted) => attempt(one, step, attempted),
    }
}

fn attempt(one: &Finished, step: &Step, attempted: &Attempted) -> Value {
    let mut shown = timed(one, "attempt", step.began, step.ended(one.record.ended));
    let outcome = match attempted.missed {
        Some(why) => why,
        None if one.record.cause == Cause::None => "answered",
        None => one.record.cause.label(),
    };
    shown["number"] = attempted.number.into();
    (shown["backend"], shown["pool"]) = ((&*attempted.backend).into(), (&*attempted.pool).into());
    shown["outcome"] = outcome.into();
    for (name, at) in [("sent_ms", attempted.sent), ("head_ms", attempted.head)] {
        if let Some(at) = at {
            shown[name] = millis(one.since_start(at)).into();
        }
    }
    if let Some(status) = attempted.status {
        shown["status"] = status.into();
    }
    shown
}

fn timed(one: &Finished, step: &str, began: Instant, ended: Instant) -> Value {
    let took = ended.saturating_duration_since(began);
    json!({ "step": step, "at_ms": millis(one.since_start(began)), "took_ms": millis(took) })
}

/// Milliseconds with whole microseconds.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// As RFC 3339 has it, in UTC, with milliseconds.
fn moment(at: SystemTime) -> String {
    Stamp::at(at).as_str().to_owned()
}
