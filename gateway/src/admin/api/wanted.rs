//! The key that a request asks for: read so that all that is wrong with it is told at once.

use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use std::fmt;
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::keys::Key;

/// A JSON object of which no table has a name twice: serde takes the last, and whoever wrote it may mean the first.
pub(super) struct Asked(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Once::deserialize(deserializer)?.0 {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(D::Error::custom("expected an object")),
        }
    }
}

impl Asked {
    /// The key, as far as it can be read. Each member is read by itself, and each item of one, so that none hides what is
    /// wrong with another.
    pub(super) fn read(self, faults: &mut Vec<SettingsError>) -> Key {
        let mut good = Map::new();
        for (name, value) in self.0 {
            let before = faults.len();
            faults.extend(pieces(&value).into_iter().filter_map(|(at, piece)| fault(&name, at, piece)));
            if faults.len() == before {
                good.insert(name, value);
            }
        }
        // One that cannot be read has been told.
        good.entry("id").or_insert_with(|| "unread".into());
        serde_json::from_value(Value::Object(good)).unwrap_or_default()
    }
}

/// The items of a list, each with its place, or of a table; else the value itself.
fn pieces(value: &Value) -> Vec<(usize, Value)> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().map(|(at, item)| (at, json!([item]))).collect()
        }
        Value::Object(members) if !members.is_empty() => {
            members.iter().map(|(name, value)| (0, json!({ name: value }))).collect()
        }
        value => vec![(0, value.clone())],
    }
}

/// What is wrong with a piece of the member `name`, if anything is.
fn fault(name: &str, at: usize, piece: Value) -> Option<SettingsError> {
    let mut alone = Map::from_iter([("id".to_owned(), Value::from("alone"))]);
    alone.insert(name.to_owned(), piece);
    let error = serde_path_to_error::deserialize::<_, Key>(Value::Object(alone)).err()?;
    let path = error.path().to_string().replacen(&format!("{name}[0]"), &format!("{name}[{at}]"), 1);
    Some(SettingsError::at(path, error.inner().to_string()))
}

/// JSON without a name that is twice in one table.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Each).map(Self)
    }
}

struct Each;

impl<'de> Visitor<'de> for Each {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(Once(item)) = list.next_element()? {
            items.push(item);
        }
        Ok(items.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, Once(value))) = table.next_entry::<String, _>()? {
            if members.contains_key(&name) {
                return Err(A::Error::custom(format!("`{name}` is there twice")));
            }
            members.insert(name, value);
        }
        Ok(members.into())
    }
}
