//! `tenants` as it is meant: every tenant with those above it, found by its name.

use super::settings::{About, Members};
use super::{Level, Settings, Tenant, meets};
use crate::filter::SettingsError;
use crate::filters::limits::OwnLimits;
use crate::misfits;
use schemars::Schema;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// What stands for everybody who has no entry.
pub(super) const ANYBODY: &str = "*";

/// The longest name, in bytes.
const LONGEST_NAME: usize = 128;

/// All tenants of a file.
#[derive(Debug, Default)]
pub struct Tenants {
    /// By level and name; the same name may be there once an organisation.
    pub(super) places: HashMap<(Level, Arc<str>), Vec<Place>>,
}

/// Where a tenant stands: itself, and those above it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) org: Arc<Tenant>,
    pub(super) team: Option<Arc<Tenant>>,
    /// The user or service, if that is what it is.
    pub(super) member: Option<Arc<Tenant>>,
}

impl Place {
    /// Who stands there.
    pub(super) fn tenant(&self) -> &Arc<Tenant> {
        self.member.as_ref().or(self.team.as_ref()).unwrap_or(&self.org)
    }

    /// From the top down.
    pub(super) fn rules(&self) -> Vec<Arc<Tenant>> {
        [Some(&self.org), self.team.as_ref(), self.member.as_ref()].into_iter().flatten().cloned().collect()
    }
}

impl Tenants {
    /// Reads the section. What is wrong with it comes along; what remains can still be asked, so that faults elsewhere
    /// are found too.
    pub fn read(value: serde_json::Value, own: &OwnLimits) -> (Self, Vec<SettingsError>) {
        match misfits::read(value) {
            Ok(orgs) => Self::of(&orgs, own),
            Err(misfits) => {
                let (tenants, _) = Self::of(&misfits.rest().unwrap_or_default(), own);
                (tenants, misfits.judged(|orgs| Self::of(&orgs, own).1))
            }
        }
    }

    fn of(Settings(orgs): &Settings, own: &OwnLimits) -> (Self, Vec<SettingsError>) {
        let mut build = Build { tenants: Self::default(), own, faults: Vec::new(), members: HashSet::new() };
        build.orgs(orgs);
        (build.tenants, build.faults)
    }

    /// All of them, wildcards too, each with the name of its organisation; in no order.
    pub fn everyone(&self) -> impl Iterator<Item = (&str, &Tenant)> {
        self.places.values().flatten().map(|place| (&*place.org.name, place.tenant().as_ref()))
    }

    /// The organisations that have somebody of this name, as the file has them.
    #[must_use]
    pub fn orgs_of(&self, level: Level, name: &str) -> Vec<Arc<str>> {
        let places = self.places.get(&(level, Arc::from(name))).into_iter().flatten();
        places.map(|place| place.org.name.clone()).filter(|org| **org != *ANYBODY).collect()
    }

    /// The flags that anybody in the section has, on or off.
    pub fn flags(&self) -> BTreeSet<&str> {
        let places = self.places.values().flatten();
        places.flat_map(|place| place.tenant().flags.keys().map(String::as_str)).collect()
    }

    /// The JSON Schema of the section.
    pub fn schema() -> Schema {
        schemars::schema_for!(Settings)
    }
}

/// The path of what is called `name` below `path`: quoted where a dot or a bracket would be read as a step.
pub(crate) fn below(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '*'));
    let name = if plain { name.into() } else { serde_json::Value::from(name).to_string() };
    if path.is_empty() { name } else { format!("{path}.{name}") }
}

struct Build<'a> {
    tenants: Tenants,
    own: &'a OwnLimits,
    faults: Vec<SettingsError>,
    /// Users and services seen, with their organisation.
    members: HashSet<(Arc<str>, Level, Arc<str>)>,
}

