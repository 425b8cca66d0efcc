//! What of a pool is tried again, how often, and how much of that there may be.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Share;
use crate::units::{self, DurationText};

/// What is tried again, how often, and how much of that there may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// Attempts after the first. As many fewer as the client's SDK says that it has made itself
    /// (`x-stainless-retry-count`).
    pub most: u32,
    /// After what: `connect` (no connection, or the request could not be sent whole), a status, `lost` (the connection
    /// broke before the client could get anything: before the first event, or the end of a whole answer), `timeout` (no
    /// head, or no first token, in time), `error_event` (a stream that begins with an error, or a good status with an error
    /// for an answer), `malformed` (an answer that is none). The default has only what proves that the request was not run;
    /// whoever adds others agrees to some requests being run twice.
    pub on: Vec<RetryOn>,
    /// How many retries there may be, as a share of the pool's requests; beyond it a fault is told at once. A retry after
    /// no connection at all is none.
    pub budget: Share,
    /// Retries a second that the budget always has, for pools with little to do.
    pub always: u32,
    /// Other backends are asked at once. One that has been asked before is asked again after a random time up to this,
    /// doubled each time, at most 32 times it.
    #[serde(with = "units::duration")]
    #[schemars(with = "DurationText")]
    pub backoff: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        use RetryOn::{Connect, Status};
        Self {
            most: 2,
            on: vec![Connect, Status(429), Status(503), Status(529)],
            budget: Share::percent(20),
            always: 3,
            backoff: Duration::from_millis(25),
        }
    }
}

/// After what a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection, or the request could not be sent whole.
    Connect,
    /// The connection broke before the client could get anything of the answer.
    Lost,
    /// No head of an answer in time, or no first token.
    Timeout,
    /// A stream that begins with an error, or an answer of a good status that is one.
    ErrorEvent,
    /// What came is no answer.
    Malformed,
    /// This status.
    Status(u16),
}

const CAUSES: [(&str, RetryOn); 5] = [
    ("connect", RetryOn::Connect),
    ("lost", RetryOn::Lost),
    ("timeout", RetryOn::Timeout),
    ("error_event", RetryOn::ErrorEvent),
    ("malformed", RetryOn::Malformed),
];

impl Serialize for RetryOn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self, CAUSES.iter().find(|(_, cause)| cause == self)) {
            (Self::Status(status), _) => serializer.serialize_u16(*status),
            (_, named) => serializer.serialize_str(named.map_or("", |(name, _)| name)),
        }
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RetryOnVisitor)
    }
}

struct RetryOnVisitor;

impl Visitor<'_> for RetryOnVisitor {
    type Value = RetryOn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connect, lost, timeout, error_event, malformed, or a status from 400 to 599")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<RetryOn, E> {
        match u16::try_from(number) {
            Ok(status @ 400..=599) => Ok(RetryOn::Status(status)),
            _ => Err(E::invalid_value(serde::de::Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RetryOn, E> {
        if let Some((_, cause)) = CAUSES.iter().find(|(name, _)| *name == text) {
            return Ok(*cause);
        }
        match text.parse() {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> = CAUSES.iter().map(|(name, _)| *name).collect();
        json_schema!({
            "description": "After what a request is tried again: `connect`, `lost`, `timeout`, `error_event`, `malformed`, or a status.",
            "anyOf": [{ "enum": names }, { "type": "integer", "minimum": 400, "maximum": 599 }],
        })
    }
}

/// `retries`: a number for `most`, or the table.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct RetriesForm(pub(crate) Retries);

impl<'de> Deserialize<'de> for RetriesForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RetriesVisitor)
    }
}

struct RetriesVisitor;

impl<'de> Visitor<'de> for RetriesVisitor {
    type Value = RetriesForm;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number from 0 to 10, or a table such as `{ most: 2, budget: 20% }`")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<RetriesForm, E> {
        let number =
            u64::try_from(number).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(number), &self))?;
        self.visit_u64(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<RetriesForm, E> {
        let most = u32::try_from(number).map_err(|_| E::custom("the number is too large"))?;
        Ok(RetriesForm(Retries { most, ..Retries::default() }))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RetriesForm, E> {
        let number = text.parse().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))?;
        self.visit_u64(number)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RetriesForm, A::Error> {
        Retries::deserialize(MapAccessDeserializer::new(map)).map(RetriesForm)
    }
}

impl JsonSchema for RetriesForm {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RetriesForm".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, generator.subschema_for::<Retries>()] })
    }
}
