//! What the program is asked to do, and the plan that follows from it.

use clap::Parser;
use std::io::{Error, Result};
use std::path::PathBuf;
use std::time::Duration;
use tidegate_bench_load::{DIGITS, End, Plan, Request, Target, Trust, Way, made_up};

/// Load for measurements.
#[derive(Parser)]
#[command(about, version)]
pub(crate) struct Arguments {
    /// What is asked, over HTTP/1.1.
    #[arg(long)]
    pub url: String,
    /// The model that is asked for.
    #[arg(long, default_value = "mock-whole-504")]
    pub model: String,
    /// Bytes of each request's body.
    #[arg(long, default_value_t = 1024)]
    pub body_size: usize,
    /// The body itself, in place of one made up.
    #[arg(long)]
    pub body: Option<PathBuf>,
    /// No two requests have the same body, so that no cache has their answers.
    #[arg(long, conflicts_with = "body")]
    pub distinct: bool,
    /// Sent as `authorization: Bearer KEY`.
    #[arg(long)]
    pub key: Option<String>,
    /// A header to send with each request, such as `cache-control: no-cache`; may be given more than once.
    #[arg(long)]
    pub header: Vec<String>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 32)]
    pub connections: usize,
    /// So many streams at once, in place of whole answers.
    #[arg(long, conflicts_with = "connections")]
    pub streams: Option<usize>,
    /// Open loop: requests a second, whatever becomes of them.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 5.0)]
    pub duration: f64,
    /// Seconds before that, which are not.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Ends after so many requests in place of a time, without a warm-up: for counting instructions.
    #[arg(long)]
    pub requests: Option<u64>,
    /// Seconds over which connections open, so that paced streams are not all due at the same moment.
    #[arg(long, default_value_t = 0.0)]
    pub ramp: f64,
    /// Seconds that an answer may take; without it, as long as it takes.
    #[arg(long)]
    pub timeout: Option<f64>,
    /// The server whose processor time, memory and system calls are told; may be given more than once.
    #[arg(long)]
    pub pid: Vec<u32>,
    /// JSON in place of a table.
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// # Errors
    /// A URL that is none, or a body that cannot be read.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let target = Target::parse(&self.url).map_err(Error::other)?;
        Ok(Plan {
            way: Way::to(&target, Trust::System)?,
            request: self.request(&target)?,
            stream: self.streams.is_some(),
            workers: self.streams.unwrap_or(self.connections).max(1),
            rate: self.rate,
            end: match self.requests {
                Some(requests) => End::Requests(requests),
                None => End::After {
                    warmup: Duration::from_secs_f64(self.warmup),
                    duration: Duration::from_secs_f64(self.duration),
                },
            },
            ramp: Duration::from_secs_f64(self.ramp),
            timeout: self.timeout.map(Duration::from_secs_f64),
            usage: false,
            pids: self.pid.clone(),
        })
    }

    fn request(&self, target: &Target) -> Result<Request> {
        let stream = if self.streams.is_some() { STREAM } else { "" };
        let body = match &self.body {
            Some(file) => std::fs::read(file)?,
            None => {
                let options = format!(",\"temperature\":0.7{stream}");
                made_up::conversation(&self.model, &options, self.body_size).into_bytes()
            }
        };
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}"));
        let host = format!("host: {}", target.authority);
        let headers: Vec<String> = std::iter::once(host)
            .chain(SDK.iter().map(|line| (*line).to_owned()))
            .chain(key)
            .chain(self.header.iter().cloned())
            .collect();
        let number = self.distinct.then(|| body.len().saturating_sub(made_up::END.len() + DIGITS));
        Ok(Request::post(if target.path.is_empty() { "/" } else { &target.path }, &headers, &body, number))
    }
}

const STREAM: &str = ",\"stream\":true,\"stream_options\":{\"include_usage\":true}";

/// What the Python SDK of OpenAI sends with each request, since heads cost too.
const SDK: [&str; 12] = [
    "accept: application/json",
    "content-type: application/json",
    "user-agent: OpenAI/Python 3.52.0",
    "x-stainless-lang: python",
    "x-stainless-package-version: 3.52.0",
    "x-stainless-os: Linux",
    "x-stainless-arch: x64",
    "x-stainless-runtime: CPython",
    "x-stainless-runtime-version: 3.12.8",
    "x-stainless-async: false",
    "x-stainless-retry-count: 0",
    "x-stainless-read-timeout: 600",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn request(more: &[&str]) -> (Request, String, String) {
        let arguments = ["load", "--url", "http://127.0.0.1:9/v1/x", "--body-size", "300", "--header", "x-a: b"];
        let plan = Arguments::parse_from([&arguments, more].concat()).plan().unwrap();
        let text = String::from_utf8(plan.request.bytes.clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (plan.request, head.to_owned(), body.to_owned())
    }

    #[test]
    fn a_request_says_how_long_its_body_is() {
        let (_, head, body) = request(&[]);
        assert!(
            head.starts_with("POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:9\r\n")
                && head.ends_with("\r\nx-a: b\r\ncontent-length: 300")
        );
        assert_eq!(body.len(), 300);
    }

    #[test]
    fn a_number_stands_in_the_text_of_the_last_message() {
        let (mut request, ..) = request(&["--distinct"]);
        let place = request.number.clone().unwrap();
        request.bytes[place].copy_from_slice(b"0000000000000042");
        assert!(request.bytes.ends_with(b"0000000000000042\"}]}"));
    }
}
