//! Settings that can be written in more than one form: a text or a table, one or a list, a table or `off`.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Listen;
use crate::settings::Health;

/// A short form, or the table that says everything.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum TextOr<T> {
    Text(String),
    Table(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrTable(PhantomData))
    }
}

struct TextOrTable<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrTable<T> {
    type Value = TextOr<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a table")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
        Ok(TextOr::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Table)
    }
}

impl<T: JsonSchema> JsonSchema for TextOr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("TextOr{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<T>()] })
    }
}

/// One or several addresses.
#[derive(Serialize)]
#[serde(transparent)]
pub(crate) struct Listeners(pub(crate) Vec<TextOr<Listen>>);

impl<'de> Deserialize<'de> for Listeners {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListenersVisitor)
    }
}

struct ListenersVisitor;

impl<'de> Visitor<'de> for ListenersVisitor {
    type Value = Listeners;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an address, or a list of addresses")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Listeners, E> {
        Ok(Listeners(vec![TextOr::Text(text.to_owned())]))
    }

    fn visit_u64<E: Error>(self, port: u64) -> Result<Listeners, E> {
        Err(E::custom(format!("a port alone is not an address: write 127.0.0.1:{port} or 0.0.0.0:{port}")))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Listeners, A::Error> {
        let listen = Listen::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Listeners(vec![TextOr::Table(listen)]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Listeners, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Listeners(all))
    }
}

impl JsonSchema for Listeners {
    fn schema_name() -> Cow<'static, str> {
        "Listeners".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<TextOr<Listen>>();
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// Whether and how a pool probes its backends.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum Probes {
    Off,
    On(Health),
}

impl<'de> Deserialize<'de> for Probes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ProbesVisitor)
    }
}

struct ProbesVisitor;

impl<'de> Visitor<'de> for ProbesVisitor {
    type Value = Probes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`off`, or a table such as `{ every: 10s, path: /health }`")
    }

    /// YAML 1.1 reads `off` as a truth value, and some tools write `false` for it.
    fn visit_bool<E: Error>(self, on: bool) -> Result<Probes, E> {
        Ok(if on { Probes::On(Health::default()) } else { Probes::Off })
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Probes, E> {
        match text {
            "off" => Ok(Probes::Off),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Probes, E> {
        Ok(Probes::On(Health::default()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Probes, A::Error> {
        Health::deserialize(MapAccessDeserializer::new(map)).map(Probes::On)
    }
}

impl JsonSchema for Probes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Probes".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "enum": ["off", false] }, generator.subschema_for::<Health>()] })
    }
}
