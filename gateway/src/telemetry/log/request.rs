//! The line of one request: as JSON for machines, or short and coloured for people.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use tidegate_plugins::Source;
use tidegate_plugins::units::write_digits;
use tracing::Level;

use super::sample::Sampled;
use super::text::{Clean, Stamp, write_json_string};
use super::{Style, level_name};
use crate::telemetry::metrics::HedgeOutcome;
use crate::telemetry::record::{Cause, Record, bounded};

/// How loud the line of a request is: its fault, not its status, decides, so that `level: warn` shows what is ours to mend.
pub(super) fn level(cause: Cause) -> Level {
    match cause {
        Cause::Gateway => Level::ERROR,
        Cause::UpstreamError | Cause::UpstreamTimeout | Cause::UpstreamOverload => Level::WARN,
        Cause::None | Cause::Client | Cause::Validation | Cause::Limit | Cause::Auth | Cause::ClientGone => Level::INFO,
    }
}

/// Appends the line of a request to `out`.
pub(super) fn write(
    out: &mut Vec<u8>,
    style: Style,
    record: &Record,
    route: &str,
    pool: &str,
    names: &[String],
    sampled: Sampled,
) {
    match style {
        Style::Json => json(out, record, route, pool, names, sampled),
        // Writing to memory does not fail.
        Style::Plain | Style::Coloured => drop(human(out, style, record, route, pool)),
    }
    out.push(b'\n');
}

/// The keys are ours and need no escaping; that, and digits written by hand, make it a third of what serde takes for it.
fn json(out: &mut Vec<u8>, record: &Record, route: &str, pool: &str, names: &[String], sampled: Sampled) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(Stamp::now().as_str().as_bytes());
    out.push(b'"');
    let mut line = Fields(out);
    line.text("level", level_name(level(record.cause)));
    line.text("event", record.event);
    line.text("request_id", &record.request_id);
    line.maybe_text("correlation_id", record.correlation_id.as_deref());
    line.text("trace_id", record.trace.trace_id().as_str());
    if let Some(client) = record.client {
        line.address("client", client);
    }
    line.text("method", record.method.as_str());
    line.text("path", &record.path);
    line.text("endpoint", record.endpoint);
    line.text("route", route);
    line.maybe_text("model", record.model_asked.as_deref());
    line.maybe_text("model_served", record.model_served.as_deref());
    line.text("pool", pool);
    line.maybe_text("backend", record.backend.as_deref());
    if let Some(served_by) = served_by(record) {
        line.text("served_by", served_by);
    }
    line.number("attempts", record.attempts.into());
    if !record.retried.is_empty() {
        let causes: Vec<_> = record.retried.iter().map(|cause| cause.label()).collect();
        line.text("retried", &causes.join(","));
    }
    if !record.fallback.is_empty() {
        line.text("fallback", &record.fallback.join(","));
    }
    line.maybe_text("hedge", record.hedge.map(HedgeOutcome::label));
    if let Some(last) = record.resumes.last() {
        line.number("resumed", record.resumed());
        line.text("resume", last.label());
    }
    line.number("status", record.status.into());
    line.maybe_number("upstream_status", record.upstream_status.map(u64::from));
    line.maybe_text("upstream_request_id", record.upstream_request_id.as_deref());
    line.text("cause", record.cause.label());
    line.maybe_text("error", record.error.as_deref());
    line.flag("stream", record.stream);
    line.maybe_text("user", record.user.as_deref());
    line.maybe_text("service", record.service.as_deref());
    line.maybe_text("team", record.team.as_deref());
    line.maybe_text("org", record.org.as_deref());
    line.maybe_text("key_id", record.key_id.as_deref());
    if let Some(metadata) = &record.metadata {
        line.object("metadata", names.iter().filter_map(|name| Some((&**name, &**metadata.get(name)?))));
    }
    json_measures(&mut line, record);
    if let Sampled::Share(share) = sampled {
        line.key("sampled");
        // Writing to memory does not fail.
        drop(write!(line.0, "{share}"));
    }
    // In an object of their own, so that no filter can speak for the gateway.
    line.object("notes", record.notes.iter().map(|(name, text)| (*name, &**text)));
    out.push(b'}');
}

