//! When files are read again.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText};

/// When files are read again by themselves. SIGHUP and `POST /admin/reload` do it at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reload {
    /// How often the configuration file, and the files it refers to, are looked at for changes. A change counts when it
    /// has stood still until the next look. Absent: they are not.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub watch: Option<Duration>,
    /// How often the certificates of listeners are looked at; a new one is used for the connections that follow.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub certificates: Duration,
}

impl Reload {
    /// Files are not looked at more often than this.
    pub(crate) const OFTENEST: Duration = Duration::from_millis(100);
}

impl Default for Reload {
    fn default() -> Self {
        Self { watch: None, certificates: Duration::from_secs(10) }
    }
}
