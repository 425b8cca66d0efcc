//! From names to who that is.

use super::tree::{ANYBODY, Place};
use super::{Level, Names, Tenant, Tenants};
use crate::reply::Refusal;
use http::StatusCode;
use std::sync::Arc;

/// How many names a fault lists at most.
const LISTED: usize = 8;

/// Names that do not say who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnknownTenant {
    /// Which of the names; none if there is none at all.
    pub level: Option<Level>,
    /// What is wrong with it.
    pub message: String,
    /// What there is instead.
    pub help: Option<String>,
}

impl UnknownTenant {
    /// For whoever has a credential that is good, with names that are not (any more): 403.
    pub fn refusal(&self) -> Refusal {
        let message = match self.level {
            Some(level) => format!("The {level} that this credential is for is not known here. Ask whoever runs this."),
            None => "This credential does not say whose it is. Ask whoever runs this.".to_owned(),
        };
        Refusal::new(StatusCode::FORBIDDEN, "unknown_tenant", message)
    }

    /// The setting that carries the name.
    pub fn setting(&self) -> Option<&'static str> {
        self.level.map(Level::setting)
    }
}

impl Tenants {
    /// The names, those that follow from others filled in, and whose rules hold, from the top down.
    pub(super) fn resolve(&self, names: &Names) -> Result<(Names, Vec<Arc<Tenant>>), UnknownTenant> {
        if names.user.is_some() && names.service.is_some() {
            return Err(fault(Level::Service, "a key belongs to a user or to a service, not to both"));
        }
        let place = match (&names.user, &names.service, &names.team, &names.org) {
            (Some(user), ..) => self.member(Level::User, user, names)?,
            (_, Some(service), ..) => self.member(Level::Service, service, names)?,
            (_, _, Some(team), _) => self.team(team, names.org.as_ref())?,
            (.., Some(org)) => self.org(org)?,
            (None, None, None, None) => {
                let message =
                    "this key has no owner: say whose it is with `user`, `service`, `team` or `org`".to_owned();
                return Err(UnknownTenant { level: None, message, help: None });
            }
        };
        // Where a wildcard stands for somebody, they keep the name they came with.
        let named = |tenant: &Tenant, name: &Option<Arc<str>>| match &*tenant.name == ANYBODY {
            true => name.clone(),
            false => Some(tenant.name.clone()),
        };
        let resolved = Names {
            org: named(&place.org, &names.org),
            team: place.team.as_ref().and_then(|team| named(team, &names.team)),
            user: names.user.clone(),
            service: names.service.clone(),
        };
        // Somebody below a wildcard, by a name that does not say below which.
        let unsaid =
            [(Level::Org, resolved.org.is_none()), (Level::Team, resolved.team.is_none() && place.team.is_some())];
        if let Some((level, _)) = unsaid.into_iter().find(|(_, unsaid)| *unsaid) {
            return Err(fault(level, format!("it does not say of which {level}")));
        }
        Ok((resolved, place.rules()))
    }

    fn org(&self, name: &Arc<str>) -> Result<Place, UnknownTenant> {
        let found = self.all(Level::Org, name).next().or_else(|| self.all(Level::Org, ANYBODY).next());
        found.cloned().ok_or_else(|| self.unknown(Level::Org, name, None))
    }

    fn team(&self, name: &Arc<str>, org: Option<&Arc<str>>) -> Result<Place, UnknownTenant> {
        let within = org.map(|org| self.org(org)).transpose()?;
        let known = self.all(Level::Team, name).filter(|place| is_in(place, within.as_ref()));
        if let Some(place) = only(Level::Team, name, known)? {
            return Ok(place);
        }
        let anybody =
            within.as_ref().and_then(|within| self.all(Level::Team, ANYBODY).find(|p| is_in(p, Some(within))));
        anybody.cloned().ok_or_else(|| self.unknown(Level::Team, name, within.as_ref()))
    }

    fn member(&self, level: Level, name: &Arc<str>, names: &Names) -> Result<Place, UnknownTenant> {
        let within = match (&names.team, &names.org) {
            (Some(team), org) => Some(self.team(team, org.as_ref())?),
            (None, Some(org)) => Some(self.org(org)?),
            (None, None) => None,
        };
        let known = self.all(level, name).filter(|place| is_in(place, within.as_ref()));
        if let Some(place) = only(level, name, known)? {
            return Ok(place);
        }
        let anybody = |within: &Place| {
            let same_team =
                |place: &&Place| place.team.is_some() == within.team.is_some() && is_in(place, Some(within));
            self.all(level, ANYBODY).find(same_team).cloned()
        };
        let anybody = within.as_ref().and_then(anybody);
        anybody.ok_or_else(|| self.unknown(level, name, within.as_ref()))
    }

    fn all(&self, level: Level, name: &str) -> impl Iterator<Item = &Place> {
        self.places.get(&(level, Arc::from(name))).into_iter().flatten()
    }

    fn unknown(&self, level: Level, name: &str, within: Option<&Place>) -> UnknownTenant {
        let of = match within {
            Some(Place { team: Some(team), .. }) => format!(" in the team `{}`", team.name),
            Some(Place { org, .. }) => format!(" in the organisation `{}`", org.name),
            None => String::new(),
        };
        let there = self
            .places
            .iter()
            .filter(|((other, _), places)| *other == level && places.iter().any(|place| is_in(place, within)));
        let mut there: Vec<&str> = there.map(|((_, name), _)| &**name).filter(|name| *name != ANYBODY).collect();
        there.sort_unstable();
        let more = if there.len() > LISTED { ", ..." } else { "" };
        there.truncate(LISTED);
        let help = match there[..] {
            [] => format!("there is none{of} in `tenants`"),
            _ => format!("there are: {}{more}", there.join(", ")),
        };
        UnknownTenant { help: Some(help), ..fault(level, format!("there is no {level} `{name}`{of}")) }
    }
}

fn fault(level: Level, message: impl Into<String>) -> UnknownTenant {
    UnknownTenant { level: Some(level), message: message.into(), help: None }
}

/// Whether somebody stands there, or below.
fn is_in(place: &Place, within: Option<&Place>) -> bool {
    let Some(within) = within else { return true };
    let same = |one: &Arc<Tenant>, other: &Arc<Tenant>| Arc::ptr_eq(one, other);
    let team = match (&within.team, &place.team) {
        (Some(wanted), Some(team)) => same(wanted, team),
        (wanted, _) => wanted.is_none(),
    };
    same(&place.org, &within.org) && team
}

/// The only one of this name, if there is one.
fn only<'a>(
    level: Level,
    name: &str,
    mut places: impl Iterator<Item = &'a Place>,
) -> Result<Option<Place>, UnknownTenant> {
    match (places.next(), places.next()) {
        (Some(one), Some(other)) => {
            let message = format!("there is more than one {level} `{name}`");
            let help = format!("say which: `org: {}` or `org: {}`", one.org.name, other.org.name);
            Err(UnknownTenant { help: Some(help), ..fault(level, message) })
        }
        (one, _) => Ok(one.cloned()),
    }
}
