//! Whose bucket a request takes from.

use crate::exchange::Exchange;
use crate::tenants::Level;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

/// What requests are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scope {
    /// The credential.
    Key,
    /// The user, of an organisation if one is known.
    User,
    /// The service, where a key belongs to one.
    Service,
    /// The user's or the service's team.
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
    pub(super) fn name(self) -> &'static str {
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

    /// The level of tenants that it tells apart, if it is one.
    pub(super) fn level(self) -> Option<Level> {
        match self {
            Self::Key => Some(Level::Key),
            Self::User => Some(Level::User),
            Self::Service => Some(Level::Service),
            Self::Team => Some(Level::Team),
            Self::Org => Some(Level::Org),
            Self::Ip | Self::Model | Self::Route | Self::Global => None,
        }
    }

    /// Whether its names are an organisation's own: another may have somebody of the same name.
    pub(super) fn is_of_org(self) -> bool {
        matches!(self, Self::User | Self::Service | Self::Team)
    }

    /// The organisation that the name is one of, if it is of any.
    fn org(self, exchange: &Exchange) -> Option<&str> {
        exchange.caller().filter(|_| self.is_of_org())?.org.as_deref()
    }

    /// What it is called for this request, if there is somebody; of an address nothing is said here.
    fn text<'a>(self, exchange: &'a Exchange, model: Option<&'a str>) -> Option<&'a str> {
        let caller = exchange.caller();
        match self {
            Self::Key => caller.and_then(|caller| caller.key.as_deref()),
            Self::User => caller.and_then(|caller| caller.user.as_deref()),
            Self::Service => caller.and_then(|caller| caller.service.as_deref()),
            Self::Team => caller.and_then(|caller| caller.team.as_deref()),
            Self::Org => caller.and_then(|caller| caller.org.as_deref()),
            Self::Model => model,
            Self::Route => Some(model.unwrap_or(OTHER)),
            Self::Global => Some(""),
            Self::Ip => None,
        }
    }

    /// Writes who that is for this request; false if there is nobody.
    fn write(self, exchange: &Exchange, model: Option<&str>, name: &mut Vec<u8>) -> bool {
        if let (Self::Ip, Some(address)) = (self, exchange.client()) {
            write_address(address, name);
            return true;
        }
        let text = self.text(exchange, model);
        text.inspect(|text| write_name(self.org(exchange), text, name)).is_some()
    }

    /// Who that is, for people.
    fn told(self, exchange: &Exchange, model: Option<&str>) -> Option<String> {
        match self {
            Self::Global => Some("all requests together".to_owned()),
            Self::Ip => exchange.client().map(|address| format!("address {}", address_text(address))),
            _ => {
                let of = self.org(exchange).map(|org| format!(" of '{org}'")).unwrap_or_default();
                self.text(exchange, model).map(|text| format!("{} '{text}'{of}", self.name()))
            }
        }
    }

    /// Who that is, as [`Named`](super::named::Named) reads it.
    fn named(self, exchange: &Exchange, model: Option<&str>) -> String {
        let text = match self {
            Self::Global => None,
            Self::Ip => exchange.client().map(address_text).map(Cow::Owned),
            _ => self.text(exchange, model).map(Cow::Borrowed),
        };
        match (text, self.org(exchange)) {
            (None, _) => self.name().to_owned(),
            (Some(text), None) => format!("{}:{text}", self.name()),
            (Some(text), Some(org)) => format!("org:{org}/{}:{text}", self.name()),
        }
    }
}

/// The bytes that tell names apart: no text has the one that stands behind an organisation's.
pub(super) fn write_name(org: Option<&str>, text: &str, name: &mut Vec<u8>) {
    if let Some(org) = org {
        name.extend(org.as_bytes());
        name.push(0xff);
    }
    name.extend(text.as_bytes());
}

/// The bytes that tell addresses apart: all of an IPv4 address, the /64 of an IPv6 address.
pub(super) fn write_address(address: IpAddr, name: &mut Vec<u8>) {
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
pub(super) const OTHER: &str = "other_paths";

pub(super) const NAMES: &str = "key, user, service, team, org, ip, model, route or global";

pub(super) const ALL: [Scope; 9] = [
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

/// Those of one level each have a bucket.
impl From<Level> for Scopes {
    fn from(level: Level) -> Self {
        Self(ALL.into_iter().filter(|scope| scope.level() == Some(level)).collect())
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
    pub(super) fn spell(&self, name: &mut Vec<u8>, part: impl Fn(Scope, &mut Vec<u8>) -> bool) -> Found {
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

    /// Who that is, as [`Named`](super::named::Named) reads it.
    pub(super) fn named(&self, exchange: &Exchange, model: Option<&str>) -> String {
        let named = self.0.iter().map(|scope| scope.named(exchange, model));
        named.collect::<Vec<_>>().join("+")
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
