//! What clients may take of the gateway itself.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shed;
use crate::units::{self, DurationText, SizeText};

/// What one client, or all together, may take of the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest request body; beyond it 413.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub body: usize,
    /// Memory for buffered bodies, all requests together; beyond it 503.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub bodies_in_flight: usize,
    /// The largest request head: request line and headers together; beyond it 431.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub head: usize,
    /// The most headers in a request head.
    pub headers: usize,
    /// How long a client may take to send a whole request head.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub head_timeout: Duration,
    /// How long a client may take to send a whole request body.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub body_timeout: Duration,
    /// The slowest a request body may come, in bytes a second, once `body_grace` has passed; 0 for no minimum.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub body_rate: usize,
    /// How long a body may come slower than `body_rate`.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub body_grace: Duration,
    /// A client that takes no byte of its answer for this long is gone.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub write_timeout: Duration,
    /// How long an idle client connection is kept open for its next request.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub keep_alive: Duration,
    /// The most client connections at once.
    pub connections: usize,
    /// The most requests at once on one HTTP/2 connection.
    pub streams_per_connection: u32,
    /// The most requests at once, open streams included; beyond it 503.
    pub requests: usize,
    /// Who is refused before `requests` or `bodies_in_flight` is reached.
    pub shed: Shed,
    /// The largest single event of a streamed answer.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub event: usize,
    /// The largest answer that is held as a whole, where it must be.
    #[serde(with = "units::size")]
    #[schemars(with = "SizeText")]
    pub answer: usize,
    /// Whether compressed request bodies are taken: `refuse` (415), or `{ unpacked: SIZE }` to take those that unpack
    /// to no more than that.
    pub compressed_bodies: CompressedBodies,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 32 << 20,
            bodies_in_flight: 1 << 30,
            head: 64 << 10,
            headers: 100,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(300),
            body_rate: 1 << 10,
            body_grace: Duration::from_secs(10),
            write_timeout: Duration::from_secs(60),
            keep_alive: Duration::from_secs(60),
            connections: 20_000,
            streams_per_connection: 100,
            requests: 20_000,
            shed: Shed::default(),
            event: 8 << 20,
            answer: 64 << 20,
            compressed_bodies: CompressedBodies::Refuse,
        }
    }
}

/// What becomes of a compressed request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CompressedBodies {
    /// 415.
    Refuse,
    /// Taken, if it unpacks to no more than this.
    Unpacked(
        #[serde(with = "units::size")]
        #[schemars(with = "SizeText")]
        usize,
    ),
}
