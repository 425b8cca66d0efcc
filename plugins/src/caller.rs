//! Who sends a request, as an identity filter found out.

use crate::tenants::{Level, Metadata, Tenant};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// Who sends a request. Its names are what filters keep callers apart by.
#[derive(Debug, Default, Clone)]
pub struct Caller {
    /// The name of the credential, never the credential.
    pub key: Option<Arc<str>>,
    /// The user.
    pub user: Option<Arc<str>>,
    /// The service, where no user is behind it.
    pub service: Option<Arc<str>>,
    /// The team.
    pub team: Option<Arc<str>>,
    /// The organisation: the tenant that caches and limits are scoped by.
    pub org: Option<Arc<str>>,
    /// The models it may ask for, `*` as a wildcard at the end; none: all. What its tenants and its key allow together.
    pub models: Option<Vec<Arc<str>>>,
    /// Who is served first when not all can be: the least of what its tenants and its key say.
    pub priority: Priority,
    /// What its tenants and its key are known by elsewhere (a cost centre, a contract); what is said further down counts.
    pub metadata: Arc<Metadata>,
    /// Whose rules hold: from the organisation down to the key.
    pub tenants: Arc<[Arc<Tenant>]>,
}

impl Caller {
    /// Whether this caller may ask for `model`.
    #[must_use]
    pub fn may_use(&self, model: &str) -> bool {
        self.models.as_ref().is_none_or(|allowed| allowed.iter().any(|pattern| matches(pattern, model)))
    }

    /// Whether this feature is on for this caller: as the one furthest down says who says anything.
    #[must_use]
    pub fn has_flag(&self, name: &str) -> bool {
        self.tenants.iter().rev().find_map(|tenant| tenant.flags.get(name).copied()).unwrap_or(false)
    }

    /// What its tenants of this level lay down; the first is the only one.
    #[must_use]
    pub fn tenant(&self, level: Level) -> Option<&Arc<Tenant>> {
        self.tenants.iter().find(|tenant| tenant.level == level)
    }

    /// What the caller is called there, if that is known.
    #[must_use]
    pub fn name(&self, level: Level) -> Option<&str> {
        match level {
            Level::Org => self.org.as_deref(),
            Level::Team => self.team.as_deref(),
            Level::User => self.user.as_deref(),
            Level::Service => self.service.as_deref(),
            Level::Key => self.key.as_deref(),
        }
    }
}

/// Whether a name is meant by a pattern: itself, or the beginning of names with `*` behind it.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// Who is served first when not all can be: from 0, the last, to 9, the first; 5 where nobody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// The last.
    pub const LEAST: Self = Self(0);
    /// The first.
    pub const MOST: Self = Self(9);

    /// From 0 to 9; none beyond.
    #[must_use]
    pub fn new(priority: u8) -> Option<Self> {
        (priority <= Self::MOST.0).then_some(Self(priority))
    }

    /// From 0 to 9.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u64::deserialize(deserializer)?;
        let priority = u8::try_from(number).ok().and_then(Self::new);
        priority.ok_or_else(|| serde::de::Error::custom("a priority is a number from 0, the last, to 9, the first"))
    }
}

impl JsonSchema for Priority {
    fn schema_name() -> Cow<'static, str> {
        "Priority".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": 9 })
    }
}
