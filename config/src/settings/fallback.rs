//! Who answers when those who should cannot.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText};

/// Who answers when those before cannot: a pool, or a model of this file with its own pools and fallbacks.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FallbackStep {
    /// The pool that answers.
    pub(crate) pool: Option<String>,
    /// The model's name in that pool. Absent: the name the client asked for.
    #[serde(rename = "as")]
    pub(crate) as_model: Option<String>,
    /// Instead of a pool: a model of this file, if the caller may use it.
    pub(crate) model: Option<String>,
    /// After what.
    #[serde(default = "usual")]
    pub(crate) on: Vec<FallbackOn>,
    /// How long it may take to begin its answer. Absent: as its pool says.
    #[serde(default, with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub(crate) timeout: Option<Duration>,
}

pub(crate) fn usual() -> Vec<FallbackOn> {
    vec![FallbackOn::Unavailable, FallbackOn::Overloaded, FallbackOn::RateLimited]
}

/// Why those before cannot answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FallbackOn {
    /// No backend is up, or none could be connected to.
    Unavailable,
    /// All are full and the queue is, too, or is too slow; or one answered 503 or 529.
    Overloaded,
    /// 429, or all have said when to come back.
    RateLimited,
    /// The prompt is longer than the model's context.
    ContextTooLong,
    /// No answer began in time. The request may have been run.
    Timeout,
    /// Any other 5xx, a connection that broke, or no answer that can be read. The request may have been run.
    Error,
}

impl FallbackOn {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unavailable, Self::Overloaded, Self::RateLimited, Self::ContextTooLong, Self::Timeout, Self::Error];

    /// As the file spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::ContextTooLong => "context_too_long",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}
