//! A request as spans, in the JSON form of OTLP: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. The
//! names of attributes are those of the GenAI and HTTP conventions where there are some.

use super::Kept;
use crate::telemetry::course::{Attempted, Step, What};
use crate::telemetry::finished::Finished;
use crate::telemetry::ids::SpanId;
use crate::telemetry::metrics::Judged;
use crate::telemetry::record::{Cause, bounded};
use serde_json::{Value, json};
use std::time::{Duration, Instant, UNIX_EPOCH};
use tidegate_config::Traces;

/// Filters, and the reading of a body, that took less than this and only let the request through have no span.
const WORTH_SEEING: Duration = Duration::from_micros(100);

/// The longest text of a note, in bytes.
const LONGEST_NOTE: usize = 256;

/// Steps that are no attempts are numbered from here on.
const OTHERS: u32 = 1 << 16;

// The kinds of spans.
const INTERNAL: u8 = 1;
const SERVER: u8 = 2;
const CLIENT: u8 = 3;

/// What is posted: requests as spans of what the file says we are.
pub(super) fn message(settings: &Traces, requests: &[Kept]) -> Value {
    let mut resource = Attributes::default();
    resource.text("service.name", &settings.service);
    resource.text("service.version", env!("CARGO_PKG_VERSION"));
    settings.resource.iter().for_each(|(name, value)| resource.text(name, value));
    let spans: Vec<Value> = requests.iter().flat_map(spans).collect();
    let scope = json!({ "name": "tidegate", "version": env!("CARGO_PKG_VERSION") });
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource.0 },
        "scopeSpans": [{ "scope": scope, "spans": spans }],
    }]})
}

fn spans(kept: &Kept) -> Vec<Value> {
    let finished = &kept.finished;
    let record = &finished.record;
    let mut all = vec![request(kept)];
    for (at, step) in record.course.steps().iter().enumerate() {
        all.extend(part(finished, step, OTHERS + at as u32));
    }
    all.extend(tokens(finished));
    all
}

/// The span of the whole request.
fn request(kept: &Kept) -> Value {
    let finished = &kept.finished;
    let record = &finished.record;
    let model = record.model_asked.as_deref();
    let name = model.map_or_else(|| record.operation.to_owned(), |model| format!("{} {model}", record.operation));
    let mut attributes = Attributes::default();
    attributes.text("gen_ai.operation.name", record.operation);
    attributes.maybe_text("gen_ai.request.model", model);
    attributes.maybe_text("gen_ai.response.model", record.model_served.as_deref());
    attributes.text("gen_ai.provider.name", &finished.pool);
    if let Some(usage) = record.usage {
        attributes.maybe_number("gen_ai.usage.input_tokens", usage.prompt);
        attributes.maybe_number("gen_ai.usage.output_tokens", usage.completion);
        attributes.maybe_number("gen_ai.usage.cache_read.input_tokens", usage.cached_prompt);
        attributes.maybe_number("gen_ai.usage.reasoning.output_tokens", usage.reasoning);
        attributes.flag("tidegate.usage.estimated", usage.estimated || record.counted);
    }
    attributes.text("http.request.method", record.method.as_str());
    attributes.text("url.path", &record.path);
    attributes.number("http.response.status_code", record.status.into());
    attributes.maybe_text("client.address", record.client.map(|client| client.to_string()).as_deref());
    attributes.maybe_text("error.type", (record.cause != Cause::None).then(|| record.cause.label()));
    ours(&mut attributes, finished);
    if let Some(content) = &kept.content {
        let [request, answer] = content.told();
        attributes.text("tidegate.request.body", &request);
        attributes.text("tidegate.response.body", &answer);
    }
    let mut span = span(finished, SERVER, &name, record.trace.span(), (record.started, record.ended));
    span["parentSpanId"] = json!(record.trace.parent().as_ref().map_or("", SpanId::as_str));
    span["attributes"] = Value::Array(attributes.0);
    if finished.is_failed() {
        span["status"] = json!({ "code": 2, "message": record.error.as_deref().unwrap_or_default() });
    }
    span
}

/// What no convention has a name for.
fn ours(attributes: &mut Attributes, finished: &Finished) {
    let record = &finished.record;
    attributes.text("tidegate.request_id", &record.request_id);
    attributes.text("tidegate.endpoint", record.endpoint);
    attributes.text("tidegate.route", &finished.route);
    attributes.text("tidegate.pool", &finished.pool);
    attributes.text("tidegate.cause", record.cause.label());
    attributes.text("tidegate.source", record.source.label());
    attributes.maybe_text("tidegate.backend", record.backend.as_deref());
    attributes.number("tidegate.attempts", record.attempts.into());
    attributes.flag("tidegate.stream", record.stream);
    attributes.millis("tidegate.overhead_ms", record.overhead);
    attributes.millis("tidegate.queue_ms", record.queued);
    if let Some(time) = record.time_to_first_token() {
        attributes.millis("tidegate.time_to_first_token_ms", time);
    }
    for (name, who) in [
        ("tidegate.user", &record.user),
        ("tidegate.service", &record.service),
        ("tidegate.team", &record.team),
        ("tidegate.org", &record.org),
        ("tidegate.key_id", &record.key_id),
    ] {
        attributes.maybe_text(name, who.as_deref());
    }
    for (name, text) in &record.notes {
        attributes.text(&format!("tidegate.note.{name}"), &bounded(text, LONGEST_NOTE));
    }
}

