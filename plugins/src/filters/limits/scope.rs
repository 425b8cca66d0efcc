//! Whose bucket a request takes from.

use crate::exchange::Exchange;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scope {
    /// The credential.
    Key,
    /// The user.
    User,
    /// The service, where a key belongs to one.
    Service,
    /// The user's team.
    Team,
    /// The organisation.
    Org,
    /// The client's address; of an IPv6 address its /64.
    Ip,
    /// The model, as the file's `models` name it: a wildcard is one model.
    Model,
    /// The entry of the file that answers: one of `models`, or `other_paths`. Every request has one.
    Route,
    /// Nothing: all share one bucket.
    Global,
}

impl Scope {
    fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::User => "user",
            Self::Service => "service",
            Self::Team => "team",
            Self::Org => "org",
            Self::Ip => "ip",
            Self::Model => "model",
            Self::Route => "route",
            Self::Global => "global",
        }
    }

    /// Writes who that is for this request; false if there is nobody.
    fn write(self, exchange: &Exchange, model: Option<&str>, name: &mut Vec<u8>) -> bool {
        let caller = exchange.caller();
        let text: Option<&str> = match self {
            Self::Key => caller.and_then(|caller| caller.key.as_deref()),
            Self::User => caller.and_then(|caller| caller.user.as_deref()),
            Self::Service => caller.and_then(|caller| caller.service.as_deref()),
            Self::Team => caller.and_then(|caller| caller.team.as_deref()),
            Self::Org => caller.and_then(|caller| caller.org.as_deref()),
            Self::Model => model,
            Self::Route => Some(model.unwrap_or("other_paths")),
            Self::Global => Some(""),
            Self::Ip => {
                match exchange.client().map(|address| address.to_canonical()) {
                    Some(IpAddr::V4(address)) => name.extend(address.octets()),
                    Some(IpAddr::V6(address)) => name.extend(&address.octets()[..8]),
                    None => return false,
                }
                return true;
            }
        };
        name.extend(text.unwrap_or_default().as_bytes());
        text.is_some()
    }

    /// Who that is, for people.
    fn told(self, exchange: &Exchange, model: Option<&str>) -> Option<String> {
        if self == Self::Global {
            return Some("all requests together".to_owned());
        }
        let mut name = Vec::new();
        if !self.write(exchange, model, &mut name) {
            return None;
        }
        Some(match (self, exchange.client()) {
            (Self::Ip, Some(address)) => match address.to_canonical() {
                IpAddr::V6(address) => {
                    let [a, b, c, d, ..] = address.segments();
                    format!("address {a:x}:{b:x}:{c:x}:{d:x}::/64")
                }
                address => format!("address {address}"),
            },
            _ => format!("{} '{}'", self.name(), String::from_utf8_lossy(&name)),
        })
    }
}

/// One scope, or two that make a subject together.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub struct Scopes(Vec<Scope>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    One(String),
    Several(Vec<String>),
}

const NAMES: &str = "key, user, service, team, org, ip, model, route or global";

const ALL: [Scope; 9] = [
    Scope::Key,
    Scope::User,
    Scope::Service,
    Scope::Team,
    Scope::Org,
    Scope::Ip,
    Scope::Model,
    Scope::Route,
    Scope::Global,
];

impl TryFrom<Written> for Scopes {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let names = match written {
            Written::One(name) => vec![name],
            Written::Several(names) => names,
        };
        let scope = |name: String| {
            let found = ALL.into_iter().find(|scope| scope.name() == name);
            found.ok_or_else(|| format!("unknown subject `{name}`: expected {NAMES}, or a list of two of them"))
        };
        names.into_iter().map(scope).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|scope| scope.name()).collect();
        f.write_str(&names.join("+"))
    }
}

/// Whether a request has such a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Named,
    /// A part of it is not known.
    Nobody,
    /// It names no model, so a limit per model has nothing to say.
    NoModel,
}

impl Scopes {
    pub(super) fn parts(&self) -> &[Scope] {
        &self.0
    }

    /// Why it cannot be meant.
    pub(super) fn fault(&self) -> Option<String> {
        match self.0[..] {
            [_] => None,
            [a, b] if a != b && a != Scope::Global && b != Scope::Global => None,
            _ => Some(format!("expected {NAMES}, or a list of two that differ, `global` not among them")),
        }
    }

    pub(super) fn is_global(&self) -> bool {
        self.0 == [Scope::Global]
    }

    /// Spells out the subject of a request.
    pub(super) fn write(&self, exchange: &Exchange, model: Option<&str>, name: &mut Vec<u8>) -> Found {
        let mut found = Found::Named;
        name.clear();
        for scope in &self.0 {
            let start = name.len() + 5;
            name.extend([*scope as u8, 0, 0, 0, 0]);
            let known = scope.write(exchange, model, name);
            // With lengths and kinds, so that no two subjects read the same.
            let length = u32::try_from(name.len() - start).unwrap_or(u32::MAX).to_le_bytes();
            name[start - 4..start].copy_from_slice(&length);
            match (known, scope) {
                (false, Scope::Model) => return Found::NoModel,
                (false, _) => {
                    name[start - 5] |= 0x80;
                    found = Found::Nobody;
                }
                (true, _) => {}
            }
        }
        found
    }

    /// Who that is, for people.
    pub(super) fn told(&self, exchange: &Exchange, model: Option<&str>) -> String {
        let told = self.0.iter().map(|scope| match scope.told(exchange, model) {
            Some(told) => told,
            None => format!("callers without a known {}", scope.name()),
        });
        told.collect::<Vec<_>>().join(" with ")
    }
}

impl JsonSchema for Scopes {
    fn schema_name() -> Cow<'static, str> {
        "Scopes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = ALL.map(Scope::name);
        let two = &one[..one.len() - 1];
        json_schema!({ "anyOf": [
            { "type": "string", "enum": one },
            { "type": "array", "minItems": 2, "maxItems": 2, "uniqueItems": true, "items": { "type": "string", "enum": two } },
        ] })
    }
}

/// The names of models in the file, to find the one that a request asks for.
#[derive(Debug, Clone)]
pub(super) struct ModelNames {
    exact: std::collections::HashMap<Arc<str>, usize>,
    /// Longest first, without the `*`.
    prefixes: Vec<(Box<str>, usize)>,
    names: Vec<Arc<str>>,
}

impl ModelNames {
    pub(super) fn new(names: &[Arc<str>]) -> Self {
        let exact = names.iter().enumerate().filter(|(_, name)| !name.ends_with('*'));
        let exact = exact.map(|(index, name)| (name.clone(), index)).collect();
        let mut prefixes: Vec<(Box<str>, usize)> = names
            .iter()
            .enumerate()
            .filter_map(|(index, name)| Some((name.strip_suffix('*')?.into(), index)))
            .collect();
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { exact, prefixes, names: names.to_vec() }
    }

    /// The entry that answers to `name`, as the gateway itself will choose it. Clients make up names; the file does
    /// not, so that nobody gets a fresh bucket by making up another.
    pub(super) fn index(&self, name: &str) -> Option<usize> {
        let by_prefix =
            || self.prefixes.iter().find(|(prefix, _)| name.starts_with(&**prefix)).map(|(_, index)| *index);
        self.exact.get(name).copied().or_else(by_prefix)
    }

    pub(super) fn names(&self) -> &[Arc<str>] {
        &self.names
    }
}

/// Whether one of `patterns` is for `model`.
pub(super) fn any_matches(patterns: &[String], model: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => model.starts_with(prefix),
        None => model == pattern,
    })
}