/// Who gave a backend's answer, if not a backend.
fn served_by(record: &Record) -> Option<&'static str> {
    matches!(record.source, Source::Cache | Source::Flight | Source::Replay).then(|| record.source.label())
}

fn json_measures(line: &mut Fields<'_>, record: &Record) {
    line.millis("duration_ms", record.duration());
    if let Some(time) = record.time_to_first_token() {
        line.millis("ttft_ms", time);
    }
    line.millis("overhead_ms", record.overhead);
    if !record.queued.is_zero() {
        line.millis("queue_ms", record.queued);
    }
    if let Some(usage) = record.usage {
        line.maybe_number("prompt_tokens", usage.prompt);
        line.maybe_number("completion_tokens", usage.completion);
        line.maybe_number("cached_tokens", usage.cached_prompt);
        line.maybe_number("reasoning_tokens", usage.reasoning);
        if usage.estimated || record.counted {
            line.flag("estimated", true);
        }
    }
    line.number("request_bytes", record.request_bytes);
    line.number("response_bytes", record.response_bytes);
}

/// The longest note, and the longest text of metadata, that is logged, in bytes.
const LONGEST_NOTE: usize = 256;

/// The fields of a JSON object after its first.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn key(&mut self, key: &'static str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// Texts by name, bounded; nothing if there are none.
    fn object<'t>(&mut self, key: &'static str, texts: impl Iterator<Item = (&'t str, &'t str)>) {
        let mut texts = texts.peekable();
        if texts.peek().is_none() {
            return;
        }
        self.key(key);
        let mut separator = b'{';
        for (name, text) in texts {
            self.0.push(separator);
            separator = b',';
            write_json_string(self.0, name);
            self.0.push(b':');
            write_json_string(self.0, bounded(text, LONGEST_NOTE).as_ref());
        }
        self.0.push(b'}');
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        write_json_string(self.0, value);
    }

    fn maybe_text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    fn address(&mut self, key: &'static str, address: IpAddr) {
        self.key(key);
        self.0.push(b'"');
        match address {
            IpAddr::V4(address) => {
                for (at, part) in address.octets().into_iter().enumerate() {
                    if at > 0 {
                        self.0.push(b'.');
                    }
                    write_digits(self.0, part.into(), 1);
                }
            }
            // Writing to memory does not fail.
            IpAddr::V6(address) => drop(write!(self.0, "{address}")),
        }
        self.0.push(b'"');
    }

    fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        write_digits(self.0, value, 1);
    }

    fn maybe_number(&mut self, key: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }

    fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.0.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// Milliseconds with whole microseconds.
    fn millis(&mut self, key: &'static str, time: Duration) {
        self.key(key);
        write_millis(self.0, time);
    }
}

/// Appends milliseconds with whole microseconds.
pub(crate) fn write_millis(out: &mut Vec<u8>, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    write_digits(out, micros / 1000, 1);
    out.push(b'.');
    write_digits(out, micros % 1000, 3);
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
    write!(out, "  {} {dim}>{undim} {}", Clean(route), Clean(pool))?;
    if let Some(backend) = &record.backend {
        write!(out, " {dim}>{undim} {}", Clean(&**backend))?;
    }
    if let Some(served_by) = served_by(record) {
        write!(out, " {dim}>{undim} ({served_by})")?;
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
        write!(out, "  {}", Clean(&**user))?;
    }
    if record.cause != Cause::None {
        write!(out, "  {on}{}{off}", record.cause.label())?;
    }
    if let Some(error) = &record.error {
        write!(out, ": {}", Clean(error))?;
    }
    write!(out, "  {dim}{}{undim}", Clean(&*record.request_id))
}
