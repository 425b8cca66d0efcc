//! The result: JSON for tools, a table for people.

use crate::arguments::Arguments;
use crate::drive::Measured;
use crate::process::Spent;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};

/// What a run came to.
#[derive(Serialize)]
pub(crate) struct Report {
    pub requests: u64,
    pub seconds: f64,
    pub requests_per_second: f64,
    pub errors: BTreeMap<&'static str, u64>,
    pub latency_us: Quantiles,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<Streams>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
}

/// What a run with streams came to.
#[derive(Serialize)]
pub(crate) struct Streams {
    pub events: u64,
    pub events_per_second: f64,
    pub first_token_us: Quantiles,
    pub between_tokens_us: Quantiles,
}

/// What the server spent.
#[derive(Serialize)]
pub(crate) struct Server {
    /// Processors' worth of time.
    pub cpus: f64,
    pub cpu_us_per_request: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_event: Option<f64>,
    #[serde(flatten)]
    pub spent: Spent,
}

/// A distribution in microseconds.
#[derive(Serialize)]
pub(crate) struct Quantiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

impl Quantiles {
    fn new(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        let max = histogram.max() as f64 / 1000.0;
        Self { mean: histogram.mean() / 1000.0, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max }
    }
}

impl Report {
    /// The report on what `arguments` asked for.
    pub(crate) fn new(arguments: &Arguments, measured: &Measured) -> Self {
        let (samples, seconds) = (&measured.samples, measured.time.as_secs_f64());
        let streams = arguments.streams.map(|_| Streams {
            events: samples.events,
            events_per_second: samples.events as f64 / seconds,
            first_token_us: Quantiles::new(&samples.first_token),
            between_tokens_us: Quantiles::new(&samples.between_tokens),
        });
        let per = |cpu: u64, count: u64| cpu as f64 / 1000.0 / count.max(1) as f64;
        let server = measured.spent.map(|spent| Server {
            cpus: spent.cpu_ns as f64 / 1e9 / seconds,
            cpu_us_per_request: per(spent.cpu_ns, samples.requests),
            cpu_us_per_event: arguments.streams.map(|_| per(spent.cpu_ns, samples.events)),
            spent,
        });
        Self {
            requests: samples.requests,
            seconds,
            requests_per_second: samples.requests as f64 / seconds,
            errors: samples.errors.clone(),
            latency_us: Quantiles::new(&samples.latency),
            streams,
            server,
        }
    }
}

impl Display for Report {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        let (requests, seconds, rate) = (self.requests, self.seconds, self.requests_per_second);
        writeln!(out, "{requests} requests in {seconds:.2} s: {rate:.0} a second")?;
        for (kind, count) in &self.errors {
            writeln!(out, "  {count} failed: {kind}")?;
        }
        writeln!(
            out,
            "{:<18}{:>12}{:>12}{:>12}{:>12}{:>12}{:>12}",
            "microseconds", "mean", "p50", "p90", "p99", "p99.9", "max"
        )?;
        row(out, "latency", &self.latency_us)?;
        if let Some(streams) = &self.streams {
            row(out, "first token", &streams.first_token_us)?;
            row(out, "between tokens", &streams.between_tokens_us)?;
            writeln!(out, "{} events: {:.0} a second", streams.events, streams.events_per_second)?;
        }
        let Some(server) = &self.server else { return Ok(()) };
        write!(out, "server: {:.2} CPUs, {:.1} us a request", server.cpus, server.cpu_us_per_request)?;
        if let Some(each) = server.cpu_us_per_event {
            write!(out, ", {each:.2} us an event")?;
        }
        let spent = &server.spent;
        let each = |count: u64| count as f64 / self.requests.max(1) as f64;
        writeln!(
            out,
            "; {} KiB (peak {}); {:.2} waits, {:.2} interruptions a request",
            spent.rss_kib,
            spent.peak_rss_kib,
            each(spent.waits),
            each(spent.interruptions)
        )
    }
}

fn row(out: &mut Formatter<'_>, name: &str, of: &Quantiles) -> Result {
    let Quantiles { mean, p50, p90, p99, p999, max } = of;
    writeln!(out, "{name:<18}{mean:>12.1}{p50:>12.1}{p90:>12.1}{p99:>12.1}{p999:>12.1}{max:>12.1}")
}
