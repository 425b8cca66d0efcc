//! Where requests wait while all backends of a pool are at their `max_in_flight`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::units::{self, DurationText};

/// Where requests wait while all backends of a pool are at their `max_in_flight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// The most that wait; who comes then is refused.
    pub most: usize,
    /// How long one waits at most. A client may ask for less: by `x-tidegate-max-wait` in seconds, or by its SDK's own
    /// timeout.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub max_wait: Duration,
    /// The status of who is refused a place, or waited in vain: 503 or 429.
    pub refuse_with: RefuseWith,
    /// Streams are told their position and about how long it takes, as comments, each time this has passed; the head of
    /// the answer goes out with the first of them. Absent: they are not.
    #[serde(with = "units::optional_duration", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "DurationText")]
    pub tell: Option<Duration>,
    /// The organisations' shares while they wait, by name; all others have 1.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            most: 1000,
            max_wait: Duration::from_secs(30),
            refuse_with: RefuseWith::Unavailable,
            tell: None,
            weights: BTreeMap::new(),
        }
    }
}

/// The status of who cannot wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefuseWith {
    /// 503.
    Unavailable,
    /// 429.
    TooMany,
}

impl RefuseWith {
    /// The status.
    pub fn status(self) -> u16 {
        match self {
            Self::Unavailable => 503,
            Self::TooMany => 429,
        }
    }
}

impl Serialize for RefuseWith {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(self.status())
    }
}

impl<'de> Deserialize<'de> for RefuseWith {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u16::deserialize(deserializer)? {
            503 => Ok(Self::Unavailable),
            429 => Ok(Self::TooMany),
            other => Err(D::Error::custom(format!("{other} is not one of the two: 503 or 429"))),
        }
    }
}

impl JsonSchema for RefuseWith {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RefuseWith".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [503, 429] })
    }
}

/// `off`, or the table.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum QueueForm {
    Off,
    On(Queue),
}

impl<'de> Deserialize<'de> for QueueForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QueueVisitor)
    }
}

struct QueueVisitor;

impl<'de> Visitor<'de> for QueueVisitor {
    type Value = QueueForm;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`off`, or a table such as `{ most: 1000, max_wait: 30s }`")
    }

    /// YAML 1.1 reads `off` as a truth value, and some tools write `false` for it.
    fn visit_bool<E: Error>(self, on: bool) -> Result<QueueForm, E> {
        Ok(if on { QueueForm::On(Queue::default()) } else { QueueForm::Off })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<QueueForm, E> {
        match text {
            "off" => Ok(QueueForm::Off),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<QueueForm, E> {
        Ok(QueueForm::On(Queue::default()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<QueueForm, A::Error> {
        Queue::deserialize(MapAccessDeserializer::new(map)).map(QueueForm::On)
    }
}

impl JsonSchema for QueueForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "QueueForm".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["off", false] }, generator.subschema_for::<Queue>()] })
    }
}
