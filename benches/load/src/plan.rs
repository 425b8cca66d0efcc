//! What is to be measured.

use crate::connection::Way;
use std::ops::Range;
use std::time::Duration;

/// A run, before it is run.
pub struct Plan {
    /// Where requests go.
    pub way: Way,
    /// Each request's bytes, head and body.
    pub request: Request,
    /// Whether answers are streams, whose events are timed.
    pub stream: bool,
    /// Requests under way at most, each on a connection of its own.
    pub workers: usize,
    /// Open loop: so many requests a second, whatever becomes of them.
    pub rate: Option<f64>,
    /// When it is over.
    pub end: End,
    /// Over so long a time connections open, so that paced streams are not all due at the same moment.
    pub ramp: Duration,
    /// How long an answer may take.
    pub timeout: Option<Duration>,
    /// Whether the tokens that answers say they have are added up.
    pub usage: bool,
    /// The server's processes, if what they spend is to be told.
    pub pids: Vec<u32>,
}

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// After so many requests, without a warm-up.
    Requests(u64),
    /// After so long.
    After {
        /// Not measured: what has to become warm.
        warmup: Duration,
        /// Measured.
        duration: Duration,
    },
}

/// A request's bytes.
pub struct Request {
    /// Head and body.
    pub bytes: Vec<u8>,
    /// Where in it [`DIGITS`] stand that are others each time, if no two requests may be the same.
    pub number: Option<Range<usize>>,
}

/// Digits that tell one request from all others.
pub const DIGITS: usize = 16;

impl Request {
    /// A `POST` with these lines in its head, each without its end. Where `body` has `number`, counted from its
    /// beginning, each request has its own.
    pub fn post(path: &str, headers: &[String], body: &[u8], number: Option<usize>) -> Self {
        let mut bytes = format!("POST {path} HTTP/1.1\r\n").into_bytes();
        for line in headers {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        let begin = bytes.len();
        bytes.extend_from_slice(body);
        Self { bytes, number: number.map(|at| begin + at..begin + at + DIGITS) }
    }

    /// A `GET` with these lines in its head.
    pub fn get(path: &str, headers: &[String]) -> Self {
        let head: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        Self { bytes: format!("GET {path} HTTP/1.1\r\n{head}\r\n").into_bytes(), number: None }
    }
}
