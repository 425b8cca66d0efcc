//! One line a request on stdout, and everything `tracing` and `log` say, through one bounded writer thread.
//!
//! Nobody who logs ever waits for the output: a line is appended to a buffer in memory; when that is full, because
//! nobody reads our stdout fast enough, the line is dropped and counted.

use std::io::IsTerminal;

use prometheus::IntCounter;

use super::record::Record;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// For people.
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
pub struct Log {}

/// Writes what is still buffered when it is dropped, for a second at most.
#[must_use = "lines are lost when the process ends without flushing"]
pub struct LogGuard {}

impl Log {
    /// Starts the writer and becomes the process's `tracing` subscriber and `log` logger. `level` is a level, or
    /// targets with levels (`info,tidegate=debug`).
    pub fn start(_format: Format, _level: &str, _dropped: IntCounter) -> (Log, LogGuard) {
        (Log {}, LogGuard {})
    }

    /// Writes the line of a request that is over.
    pub fn request(&self, _record: &Record, _route: &str, _pool: &str) {}

    /// Changes what is logged from now on; tells what is wrong with `level`.
    pub fn set_level(&self, _level: &str) -> Result<(), String> {
        Ok(())
    }
}
