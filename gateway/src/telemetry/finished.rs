//! A request that is over, as it is kept and exported: its record, and what belongs to it.

use std::time::{Duration, Instant, SystemTime};

use super::course::What;
use super::record::{Cause, Record};

/// A request that is over.
pub struct Finished {
    /// What became of it.
    pub record: Record,
    /// Its route.
    pub route: Box<str>,
    /// Its pool.
    pub pool: Box<str>,
    /// What it cost, in billionths of the file's currency.
    pub cost: u64,
    /// When it ended, by the clock on the wall.
    ended: SystemTime,
}

impl Finished {
    /// One that has just ended.
    pub fn new(record: Record, route: impl Into<Box<str>>, pool: impl Into<Box<str>>, cost: u64) -> Self {
        Self { record, route: route.into(), pool: pool.into(), cost, ended: SystemTime::now() }
    }

    /// When this was, by the clock on the wall.
    pub fn wall(&self, at: Instant) -> SystemTime {
        let before = self.record.ended.saturating_duration_since(at);
        self.ended.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// How long after its beginning this was.
    pub fn since_start(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.record.started)
    }

    /// Whether the gateway or a backend is to blame.
    pub fn is_failed(&self) -> bool {
        let causes = [Cause::Gateway, Cause::UpstreamError, Cause::UpstreamTimeout, Cause::UpstreamOverload];
        causes.contains(&self.record.cause)
    }

    /// Bytes it holds, about.
    pub fn weight(&self) -> usize {
        let record = &self.record;
        let texts = [
            Some(&*record.path),
            record.model_asked.as_deref(),
            record.model_served.as_deref(),
            record.error.as_deref(),
            record.upstream_request_id.as_deref(),
            Some(&*self.route),
            Some(&*self.pool),
            Some(record.request_id.as_str()),
            record.correlation_id.as_deref(),
        ];
        let texts: usize = texts.iter().flatten().map(|text| text.len()).sum();
        let notes: usize = record.notes.iter().map(|(_, text)| text.len() + size_of::<(&str, String)>()).sum();
        // The names in steps belong to the configuration.
        let steps = size_of_val(record.course.steps());
        size_of::<Self>() + texts + notes + steps
    }

    /// How the last attempt began to give an answer: when it was sent, and its number.
    pub fn answering(&self) -> Option<(u32, Instant)> {
        self.record.course.steps().iter().rev().find_map(|step| match &step.what {
            What::Attempt(attempted) if attempted.missed.is_none() => Some((attempted.number, attempted.sent?)),
            _ => None,
        })
    }
}
