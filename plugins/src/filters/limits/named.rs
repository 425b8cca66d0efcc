//! Subjects as operators spell them: `user:ann`, `org:acme/user:ann`, `ip:10.0.0.1`, `org:acme+model:gpt-4o`, `global`. A
//! part without a name (`user`) is those of whom it is not known.

use super::model_names::ModelNames;
use super::scope::{ALL, NAMES, OTHER, Scope, Scopes, write_address, write_name};
use crate::caller::Caller;
use crate::store::Subject;
use crate::tenants::{self, Level, Names, Tenants};
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// See the module.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named(Vec<(Scope, Part)>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// The organisation before it, where it is one of an organisation's names.
    Name(Option<String>, String),
    Address(IpAddr),
    Nobody,
}

impl Named {
    fn part(&self, wanted: Scope) -> Option<&Part> {
        self.0.iter().find(|(scope, _)| *scope == wanted).map(|(_, part)| part)
    }

    /// With the organisations that are not said but follow: from the other part, or from there being only one that has
    /// somebody of that name, in `tenants` or by a key.
    ///
    /// # Errors
    /// Which ones there are, if there are several.
    pub(super) fn completed(mut self, tenants: Option<&Tenants>, keys: &[Arc<Caller>]) -> Result<Self, String> {
        let beside = match self.part(Scope::Org) {
            Some(Part::Name(_, org)) => Some(org.clone()),
            _ => None,
        };
        for (scope, part) in &mut self.0 {
            let (Some(level), Part::Name(org @ None, name)) = (scope.level(), part) else { continue };
            if !scope.is_of_org() {
                continue;
            }
            let among = orgs_of(level, name, tenants, keys);
            *org = match (&beside, &among[..]) {
                (Some(beside), _) => Some(beside.clone()),
                (None, []) => None,
                (None, [only]) => Some(only.to_string()),
                (None, [one, other, ..]) => {
                    let (kind, spelt) = (scope.name(), format!("{}:{name}", scope.name()));
                    return Err(format!(
                        "more than one organisation has a {kind} `{name}`: say org:{one}/{spelt} or org:{other}/{spelt}"
                    ));
                }
            };
        }
        Ok(self)
    }

    /// Whose bucket that is in a limit per `scopes`; none if it is not of these.
    pub(super) fn subject(&self, scopes: &Scopes, models: &ModelNames) -> Option<Subject> {
        let parts = scopes.parts();
        if parts.len() != self.0.len() || !parts.iter().all(|scope| self.part(*scope).is_some()) {
            return None;
        }
        let mut name = Vec::new();
        scopes.spell(&mut name, |scope, name| match self.part(scope) {
            Some(Part::Address(address)) => {
                write_address(*address, name);
                true
            }
            Some(Part::Name(org, text)) => {
                let model = || models.index(text).map_or("", |index| &models.names()[index]);
                let text = match scope {
                    Scope::Model => model(),
                    Scope::Route if text != OTHER => model(),
                    _ => text,
                };
                write_name(org.as_deref(), text, name);
                true
            }
            Some(Part::Nobody) => scope == Scope::Global,
            None => false,
        });
        Some(Subject::of(&name))
    }

    /// The tenant or key that it is, and who calls by its name: whoever may have limits of its own.
    pub(super) fn tenant(&self, tenants: Option<&Tenants>, keys: &[Arc<Caller>]) -> Option<(Level, Arc<Caller>)> {
        let [(scope, Part::Name(org, name))] = &self.0[..] else { return None };
        let (level, name): (Level, Arc<str>) = (scope.level()?, name.as_str().into());
        if level == Level::Key {
            let caller = keys.iter().find(|caller| caller.key.as_ref() == Some(&name))?;
            return Some((level, caller.clone()));
        }
        let mut names = Names { org: org.as_deref().map(Into::into), ..Names::default() };
        *match level {
            Level::Team => &mut names.team,
            Level::User => &mut names.user,
            Level::Service => &mut names.service,
            Level::Org | Level::Key => &mut names.org,
        } = Some(name);
        let caller = tenants::caller(Some(tenants?), &names, None).ok()?;
        Some((level, Arc::new(caller)))
    }
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Names may have a plus in them: a part begins where a plus is followed by what a part can be of.
        let split = text.match_indices('+').find(|(at, _)| scope_of(&text[at + 1..]).is_some());
        let parts = match split {
            Some((at, _)) => vec![&text[..at], &text[at + 1..]],
            None => vec![text],
        };
        parts.into_iter().map(part).collect::<Result<_, _>>().map(Self)
    }
}

