//! How long an exchange may take: for the whole file, and what pools and models set differently.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText};

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
