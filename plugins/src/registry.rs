//! From a name and settings in a file to a filter or a balancer. [`Registry::built_in`] is the one list.

use crate::balancer::{Balancer, BalancerPlugin};
use crate::balancers::{LeastBusy, PeakEwma, PrefixAffinity, RoundRobin, Session};
use crate::filter::{Filter, Plugin, SettingsError};
use crate::filters::{
    ApiKey, Idempotency, Jwt, Limits, ModelRoute, PromptCache, Record, Shadow, SharedFlight, TrustedHeaders,
};
use crate::keys::plain_keys;
use crate::misfits::{self, apart};
use crate::services::{Purpose, Services};
use schemars::Schema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

type Build = fn(Value, &Services) -> Result<Arc<dyn Filter>, Vec<SettingsError>>;
type BuildBalancer = fn(Value) -> Result<Arc<dyn Balancer>, Vec<SettingsError>>;

/// A filter that a file may name.
pub struct Entry {
    /// The name in the file.
    pub name: &'static str,
    schema: fn() -> Schema,
    build: Build,
}

impl Entry {
    /// The JSON Schema of its settings.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }
}

/// A balancer that a file may name.
pub struct BalancerEntry {
    /// The name in the file.
    pub name: &'static str,
    schema: fn() -> Schema,
    build: BuildBalancer,
}

impl BalancerEntry {
    /// The JSON Schema of its settings.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }
}

/// Every filter and balancer that a file may name.
pub struct Registry {
    filters: Vec<Entry>,
    balancers: Vec<BalancerEntry>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::built_in()
    }
}

impl Registry {
    /// The one list of what is built in.
    pub fn built_in() -> Self {
        Self { filters: Vec::new(), balancers: Vec::new() }
            .with::<ApiKey>()
            .with::<Jwt>()
            .with::<TrustedHeaders>()
            .with::<Limits>()
            .with::<ModelRoute>()
            .with::<Shadow>()
            .with::<Record>()
            .with::<PromptCache>()
            .with::<Idempotency>()
            .with::<SharedFlight>()
            .with_balancer::<RoundRobin>()
            .with_balancer::<LeastBusy>()
            .with_balancer::<PeakEwma>()
            .with_balancer::<Session>()
            .with_balancer::<PrefixAffinity>()
    }

    /// Adds a filter; a later one of the same name takes the place of an earlier.
    #[must_use]
    pub fn with<P: Plugin>(mut self) -> Self {
        self.filters.retain(|entry| entry.name != P::NAME);
        self.filters.push(Entry {
            name: P::NAME,
            schema: || schemars::schema_for!(P::Settings),
            build: |settings, services| {
                judged(settings, |settings, purpose| Ok(Arc::new(P::new(settings, &services.for_a(purpose))?) as _))
            },
        });
        self
    }

    /// Adds a balancer; a later one of the same name takes the place of an earlier.
    #[must_use]
    pub fn with_balancer<B: BalancerPlugin>(mut self) -> Self {
        self.balancers.retain(|entry| entry.name != B::NAME);
        self.balancers.push(BalancerEntry {
            name: B::NAME,
            schema: || schemars::schema_for!(B::Settings),
            build: |settings| judged(settings, |settings, _| Ok(Arc::new(B::new(settings)?) as _)),
        });
        self
    }

    /// The filters, in the order of the list.
    pub fn filters(&self) -> &[Entry] {
        &self.filters
    }

    /// The balancers, in the order of the list.
    pub fn balancers(&self) -> &[BalancerEntry] {
        &self.balancers
    }

    /// Builds the filter `name`; none if there is no such filter.
    pub fn filter(
        &self,
        name: &str,
        settings: Value,
        services: &Services,
    ) -> Option<Result<Arc<dyn Filter>, Vec<SettingsError>>> {
        let entry = self.filters.iter().find(|entry| entry.name == name)?;
        Some((entry.build)(settings, services))
    }

    /// Builds the balancer `name`; none if there is no such balancer.
    pub fn balancer(&self, name: &str, settings: Value) -> Option<Result<Arc<dyn Balancer>, Vec<SettingsError>>> {
        let entry = self.balancers.iter().find(|entry| entry.name == name)?;
        Some((entry.build)(settings))
    }
}

/// What is made of settings, or all that is wrong with them: what their type does not take, and keys that stand in them,
/// whatever else follows from those. `make` is told whether it is to make something, or only to judge.
pub(crate) fn judged<S: DeserializeOwned, T>(
    settings: Value,
    make: impl Fn(S, Purpose) -> Result<T, Vec<SettingsError>>,
) -> Result<T, Vec<SettingsError>> {
    let mut plain = plain_keys(&settings);
    let others = match misfits::read(settings) {
        Ok(settings) => match make(settings, Purpose::Use) {
            Ok(made) if plain.is_empty() => return Ok(made),
            made => {
                let mut faults = made.err().unwrap_or_default();
                faults.retain(|fault| plain.iter().all(|plain| plain.path != fault.path));
                faults
            }
        },
        Err(misfits) => {
            let mut faults = misfits.judged(|settings| make(settings, Purpose::Judge).err().unwrap_or_default());
            faults.retain(|fault| plain.iter().all(|plain| apart(&plain.path, &fault.path)));
            faults
        }
    };
    plain.extend(others);
    Err(plain)
}
