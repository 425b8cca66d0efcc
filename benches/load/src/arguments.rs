//! What it is asked to do, and the request that follows from it.

use clap::Parser;
use std::io::{Error, Result};
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

/// Load for measurements.
#[derive(Parser)]
#[command(about, version)]
pub(crate) struct Arguments {
    /// What is asked, over plain HTTP/1.1.
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
    /// The server whose processor time, memory and system calls are told; may be given more than once.
    #[arg(long)]
    pub pid: Vec<u32>,
    /// JSON in place of a table.
    #[arg(long)]
    pub json: bool,
}

/// Where requests go, and their bytes.
pub(crate) struct Target {
    pub address: SocketAddr,
    pub request: Vec<u8>,
    /// Where in the request a number stands that is another each time.
    pub number: Option<Range<usize>>,
}

/// What follows the text of the last message.
const END: &str = "\"}]}";

/// Digits that tell one request from all others.
const DIGITS: usize = 16;

impl Arguments {
    /// Requests that are under way at most.
    pub(crate) fn workers(&self) -> usize {
        self.streams.unwrap_or(self.connections).max(1)
    }

    /// How long is warmed up, and how long is measured.
    pub(crate) fn times(&self) -> (Duration, Option<Duration>) {
        match self.requests {
            Some(_) => (Duration::ZERO, None),
            None => (Duration::from_secs_f64(self.warmup), Some(Duration::from_secs_f64(self.duration))),
        }
    }

    /// # Errors
    /// An URL that is not `http://HOST[:PORT]/PATH`, or a body that cannot be read.
    pub(crate) fn target(&self) -> Result<Target> {
        let wrong = || Error::other(format!("{} is not http://HOST[:PORT]/PATH", self.url));
        let rest = self.url.strip_prefix("http://").ok_or_else(wrong)?;
        let slash = rest.find('/').ok_or_else(wrong)?;
        let (host, path) = rest.split_at(slash);
        let named = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let address = named.to_socket_addrs()?.next().ok_or_else(wrong)?;
        let body = match &self.body {
            Some(file) => std::fs::read(file)?,
            None => body(&self.model, self.streams.is_some(), self.body_size).into_bytes(),
        };
        let key = self.key.as_ref().map(|key| format!("authorization: Bearer {key}\r\n")).unwrap_or_default();
        let headers: String = self.header.iter().map(|header| format!("{header}\r\n")).collect();
        // What the Python SDK of OpenAI sends with each request, since heads cost too.
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\ncontent-type: application/json\r\n\
             user-agent: OpenAI/Python 3.52.0\r\nx-stainless-lang: python\r\nx-stainless-package-version: 3.52.0\r\n\
             x-stainless-os: Linux\r\nx-stainless-arch: x64\r\nx-stainless-runtime: CPython\r\n\
             x-stainless-runtime-version: 3.12.8\r\nx-stainless-async: false\r\nx-stainless-retry-count: 0\r\n\
             x-stainless-read-timeout: 600\r\n{key}{headers}content-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        let end = request.len() - END.len().min(request.len());
        let number = self.distinct.then(|| end - DIGITS..end);
        Ok(Target { address, request, number })
    }
}

/// A conversation of `size` bytes, in messages as long as people's.
fn body(model: &str, stream: bool, size: usize) -> String {
    const TURN: &str = "Could you look at \\\"the report\\\" once more?\\nIt says that the tide turns at noon, and that \
                        the gate should have been open since the morning; which of the two is right? ";
    const MESSAGE: usize = 900;
    let options = if stream { ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" } else { "" };
    let mut body = format!("{{\"model\":\"{model}\",\"temperature\":0.7{options},\"messages\":[");
    let begin = "{\"role\":\"user\",\"content\":\"";
    body += begin;
    let mut message = 0;
    while body.len() + TURN.len() + END.len() + begin.len() + 3 <= size {
        if message > MESSAGE {
            body += "\"},";
            body += begin;
            message = 0;
        } else {
            body += TURN;
            message += TURN.len();
        }
    }
    let left = size.saturating_sub(body.len() + END.len());
    body.extend(std::iter::repeat_n('x', left));
    body + END
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_json_of_the_size_asked_for() {
        for size in [256, 1024, 32 << 10, 1 << 20] {
            for stream in [false, true] {
                let body = body("m", stream, size);
                assert_eq!(body.len(), size);
                let value: serde_json::Value = serde_json::from_str(&body).unwrap();
                assert_eq!(value["model"], "m");
            }
        }
    }

    #[test]
    fn a_request_says_how_long_its_body_is() {
        let (url, header) = ("http://127.0.0.1:9/v1/x", "x-a: b");
        let arguments = Arguments::parse_from(["load", "--url", url, "--body-size", "300", "--header", header]);
        let target = arguments.target().unwrap();
        let request = String::from_utf8(target.request).unwrap();
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:9\r\n")
                && head.ends_with("\r\nx-a: b\r\ncontent-length: 300")
        );
        assert_eq!((body.len(), target.address.port()), (300, 9));
    }
}
