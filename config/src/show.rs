//! How the parts of a [`Config`](crate::Config) are shown that serde would show badly, or should not show at all.

use http::{HeaderName, HeaderValue};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

use crate::meant::{AllowedHeaders, Balance, FilterEntry, Model, Origins, Pool, Target};
use crate::secret::{MASK, is_secret_name, mask_of};

pub(crate) fn models<S: Serializer>(models: &[Model], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(models.iter().map(|model| (model.pattern.to_string(), model)))
}

/// As the file has it: one pool, or a split.
impl Serialize for Model {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.targets[..] {
            [Target { pool, as_model, .. }] => {
                map.serialize_entry("pool", pool)?;
                if let Some(name) = as_model {
                    map.serialize_entry("as", name)?;
                }
            }
            targets => map.serialize_entry("split", targets)?,
        }
        map.serialize_entry("keep_name", &self.keep_name)?;
        if !self.timeouts.is_empty() {
            map.serialize_entry("timeouts", &self.timeouts)?;
        }
        if !self.fallback.is_empty() {
            map.serialize_entry("fallback", &self.fallback)?;
        }
        if let Some(after) = self.overflow_after {
            map.serialize_entry("overflow_after", &crate::units::write_duration(after))?;
        }
        if let Some(hedge) = &self.hedge {
            map.serialize_entry("hedge", hedge)?;
        }
        map.end()
    }
}

pub(crate) fn or_off<T: Serialize, S: Serializer>(table: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
    match table {
        Some(table) => table.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}

/// As the file has it: the name, or a table with the name and the settings.
impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.settings.as_object().is_some_and(serde_json::Map::is_empty) {
            true => serializer.serialize_str(&self.name),
            false => serializer.collect_map([(&self.name, &self.settings)]),
        }
    }
}

pub(crate) fn origins<S: Serializer>(origins: &Origins, serializer: S) -> Result<S::Ok, S::Error> {
    match origins {
        Origins::Any => serializer.collect_seq(["*"]),
        Origins::These(origins) => serializer.collect_seq(origins),
    }
}

pub(crate) fn pools<S: Serializer>(pools: &[Pool], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pools.iter().map(|pool| (&pool.name, pool)))
}

pub(crate) fn filters<S: Serializer>(filters: &[FilterEntry], serializer: S) -> Result<S::Ok, S::Error> {
    let mut list = serializer.serialize_seq(Some(filters.len()))?;
    for filter in filters {
        let mut settings = filter.settings.clone();
        mask(&mut settings, false);
        list.serialize_element(&std::collections::BTreeMap::from([(&filter.name, settings)]))?;
    }
    list.end()
}

pub(crate) fn section<S: Serializer>(section: &Option<Value>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut section = section.clone();
    section.iter_mut().for_each(|section| mask(section, false));
    section.serialize(serializer)
}

pub(crate) fn allowed_headers<S: Serializer>(headers: &AllowedHeaders, serializer: S) -> Result<S::Ok, S::Error> {
    match headers {
        AllowedHeaders::Asked => serializer.collect_seq(["*"]),
        AllowedHeaders::These(names) => serializer.collect_seq(names.iter().map(HeaderName::as_str)),
    }
}

/// Header values as text; those marked sensitive when they were read as `***`.
pub(crate) fn headers<S: Serializer>(headers: &[(HeaderName, HeaderValue)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(headers.len()))?;
    for (name, value) in headers {
        let text = value.to_str().unwrap_or(MASK);
        let shown = if value.is_sensitive() { &mask_of(text) } else { text };
        map.serialize_entry(name.as_str(), shown)?;
    }
    map.end()
}

/// Masks every text and number that stands under a secret's name, also in lists.
fn mask(value: &mut Value, secret: bool) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(name, value)| mask(value, is_secret_name(name))),
        Value::Array(items) => items.iter_mut().for_each(|item| mask(item, secret)),
        Value::String(text) if secret => *text = mask_of(text),
        Value::Number(number) if secret => *value = mask_of(&number.to_string()).into(),
        _ => {}
    }
}
