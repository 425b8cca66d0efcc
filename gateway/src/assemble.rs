//! From a configuration to a snapshot: filters built, models bound to pools, pools to backends. All faults at once.

mod backends;
mod routes;

pub use backends::Recipe;
use backends::authority;

use crate::models::Models;
use crate::networks::{Lists, Networks};
use crate::snapshot::{NamedFilter, OtherPaths, Snapshot};
use crate::telemetry::{Metrics, NO_POOL, OTHER_ROUTE};
use crate::upstream::budget::Budget;
use crate::upstream::discovery::{self, Discovery};
use crate::upstream::queue::Queue;
use crate::upstream::{Membership, Pool};
use arc_swap::ArcSwap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate_config::{self as config, Config, Fault, KeyPath, Positions};
use tidegate_plugins::balancer::Balancer;
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::prices::{Price, Prices};
use tidegate_plugins::services::{Files, Shared};
use tidegate_plugins::store::{LimitMetrics, Local};
use tidegate_plugins::{Registry, Services};

/// What a configuration is assembled with.
pub struct Parts<'a> {
    /// The filters and balancers there are.
    pub registry: &'a Registry,
    /// Where metrics are resolved.
    pub metrics: &'a Metrics,
    /// What ran before: backends that stay keep their state.
    pub previous: Option<&'a Snapshot>,
}

/// Faults that only building finds: unknown filters and balancers, settings that cannot be meant. Each with its place.
pub fn check(config: &Config, positions: &Positions) -> Vec<Fault> {
    let (registry, mut faults) = (Registry::built_in(), Vec::new());
    build_filters(config, &registry, &Shared::default(), &mut faults);
    for pool in &config.pools {
        balancer(pool, &registry, &mut faults);
        authority(pool, &mut faults);
        if let Some(discover) = &pool.discover {
            listed(pool, discover, &mut faults);
        }
    }
    for listen in &config.listen {
        if let Some(tls) = &listen.tls
            && let Err(reason) = crate::life::check_certificate(&tls.cert, &tls.key)
        {
            faults.push(Fault::error(listen.path.key("tls"), reason));
        }
    }
    place(faults, positions)
}

/// Gives faults the place in the file that they point at.
pub fn place(faults: Vec<Fault>, positions: &Positions) -> Vec<Fault> {
    let placed = |fault: Fault| Fault { place: positions.fault(&fault.path, "").place, ..fault };
    faults.into_iter().map(placed).collect()
}

/// The filters of a configuration, built.
///
/// # Errors
/// All faults in their settings.
pub fn filters(config: &Config) -> Result<Vec<NamedFilter>, Vec<Fault>> {
    let mut faults = Vec::new();
    let filters = build_filters(config, &Registry::built_in(), &Shared::default(), &mut faults);
    if faults.is_empty() { Ok(filters) } else { Err(faults) }
}

/// The JSON Schema of a whole file, filters included.
pub fn schema() -> serde_json::Value {
    let registry = Registry::built_in();
    let filters: Vec<_> = registry.filters().iter().map(|entry| (entry.name, entry.schema().to_value())).collect();
    let balancers: Vec<_> = registry.balancers().iter().map(|entry| (entry.name, entry.schema().to_value())).collect();
    config::schema_with(&filters, &balancers)
}