impl Build<'_> {
    fn orgs(&mut self, orgs: &Members<super::settings::Org>) {
        for (name, settings) in &orgs.0 {
            let path = below("", name);
            let about = settings.as_ref().map(super::settings::Org::about).unwrap_or_default();
            let org = self.tenant(&path, Level::Org, name, about, &[]);
            self.add(Place { org: org.clone(), team: None, member: None });
            let Some(settings) = settings else { continue };
            self.members(&path, &org, None, Level::User, &settings.users);
            self.members(&path, &org, None, Level::Service, &settings.services);
            for (name, settings) in &settings.teams.0 {
                let path = below(&format!("{path}.teams"), name);
                let about = settings.as_ref().map(super::settings::Team::about).unwrap_or_default();
                let team = self.tenant(&path, Level::Team, name, about, &[&org]);
                self.add(Place { org: org.clone(), team: Some(team.clone()), member: None });
                let Some(settings) = settings else { continue };
                self.members(&path, &org, Some(&team), Level::User, &settings.users);
                self.members(&path, &org, Some(&team), Level::Service, &settings.services);
            }
        }
    }

    fn members(
        &mut self,
        path: &str,
        org: &Arc<Tenant>,
        team: Option<&Arc<Tenant>>,
        level: Level,
        members: &Members<super::settings::Member>,
    ) {
        for (name, settings) in &members.0 {
            let path = below(&format!("{path}.{level}s"), name);
            if **name != *ANYBODY && !self.members.insert((org.name.clone(), level, name.clone())) {
                let message =
                    format!("there is another {level} `{name}` in this organisation: they would share limits");
                self.faults.push(SettingsError::at(&path, message).help("give one of them another name"));
            }
            let about = settings.as_ref().map(super::settings::Member::about).unwrap_or_default();
            let above: Vec<&Arc<Tenant>> = [Some(org), team].into_iter().flatten().collect();
            let member = self.tenant(&path, level, name, about, &above);
            self.add(Place { org: org.clone(), team: team.cloned(), member: Some(member) });
        }
    }

    /// A tenant, held against those above it.
    fn tenant(
        &mut self,
        path: &str,
        level: Level,
        name: &Arc<str>,
        about: About,
        above: &[&Arc<Tenant>],
    ) -> Arc<Tenant> {
        if name.is_empty() || name.len() > LONGEST_NAME || name.chars().any(char::is_control) {
            let message = format!("a name has from 1 to {LONGEST_NAME} bytes, none of them a control character");
            self.faults.push(SettingsError::at(path, message));
        }
        let tenant = about.tenant(level, name, self.own, path, &mut self.faults);
        self.faults.extend(beyond(path, &tenant, above));
        Arc::new(tenant)
    }

    fn add(&mut self, place: Place) {
        let tenant = place.tenant();
        let key = (tenant.level, tenant.name.clone());
        self.tenants.places.entry(key).or_default().push(place);
    }
}

/// What a tenant or key grants itself that those above it do not grant.
pub(crate) fn beyond(path: &str, tenant: &Tenant, above: &[&Arc<Tenant>]) -> Vec<SettingsError> {
    let mut faults = Vec::new();
    for (index, pattern) in tenant.models.iter().flatten().enumerate() {
        let refuses = above.iter().find(|above| above.models.as_ref().is_some_and(|models| !meets(pattern, models)));
        if let Some(above) = refuses {
            let (level, name) = (above.level, &above.name);
            let message = format!("the {level} `{name}` may not use `{pattern}`, so nobody below it can");
            let help =
                format!("it may use {}", above.models.iter().flatten().map(|m| &**m).collect::<Vec<_>>().join(", "));
            faults.push(SettingsError::at(format!("{}[{index}]", below(path, "models")), message).help(help));
        }
    }
    if let Some(priority) = tenant.priority
        && let Some(above) = above.iter().find(|above| above.priority.is_some_and(|most| most < priority))
    {
        let (level, name, most) = (above.level, &above.name, above.priority.unwrap_or_default().get());
        let message = format!("the {level} `{name}` has priority {most}: nobody below it has more");
        faults.push(SettingsError::at(below(path, "priority"), message));
    }
    for above in above {
        for (setting, allowed) in tenant.limits.beyond(&above.limits) {
            let message = format!("the {} `{}` has {allowed}: nobody below it has more", above.level, above.name);
            faults.push(SettingsError::at(below(path, "limits") + &setting, message));
        }
    }
    faults
}