/// The organisations that have somebody of this name; none where there is somebody of no organisation.
fn orgs_of(level: Level, name: &str, tenants: Option<&Tenants>, keys: &[Arc<Caller>]) -> Vec<Arc<str>> {
    let mut among = tenants.map(|tenants| tenants.orgs_of(level, name)).unwrap_or_default();
    for caller in keys.iter().filter(|caller| caller.name(level) == Some(name)) {
        match &caller.org {
            None => return Vec::new(),
            Some(org) if among.contains(org) => {}
            Some(org) => among.push(org.clone()),
        }
    }
    among.sort_unstable();
    among
}

fn scope_of(text: &str) -> Option<Scope> {
    let name = text.split(':').next().unwrap_or_default();
    ALL.into_iter().find(|scope| scope.name() == name)
}

fn part(text: &str) -> Result<(Scope, Part), String> {
    // Names may have a slash in them as well.
    let is_of_org = |at: usize| text[at + 1..].contains(':') && scope_of(&text[at + 1..]).is_some_and(Scope::is_of_org);
    let within = text.strip_prefix("org:").and_then(|_| text.match_indices('/').find(|(at, _)| is_of_org(*at)));
    let (org, text) = match within {
        Some((at, _)) => (Some(text["org:".len()..at].to_owned()), &text[at + 1..]),
        None => (None, text),
    };
    let scope = scope_of(text).ok_or_else(|| {
        format!("`{text}` names nobody: expected {NAMES} with a name behind a colon, such as user:ann")
    })?;
    let part = match (scope, text.split_once(':')) {
        (_, None) => Part::Nobody,
        (Scope::Ip, Some((_, address))) => {
            let address = address.strip_suffix("/64").unwrap_or(address);
            Part::Address(address.parse().map_err(|_| format!("`{address}` is no IP address"))?)
        }
        (_, Some((_, name))) => Part::Name(org, name.to_owned()),
    };
    Ok((scope, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_spell_subjects_as_limits_are_written() {
        let read = |text: &str| text.parse::<Named>().map(|named| named.0);
        let name = |name: &str| Part::Name(None, name.into());
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

    #[test]
    fn names_of_an_organisation_stand_behind_it() {
        let read = |text: &str| text.parse::<Named>().map(|named| named.0);
        let of = |org: &str, name: &str| Part::Name(Some(org.into()), name.into());
        assert_eq!(read("org:acme/user:ann"), Ok(vec![(Scope::User, of("acme", "ann"))]));
        assert_eq!(read("org:a/b/team:c/d"), Ok(vec![(Scope::Team, of("a/b", "c/d"))]));
        let pair = vec![(Scope::User, of("acme", "ann")), (Scope::Model, Part::Name(None, "m".into()))];
        assert_eq!(read("org:acme/user:ann+model:m"), Ok(pair));
        assert_eq!(read("org:a/b"), Ok(vec![(Scope::Org, Part::Name(None, "a/b".into()))]));
        assert_eq!(read("org:a/user"), Ok(vec![(Scope::Org, Part::Name(None, "a/user".into()))]));
    }

    #[test]
    fn the_organisation_beside_a_name_is_the_one_it_is_of() {
        let complete = |text: &str| text.parse::<Named>().and_then(|named| named.completed(None, &[]));
        let parts = vec![
            (Scope::Org, Part::Name(None, "acme".into())),
            (Scope::User, Part::Name(Some("acme".into()), "ann".into())),
        ];
        assert_eq!(complete("org:acme+user:ann"), Ok(Named(parts)));
        assert_eq!(complete("user:ann"), "user:ann".parse());
    }

    #[test]
    fn somebody_whom_only_keys_know_is_of_the_organisation_of_the_keys() {
        let text = |text: &str| Some(Arc::from(text));
        let caller = |user, org: Option<&str>| {
            Arc::new(Caller { user: text(user), org: org.and_then(text), ..Caller::default() })
        };
        let keys =
            [("ann", Some("one")), ("ann", Some("other")), ("bob", Some("one")), ("eve", None), ("eve", Some("one"))];
        let keys = keys.map(|(user, org)| caller(user, org));
        let complete = |text: &str| text.parse::<Named>().and_then(|named| named.completed(None, &keys));
        assert!(complete("user:ann").unwrap_err().contains("say org:one/user:ann or org:other/user:ann"));
        assert_eq!(complete("user:bob"), "org:one/user:bob".parse());
        assert_eq!(complete("user:eve"), "user:eve".parse());
        assert_eq!(complete("user:zoe"), "user:zoe".parse());
    }
}
