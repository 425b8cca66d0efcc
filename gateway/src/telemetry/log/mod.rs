//! One line a request on stdout, and everything `tracing` and `log` say, through one bounded writer thread.
//!
//! Nobody who logs ever waits for the output: a line is appended to a buffer in memory; when that is full, because
//! nobody reads our stdout fast enough, the line is dropped and counted. Whatever is of foreign origin is escaped, so
//! that a line is always one line.

mod events;
mod queue;
mod request;
mod sample;
mod text;

use std::cell::Cell;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};

use super::metrics::IntCounter;
use super::record::Record;
use events::Wanted;
use queue::Queue;
pub(crate) use request::write_millis;
use sample::{Sampled, Sampling};
pub use text::Clean;
pub(crate) use text::{Stamp, write_json_string};
use tidegate_config::Sample;

/// The target of the lines of requests, for `level`: `warn,tidegate::request=info`.
const REQUEST_TARGET: &str = "tidegate::request";
/// What we are built on speaks when something is wrong; its chatter has to be asked for by name.
const QUIET: [&str; 5] = ["pingora", "h2", "hyper", "rustls", "tokio"];
/// How long the end of the process waits for the output to take the last lines.
const FLUSH: Duration = Duration::from_secs(1);
/// Line buffers that grew beyond this are given back.
const KEEP: usize = 64 << 10;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people: coloured on a terminal.
    Human,
}

impl Format {
    /// For people on a terminal, JSON elsewhere.
    pub fn for_stdout() -> Self {
        if std::io::stdout().is_terminal() { Format::Human } else { Format::Json }
    }
}

/// Where requests and events are written. Cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Arc<Queue>,
    levels: ArcSwap<Targets>,
    /// The levels as they were said.
    said: Mutex<String>,
    sample: Sampling,
    left_out: IntCounter,
    /// What of callers' metadata is in the lines of requests.
    metadata: ArcSwap<Vec<String>>,
    style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Json,
    Plain,
    Coloured,
}

/// Writes what is still buffered when it is dropped, waiting a second at most.
#[must_use = "lines are lost when the process ends without flushing"]
pub struct LogGuard(Arc<Queue>);

