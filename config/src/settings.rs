//! Sections whose values mean what they say: the same type is read from the file and handed to the gateway.
//!
//! Only where the file must be resolved (addresses, pools, models, secrets) are there two types, one in `written`
//! and one in `meant`.

mod backends;
mod breaker;
mod fallback;
mod hedge;
mod limits;
mod prices;
mod queue;
mod reload;
mod resume;
mod retries;
mod share;
mod shed;
mod timeouts;
mod traces;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

pub use backends::{MaxInFlight, Signals};
pub use breaker::Breaker;
pub use fallback::FallbackOn;
pub(crate) use fallback::{FallbackStep, usual};
pub use hedge::{After, Hedge, Hold};
pub use limits::{CompressedBodies, Limits};
pub use prices::{Money, Price, Prices};
pub(crate) use queue::QueueForm;
pub use queue::{Queue, RefuseWith};
pub use reload::Reload;
pub use resume::{Resume, ResumeStyle};
pub(crate) use retries::RetriesForm;
pub use retries::{Retries, RetryOn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
pub use share::Share;
pub use shed::{Shed, Urgency};
pub use timeouts::{TimeoutOverrides, Timeouts};
pub use traces::{Recent, Traces};
pub use usage::Usage;

use crate::secret::Secret;
use crate::units::{self, DurationText};

/// What is logged and how: one line a request, on standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How a line looks: `json`, `human`, or `auto`: human on a terminal, JSON elsewhere.
    pub format: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
    /// Which requests leave a line. Absent: all of them do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// What of the caller's `metadata` stands in the line of a request, by name: at most 16.
    #[schemars(length(max = 16))]
    pub metadata: Vec<String>,
}

/// Which requests leave a line in the log: those that failed, those that were slow, and a share of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// How many of the others, chosen evenly; their lines say `"sampled"` with this share of one.
    pub share: Share,
    /// Requests that take this long or longer always leave one.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub slow: Duration,
}

impl Default for Sample {
    fn default() -> Self {
        Self { share: Share::percent(10), slow: Duration::from_secs(10) }
    }
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

/// Where what must outlive the process is kept: managed keys, what has been spent of budgets, what was used by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// The file, relative to the directory of this one; made if it is not there. SQLite's, with two more beside it while
    /// it is in use: on a disk of this machine.
    pub path: PathBuf,
    /// What was used by whom, day by day.
    #[serde(default)]
    pub usage: Usage,
}

/// How keys are kept, wherever they are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keys {
    /// What goes into the hash of every key, so that who gets hold of the hashes cannot even test a guess. Whoever
    /// changes it has to make all keys anew. Absent: nothing.
    pub pepper: Option<Secret>,
    /// How long the old key still works after a managed key was rotated, if whoever rotates it does not say.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub overlap: Duration,
}

impl Default for Keys {
    fn default() -> Self {
        Self { pepper: None, overlap: Duration::from_secs(24 * 3600) }
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

/// What happens on SIGQUIT, and on `tidegate upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Upgrade {
    /// How long the new process may take to be ready. One that is not by then is ended, and the old one goes on.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub ready_within: Duration,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self { ready_within: Duration::from_secs(60) }
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

/// Whether backends are asked what a stream has cost where the client did not ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AskUsage {
    /// Where a limit counts tokens or money.
    #[default]
    Auto,
    /// Always.
    Ask,
    /// Never.
    Off,
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

/// What a probe is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProbeBy {
    /// A request for a path.
    #[default]
    Http,
    /// A connection.
    Tcp,
    /// A chat that asks for one token.
    Generate,
}

/// How a pool finds out which backends can take requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// The time between two probes of one backend.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub every: Duration,
    /// What a probe is: `http` asks for `path`; `tcp` only connects; `generate` asks `model` for one token, which takes a
    /// place and costs what a token costs, and whose answer closes every breaker of the backend.
    pub by: ProbeBy,
    /// The model that `generate` asks, by its name at the backend.
    pub model: Option<String>,
    /// The path that is asked, with the backend's own key. Any answer below 500 is a sign of health, and so is that of a
    /// busy backend (503 with Retry-After).
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
            by: ProbeBy::Http,
            model: None,
            path: "/v1/models".to_owned(),
            timeout: Duration::from_secs(2),
            down_after: 2,
            up_after: 1,
        }
    }
}
