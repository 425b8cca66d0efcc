//! Sections whose values mean what they say: the same type is read from the file and handed to the gateway.
//!
//! Only where the file must be resolved (addresses, pools, models, secrets) are there two types, one in `written`
//! and one in `meant`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText, SizeText};

/// What is logged and how: one line a request, on standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks: `json`, `human`, or `auto`: human on a terminal, JSON elsewhere.
    pub format: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Human on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object a line.
    Json,
    /// For eyes.
    Human,
}

/// The least severe lines that are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Faults only.
    Error,
    /// And what may become one.
    Warn,
    /// And one line a request.
    #[default]
    Info,
    /// And what the gateway decides.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The level's name in lower case, as the file and the `TIDEGATE_LOG` variable spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

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

/// How long each part of an exchange with a backend may take. A pool and a model may each override any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To connect to a backend, TLS included.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub connect: Duration,
    /// From the request sent to the head of the answer.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub first_byte: Duration,
    /// From the request sent to the first event of a streamed answer.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub first_token: Duration,
    /// Between two pieces of an answer.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub idle: Duration,
    /// For everything, from the request's arrival to the end of its answer.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(300),
            first_token: Duration::from_secs(300),
            idle: Duration::from_secs(120),
            total: Duration::from_secs(3600),
        }
    }
}

/// The timeouts that a pool or a model sets differently; what is absent stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutOverrides {
    /// To connect to a backend, TLS included.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub connect: Option<Duration>,
    /// From the request sent to the head of the answer.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub first_byte: Option<Duration>,
    /// From the request sent to the first event of a streamed answer.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub first_token: Option<Duration>,
    /// Between two pieces of an answer.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub idle: Option<Duration>,
    /// For everything, from the request's arrival to the end of its answer.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub total: Option<Duration>,
}

impl TimeoutOverrides {
    /// These timeouts laid over `base`.
    #[must_use]
    pub fn resolve(&self, base: &Timeouts) -> Timeouts {
        Timeouts {
            connect: self.connect.unwrap_or(base.connect),
            first_byte: self.first_byte.unwrap_or(base.first_byte),
            first_token: self.first_token.unwrap_or(base.first_token),
            idle: self.idle.unwrap_or(base.idle),
            total: self.total.unwrap_or(base.total),
        }
    }

    /// Whether nothing is overridden.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What happens on SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drain {
    /// How long open requests may still take; the process ends as soon as the last one does.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub time: Duration,
    /// How long new requests are still taken while `/readyz` already says 503, so that load balancers look away first.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub delay: Duration,
}

impl Default for Drain {
    fn default() -> Self {
        Self { time: Duration::from_secs(600), delay: Duration::ZERO }
    }
}

/// What becomes of a `/v1/*` path that the gateway does not know: `refuse` (404), or `{ pool: NAME }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OtherPaths {
    /// 404.
    #[default]
    Refuse,
    /// To this pool, as it came.
    Pool(String),
}

/// How a backend wants its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Auth {
    /// `Authorization: Bearer KEY`.
    #[default]
    #[serde(rename = "bearer")]
    Bearer,
    /// `X-Api-Key: KEY`.
    #[serde(rename = "x-api-key")]
    XApiKey,
}

/// How a pool finds out which backends can take requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// The time between two probes of one backend.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub every: Duration,
    /// The path that is asked, with the backend's own key; any 2xx is healthy, and so is a busy backend (429, 503 with
    /// Retry-After).
    pub path: String,
    /// How long a probe may take.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub timeout: Duration,
    /// After this many failed probes in a row a backend is down.
    pub down_after: u32,
    /// After this many good probes in a row it is up again.
    pub up_after: u32,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(10),
            path: "/v1/models".to_owned(),
            timeout: Duration::from_secs(2),
            down_after: 2,
            up_after: 1,
        }
    }
}
