//! One request as a backend received it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::wire::Headers;

/// A request, byte for byte, and when its sender went away.
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    /// The head as it lay on the wire, blank line included; empty over HTTP/2.
    pub(crate) head: Bytes,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    pub(crate) trailers: Headers,
    /// False when the peer left before the body's end.
    pub(crate) complete: bool,
    gone: watch::Sender<Option<Instant>>,
}

impl Seen {
    pub(crate) fn new(first_line: &str, head: Bytes, headers: Headers) -> Self {
        let mut words = first_line.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default().to_owned();
        Self {
            method,
            target,
            head,
            headers,
            body: Bytes::new(),
            trailers: Headers::default(),
            complete: false,
            gone: watch::Sender::new(None),
        }
    }

    pub(crate) fn hash(&self) -> String {
        blake3::hash(&self.body).to_hex().to_string()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn model(&self) -> String {
        self.json()["model"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub(crate) fn is_probe(&self) -> bool {
        self.method == "GET" && (self.target.ends_with("/v1/models") || self.target.ends_with("/health"))
    }

    pub(super) fn mark_gone(&self) {
        self.gone.send_if_modified(|gone| {
            let first = gone.is_none();
            gone.get_or_insert_with(Instant::now);
            first
        });
    }

    /// When the peer closed although its answer was not finished, waiting for that up to 5 s.
    pub(crate) async fn gone(&self) -> Instant {
        let mut gone = self.gone.subscribe();
        let seen = tokio::time::timeout(Duration::from_secs(5), gone.wait_for(Option::is_some)).await;
        seen.expect("the backend should have seen its peer leave within 5 s").unwrap().unwrap()
    }

    /// Whether the peer has closed before its answer was finished.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.borrow().is_some()
    }

    /// Nothing in the head that a strict HTTP/1.1 reader would object to.
    pub(crate) fn assert_clean(&self) {
        let head = String::from_utf8_lossy(&self.head);
        let lines: Vec<&str> = head.trim_end_matches("\r\n").split("\r\n").collect();
        assert_eq!(lines[0].split(' ').count(), 3, "a request line has three words: {head}");
        assert!(lines[0].ends_with(" HTTP/1.1"), "upstream speaks HTTP/1.1: {head}");
        for line in &lines[1..] {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("no colon in {line:?}"));
            let token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
            assert!(token && !name.is_empty(), "not a field name: {line:?}");
            assert!(!value.bytes().any(|byte| byte < 32 && byte != b'\t'), "control byte in {line:?}");
        }
        assert_eq!(self.headers.all("host").len(), 1, "one Host: {head}");
        let framings = self.headers.all("content-length").len() + self.headers.all("transfer-encoding").len();
        assert!(framings <= 1, "one framing: {head}");
    }
}
