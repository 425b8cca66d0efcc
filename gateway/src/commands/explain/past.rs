//! What became of a request that is over, and why: the waterfall of `/admin/requests/{id}` for people.

use std::fmt::Write;

use serde_json::Value;
use tidegate::telemetry::Clean;

use super::Rows;
use crate::commands::say::Paint;

/// Columns of the bars.
const WIDTH: usize = 30;

/// The request as a table, its steps with bars, and what they mean.
pub(super) fn human(request: &Value, paint: Paint) -> String {
    let mut rows = Rows { text: String::new(), paint };
    rows.add("request", &head(request, paint));
    rows.add("answer", &answer(request, paint));
    if let Some(error) = request["error"].as_str() {
        rows.add("", &paint.red(Clean(error)));
    }
    let who = [("key", "key_id"), ("user", "user"), ("service", "service"), ("team", "team"), ("org", "org")];
    let who: Vec<_> =
        who.iter().filter_map(|(name, field)| Some(format!("{name} {}", Clean(request[field].as_str()?)))).collect();
    let client = request["client"].as_str().map(|client| format!("from {client}"));
    rows.add("caller", &who.into_iter().chain(client).collect::<Vec<_>>().join(", "));
    rows.add("time", &times(request));
    for (at, line) in waterfall(request).iter().enumerate() {
        rows.add(if at == 0 { "steps" } else { "" }, line);
    }
    for (at, line) in why(request).iter().enumerate() {
        rows.add(if at == 0 { "why" } else { "" }, line);
    }
    for (at, (name, text)) in request["notes"].as_object().into_iter().flatten().enumerate() {
        let text = text.as_str().unwrap_or_default();
        rows.add(if at == 0 { "notes" } else { "" }, &format!("{name}: {}", Clean(text)));
    }
    rows.add("trace", &text(request, "trace_id"));
    for (at, line) in others(request).iter().enumerate() {
        rows.add(if at == 0 { "others" } else { "" }, line);
    }
    rows.text.trim_end().to_owned()
}

