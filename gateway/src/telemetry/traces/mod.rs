//! Spans of requests for a collector, as OTLP over HTTP (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! Nothing is built while a request is under way: what its [`Record`] and its course say at the end is enough. There it is
//! settled whether it is kept, and what is kept goes into a bounded queue; a thread of its own makes spans of it and sends
//! them. A collector that is slow or away costs requests nothing: what does not fit is dropped and counted.

mod content;
mod export;
mod rule;
mod spans;

pub use content::Content;
pub use export::Exporter;
pub use rule::Rule;

use super::finished::Finished;
use super::record::Record;
use std::sync::Arc;

/// A request whose trace is kept.
struct Kept {
    finished: Arc<Finished>,
    /// What was asked and answered, where the file wants that to go along.
    content: Option<Box<Content>>,
}

impl Kept {
    /// Bytes it holds, about.
    fn weight(&self) -> usize {
        self.finished.weight() + self.content.as_ref().map_or(0, |content| content.weight())
    }
}