/// The span of a step, if it is worth one.
fn part(finished: &Finished, step: &Step, number: u32) -> Option<Value> {
    let record = &finished.record;
    let took = step.took(record.ended);
    let mut attributes = Attributes::default();
    let (kind, name, id) = match &step.what {
        What::Body if took >= WORTH_SEEING => (INTERNAL, "body".to_owned(), number),
        What::Filter { name, verdict } if took >= WORTH_SEEING || is_news(*verdict) => {
            attributes.text("tidegate.filter", name);
            attributes.text("tidegate.verdict", verdict.label());
            (INTERNAL, format!("filter {name}"), number)
        }
        What::Body | What::Filter { .. } => return None,
        What::Queue { pool, outcome } => {
            attributes.text("tidegate.pool", pool);
            attributes.text("tidegate.outcome", outcome);
            (INTERNAL, "queue".to_owned(), number)
        }
        What::Pause => (INTERNAL, "pause".to_owned(), number),
        What::Attempt(attempted) => return Some(attempt(finished, step, attempted)),
    };
    let mut span = child(finished, kind, &name, id, (step.began, step.ended(record.ended)));
    span["attributes"] = Value::Array(attributes.0);
    Some(span)
}

fn is_news(verdict: Judged) -> bool {
    matches!(verdict, Judged::Answer | Judged::Fault | Judged::Left)
}

/// The span of a request to a backend: what the backend has as its parent.
fn attempt(finished: &Finished, step: &Step, attempted: &Attempted) -> Value {
    let record = &finished.record;
    let mut attributes = Attributes::default();
    attributes.text("gen_ai.operation.name", record.operation);
    attributes.maybe_text("gen_ai.request.model", record.model_served.as_deref());
    attributes.text("tidegate.backend", &attempted.backend);
    attributes.text("tidegate.pool", &attempted.pool);
    attributes.number("tidegate.attempt", attempted.number.into());
    attributes.maybe_number("http.response.status_code", attempted.status.map(u64::from));
    let went_wrong = attempted.missed.or_else(|| finished.is_failed().then(|| record.cause.label()));
    attributes.maybe_text("error.type", went_wrong);
    let name = format!("attempt {}", attempted.backend);
    let times = (step.began, step.ended(record.ended));
    let mut span = child(finished, CLIENT, &name, attempted.number, times);
    span["attributes"] = Value::Array(attributes.0);
    let marks = [("sent", attempted.sent), ("head", attempted.head)];
    let event =
        |(name, at): (&str, Option<Instant>)| Some(json!({ "name": name, "timeUnixNano": nanos(finished, at?) }));
    span["events"] = marks.into_iter().filter_map(event).collect();
    // One that was let go of because another was faster is no fault of anybody.
    if went_wrong.is_some_and(|why| why != "hedge") {
        span["status"] = json!({ "code": 2 });
    }
    span
}

/// From the request sent to the first token, and from there to the end of a stream; in the attempt that gave them.
fn tokens(finished: &Finished) -> Vec<Value> {
    let record = &finished.record;
    let Some(first) = record.first_token else { return Vec::new() };
    let steps = record.course.steps().len() as u32;
    let answering = finished.answering();
    let parent = answering.map_or(record.trace.span(), |(attempt, _)| record.trace.child(attempt));
    let mut spans = Vec::new();
    let mut add = |name: &str, number: u32, times: (Instant, Instant)| {
        let mut span = child(finished, INTERNAL, name, OTHERS + steps + number, times);
        span["parentSpanId"] = json!(parent.as_str());
        spans.push(span);
    };
    if let Some((_, sent)) = answering.filter(|(_, sent)| *sent <= first) {
        add("first_token", 0, (sent, first));
    }
    if record.stream {
        add("stream", 1, (first, record.ended));
        let mut attributes = Attributes::default();
        attributes.number("tidegate.events", record.events);
        attributes.number("tidegate.resumed", record.resumed());
        if let Some(stream) = spans.last_mut() {
            stream["attributes"] = Value::Array(attributes.0);
        }
    }
    spans
}

fn child(finished: &Finished, kind: u8, name: &str, number: u32, times: (Instant, Instant)) -> Value {
    let trace = &finished.record.trace;
    let mut span = span(finished, kind, name, trace.child(number), times);
    span["parentSpanId"] = json!(trace.span().as_str());
    span
}

fn span(finished: &Finished, kind: u8, name: &str, id: SpanId, (began, ended): (Instant, Instant)) -> Value {
    json!({
        "traceId": finished.record.trace.trace_id().as_str(),
        "spanId": id.as_str(),
        "name": name,
        "kind": kind,
        "startTimeUnixNano": nanos(finished, began),
        "endTimeUnixNano": nanos(finished, ended),
    })
}

/// Nanoseconds since 1970, as text: numbers of this size are no numbers to JavaScript.
fn nanos(finished: &Finished, at: Instant) -> String {
    finished.wall(at).duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// Attributes, in the form that protobuf's JSON has.
#[derive(Default)]
struct Attributes(Vec<Value>);

impl Attributes {
    fn add(&mut self, key: &str, value: Value) {
        self.0.push(json!({ "key": key, "value": value }));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.add(key, json!({ "stringValue": value }));
    }

    fn maybe_text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// 64 bits are text in JSON.
    fn number(&mut self, key: &str, value: u64) {
        self.add(key, json!({ "intValue": value.to_string() }));
    }

    fn maybe_number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.add(key, json!({ "boolValue": value }));
    }

    fn millis(&mut self, key: &str, time: Duration) {
        self.add(key, json!({ "doubleValue": time.as_micros() as f64 / 1000.0 }));
    }
}
