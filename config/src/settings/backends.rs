//! How much a backend takes at once, and what is asked of its own metrics.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::units::{self, DurationText};

/// The most requests a backend gets at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxInFlight {
    /// As many as the file says.
    Fixed(u32),
    /// As many as it answers without getting slower: found out while it works.
    Auto,
}

impl Serialize for MaxInFlight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(most) => serializer.serialize_u32(*most),
            Self::Auto => serializer.serialize_str("auto"),
        }
    }
}

impl<'de> Deserialize<'de> for MaxInFlight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MaxInFlightVisitor)
    }
}

struct MaxInFlightVisitor;

impl Visitor<'_> for MaxInFlightVisitor {
    type Value = MaxInFlight;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of requests, or `auto`")
    }

    fn visit_u64<E: Error>(self, most: u64) -> Result<MaxInFlight, E> {
        let most = u32::try_from(most).map_err(|_| E::custom("more requests than anybody takes"))?;
        Ok(MaxInFlight::Fixed(most))
    }

    /// A reference (`${env:MOST}`) is a text until it is replaced.
    fn visit_str<E: Error>(self, text: &str) -> Result<MaxInFlight, E> {
        match text {
            "auto" => Ok(MaxInFlight::Auto),
            _ => text
                .parse()
                .map(MaxInFlight::Fixed)
                .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for MaxInFlight {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "MaxInFlight".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 1 }, { "const": "auto" }] })
    }
}

/// What is read of the backends' own metrics: how many requests each of them has, also from others, how many wait, and
/// how full its KV cache is. vLLM, SGLang and llama.cpp tell these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Signals {
    /// Where the metrics stand, in Prometheus' text format. Asked with the backend's own key.
    pub path: String,
    /// The time between two readings of one backend.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub every: Duration,
    /// How long a reading counts, less and less; then it is as if nothing were known.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub believe: Duration,
}

impl Default for Signals {
    fn default() -> Self {
        Self { path: "/metrics".to_owned(), every: Duration::from_secs(2), believe: Duration::from_secs(10) }
    }
}
