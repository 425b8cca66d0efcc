//! Whose bucket a request takes from.

use crate::exchange::Exchange;
use crate::store::Subject;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
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
            Self::Route => Some(model.unwrap_or(OTHER)),
            Self::Global => Some(""),
            Self::Ip => {
                let Some(address) = exchange.client() else { return false };
                write_address(address, name);
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
            (Self::Ip, Some(address)) => format!("address {}", address_text(address)),
            _ => format!("{} '{}'", self.name(), String::from_utf8_lossy(&name)),
        })
    }
}

/// The bytes that tell addresses apart: all of an IPv4 address, the /64 of an IPv6 address.
fn write_address(address: IpAddr, name: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(address) => name.extend(address.octets()),
        IpAddr::V6(address) => name.extend(&address.octets()[..8]),
    }
}

fn address_text(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", std::net::Ipv6Addr::from([a, b, c, d, 0, 0, 0, 0]))
        }
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

/// What answers requests that name no model.
const OTHER: &str = "other_paths";

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

impl From<Scope> for Scopes {
    fn from(scope: Scope) -> Self {
        Self(vec![scope])
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
        self.spell(name, |scope, name| scope.write(exchange, model, name))
    }

    /// Spells out a subject whose parts `part` writes, or says are not known.
    fn spell(&self, name: &mut Vec<u8>, part: impl Fn(Scope, &mut Vec<u8>) -> bool) -> Found {
        let mut found = Found::Named;
        name.clear();
        for scope in &self.0 {
            let start = name.len() + 5;
            name.extend([*scope as u8, 0, 0, 0, 0]);
            let known = part(*scope, name);
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

    /// The subject that an operator names; none if it is not of these scopes.
    pub(super) fn subject(&self, named: &Named, models: &ModelNames) -> Option<Subject> {
        if self.0.len() != named.0.len() || !self.0.iter().all(|scope| named.part(*scope).is_some()) {
            return None;
        }
        let mut name = Vec::new();
        self.spell(&mut name, |scope, name| match named.part(scope) {
            Some(Part::Address(address)) => {
                write_address(*address, name);
                true
            }
            Some(Part::Name(text)) => {
                let model = || models.index(text).map_or("", |index| &models.names()[index]);
                let text = match scope {
                    Scope::Model => model(),
                    Scope::Route if text != OTHER => model(),
                    _ => text,
                };
                name.extend(text.as_bytes());
                true
            }
            Some(Part::Nobody) => scope == Scope::Global,
            None => false,
        });
        Some(Subject::of(&name))
    }

    /// Who that is, as [`Named`] reads it.
    pub(super) fn named(&self, exchange: &Exchange, model: Option<&str>) -> String {
        let mut text = String::new();
        for scope in &self.0 {
            let mut name = Vec::new();
            let known = *scope != Scope::Global && scope.write(exchange, model, &mut name);
            let name = match (scope, exchange.client()) {
                (Scope::Ip, Some(address)) => address_text(address),
                _ => String::from_utf8_lossy(&name).into_owned(),
            };
            let between = if text.is_empty() { "" } else { "+" };
            text +=
                &if known { format!("{between}{}:{name}", scope.name()) } else { format!("{between}{}", scope.name()) };
        }
        text
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

/// A subject as operators spell it: `user:ann`, `ip:10.0.0.1`, `org:acme+model:gpt-4o`, `global`. A part without a name
/// (`user`) is those of whom it is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named(Vec<(Scope, Part)>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Name(String),
    Address(IpAddr),
    Nobody,
}

impl Named {
    fn part(&self, wanted: Scope) -> Option<&Part> {
        self.0.iter().find(|(scope, _)| *scope == wanted).map(|(_, part)| part)
    }
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_scope = |text: &str| ALL.iter().find(|scope| scope.name() == text.split(':').next().unwrap_or_default());
        // Names may have a plus in them: a part begins where a plus is followed by what a part can be of.
        let split = text.match_indices('+').find(|(at, _)| is_scope(&text[at + 1..]).is_some());
        let parts = match split {
            Some((at, _)) => vec![&text[..at], &text[at + 1..]],
            None => vec![text],
        };
        let part = |text: &str| {
            let scope = is_scope(text).ok_or_else(|| {
                format!("`{text}` names nobody: expected {NAMES} with a name behind a colon, such as user:ann")
            })?;
            let part = match (scope, text.split_once(':')) {
                (_, None) => Part::Nobody,
                (Scope::Ip, Some((_, address))) => {
                    let address = address.strip_suffix("/64").unwrap_or(address);
                    Part::Address(address.parse().map_err(|_| format!("`{address}` is no IP address"))?)
                }
                (_, Some((_, name))) => Part::Name(name.to_owned()),
            };
            Ok((*scope, part))
        };
        parts.into_iter().map(part).collect::<Result<_, _>>().map(Self)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_spell_subjects_as_limits_are_written() {
        let read = |text: &str| text.parse::<Named>().map(|named| named.0);
        let name = |name: &str| Part::Name(name.into());
        assert_eq!(read("user:ann"), Ok(vec![(Scope::User, name("ann"))]));
        assert_eq!(read("user:ann+x@example.com"), Ok(vec![(Scope::User, name("ann+x@example.com"))]));
        let pair = vec![(Scope::User, name("a+b")), (Scope::Model, name("org/model:latest"))];
        assert_eq!(read("user:a+b+model:org/model:latest"), Ok(pair));
        assert_eq!(read("ip:10.0.0.1"), Ok(vec![(Scope::Ip, Part::Address("10.0.0.1".parse().unwrap()))]));
        assert_eq!(read("ip:2001:db8::/64"), Ok(vec![(Scope::Ip, Part::Address("2001:db8::".parse().unwrap()))]));
        assert_eq!(read("global"), Ok(vec![(Scope::Global, Part::Nobody)]));
        assert!(read("ann").unwrap_err().contains("names nobody"));
        assert!(read("ip:here").unwrap_err().contains("no IP address"));
    }
}
