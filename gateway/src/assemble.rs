//! From a configuration to a snapshot: filters built, models bound to pools, pools to backends. All faults at once.

mod backends;
mod checks;
mod filters;
mod order;
mod pools;
mod routes;
mod services;

pub use backends::Recipe;
pub use checks::{check, place};
pub(crate) use checks::{other_pepper, taken_ids};
pub(crate) use services::first_shared;
pub use services::own_limits;

use crate::exchange::own::Own;
use crate::exchange::shadow::ShadowMetrics;
use crate::models::Models;
use crate::networks::{Lists, Networks};
use crate::snapshot::{NamedFilter, OtherPaths, Snapshot};
use crate::telemetry::{Metrics, NO_POOL, OTHER_ROUTE};
use crate::upstream::Pool;
use services::{CLASSIFIERS, Read, TENANTS, services};
use std::sync::{Arc, PoisonError};
use tidegate_config::{self as config, Config, Fault};
use tidegate_plugins::Registry;
use tidegate_plugins::classify::Classifiers;
use tidegate_plugins::filters::limits::Views;
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::services::Shared;
use tidegate_plugins::tenants::Tenants;

/// What a configuration is assembled with.
pub struct Parts<'a> {
    /// The filters and balancers there are.
    pub registry: &'a Registry,
    /// Where metrics are resolved.
    pub metrics: &'a Metrics,
    /// What ran before: backends that stay keep their state.
    pub previous: Option<&'a Snapshot>,
}

/// What the keys of a file are called, and what else its filters show.
pub fn views(config: &Config) -> Arc<Views> {
    let mut faults = Vec::new();
    let services = services(config, &Shared::default(), &Read::default(), &mut faults);
    let _filters = filters::build(config, &Registry::built_in(), &services, &mut faults);
    services.views
}

/// The filters of a configuration, built.
///
/// # Errors
/// All faults in their settings.
pub fn filters(config: &Config, shared: &Shared) -> Result<Vec<NamedFilter>, Vec<Fault>> {
    let mut faults = Vec::new();
    let services = services(config, shared, &Read::default(), &mut faults);
    let filters = filters::build(config, &Registry::built_in(), &services, &mut faults);
    if faults.is_empty() { Ok(filters) } else { Err(faults) }
}

/// The JSON Schema of a whole file, filters included.
pub fn schema() -> serde_json::Value {
    let registry = Registry::built_in();
    let filters: Vec<_> = registry.filters().iter().map(|entry| (entry.name, entry.schema().to_value())).collect();
    let balancers: Vec<_> = registry.balancers().iter().map(|entry| (entry.name, entry.schema().to_value())).collect();
    let mut schema = config::schema_with(&filters, &balancers);
    config::adopt_section(&mut schema, TENANTS, Tenants::schema().to_value());
    config::adopt_section(&mut schema, CLASSIFIERS, Classifiers::schema().to_value());
    schema
}

/// Builds a snapshot.
///
/// # Errors
/// All faults that building finds.
pub fn assemble(config: &Config, parts: &Parts<'_>) -> Result<Snapshot, Vec<Fault>> {
    let mut faults = Vec::new();
    faults.extend(checks::untraced(config));
    let own: Arc<Own> = parts.previous.map_or_else(Arc::default, |previous| previous.own.clone());
    let first = || Shared { asks: own.clone(), ..first_shared(parts.metrics) };
    let shared = parts.previous.map_or_else(first, |previous| previous.shared.clone());
    let read = Read::default();
    let services = services(config, &shared, &read, &mut faults);
    let filters = filters::build(config, parts.registry, &services, &mut faults);
    let pools: Vec<Arc<Pool>> =
        config.pools.iter().filter_map(|pool| pools::build(config, pool, parts, &mut faults)).map(Arc::new).collect();
    faults.extend(checks::journal(config));
    if !faults.is_empty() {
        return Err(faults);
    }
    let find = |name: &str| pools.iter().find(|pool| &*pool.name == name);
    let models = config.models.iter().map(|model| Arc::new(routes::build_model(config, model, &find, parts))).collect();
    let late = filters.iter().position(|named| named.filter.needs_body()).unwrap_or(filters.len());
    let kept_headers = filters.iter().flat_map(|named| named.filter.keeps()).cloned().collect();
    let (mut early, mut rest) = (filters::measured(filters, parts.metrics), Vec::new());
    rest.extend(early.drain(late..));
    let other_paths = match &config.other_paths {
        config::OtherPaths::Refuse => None,
        config::OtherPaths::Pool(name) => find(name)
            .map(|pool| OtherPaths { pool: pool.clone(), series: parts.metrics.series("other_paths", &pool.name) }),
    };
    Ok(Snapshot {
        limits: config.limits.clone(),
        recent: config.recent,
        #[cfg(feature = "otlp")]
        traces: config.traces.clone().map(|traces| Arc::new(crate::telemetry::Rule::new(traces))),
        trusted_proxies: Networks::new(&config.trusted_proxies),
        clients: Lists::new(&config.clients),
        shared,
        views: services.views,
        prices: services.prices,
        hasher: KeyHasher::new(services.pepper.as_deref()),
        tenants: services.tenants,
        own_limits: services.own_limits,
        overlap: config.keys.overlap,
        early,
        identifies_late: rest.iter().any(|named| named.filter.identifies().is_some()),
        own,
        shadows: ShadowMetrics::default(),
        late: rest,
        kept_headers,
        models: Models::new(models, config.default_model.as_deref().map(Into::into)),
        other_paths,
        cors: config.cors.clone(),
        answer_headers: config.answer_headers,
        no_route: parts.metrics.series(OTHER_ROUTE, NO_POOL),
        files: std::mem::take(&mut *read.lock().unwrap_or_else(PoisonError::into_inner)),
        hash: hash(config),
        pools,
    })
}

fn hash(config: &Config) -> String {
    // Over the masked text: a hash of secrets would be a way to guess them.
    let mut hash = blake3::hash(config.masked_yaml().as_bytes()).to_hex().to_string();
    hash.truncate(16);
    hash
}
