//! When a backend that fails requests is left alone.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText};

/// When a backend is left alone for what it does to requests, each model for itself. Only its own faults count: not a
/// client's mistake (400), nor that it is full (429, 503).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Breaker {
    /// After so many faults in a row; 0: however many.
    pub consecutive: u32,
    /// After this part of the requests within `window` were faults, of 1; 0: whatever part.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub ratio: f64,
    /// The time over which `ratio` is taken.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub window: Duration,
    /// Requests within `window` below which `ratio` says nothing.
    pub requests: u32,
    /// How long it is left alone, before one request is sent to see; after each time that failed twice as long, up to ten
    /// times.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub pause: Duration,
    /// How long one that has come back gets less than its share, more by and by; 0 for its whole share at once.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub slow_start: Duration,
    /// When less than this part of the pool is up and trusted, of 1, all of it is used: the rest would only break as
    /// well. Not where all are down. 0: never.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub panic_below: f64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive: 5,
            ratio: 0.5,
            window: Duration::from_secs(30),
            requests: 20,
            pause: Duration::from_secs(5),
            slow_start: Duration::from_secs(10),
            panic_below: 0.3,
        }
    }
}