impl Log {
    /// Starts the writer on stdout and becomes the process's `tracing` subscriber and `log` logger, unless it has some.
    /// `level` is a level, or targets with levels (`info,tidegate=debug`); lines that get lost are counted in `dropped`,
    /// requests that leave none in `left_out`.
    pub fn start(format: Format, level: &str, dropped: IntCounter, left_out: IntCounter) -> (Log, LogGuard) {
        let stdout = std::io::stdout();
        let style = match format {
            Format::Json => Style::Json,
            Format::Human if stdout.is_terminal() => Style::Coloured,
            Format::Human => Style::Plain,
        };
        // Around the standard library's line buffer and lock; without a stdout there is nothing to write to.
        let output: Box<dyn Write + Send> = match stdout.as_fd().try_clone_to_owned() {
            Ok(fd) => Box::new(File::from(fd)),
            Err(_) => Box::new(std::io::sink()),
        };
        let (log, guard) = Self::over(output, style, dropped, left_out);
        let layer = log.clone().with_filter(Wanted(Arc::clone(&log.0)));
        // Whoever embeds the gateway may have a subscriber and a logger already: theirs stay.
        drop(tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer)));
        drop(log::set_boxed_logger(Box::new(log.clone())));
        if let Err(fault) = log.set_level(level) {
            tracing::warn!("{fault}; logging at info");
        }
        (log, guard)
    }

    /// A log whose lines are made and thrown away.
    pub(crate) fn nowhere(dropped: IntCounter, left_out: IntCounter) -> (Log, LogGuard) {
        Self::over(Box::new(std::io::sink()), Style::Json, dropped, left_out)
    }

    fn over(output: Box<dyn Write + Send>, style: Style, dropped: IntCounter, left_out: IntCounter) -> (Log, LogGuard) {
        let queue = Queue::start(output, dropped);
        let levels = ArcSwap::from_pointee(with_quiet(Targets::new().with_default(LevelFilter::INFO)));
        let (said, sample) = (Mutex::new("info".to_owned()), Sampling::default());
        let metadata = ArcSwap::default();
        let shared = Shared { queue: Arc::clone(&queue), levels, said, sample, left_out, metadata, style };
        (Log(Arc::new(shared)), LogGuard(queue))
    }

    /// Writes the line of a request that is over. A gateway fault is an error, a backend's a warning, the rest info.
    pub fn request(&self, record: &Record, route: &str, pool: &str) {
        if !self.0.wants(REQUEST_TARGET, request::level(record.cause)) {
            return;
        }
        match self.0.sample.of(record) {
            Sampled::Out => self.0.left_out.inc(),
            sampled => {
                let names = self.0.metadata.load();
                self.0.line(|out| request::write(out, self.0.style, record, route, pool, &names, sampled));
            }
        }
    }

    /// Which requests leave a line from now on; none: all do.
    pub fn set_sample(&self, sample: Option<&Sample>) {
        self.0.sample.set(sample);
    }

    /// What is logged, as it was said.
    pub fn level(&self) -> String {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what of callers' metadata is in the lines of requests.
    pub fn set_metadata(&self, names: &[String]) {
        self.0.metadata.store(Arc::new(names.to_vec()));
    }

    /// Changes what is logged from now on, or tells what is wrong with `level`.
    pub fn set_level(&self, level: &str) -> Result<(), String> {
        self.set_level_with(level, || {})
    }

    /// The same, and has it told in the log: while the old level holds if the new one does not let that through.
    pub fn set_level_with(&self, level: &str, tell: impl Fn()) -> Result<(), String> {
        let levels = with_quiet(parse(level)?);
        let is_told_after = levels.would_enable(module_path!(), &Level::WARN);
        if !is_told_after {
            tell();
        }
        self.hold(level, levels);
        if is_told_after {
            tell();
        }
        Ok(())
    }

    fn hold(&self, level: &str, levels: Targets) {
        level.clone_into(&mut self.0.said.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.levels.store(Arc::new(levels));
        tracing::callsite::rebuild_interest_cache();
        log::set_max_level(events::log_filter(self.0.loudest()));
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.0.close(FLUSH);
    }
}

impl Shared {
    fn wants(&self, target: &str, level: Level) -> bool {
        self.levels.load().would_enable(target, &level)
    }

    fn loudest(&self) -> LevelFilter {
        let levels = self.levels.load();
        let default = levels.default_level().unwrap_or(LevelFilter::OFF);
        levels.iter().map(|(_, level)| level).fold(default, LevelFilter::max)
    }

    /// Has a line written into this thread's buffer, and hands it over.
    fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        thread_local! {
            static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
        }
        // Taken, not borrowed: writing a value may itself log. And a thread that ends may have no buffer any more.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        write(&mut line);
        self.queue.append(&line);
        line.clear();
        if line.capacity() <= KEEP {
            let _ = LINE.try_with(|slot| slot.set(line));
        }
    }
}

/// A level, or targets with levels. A word alone must be a level: `Targets` would take a misspelt one for a target.
fn parse(text: &str) -> Result<Targets, String> {
    let misspelt = |part: &&str| part.is_empty() || !part.contains('=') && part.parse::<LevelFilter>().is_err();
    // Blanks would become a part of the target.
    let text = text.replace(' ', "");
    if let Some(part) = text.split(',').find(misspelt) {
        return Err(format!("{part:?} is no log level (off, error, warn, info, debug, trace)"));
    }
    let levels: Targets = text.parse().map_err(|fault| format!("{text:?} says no log levels: {fault}"))?;
    let default = levels.default_level().unwrap_or(LevelFilter::INFO);
    Ok(levels.with_default(default))
}

/// Adds a warn level for what we are built on, where `levels` says nothing of it.
fn with_quiet(levels: Targets) -> Targets {
    let default = levels.default_level().unwrap_or(LevelFilter::OFF);
    let named = |target: &str| levels.iter().any(|(name, _)| name.starts_with(target));
    let quiet: Vec<_> = QUIET.into_iter().filter(|target| !named(target)).collect();
    levels.with_targets(quiet.into_iter().map(|target| (target, default.min(LevelFilter::WARN))))
}

impl Style {
    /// What turns a colour on and off again.
    fn paint(self, colour: &'static str) -> (Paint, Paint) {
        match self {
            Style::Coloured => (Paint(colour), Paint("0")),
            Style::Json | Style::Plain => (Paint(""), Paint("")),
        }
    }
}

/// A terminal's colour code, or nothing.
struct Paint(&'static str);

impl std::fmt::Display for Paint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "\x1b[{}m", self.0) }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

#[cfg(test)]
mod tests;