/// Builds a snapshot.
///
/// # Errors
/// All faults that building finds.
pub fn assemble(config: &Config, parts: &Parts<'_>) -> Result<Snapshot, Vec<Fault>> {
    let mut faults = Vec::new();
    let shared = parts.previous.map_or_else(|| first_shared(parts.metrics), |previous| previous.shared.clone());
    let filters = build_filters(config, parts.registry, &shared, &mut faults);
    let pools: Vec<Arc<Pool>> =
        config.pools.iter().filter_map(|pool| build_pool(config, pool, parts, &mut faults)).map(Arc::new).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let find = |name: &str| pools.iter().find(|pool| &*pool.name == name);
    let models = config.models.iter().map(|model| Arc::new(routes::build_model(config, model, &find, parts))).collect();
    let late = filters.iter().position(|named| named.filter.needs_body()).unwrap_or(filters.len());
    let (mut early, mut rest) = (filters, Vec::new());
    rest.extend(early.drain(late..));
    let other_paths = match &config.other_paths {
        config::OtherPaths::Refuse => None,
        config::OtherPaths::Pool(name) => find(name)
            .map(|pool| OtherPaths { pool: pool.clone(), series: parts.metrics.series("other_paths", &pool.name) }),
    };
    Ok(Snapshot {
        limits: config.limits.clone(),
        trusted_proxies: Networks::new(&config.trusted_proxies),
        clients: Lists::new(&config.clients),
        shared,
        early,
        late: rest,
        models: Models::new(models, config.default_model.as_deref().map(Into::into)),
        other_paths,
        cors: config.cors.clone(),
        answer_headers: config.answer_headers,
        no_route: parts.metrics.series(OTHER_ROUTE, NO_POOL),
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

/// The place of a fault within a filter's settings: `keys[2].hash` below the filter's own place.
fn below(path: &KeyPath, inner: &str) -> KeyPath {
    let steps = inner.split(['.', '[', ']']).filter(|step| !step.is_empty());
    steps.fold(path.clone(), |path, step| match step.parse() {
        Ok(index) => path.item(index),
        Err(_) => path.key(step),
    })
}

/// Files that filters' settings name, relative to the configuration file.
struct Relative(PathBuf);

impl Files for Relative {
    fn read(&self, path: &Path) -> io::Result<serde_json::Value> {
        let text = std::fs::read_to_string(self.0.join(path))?;
        config::parse_value(&text).map_err(io::Error::other)
    }
}

/// What filters share from the start of the process to its end.
fn first_shared(metrics: &Metrics) -> Shared {
    let store = Arc::new(Local::default());
    if let Err(error) = LimitMetrics::new(store.clone()).and_then(|limits| metrics.also(Box::new(limits))) {
        tracing::error!(%error, "limits are not measured");
    }
    Shared::with(store)
}

fn build_filters(config: &Config, registry: &Registry, shared: &Shared, faults: &mut Vec<Fault>) -> Vec<NamedFilter> {
    let services = Services {
        shared: shared.clone(),
        models: config.models.iter().map(|model| model.pattern.to_string().into()).collect(),
        prices: Arc::new(prices(&config.prices)),
        files: Arc::new(Relative(config.directory.clone())),
        pepper: None,
    };
    let mut built = Vec::new();
    for entry in &config.filters {
        match registry.filter(&entry.name, entry.settings.clone(), &services) {
            Some(Ok(filter)) => built.push(NamedFilter { name: entry.name.as_str().into(), filter }),
            Some(Err(errors)) => refuse(errors, &entry.path, faults),
            None => {
                let known: Vec<_> = registry.filters().iter().map(|entry| entry.name).collect();
                faults.push(unknown("filter", &entry.name, &known, entry.path.clone()));
            }
        }
    }
    built
}

fn prices(written: &config::Prices) -> Prices {
    let price = |price: &config::Price| Price {
        prompt: price.prompt.0,
        cached_prompt: price.cached_prompt.unwrap_or(price.prompt).0,
        completion: price.completion.0,
        request: price.request.0,
    };
    Prices::new(&written.currency, written.models.iter().map(|(name, written)| (name.as_str(), price(written))))
}

fn unknown(what: &str, name: &str, known: &[&str], path: KeyPath) -> Fault {
    let near = Models::near(name, known.iter().copied());
    let help = match near.first() {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("there are: {}", known.join(", ")),
    };
    Fault::error(path, format!("unknown {what} `{name}`")).with_help(help)
}

fn refuse(errors: Vec<SettingsError>, path: &KeyPath, faults: &mut Vec<Fault>) {
    faults.extend(errors.into_iter().map(|error| {
        let fault = Fault::error(below(path, &error.path), error.message);
        match error.help {
            Some(help) => fault.with_help(help),
            None => fault,
        }
    }));
}

fn balancer(pool: &config::Pool, registry: &Registry, faults: &mut Vec<Fault>) -> Option<Arc<dyn Balancer>> {
    let config::Balance { name, settings, path } = &pool.balance;
    match registry.balancer(name, settings.clone()) {
        Some(Ok(balancer)) => Some(balancer),
        Some(Err(errors)) => {
            refuse(errors, path, faults);
            None
        }
        None => {
            let known: Vec<_> = registry.balancers().iter().map(|entry| entry.name).collect();
            faults.push(unknown("balancer", name, &known, pool.path.key("balance")));
            None
        }
    }
}

fn build_pool(config: &Config, pool: &config::Pool, parts: &Parts<'_>, faults: &mut Vec<Fault>) -> Option<Pool> {
    let mut balancer = balancer(pool, parts.registry, faults)?;
    let before = parts.previous.and_then(|previous| previous.pools.iter().find(|known| *known.name == pool.name));
    if let Some(before) = before.filter(|before| before.balance == pool.balance) {
        balancer = before.balancer.clone();
    }
    let in_flight = before.map(|before| before.in_flight.clone()).unwrap_or_default();
    let recipe = Recipe::new(pool.clone(), authority(pool, faults), in_flight.clone());
    let known = before.map(|before| before.backends()).unwrap_or_default();
    let listed = match &pool.discover {
        None => pool.backends.clone(),
        Some(discover) => listed(pool, discover, faults)?,
    };
    let make = |backend: &config::Backend| recipe.make(backend, &known, parts.metrics);
    let mut backends: Vec<_> = listed.iter().filter(|backend| backend.weight > 0).map(make).collect();
    if backends.is_empty() {
        // Whoever was found before is there until the source has been asked anew.
        backends = known;
    }
    Some(Pool {
        name: pool.name.as_str().into(),
        balancer,
        balance: pool.balance.clone(),
        breaker: pool.breaker.clone(),
        timeouts: pool.timeouts.resolve(&config.timeouts),
        budget: retry_budget(pool, parts),
        queue: queue(pool, parts),
        hold: pool.hold,
        retries: pool.retries.clone(),
        idle_connections: pool.idle_connections,
        membership: ArcSwap::from_pointee(Membership::new(backends)),
        in_flight,
        panicking: AtomicBool::new(false),
        signals: pool.signals.clone(),
        discovery: pool.discover.clone().map(|discover| Discovery::new(discover, recipe)),
    })
}

/// Where the pool's requests wait: those who do go on waiting over a reload that does not change it.
fn queue(pool: &config::Pool, parts: &Parts<'_>) -> Option<Arc<Queue>> {
    let settings = pool.queue.as_ref()?;
    let before = parts.previous.and_then(|previous| previous.pools.iter().find(|known| *known.name == pool.name));
    match before.and_then(|before| before.queue.as_ref()).filter(|before| before.settings == *settings) {
        Some(before) => Some(before.clone()),
        None => Some(Arc::new(Queue::new(settings.clone(), parts.metrics.queue(&pool.name)))),
    }
}

/// How much the pool may try again: what is left of it outlives a reload that does not change it.
fn retry_budget(pool: &config::Pool, parts: &Parts<'_>) -> Arc<Budget> {
    let before = parts.previous.and_then(|previous| previous.pools.iter().find(|known| *known.name == pool.name));
    match before.filter(|before| before.retries == pool.retries) {
        Some(before) => before.budget.clone(),
        None => Arc::new(Budget::new(pool.retries.budget, pool.retries.always)),
    }
}

/// Backends that are known before anybody was asked: those in a file.
fn listed(pool: &config::Pool, discover: &config::Discover, faults: &mut Vec<Fault>) -> Option<Vec<config::Backend>> {
    let config::Discovered::File(file) = &discover.from else { return Some(Vec::new()) };
    let read = discovery::read(file);
    read.map_err(|trouble| faults.push(Fault::error(pool.path.key("discover").key("file"), trouble))).ok()
}