/// Requests with the same id: mostly the tries before, and one of those may be what is looked for.
fn others(request: &Value) -> Vec<String> {
    let others = request["others"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |other: &Value| {
        let field = |name: &str| text(other, name);
        let cause = field("cause");
        let cause = if cause == "none" { String::new() } else { format!(" ({cause})") };
        format!("--number {}: {}  {}{cause}  {}", other["number"], field("time"), other["status"], field("path"))
    };
    let mut lines: Vec<String> = others.iter().map(line).collect();
    let more = request["others_in_all"].as_u64().unwrap_or(0).saturating_sub(others.len() as u64);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines
}

fn head(request: &Value, paint: Paint) -> String {
    let model = request["model"].as_str().map(|model| format!(", model {}", Clean(model))).unwrap_or_default();
    let stream = if request["stream"] == true { ", streamed" } else { "" };
    let (id, time) = (text(request, "request_id"), text(request, "time"));
    let (method, path) = (text(request, "method"), text(request, "path"));
    format!("{}  {method} {path}{model}{stream}  {}", paint.bold(id), paint.dim(time))
}

fn answer(request: &Value, paint: Paint) -> String {
    let status = request["status"].to_string();
    let cause = text(request, "cause");
    let status = if cause == "none" { paint.green(status) } else { paint.red(format!("{status} ({cause})")) };
    let from = match (text(request, "source").as_str(), request["backend"].as_str()) {
        ("gateway", _) => "the gateway itself".to_owned(),
        ("backend", Some(backend)) => format!("{} of pool {}", Clean(backend), text(request, "pool")),
        (source, _) => source.to_owned(),
    };
    let tokens = &request["tokens"];
    let tokens = match (tokens["prompt"].as_u64(), tokens["completion"].as_u64()) {
        (None, None) => String::new(),
        (asked, answered) => format!(", {}+{} tokens", asked.unwrap_or(0), answered.unwrap_or(0)),
    };
    let cost = &request["cost"];
    let cost = cost["amount"].as_f64().map(|amount| format!(", {amount} {}", text(cost, "currency")));
    format!("{status} from {from}{tokens}{}", cost.unwrap_or_default())
}

fn times(request: &Value) -> String {
    let mut times = vec![format!("{} ms in all", millis(&request["duration_ms"]))];
    if request["ttft_ms"].is_number() {
        times.push(format!("first token after {}", millis(&request["ttft_ms"])));
    }
    if request["queue_ms"].as_f64().is_some_and(|time| time > 0.0) {
        times.push(format!("{} in the queue", millis(&request["queue_ms"])));
    }
    times.push(format!("{} the gateway's own", millis(&request["overhead_ms"])));
    times.join(", ")
}

/// A line for each step: when, for how long, what, and a bar.
fn waterfall(request: &Value) -> Vec<String> {
    let whole = request["duration_ms"].as_f64().unwrap_or(0.0).max(0.001);
    let steps = request["steps"].as_array().into_iter().flatten();
    let bar = |step: &Value| {
        let (at, took) = (step["at_ms"].as_f64().unwrap_or(0.0), step["took_ms"].as_f64().unwrap_or(0.0));
        let columns = |time: f64| (time / whole * WIDTH as f64).max(0.0);
        let from = (columns(at).floor() as usize).min(WIDTH - 1);
        let to = (columns(at + took).ceil() as usize).clamp(from + 1, WIDTH);
        format!("{}{}{}", " ".repeat(from), "=".repeat(to - from), " ".repeat(WIDTH - to))
    };
    let line = |step: &Value| {
        let (at, took) = (millis(&step["at_ms"]), millis(&step["took_ms"]));
        format!("{at:>12} {took:>12}  |{}|  {}", bar(step), what(step))
    };
    let mut lines = vec![format!("{:>12} {:>12}", "at, ms", "took, ms")];
    lines.extend(steps.map(line));
    if let Some(more) = request["steps_left_out"].as_u64() {
        lines.push(format!("{more} more"));
    }
    lines
}

fn what(step: &Value) -> String {
    let field = |name: &str| text(step, name);
    match step["step"].as_str().unwrap_or_default() {
        "filter" => format!("filter {}: {}", field("name"), field("verdict")),
        "queue" => format!("queue of {}: {}", field("pool"), field("outcome")),
        "attempt" => {
            let status = step["status"].as_u64().map(|status| format!(" {status}")).unwrap_or_default();
            format!("attempt {} at {}: {}{status}", step["number"], field("backend"), field("outcome"))
        }
        "first_token" => "waiting for the first token".to_owned(),
        other => other.to_owned(),
    }
}

/// What the steps mean, in sentences.
fn why(request: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let steps = || request["steps"].as_array().into_iter().flatten();
    for step in steps() {
        let (name, pool) = (text(step, "name"), text(step, "pool"));
        match (step["step"].as_str().unwrap_or_default(), step["verdict"].as_str()) {
            ("filter", Some("answer")) => {
                lines.push(format!("filter {name} gave the answer; nothing below it was asked"))
            }
            ("filter", Some("fault")) => lines.push(format!("filter {name} failed: a fault of its own")),
            ("filter", Some("left")) => {
                lines.push(format!("while filter {name} judged, the client left or its time ended"))
            }
            ("queue", _) => lines.push(waited(step, &pool)),
            ("attempt", _) => lines.extend(attempted(step)),
            _ => {}
        }
    }
    for (field, told) in [
        ("retried", "another attempt was made after"),
        ("fallback", "it went on to a fallback because of"),
        ("resumes", "its stream broke, and going on with it ended in"),
    ] {
        let names: Vec<_> = request[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !names.is_empty() {
            lines.push(format!("{told}: {}", names.join(", ")));
        }
    }
    if let Some(how) = request["hedge"].as_str() {
        lines.push(format!("the first backend was slow, so a second was asked as well: it {how}"));
    }
    if text(request, "source") != "backend" && steps().all(|step| step["step"] != "attempt") {
        lines.push("no backend was asked".to_owned());
    }
    lines.push(blame(&text(request, "cause")).to_owned());
    lines
}

fn waited(step: &Value, pool: &str) -> String {
    let took = millis(&step["took_ms"]);
    match step["outcome"].as_str().unwrap_or_default() {
        "served" => format!("all backends of {pool} were full: it waited {took} ms for its turn"),
        "full" => format!("as many requests as may wait for {pool} did: it was not let in, or made room for another"),
        "hopeless" => format!("the queue of {pool} would have taken longer than it can wait"),
        "expired" => format!("it waited {took} ms for {pool}, which is as long as it may"),
        _ => format!("it waited {took} ms for {pool} in vain"),
    }
}

fn attempted(step: &Value) -> Option<String> {
    let backend = text(step, "backend");
    let what = match step["outcome"].as_str().unwrap_or_default() {
        "connect" => "could not be reached, or did not take the request whole",
        "lost" => "broke off before a byte of its answer",
        "timeout" => "took too long to begin its answer",
        "malformed" => "gave what is no answer",
        "error_event" => "began its stream with an error",
        "rate_limited" | "overloaded" | "status" => return Some(format!("{backend} answered {}", step["status"])),
        "hedge" => "was let go of because another was faster",
        "broken" => "broke off in the middle of its stream",
        _ => return None,
    };
    Some(format!("{backend} {what}"))
}

/// Whose fault it was.
fn blame(cause: &str) -> &'static str {
    match cause {
        "none" => "it went well",
        "client" => "the client's fault, as the backend says",
        "validation" => "the client's fault: what it sent",
        "limit" => "the client's fault: how much it asks for",
        "auth" => "the client's fault: who it is, or what it may have",
        "gateway" => "the gateway's own fault",
        "upstream_error" => "the backend's fault",
        "upstream_timeout" => "the backend's fault: it took too long",
        "upstream_overload" => "the backend's fault: it has no room",
        "client_gone" => "the client left before the end",
        _ => "nobody knows whose fault it was",
    }
}

/// A text of the request, safe on a terminal.
fn text(value: &Value, field: &str) -> String {
    let mut safe = String::new();
    // Writing to memory does not fail.
    let _ = write!(safe, "{}", Clean(value[field].as_str().unwrap_or_default()));
    safe
}

fn millis(value: &Value) -> String {
    format!("{:.3}", value.as_f64().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_is_told_with_its_steps_and_why() {
        let request = json!({
            "request_id": "r1", "trace_id": "4bf9", "time": "2026-11-21T18:00:00.000Z", "method": "POST",
            "path": "/v1/chat/completions", "model": "m\u{1b}[31m", "pool": "main", "backend": "good",
            "source": "backend", "status": 200, "cause": "none", "stream": true, "duration_ms": 30.0, "ttft_ms": 20.0,
            "overhead_ms": 0.25, "queue_ms": 0.0, "tokens": { "prompt": 7, "completion": 2 }, "retried": ["overloaded"],
            "user": "ann", "org": "acme",
            "steps": [
                { "step": "filter", "name": "api_key", "verdict": "continue", "at_ms": 0.1, "took_ms": 0.005 },
                { "step": "attempt", "number": 1, "backend": "full", "pool": "main", "status": 503, "outcome": "overloaded",
                  "at_ms": 0.2, "took_ms": 9.8 },
                { "step": "attempt", "number": 2, "backend": "good", "pool": "main", "status": 200,
                  "outcome": "answered", "at_ms": 10.0, "took_ms": 20.0 },
            ],
        });
        let told = human(&request, Paint::none());
        for line in [
            "request   r1  POST /v1/chat/completions, model m\\u{1b}[31m, streamed  2026-11-21T18:00:00.000Z",
            "answer    200 from good of pool main, 7+2 tokens",
            "caller    user ann, org acme",
            "time      30.000 ms in all, first token after 20.000, 0.250 the gateway's own",
            "       0.200        9.800  |==========                    |  attempt 1 at full: overloaded 503",
            "      10.000       20.000  |          ====================|  attempt 2 at good: answered 200",
            "why       full answered 503",
            "another attempt was made after: overloaded",
        ] {
            assert!(told.contains(line), "{line}\n{told}");
        }
    }
}
