//! The result: JSON for tools, a table for people.

use crate::drive::Measured;
use crate::process::Spent;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

/// What a run came to.
#[derive(Serialize)]
pub struct Report {
    /// Good answers that came whole while it was measured.
    pub requests: u64,
    /// How long that was.
    pub seconds: f64,
    /// The one by the other.
    pub requests_per_second: f64,
    /// Failures by kind, those of the warm-up included.
    pub errors: BTreeMap<&'static str, u64>,
    /// Whole answers by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests under way, or due, when it was over.
    pub unfinished: u64,
    /// Requests that began more than a millisecond after they were due.
    pub late: u64,
    /// Whether somebody ended it before its time.
    pub interrupted: bool,
    /// From when a request was due to the end of a good answer.
    pub latency_us: Quantiles,
    /// The same for answers that were no good ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusals_us: Option<Quantiles>,
    /// Tokens, if the answers said how many they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Tokens>,
    /// What streams came to, if they were streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Streams>,
    /// What the server spent, if it was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
}

/// Tokens that answers said they have.
#[derive(Serialize)]
pub struct Tokens {
    /// In all good answers.
    pub output: u64,
    /// In a second.
    pub output_per_second: f64,
}

/// What a run with streams came to.
#[derive(Serialize)]
pub struct Streams {
    /// Events that carry data.
    pub events: u64,
    /// In a second.
    pub events_per_second: f64,
    /// From when a request was due to the first of them.
    pub first_token_us: Quantiles,
    /// From one to the next.
    pub between_tokens_us: Quantiles,
}

/// What the server spent.
#[derive(Serialize)]
pub struct Server {
    /// Processors' worth of time.
    pub cpus: f64,
    /// On each good answer.
    pub cpu_us_per_request: f64,
    /// On each event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_event: Option<f64>,
    /// All there is to say.
    #[serde(flatten)]
    pub spent: Spent,
}

/// A distribution in microseconds.
#[derive(Serialize)]
#[expect(missing_docs, reason = "its fields are what they are called")]
pub struct Quantiles {
    pub mean: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Quantiles {
    fn new(histogram: &Histogram<u64>) -> Self {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let at = |quantile| us(histogram.value_at_quantile(quantile));
        Self {
            mean: histogram.mean() / 1000.0,
            min: us(histogram.min()),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p999: at(0.999),
            max: us(histogram.max()),
        }
    }
}

impl Report {
    /// The report on what was measured, with streams or without.
    pub fn new(measured: &Measured, stream: bool) -> Self {
        let (samples, seconds) = (&measured.samples, measured.time.as_secs_f64());
        // Whoever is ended before the warm-up is over has measured nothing in no time.
        let per_second = |count: u64| if count == 0 { 0.0 } else { count as f64 / seconds };
        let streams = stream.then(|| Streams {
            events: samples.events,
            events_per_second: per_second(samples.events),
            first_token_us: Quantiles::new(&samples.first_token),
            between_tokens_us: Quantiles::new(&samples.between_tokens),
        });
        let per = |cpu: u64, count: u64| cpu as f64 / 1000.0 / count.max(1) as f64;
        let server = measured.spent.map(|spent| Server {
            cpus: spent.cpu_ns as f64 / 1e9 / seconds,
            cpu_us_per_request: per(spent.cpu_ns, samples.requests),
            cpu_us_per_event: stream.then(|| per(spent.cpu_ns, samples.events)),
            spent,
        });
        let tokens = samples.tokens;
        Self {
            requests: samples.requests,
            seconds,
            requests_per_second: per_second(samples.requests),
            errors: samples.errors.iter().map(|(fault, count)| (fault.name(), *count)).collect(),
            statuses: samples.statuses.clone(),
            unfinished: samples.unfinished,
            late: samples.late,
            interrupted: measured.interrupted,
            latency_us: Quantiles::new(&samples.latency),
            refusals_us: (!samples.refusals.is_empty()).then(|| Quantiles::new(&samples.refusals)),
            tokens: (tokens > 0).then(|| Tokens { output: tokens, output_per_second: per_second(tokens) }),
            streams,
            server,
        }
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let (requests, seconds, rate) = (self.requests, self.seconds, self.requests_per_second);
        let each = if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.2}") };
        writeln!(out, "{requests} requests in {seconds:.2} s: {each} a second")?;
        for (kind, count) in &self.errors {
            writeln!(out, "  {count} failed: {kind}")?;
        }
        if self.statuses.keys().any(|status| !(200..300).contains(status)) {
            let list: Vec<_> = self.statuses.iter().map(|(status, count)| format!("{count} x {status}")).collect();
            writeln!(out, "  statuses: {}", list.join(", "))?;
        }
        if self.late > 0 {
            writeln!(out, "  {} began a millisecond late or more: no connection was free, or no processor", self.late)?;
        }
        if self.unfinished > 0 {
            writeln!(out, "  {} were not over at the end", self.unfinished)?;
        }
        self.table(out)?;
        if let Some(streams) = &self.streams {
            writeln!(out, "{} events: {:.0} a second", streams.events, streams.events_per_second)?;
        }
        if let Some(tokens) = &self.tokens {
            writeln!(out, "{} tokens of output: {:.0} a second", tokens.output, tokens.output_per_second)?;
        }
        self.server.as_ref().map_or(Ok(()), |server| self.spent(out, server))
    }
}

impl Report {
    fn table(&self, out: &mut Formatter<'_>) -> Result {
        write!(out, "{:<16}", "microseconds")?;
        for name in ["mean", "min", "p50", "p90", "p95", "p99", "p99.9", "max"] {
            write!(out, "{name:>12}")?;
        }
        writeln!(out)?;
        row(out, "latency", &self.latency_us)?;
        if let Some(refusals) = &self.refusals_us {
            row(out, "refusals", refusals)?;
        }
        let Some(streams) = &self.streams else { return Ok(()) };
        row(out, "first token", &streams.first_token_us)?;
        row(out, "between tokens", &streams.between_tokens_us)
    }

    fn spent(&self, out: &mut Formatter<'_>, server: &Server) -> Result {
        write!(out, "server: {:.2} CPUs, {:.1} us a request", server.cpus, server.cpu_us_per_request)?;
        if let Some(each) = server.cpu_us_per_event {
            write!(out, ", {each:.2} us an event")?;
        }
        let spent = &server.spent;
        let each = |count: u64| count as f64 / self.requests.max(1) as f64;
        write!(out, "; {} KiB (peak {}); ", spent.rss_kib, spent.peak_rss_kib)?;
        let (calls, waits, interruptions) =
            (each(spent.reads_and_writes), each(spent.waits), each(spent.interruptions));
        writeln!(out, "{calls:.2} reads and writes, {waits:.2} waits, {interruptions:.2} interruptions a request")
    }
}

fn row(out: &mut Formatter<'_>, name: &str, of: &Quantiles) -> Result {
    let Quantiles { mean, min, p50, p90, p95, p99, p999, max } = of;
    write!(out, "{name:<16}")?;
    for value in [mean, min, p50, p90, p95, p99, p999, max] {
        write!(out, "{value:>12.1}")?;
    }
    writeln!(out)
}
