//! `tenants` as it is written.

use super::{Flags, Level, Metadata, Tenant};
use crate::caller::Priority;
use crate::filter::SettingsError;
use crate::filters::limits::{OwnEntry, OwnLimits};
use crate::when::When;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// How much metadata one of them may have, and how long its names and texts may be, in bytes.
const MOST_METADATA: usize = 16;
const LONGEST_NAME: usize = 64;
const LONGEST_TEXT: usize = 256;

/// What a tenant or a key lays down, wherever it is written.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub(crate) models: Option<Vec<Arc<str>>>,
    pub(crate) priority: Option<Priority>,
    pub(crate) metadata: Metadata,
    pub(crate) flags: Flags,
    pub(crate) expires: Option<When>,
    pub(crate) disabled: bool,
    pub(crate) limits: Vec<OwnEntry>,
}

impl About {
    /// Whoever lays it down at `path`, with limits that are open.
    pub(crate) fn tenant(
        self,
        level: Level,
        name: &str,
        own: &OwnLimits,
        path: &str,
        faults: &mut Vec<SettingsError>,
    ) -> Tenant {
        let Self { models, priority, metadata, flags, expires, disabled, limits } = self;
        let most = metadata.len() <= MOST_METADATA;
        let fits = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
        let good =
            |(name, text): (&String, &String)| !name.is_empty() && fits(name, LONGEST_NAME) && fits(text, LONGEST_TEXT);
        if !most || !metadata.iter().all(good) {
            let message = format!(
                "at most {MOST_METADATA} texts of {LONGEST_TEXT} bytes, by names of {LONGEST_NAME}, no control characters among them"
            );
            faults.push(SettingsError::at(super::tree::below(path, "metadata"), message));
        }
        let limits = own.open(level, &limits, &super::tree::below(path, "limits"), faults);
        Tenant { level, name: name.into(), models, priority, metadata, flags, expires, disabled, limits }
    }
}

/// A table of settings that lays down what every tenant and key can: one list of those for all of them, since
/// `deny_unknown_fields` and `flatten` do not go together.
macro_rules! laying_down {
    ($(#[$about:meta])* $vis:vis struct $name:ident { $($(#[$doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        $vis struct $name {
            $($(#[$doc])* pub $field: $type,)*
            /// The models it may ask for, `*` at the end as a wildcard. Absent: all that those above it may.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub models: Option<Vec<String>>,
            /// Who is served first when not all can be: from 0, the last, to 9, the first. Absent: as those above it; 5
            /// if nobody says.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub priority: Option<$crate::caller::Priority>,
            /// What it is known by elsewhere (a cost centre, a contract): at most 16 texts of 256 bytes, by names of 64.
            /// They are shown with its keys, and in the log as far as `log.metadata` names them.
            #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
            pub metadata: $crate::tenants::Metadata,
            /// Features that are on (`true`) or off for it, by name: conditions ask for them with `flag("NAME")`.
            #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
            pub flags: $crate::tenants::Flags,
            /// From when on nobody is let in by it: a day (its beginning, UTC) or a moment (RFC 3339).
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub expires: Option<$crate::when::When>,
            /// Nobody is let in by it.
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            pub disabled: bool,
            /// Limits of its own, decided together with those of the filter `limits`, and no more than those above it
            /// have.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub limits: Vec<$crate::filters::limits::OwnEntry>,
        }

        impl $name {
            pub(crate) fn about(&self) -> $crate::tenants::About {
                $crate::tenants::About {
                    models: self.models.as_ref().map(|models| models.iter().map(|model| model.as_str().into()).collect()),
                    priority: self.priority,
                    metadata: self.metadata.clone(),
                    flags: self.flags.clone(),
                    expires: self.expires,
                    disabled: self.disabled,
                    limits: self.limits.clone(),
                }
            }
        }
    };
}
pub(crate) use laying_down;

/// Who may: organisations by name, with their teams, users and services. With this section, whoever has a key is one of
/// them. See [guide-keys.md](guide-keys.md).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Settings(pub(super) Members<Org>);

laying_down! {
    /// An organisation.
    pub struct Org {
        /// Its teams.
        #[serde(default)]
        teams: Members<Team>,
        /// Users that are in no team.
        #[serde(default)]
        users: Members<Member>,
        /// Services that are in no team.
        #[serde(default)]
        services: Members<Member>,
    }
}

laying_down! {
    /// A team.
    pub struct Team {
        /// Its users.
        #[serde(default)]
        users: Members<Member>,
        /// Its services: programs that are nobody's in particular.
        #[serde(default)]
        services: Members<Member>,
    }
}

laying_down! {
    /// A user or a service.
    pub struct Member {}
}

/// Names, or names with what they lay down; `"*"` is anybody else.
#[derive(Debug, Clone)]
pub struct Members<T>(pub(super) BTreeMap<Arc<str>, Option<T>>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names, or a table with a name for each and its settings behind it")
            }

            fn visit_unit<E>(self) -> Result<Members<T>, E> {
                Ok(Members::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Members<T>, A::Error> {
                let members = BTreeMap::<String, Option<T>>::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Members(members.into_iter().map(|(name, member)| (name.into(), member)).collect()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Members<T>, A::Error> {
                let mut members = Members::default();
                while let Some(name) = items.next_element::<String>()? {
                    if members.0.insert(name.as_str().into(), None).is_some() {
                        return Err(serde::de::Error::custom(format!("`{name}` is here twice")));
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Members<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Members_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [
            { "type": "object", "additionalProperties": { "anyOf": [one, { "type": "null" }] } },
            { "type": "array", "items": { "type": "string" } },
        ] })
    }
}
