//! What `tracing` and `log` say, as lines like all others: time, level, target, message, then the event's fields.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use serde::ser::{SerializeMap, Serializer};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, Layer};

use super::text::{Clean, CleanJson, Stamp};
use super::{Log, Shared, Style, level_name};

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let data = event.metadata();
        self.0.line(|out| write(out, self.0.style, *data.level(), data.target(), |visitor| event.record(visitor)));
    }
}

/// Which events are wanted: the same answer for `tracing`, for `log` and for the lines of requests.
pub(super) struct Wanted(pub(super) Arc<Shared>);

impl<S> Filter<S> for Wanted {
    fn enabled(&self, data: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.0.wants(data.target(), *data.level())
    }

    fn callsite_enabled(&self, data: &'static Metadata<'static>) -> Interest {
        if self.0.wants(data.target(), *data.level()) { Interest::always() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.loudest())
    }
}

impl log::Log for Log {
    fn enabled(&self, data: &log::Metadata<'_>) -> bool {
        self.0.wants(data.target(), level_of(data.level()))
    }

    fn log(&self, record: &log::Record<'_>) {
        if log::Log::enabled(self, record.metadata()) {
            let level = level_of(record.level());
            self.0.line(|out| {
                write(out, self.0.style, level, record.target(), |visitor| visitor.message(record.args()));
            });
        }
    }

    fn flush(&self) {}
}

fn level_of(level: log::Level) -> Level {
    match level {
        log::Level::Error => Level::ERROR,
        log::Level::Warn => Level::WARN,
        log::Level::Info => Level::INFO,
        log::Level::Debug => Level::DEBUG,
        log::Level::Trace => Level::TRACE,
    }
}

/// The filter of `log`'s macros for a level of `tracing`'s.
pub(super) fn log_filter(level: LevelFilter) -> log::LevelFilter {
    match level.into_level() {
        None => log::LevelFilter::Off,
        Some(Level::ERROR) => log::LevelFilter::Error,
        Some(Level::WARN) => log::LevelFilter::Warn,
        Some(Level::INFO) => log::LevelFilter::Info,
        Some(Level::DEBUG) => log::LevelFilter::Debug,
        Some(Level::TRACE) => log::LevelFilter::Trace,
    }
}

fn write(out: &mut Vec<u8>, style: Style, level: Level, target: &str, fill: impl FnOnce(&mut dyn Fields)) {
    // Writing to memory does not fail, and neither do these values refuse to be serialized.
    match style {
        Style::Json => drop(json(out, level, target, fill)),
        Style::Plain | Style::Coloured => drop(human(out, style, level, target, fill)),
    }
    out.push(b'\n');
}

fn json(out: &mut Vec<u8>, level: Level, target: &str, fill: impl FnOnce(&mut dyn Fields)) -> serde_json::Result<()> {
    let mut serializer = serde_json::Serializer::with_formatter(out, CleanJson);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("time", &Stamp::now())?;
    map.serialize_entry("level", level_name(level))?;
    map.serialize_entry("target", target)?;
    fill(&mut Json(&mut map));
    map.end()
}

fn human(
    out: &mut Vec<u8>,
    style: Style,
    level: Level,
    target: &str,
    fill: impl FnOnce(&mut dyn Fields),
) -> std::io::Result<()> {
    let colour = match level {
        Level::ERROR => "31",
        Level::WARN => "33",
        Level::INFO => "32",
        Level::DEBUG | Level::TRACE => "36",
    };
    let (on, off) = style.paint(colour);
    let (dim, undim) = style.paint("2");
    write!(out, "{dim}{}{undim} {on}{}{off} {dim}{target}{undim}", Stamp::now().clock(), level_name(level))?;
    fill(&mut Human(out));
    Ok(())
}

/// A visitor that `log` records can speak to as well.
trait Fields: Visit {
    fn message(&mut self, message: &dyn fmt::Display);
}

struct Json<'a, M>(&'a mut M);

impl<M: SerializeMap> Json<'_, M> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        // A field must not stand for what the line itself says.
        let name = match field.name() {
            "time" => "field_time",
            "level" => "field_level",
            "target" => "field_target",
            name => name,
        };
        drop(self.0.serialize_entry(name, value));
    }
}

impl<M: SerializeMap> Fields for Json<'_, M> {
    fn message(&mut self, message: &dyn fmt::Display) {
        drop(self.0.serialize_entry("message", &format_args!("{message}")));
    }
}

impl<M: SerializeMap> Visit for Json<'_, M> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.entry(field, &format_args!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.entry(field, &format_args!("{value}"));
    }
}

struct Human<'a>(&'a mut Vec<u8>);

impl Fields for Human<'_> {
    fn message(&mut self, message: &dyn fmt::Display) {
        drop(write!(self.0, " {}", Clean(message)));
    }
}

impl Visit for Human<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format_args!("{value:?}");
        match field.name() {
            "message" => self.message(&value),
            name => drop(write!(self.0, " {name}={}", Clean(value))),
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
