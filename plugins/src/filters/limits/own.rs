//! The limits that a tenant or a key lays down for itself: `limits` in the file's `tenants`, and in keys.
//!
//! They are read and opened where the tenant is, and carried by it; the `limits` filter finds them on the caller, and
//! decides over them together with its own. Tenants with the same limit share a ledger, each with a bucket of its own,
//! so that their number is no number of metrics.

use super::limit::{Limit, unpriced};
use super::model_names::any_matches;
use super::scope::Scopes;
use super::settings::{Entry, Reader};
use crate::caller::Caller;
use crate::filter::SettingsError;
use crate::prices::Prices;
use crate::store::{Local, Quota, Store, Subject};
use crate::tenants::{Level, Tenant};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// One entry of `limits`, for whoever it stands with. As written, so that it is shown as it was.
#[derive(Debug, Clone)]
pub struct OwnEntry {
    written: Value,
    entry: Entry,
}

/// What is said by where the entry stands, and so not in it.
const SAID: [&str; 3] = ["per", "name", "anonymous"];

impl<'de> Deserialize<'de> for OwnEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let written = Value::deserialize(deserializer)?;
        if let Some(said) = SAID.iter().find(|said| written.get(**said).is_some()) {
            return Err(D::Error::custom(format!(
                "unknown field `{said}`: whose limit it is follows from where it stands"
            )));
        }
        let mut value = written.clone();
        if let Some(table) = value.as_object_mut() {
            // Put right when it is opened.
            table.insert("per".to_owned(), "key".into());
        }
        let entry = serde_path_to_error::deserialize(value);
        let entry = entry.map_err(|error| D::Error::custom(format!("{}: {}", error.path(), error.inner())))?;
        Ok(Self { written, entry })
    }
}

impl Serialize for OwnEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.written.serialize(serializer)
    }
}

impl JsonSchema for OwnEntry {
    fn schema_name() -> Cow<'static, str> {
        "OwnLimit".into()
    }

    /// That of a limit, without what is said by where it stands.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Entry::json_schema(generator);
        schema.remove("required");
        if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
            SAID.iter().for_each(|said| drop(properties.remove(*said)));
        }
        schema
    }
}

/// Opens own limits, for one version of the configuration.
pub struct OwnLimits {
    store: Arc<dyn Store>,
    prices: Arc<Prices>,
    models: Arc<[Arc<str>]>,
    opened: AtomicBool,
    expected: AtomicBool,
}

impl Default for OwnLimits {
    /// For judging only.
    fn default() -> Self {
        Self::new(Arc::new(Local::default()), Arc::default(), Arc::default())
    }
}

impl fmt::Debug for OwnLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnLimits")
    }
}

impl OwnLimits {
    /// Counts in `store`; `models` are those of the file.
    pub fn new(store: Arc<dyn Store>, prices: Arc<Prices>, models: Arc<[Arc<str>]>) -> Self {
        Self { store, prices, models, opened: AtomicBool::new(false), expected: AtomicBool::new(false) }
    }

    /// Whether any were opened.
    pub fn any(&self) -> bool {
        self.opened.load(Relaxed)
    }

    /// Says that somebody may have some later: a managed key.
    pub fn expect(&self) {
        self.expected.store(true, Relaxed);
    }

    /// Whether there may ever be any.
    pub fn may_be(&self) -> bool {
        self.any() || self.expected.load(Relaxed)
    }

    /// Opens the limits of somebody; what is wrong with them is reported below `path`.
    pub(crate) fn open(&self, level: Level, entries: &[OwnEntry], path: &str, faults: &mut Vec<SettingsError>) -> Own {
        let mut own = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            let path = format!("{path}[{index}]");
            let per = Scopes::from(level);
            let entry = Entry { per, name: Some(format!("tenants.{}", level.setting())), ..entry.entry.clone() };
            if entry.cost.is_some() {
                faults.extend(unpriced(&entry, &path, &self.models, &self.prices));
            }
            for meant in (Reader { entry: &entry, path: &path, prices: &self.prices, faults }).meant() {
                own.push((index, Limit::open(&entry, meant, &*self.store)));
            }
        }
        if !own.is_empty() {
            self.opened.store(true, Relaxed);
        }
        Own(own)
    }
}

/// The limits of one tenant or key, each with the entry that it comes from.
#[derive(Clone, Default)]
pub struct Own(Vec<(usize, Limit)>);

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, limit)| &limit.text)).finish()
    }
}

impl Own {
    /// Where it allows more than another does, who is above: the setting, what it says, and what the other says.
    pub(crate) fn beyond(&self, above: &Self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (index, limit) in &self.0 {
            let same = |(_, other): &&(usize, Limit)| other.kind == limit.kind && !other.shadow && other.covers(limit);
            if let Some((_, other)) = above.0.iter().filter(same).find(|(_, other)| limit.allows_more_than(other)) {
                found.push((format!("[{index}].{}", limit.kind.name()), other.text.clone()));
            }
        }
        found
    }
}

impl Limit {
    /// Whether it is for every model that another is for.
    fn covers(&self, other: &Self) -> bool {
        let covered =
            |model: &String| self.models.contains(model) || any_matches(&self.models, model.trim_end_matches('*'));
        self.models.is_empty() || (!other.models.is_empty() && other.models.iter().all(covered))
    }

    fn allows_more_than(&self, other: &Self) -> bool {
        match (self.ledger.quota(), other.ledger.quota()) {
            (Quota::Rate { unit, burst }, Quota::Rate { unit: above, burst: most }) if self.scale == other.scale => {
                unit < above || burst > most
            }
            (Quota::InFlight { most }, Quota::InFlight { most: above }) => most > above,
            (Quota::Budget { most, period }, Quota::Budget { most: above, period: same }) if period == same => {
                most > above
            }
            _ => false,
        }
    }
}

/// The own limits that a caller comes with, numbered from the top down.
pub(super) fn of(tenants: &[Arc<Tenant>]) -> impl Iterator<Item = (&Tenant, &Limit)> {
    tenants.iter().flat_map(|tenant| of_one(tenant))
}

/// Those of one.
pub(super) fn of_one(tenant: &Tenant) -> impl Iterator<Item = (&Tenant, &Limit)> {
    tenant.limits.0.iter().map(move |(_, limit)| (tenant, limit))
}

/// Whose bucket an own limit takes from: that of this tenant alone, whoever else has its name elsewhere.
pub(super) fn subject(level: Level, caller: Option<&Caller>, name: &mut Vec<u8>) -> Subject {
    name.clear();
    name.push(0xff);
    let org = caller.and_then(|caller| caller.org.as_deref()).unwrap_or_default();
    let of = caller.and_then(|caller| caller.name(level));
    // Keys have names that are theirs alone, in all organisations.
    let org = if level == Level::Key { "" } else { org };
    for text in [org, of.unwrap_or_default()] {
        name.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        name.extend(text.as_bytes());
    }
    name.push(level as u8);
    Subject::of(name)
}
