//! From a name and settings in a file to a filter or a balancer. [`Registry::built_in`] is the one list.

use crate::balancer::Balancer;
use crate::balancers::{LeastBusy, RoundRobin};
use crate::filter::{Filter, Plugin, SettingsError};
use crate::filters::{ApiKey, Idempotency, Limits, PromptCache, SharedFlight};
use crate::services::Services;
use schemars::Schema;
use serde_json::Value;
use std::sync::Arc;

type Build = fn(Value, &Services) -> Result<Arc<dyn Filter>, Vec<SettingsError>>;
type BuildBalancer = fn() -> Box<dyn Balancer>;

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

/// Every filter and balancer that a file may name.
pub struct Registry {
    filters: Vec<Entry>,
    balancers: Vec<(&'static str, BuildBalancer)>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::built_in()
    }
}

impl Registry {
    /// The one list of what is built in.
    pub fn built_in() -> Self {
        let empty = Self {
            filters: Vec::new(),
            balancers: vec![
                ("round_robin", || Box::new(RoundRobin::default())),
                ("least_busy", || Box::new(LeastBusy::default())),
            ],
        };
        empty.with::<ApiKey>().with::<Limits>().with::<PromptCache>().with::<Idempotency>().with::<SharedFlight>()
    }

    /// Adds a filter; a later one of the same name takes the place of an earlier.
    #[must_use]
    pub fn with<P: Plugin>(mut self) -> Self {
        self.filters.retain(|entry| entry.name != P::NAME);
        self.filters.push(Entry {
            name: P::NAME,
            schema: || schemars::schema_for!(P::Settings),
            build: |settings, services| {
                let settings = serde_path_to_error::deserialize(settings).map_err(|error| {
                    let path = error.path().to_string();
                    let path = if path == "." { String::new() } else { path };
                    vec![SettingsError::at(path, error.into_inner().to_string())]
                })?;
                Ok(Arc::new(P::new(settings, services)?))
            },
        });
        self
    }

    /// The filters, in the order of the list.
    pub fn filters(&self) -> &[Entry] {
        &self.filters
    }

    /// The names of the balancers.
    pub fn balancers(&self) -> impl Iterator<Item = &'static str> {
        self.balancers.iter().map(|(name, _)| *name)
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
    pub fn balancer(&self, name: &str) -> Option<Box<dyn Balancer>> {
        self.balancers.iter().find(|(known, _)| *known == name).map(|(_, build)| build())
    }
}
