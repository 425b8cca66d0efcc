//! Which requests leave a trace, where that goes, and what is kept of requests to be looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Share;
use crate::secret::Secret;
use crate::units::{self, DurationText, SizeText};

/// Spans of requests for a collector that speaks OTLP over HTTP. Whether a request is kept is settled at its end: a share of
/// all, what its caller traces, what failed, what was slow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// The collector: `http://HOST:PORT` or `https://...`; without a path `/v1/traces` goes behind it.
    pub endpoint: String,
    /// Headers set on every request to it, such as its key.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// How many requests, chosen by their trace's id, so that all who sample by it choose the same.
    #[serde(default = "all")]
    pub sample: Share,
    /// Whether a request is kept if, and `sample` aside only if, whoever sent it traces it (the flag in `traceparent`).
    #[serde(default = "yes")]
    pub parent: bool,
    /// Whether every request is kept that failed through a fault of the gateway or of a backend.
    #[serde(default = "yes")]
    pub errors: bool,
    /// Requests that take this long or longer are all kept. Absent: they are like others.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub slow: Option<Duration>,
    /// How much of a request's body, and of its answer's, goes with its span; 0 for nothing. That is what people say to
    /// models: keep it off unless the collector may have it.
    #[serde(default, with = "units::size")]
    #[schemars(with = "SizeText")]
    pub content: usize,
    /// What the gateway is called there.
    #[serde(default = "tidegate")]
    pub service: String,
    /// What else is said of the gateway, such as `deployment.environment.name`.
    #[serde(default)]
    pub resource: BTreeMap<String, String>,
    /// The most requests that are sent together.
    #[serde(default = "batch")]
    pub batch: usize,
    /// How long requests wait for others to be sent with.
    #[serde(default = "every", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub every: Duration,
    /// The most requests that wait; what comes while so many do is dropped, and counted.
    #[serde(default = "queue")]
    pub queue: usize,
    /// How long the collector may take to answer.
    #[serde(default = "timeout", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// For how long requests are sent again that the collector has not taken; then they are dropped, and counted.
    #[serde(default = "retry", with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub retry: Duration,
}

impl Traces {
    /// Where spans are sent.
    pub fn url(&self) -> String {
        let trimmed = self.endpoint.trim_end_matches('/');
        match trimmed.split_once("://").is_some_and(|(_, rest)| rest.contains('/')) {
            true => self.endpoint.clone(),
            false => format!("{trimmed}/v1/traces"),
        }
    }
}

fn all() -> Share {
    Share::percent(100)
}

fn yes() -> bool {
    true
}

fn tidegate() -> String {
    "tidegate".to_owned()
}

fn batch() -> usize {
    256
}

fn every() -> Duration {
    Duration::from_secs(2)
}

fn queue() -> usize {
    2048
}

fn timeout() -> Duration {
    Duration::from_secs(10)
}

fn retry() -> Duration {
    Duration::from_secs(60)
}

/// The last requests, kept in memory to be looked at: `GET /admin/requests`, `tidegate explain`. No content, no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Recent {
    /// The most requests; 0 for none.
    pub requests: usize,
    /// The most memory they take.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub size: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self { requests: 1000, size: 4 << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_without_a_path_gets_that_of_the_protocol() {
        let url = |endpoint: &str| {
            let traces: Traces = serde_json::from_value(serde_json::json!({ "endpoint": endpoint })).unwrap();
            traces.url()
        };
        assert_eq!(url("http://127.0.0.1:4318"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(url("http://127.0.0.1:4318/"), "http://127.0.0.1:4318/v1/traces");
        assert_eq!(url("https://otlp.example.com/otlp/v1/traces"), "https://otlp.example.com/otlp/v1/traces");
    }
}
