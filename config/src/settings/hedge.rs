//! When a second backend is asked because the first is slow.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Visitor};
use serde::{Deserialize, Serialize};

use super::Share;
use crate::units;

/// When a second backend is asked because the first has not sent the first token of a stream, or its whole answer: the
/// first that does is heard, the other is left at once. Both run the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hedge {
    /// After how long: a percentile of what the model has taken so far, `p50` to `p99`, or a duration.
    pub after: After,
    /// The same for whole answers, which take as long as they are. Absent: they are asked for once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub whole: Option<After>,
    /// How many second requests there may be, as a share of those that could have one.
    pub budget: Share,
    /// Whether requests with tools, and those of the Responses API, which backends store, may be run twice.
    pub side_effects: bool,
}

impl Default for Hedge {
    fn default() -> Self {
        Self { after: After::Percentile(95), whole: None, budget: Share::percent(5), side_effects: false }
    }
}

/// When a first token is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Later than this many of a hundred.
    Percentile(u8),
    /// Later than this.
    Time(Duration),
}

impl fmt::Display for After {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percentile(percentile) => write!(f, "p{percentile}"),
            Self::Time(time) => f.write_str(&units::write_duration(*time)),
        }
    }
}

impl Serialize for After {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for After {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AfterVisitor)
    }
}

struct AfterVisitor;

impl Visitor<'_> for AfterVisitor {
    type Value = After;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a percentile from p50 to p99, or a duration such as 500ms")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<After, E> {
        if let Some(percentile) = text.strip_prefix('p').map(str::parse::<u8>) {
            return match percentile {
                Ok(percentile @ 50..=99) => Ok(After::Percentile(percentile)),
                _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
            };
        }
        match units::parse_duration(text).map_err(E::custom)? {
            Duration::ZERO => Err(E::custom("after no time at all every request would be sent twice")),
            time => Ok(After::Time(time)),
        }
    }
}

impl JsonSchema for After {
    fn schema_name() -> Cow<'static, str> {
        "After".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A percentile from `p50` to `p99`, or a duration.",
            "type": "string",
            "pattern": r"^(p[5-9][0-9]|([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+|.*\$\{.*)$",
        })
    }
}

/// How much of a stream is held before its client gets any of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// The head, until the first event.
    #[default]
    Event,
    /// Everything, until the first event with content: a stream that begins with an error is then as good as none.
    Content,
}
