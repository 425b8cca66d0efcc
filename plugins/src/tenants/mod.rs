//! Who may: organisations, their teams, their users and services, as the file's `tenants` lays them down.
//!
//! A tenant lays down rules for itself and for everybody below it, and the strictest applies: the models that all allow,
//! the least priority, the earliest end. Identity filters know names, from a key or a token; [`caller`] finds out who
//! that is and whose rules hold, and [`standing`] says whether they still let anybody in. A file without `tenants` has
//! names all the same: then they are labels, and nothing is laid down but by the key itself.

mod resolve;
mod settings;
pub mod standing;
#[cfg(test)]
mod tests;
mod tree;

use crate::caller::{Caller, Priority};
use crate::filters::limits::Own;
use crate::when::When;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use resolve::UnknownTenant;
pub(crate) use settings::{About, laying_down};
pub use settings::{Member, Members, Org, Settings, Team};
pub use tree::Tenants;
pub(crate) use tree::{below, beyond};

/// What somebody is known by elsewhere.
pub type Metadata = BTreeMap<String, String>;

/// Features that are on or off for somebody.
pub type Flags = BTreeMap<String, bool>;

/// On which level a tenant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// An organisation.
    Org,
    /// A team of an organisation.
    Team,
    /// A user.
    User,
    /// A program that is nobody's in particular.
    Service,
    /// A key of one of them.
    Key,
}

impl Level {
    /// The setting that names one.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Org => "org",
            Self::Team => "team",
            Self::User => "user",
            Self::Service => "service",
            Self::Key => "key",
        }
    }
}

/// The name is `organisation` and so on: for people.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Org => "organisation",
            Self::Team => "team",
            Self::User => "user",
            Self::Service => "service",
            Self::Key => "key",
        })
    }
}

/// What one of them lays down for itself and for everybody below.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// What it is.
    pub level: Level,
    /// Its name; `*` for those that have no entry of their own.
    pub name: Arc<str>,
    /// The models it may ask for, `*` as a wildcard at the end; none: all.
    pub models: Option<Vec<Arc<str>>>,
    /// Its priority; none: as above.
    pub priority: Option<Priority>,
    /// What it is known by elsewhere.
    pub metadata: Metadata,
    /// Features that are on or off for it.
    pub flags: Flags,
    /// From when on it is let in no more.
    pub expires: Option<When>,
    /// Whether it is let in at all.
    pub disabled: bool,
    /// The limits it has for itself.
    pub limits: Own,
}

/// The names that a credential carries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The organisation.
    pub org: Option<Arc<str>>,
    /// The team.
    pub team: Option<Arc<str>>,
    /// The user.
    pub user: Option<Arc<str>>,
    /// The service.
    pub service: Option<Arc<str>>,
}

/// Who carries these names. With `tenants` they must be among them; without they are labels. `own` is what the
/// credential itself lays down, such as the models that a token names.
///
/// # Errors
/// Which of the names is unknown, or cannot be told from another.
pub fn caller(tenants: Option<&Tenants>, names: &Names, own: Option<Tenant>) -> Result<Caller, UnknownTenant> {
    let (names, mut rules) = match tenants {
        Some(tenants) => tenants.resolve(names)?,
        None => (names.clone(), Vec::new()),
    };
    let key = own.as_ref().map(|own| own.name.clone());
    rules.extend(own.map(Arc::new));
    let mut metadata = Metadata::new();
    for rule in &rules {
        metadata.extend(rule.metadata.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    let Names { org, team, user, service } = names;
    Ok(Caller {
        key,
        user,
        service,
        team,
        org,
        models: rules.iter().filter_map(|rule| rule.models.as_deref()).fold(None, meet),
        priority: rules.iter().filter_map(|rule| rule.priority).min().unwrap_or_default(),
        metadata: Arc::new(metadata),
        tenants: rules.into(),
    })
}

/// The patterns for what both allow.
fn meet(one: Option<Vec<Arc<str>>>, other: &[Arc<str>]) -> Option<Vec<Arc<str>>> {
    let Some(one) = one else { return Some(other.to_vec()) };
    let mut both: Vec<Arc<str>> = Vec::new();
    for (one, other) in one.iter().flat_map(|one| other.iter().map(move |other| (one, other))) {
        let met = narrower(one, other).filter(|met| !both.contains(met)).cloned();
        both.extend(met);
    }
    Some(both)
}

/// Of two patterns the one that the other includes; none if they have nothing in common.
fn narrower<'a>(one: &'a Arc<str>, other: &'a Arc<str>) -> Option<&'a Arc<str>> {
    match (one.strip_suffix('*'), other.strip_suffix('*')) {
        (Some(prefix), _) if other.trim_end_matches('*').starts_with(prefix) => Some(other),
        (_, Some(prefix)) if one.trim_end_matches('*').starts_with(prefix) => Some(one),
        (None, None) if one == other => Some(one),
        _ => None,
    }
}

/// Whether some model is meant by a pattern and by one of these.
fn meets(pattern: &Arc<str>, others: &[Arc<str>]) -> bool {
    others.iter().any(|other| narrower(pattern, other).is_some())
}
