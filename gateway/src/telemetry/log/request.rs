//! The line of one request: as JSON for machines, or short and coloured for people.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use tracing::Level;

use super::text::{Clean, Stamp};
use super::{Style, level_name};
use crate::telemetry::record::{Cause, Record};

/// The fields of the JSON line, in order; what is not known is left out.
#[derive(Serialize)]
struct Line<'a> {
    time: Stamp,
    level: &'static str,
    event: &'static str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    trace_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'a str,
    path: &'a str,
    endpoint: &'a str,
    route: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_served: Option<&'a str>,
    pool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
    attempts: u32,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_request_id: Option<&'a str>,
    cause: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    team: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    org: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttft_ms: Option<f64>,
    overhead_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completion_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cached_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_tokens: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    estimated: bool,
    request_bytes: u64,
    response_bytes: u64,
}

/// How loud the line of a request is: its fault, not its status, decides, so that `level: warn` shows what is ours to mend.
pub(super) fn level(cause: Cause) -> Level {
    match cause {
        Cause::Gateway => Level::ERROR,
        Cause::UpstreamError | Cause::UpstreamTimeout | Cause::UpstreamOverload => Level::WARN,
        Cause::None | Cause::Client | Cause::Validation | Cause::Limit | Cause::Auth | Cause::ClientGone => Level::INFO,
    }
}

/// Appends the line of a request to `out`.
pub(super) fn write(out: &mut Vec<u8>, style: Style, record: &Record, route: &str, pool: &str) {
    match style {
        // Writing to memory does not fail, and nothing in the line refuses to be serialized.
        Style::Json => drop(serde_json::to_writer(&mut *out, &line(record, route, pool))),
        Style::Plain | Style::Coloured => drop(human(out, style, record, route, pool)),
    }
    out.push(b'\n');
}

fn line<'a>(record: &'a Record, route: &'a str, pool: &'a str) -> Line<'a> {
    let usage = record.usage.unwrap_or_default();
    Line {
        time: Stamp::now(),
        level: level_name(level(record.cause)),
        event: "request",
        request_id: &record.request_id,
        correlation_id: record.correlation_id.as_deref(),
        trace_id: record.trace.trace_id().to_string(),
        client: record.client,
        method: record.method.as_str(),
        path: &record.path,
        endpoint: record.endpoint,
        route,
        model: record.model_asked.as_deref(),
        model_served: record.model_served.as_deref(),
        pool,
        backend: record.backend.as_deref(),
        attempts: record.attempts,
        status: record.status,
        upstream_status: record.upstream_status,
        upstream_request_id: record.upstream_request_id.as_deref(),
        cause: record.cause.label(),
        error: record.error.as_deref(),
        stream: record.stream,
        user: record.user.as_deref(),
        team: record.team.as_deref(),
        org: record.org.as_deref(),
        key_id: record.key_id.as_deref(),
        duration_ms: millis(record.duration()),
        ttft_ms: record.time_to_first_token().map(millis),
        overhead_ms: millis(record.overhead),
        prompt_tokens: usage.prompt,
        completion_tokens: usage.completion,
        cached_tokens: usage.cached_prompt,
        reasoning_tokens: usage.reasoning,
        estimated: usage.estimated,
        request_bytes: record.request_bytes,
        response_bytes: record.response_bytes,
    }
}

/// Milliseconds with whole microseconds.
fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

fn human(out: &mut Vec<u8>, style: Style, record: &Record, route: &str, pool: &str) -> std::io::Result<()> {
    let colour = match record.status {
        200..=299 => "32",
        400..=499 => "33",
        500..=599 => "31",
        _ => "36",
    };
    let (on, off) = style.paint(colour);
    let (dim, undim) = style.paint("2");
    let now = Stamp::now();
    write!(out, "{dim}{}{undim} {on}{}{off} {} {}", now.clock(), record.status, record.method, Clean(&*record.path))?;
    write!(out, "  {route} {dim}>{undim} {pool}")?;
    if let Some(backend) = &record.backend {
        write!(out, " {dim}>{undim} {backend}")?;
    }
    if record.attempts > 1 {
        write!(out, " (attempt {})", record.attempts)?;
    }
    write!(out, "  {:.1} ms", millis(record.duration()))?;
    if let Some(time) = record.time_to_first_token() {
        write!(out, ", first token {:.1} ms", millis(time))?;
    }
    write!(out, ", ours {:.3} ms", millis(record.overhead))?;
    if let Some(usage) = record.usage {
        let about = if usage.estimated { "~" } else { "" };
        write!(out, ", {about}{}+{} tokens", usage.prompt.unwrap_or(0), usage.completion.unwrap_or(0))?;
    }
    if let Some(user) = record.user.as_ref().or(record.key_id.as_ref()) {
        write!(out, "  {user}")?;
    }
    if record.cause != Cause::None {
        write!(out, "  {on}{}{off}", record.cause.label())?;
    }
    if let Some(error) = &record.error {
        write!(out, ": {}", Clean(error))?;
    }
    write!(out, "  {dim}{}{undim}", Clean(&*record.request_id))
}
