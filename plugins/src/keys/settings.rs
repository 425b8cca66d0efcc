//! A key as it is written: in the file, in the store, and in what asks for one.

use crate::caller::Caller;
use crate::filter::SettingsError;
use crate::filters::limits::OwnLimits;
use crate::tenants::{self, Level, Names, Tenants, UnknownTenant, laying_down};
use crate::when::When;
use serde::Serialize;
use std::sync::Arc;

laying_down! {
    /// A key: its name, its hash, and whose it is.
    #[derive(Default, Serialize)]
    #[serde(expecting = "an entry such as `{ id: NAME, hash: HASH }`, never a key: `tidegate keys hash` prints the hash of one \
                         that somebody has already, `tidegate keys new` makes a new one and prints its entry")]
    pub struct Key {
        /// A name for the key itself, for logs. Unique.
        id: String,
        /// The key's hash, 64 hexadecimal digits. Never the key.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        hash: String,
        /// Whose it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        /// The service it is for, if it is no user's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// The user's or the service's team.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        team: Option<String>,
        /// The organisation: the tenant, for filters that keep tenants apart.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        org: Option<String>,
    }
}

impl Key {
    /// Who has it.
    ///
    /// # Errors
    /// Which of its names is unknown.
    pub fn caller(&self, tenants: Option<&Tenants>, own: &OwnLimits) -> Result<Caller, UnknownTenant> {
        let own = self.about().tenant(Level::Key, &self.id, own, "", &mut Vec::new());
        tenants::caller(tenants, &self.names(), Some(own))
    }

    /// What is wrong with a key that is to be made `now`.
    pub fn is_new(&self, now: When, faults: &mut Vec<SettingsError>) {
        let is_name = (1..=128).contains(&self.id.len()) && !self.id.chars().any(char::is_control);
        if !is_name || self.id == "." || self.id == ".." {
            faults.push(SettingsError::at("id", "an id has from 1 to 128 bytes, none of them a control character"));
        }
        if let Some(expires) = self.expires.filter(|expires| *expires <= now) {
            faults.push(SettingsError::at("expires", format!("{expires} has passed: it would let nobody in")));
        }
    }

    /// Who has it; what is wrong with that is reported below `path`.
    pub fn checked(
        &self,
        path: &str,
        tenants: Option<&Tenants>,
        own: &OwnLimits,
        faults: &mut Vec<SettingsError>,
    ) -> Caller {
        let below = |setting: &str| if path.is_empty() { setting.to_owned() } else { format!("{path}.{setting}") };
        if super::holds_key(&self.id) {
            let fault = SettingsError::at(below("id"), "the id is a key itself, and ids are written to logs");
            faults.push(fault.help("an id is a name such as `anns-laptop`"));
        }
        let own = self.about().tenant(Level::Key, &self.id, own, path, faults);
        match tenants::caller(tenants, &self.names(), Some(own.clone())) {
            Ok(caller) => {
                let above: Vec<_> = caller.tenants.iter().filter(|tenant| tenant.level != Level::Key).collect();
                faults.extend(tenants::beyond(path, &own, &above));
                caller
            }
            Err(unknown) => {
                let path = unknown.setting().map_or_else(|| path.to_owned(), below);
                faults.push(SettingsError { help: unknown.help, ..SettingsError::at(path, unknown.message) });
                Caller::default()
            }
        }
    }

    fn names(&self) -> Names {
        let name = |name: &Option<String>| name.as_deref().map(Arc::from);
        Names { org: name(&self.org), team: name(&self.team), user: name(&self.user), service: name(&self.service) }
    }
}
