//! What is kept of what was used.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText};

/// What was used by whom, day by day (UTC): requests, tokens and their cost, for `tidegate usage` and `/admin/usage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    /// How long a day is kept; at least one day.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub keep: Duration,
    /// The most rows of one day: a row is a caller (organisation, team, user, service, key), a model and an outcome. Who
    /// comes after that is added up without user, service and key: no total lacks anything.
    #[schemars(range(min = 1))]
    pub rows: u32,
    /// An existing directory in a file system that is in memory (tmpfs), for what the store has not got yet: up to 32 MiB.
    /// What is there outlives a process that is killed, and is taken over by the next one. Absent: `/dev/shm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<PathBuf>,
}

impl Default for Usage {
    fn default() -> Self {
        Self { keep: Duration::from_secs(400 * 86_400), rows: 100_000, journal: None }
    }
}
