//! From a configuration to a snapshot: filters built, models bound to pools, pools to backends. All faults at once.

use crate::cache_file::CacheFiles;
use crate::exchange::own::Own;
use crate::exchange::shadow::ShadowMetrics;
use crate::models::Models;
mod backends;
mod order;
mod routes;

pub use backends::Recipe;
use backends::authority;

use crate::networks::{Lists, Networks};
use crate::outbound::Fetcher;
use crate::snapshot::{MeasuredFilter, NamedFilter, OtherPaths, Snapshot};
use crate::storage;
use crate::telemetry::{Metrics, NO_POOL, OTHER_ROUTE};
use crate::upstream::budget::{Budget, KEPT};
use crate::upstream::discovery::{self, Discovery};
use crate::upstream::queue::Queue;
use crate::upstream::{Membership, Pool};
use arc_swap::ArcSwap;
use prometheus::core::Collector;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_config::{self as config, Config, Fault, KeyPath, Positions};
use tidegate_plugins::balancer::Balancer;
use tidegate_plugins::classify::Classifiers;
use tidegate_plugins::credential::Otherwise;
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::filters::limits::{OwnLimits, Views};
use tidegate_plugins::filters::prompt_cache::CacheMetrics;
use tidegate_plugins::flight::FlightMetrics;
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::prices::{Price, Prices};
use tidegate_plugins::services::{Files, Shared};
use tidegate_plugins::store::{LimitMetrics, Local};
use tidegate_plugins::tenants::Tenants;
use tidegate_plugins::when::When;
use tidegate_plugins::{Filter, Registry, Services};

/// The section that says who there is.
const TENANTS: &str = "tenants";

/// The section that says what gives requests a class.
const CLASSIFIERS: &str = "classifiers";

/// The filter that decides over limits.
const LIMITS: &str = "limits";

/// How many ids a fault names at most.
const LISTED: usize = 8;

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
    let shared = Shared::default();
    let services = services(config, &shared, &Read::default(), &mut faults);
    let filters = build_filters(config, &registry, &services, &mut faults);
    if filters.len() == config.filters.len() {
        faults.extend(order::strangers(config, &filters));
    }
    if config.storage.is_none() && shared.store.has_budgets() {
        let limits = config.filters.iter().find(|entry| entry.name == "limits");
        let path = limits.map_or_else(KeyPath::root, |entry| entry.path.clone());
        let fault = Fault::error(path, "its budgets begin anew with each start of the gateway").as_warning();
        faults.push(fault.with_help("add `storage: { path: tidegate.db }`, so that what is spent is kept"));
    }
    for pool in &config.pools {
        balancer(pool, &registry, &mut faults);
        authority(pool, &mut faults);
        if let Some(discover) = &pool.discover {
            listed(pool, discover, &mut faults);
        }
    }
    for listen in &config.listen {
        if let Some(tls) = &listen.tls
            && let Err(reason) = crate::reload::certificates::load(&tls.cert, &tls.key)
        {
            faults.push(Fault::error(listen.path.key("tls"), reason));
        }
    }
    faults.extend(other_pepper(config));
    faults.extend(taken_ids(config, &services.views));
    place(faults, positions)
}

/// Managed keys that let nobody in because they were hashed with another pepper, where the store can be asked.
pub(crate) fn other_pepper(config: &Config) -> Option<Fault> {
    let path = &config.storage.as_ref()?.path;
    let hasher = KeyHasher::new(config.keys.pepper.as_ref().map(|pepper| pepper.expose()));
    // What is not there, or away, is told elsewhere.
    let store = path.exists().then(|| storage::look(path).ok())??;
    let (others, all) = storage::keys::of_other_peppers(&store, hasher.pepper(), When::now()).ok()?;
    let at = if config.keys.pepper.is_some() {
        KeyPath::root().key("keys").key("pepper")
    } else {
        KeyPath::root().key("storage")
    };
    let message = format!("{others} of {all} managed keys were made with another pepper: they let nobody in");
    let help = "set `keys.pepper` to what it was, or rotate them: `tidegate keys rotate ID`";
    (others > 0).then(|| Fault::error(at, message).with_help(help).as_warning())
}

/// Managed keys that let nobody in because keys of the file have their ids, where the store can be asked.
pub(crate) fn taken_ids(config: &Config, views: &Views) -> Option<Fault> {
    let path = &config.storage.as_ref()?.path;
    let store = path.exists().then(|| storage::look(path).ok())??;
    let mut ids = storage::keys::ids(&store).ok()?;
    ids.retain(|id| views.has_key(id));
    let more = if ids.len() > LISTED { format!(" and {} more", ids.len() - LISTED) } else { String::new() };
    let listed = ids[..ids.len().min(LISTED)].join(", ");
    let message = format!("managed keys have the ids of keys in the file, and let nobody in: {listed}{more}");
    let help = "give the keys in the file ids of their own, or revoke the managed ones: `tidegate keys revoke ID`";
    let fault = Fault::error(KeyPath::root().key("storage"), message).with_help(help).as_warning();
    (!ids.is_empty()).then_some(fault)
}

/// What the keys of a file are called, and what else its filters show.
pub fn views(config: &Config) -> Arc<Views> {
    let mut faults = Vec::new();
    let services = services(config, &Shared::default(), &Read::default(), &mut faults);
    let _filters = build_filters(config, &Registry::built_in(), &services, &mut faults);
    services.views
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
pub fn filters(config: &Config, shared: &Shared) -> Result<Vec<NamedFilter>, Vec<Fault>> {
    let mut faults = Vec::new();
    let services = services(config, shared, &Read::default(), &mut faults);
    let filters = build_filters(config, &Registry::built_in(), &services, &mut faults);
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
    let own: Arc<Own> = parts.previous.map_or_else(Arc::default, |previous| previous.own.clone());
    let first = || Shared { asks: own.clone(), ..first_shared(parts.metrics) };
    let shared = parts.previous.map_or_else(first, |previous| previous.shared.clone());
    let read = Read::default();
    let services = services(config, &shared, &read, &mut faults);
    let filters = build_filters(config, parts.registry, &services, &mut faults);
    let pools: Vec<Arc<Pool>> =
        config.pools.iter().filter_map(|pool| build_pool(config, pool, parts, &mut faults)).map(Arc::new).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let find = |name: &str| pools.iter().find(|pool| &*pool.name == name);
    let models = config.models.iter().map(|model| Arc::new(routes::build_model(config, model, &find, parts))).collect();
    let late = filters.iter().position(|named| named.filter.needs_body()).unwrap_or(filters.len());
    let kept_headers = filters.iter().flat_map(|named| named.filter.keeps()).cloned().collect();
    let (mut early, mut rest) = (measured(filters, parts.metrics), Vec::new());
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

/// Filters with their metrics, those of a kind numbered.
fn measured(filters: Vec<NamedFilter>, metrics: &Metrics) -> Vec<MeasuredFilter> {
    let mut measured: Vec<MeasuredFilter> = Vec::new();
    for NamedFilter { name, filter } in filters {
        let series = match measured.iter().filter(|before| before.name == name).count() {
            0 => metrics.filter(&name),
            before => metrics.filter(&format!("{name}#{}", before + 1)),
        };
        measured.push(MeasuredFilter { name, filter, series });
    }
    measured
}

fn hash(config: &Config) -> String {
    // Over the masked text: a hash of secrets would be a way to guess them.
    let mut hash = blake3::hash(config.masked_yaml().as_bytes()).to_hex().to_string();
    hash.truncate(16);
    hash
}

/// Who there is, if the file says so. What is left of a section with faults still tells a known name from others.
fn tenants(config: &Config, own: &OwnLimits, faults: &mut Vec<Fault>) -> Option<Arc<Tenants>> {
    let (tenants, errors) = Tenants::read(config.tenants.clone()?, own);
    let path = KeyPath::root().key(TENANTS);
    faults.extend(errors.into_iter().map(|error| fault(&path, error)));
    Some(Arc::new(tenants))
}

/// What gives requests a class.
fn classifiers(config: &Config, models: &[Arc<str>], shared: &Shared, faults: &mut Vec<Fault>) -> Classifiers {
    let Some(section) = config.classifiers.clone() else { return Classifiers::default() };
    let (classifiers, errors) = Classifiers::read(section, models, shared);
    let path = KeyPath::root().key(CLASSIFIERS);
    faults.extend(errors.into_iter().map(|error| fault(&path, error)));
    classifiers
}

/// A fault within settings that stand at `path`.
fn fault(path: &KeyPath, error: SettingsError) -> Fault {
    let fault = Fault::error(path.inside(&error.path), error.message);
    match error.help {
        Some(help) => fault.with_help(help),
        None => fault,
    }
}

/// Files that filters' settings name, relative to the configuration file.
struct Relative {
    directory: PathBuf,
    /// Those that were read.
    read: Read,
}

/// Files that were read for a configuration.
type Read = Arc<Mutex<BTreeSet<PathBuf>>>;

impl Files for Relative {
    fn read(&self, path: &Path) -> io::Result<serde_json::Value> {
        let path = self.directory.join(path);
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        let text = std::fs::read_to_string(path)?;
        config::parse_value(&text).map_err(io::Error::other)
    }

    fn locate(&self, path: &Path) -> PathBuf {
        self.directory.join(path)
    }
}

/// What filters share from the start of the process to its end.
pub(crate) fn first_shared(metrics: &Metrics) -> Shared {
    let store = Arc::new(Local::default());
    measure(metrics, "limits", LimitMetrics::new(store.clone()));
    let (outbound, tiers) = (Arc::new(Fetcher::default()), Arc::new(CacheFiles::default()));
    let shared = Shared { outbound, tiers, ..Shared::with(store) };
    measure(metrics, "tokens", Ok(shared.issuers.metrics.clone()));
    measure(metrics, "caches", CacheMetrics::new(shared.caches.clone(), shared.tiers.clone()));
    measure(metrics, "shared answers", FlightMetrics::new(shared.flights.clone()));
    measure(metrics, "classes", Ok(shared.classes.metrics()));
    measure(metrics, "who is limited", Ok(shared.limited.counter()));
    shared
}

/// Shows what something shared counts. That it cannot be shown is no reason not to serve.
fn measure<C: Collector + 'static>(metrics: &Metrics, what: &str, collector: prometheus::Result<C>) {
    if let Err(error) = collector.and_then(|collector| metrics.also(Box::new(collector))) {
        tracing::error!(%error, "{what} are not measured");
    }
}

/// What filters may ask for.
fn services(config: &Config, shared: &Shared, read: &Read, faults: &mut Vec<Fault>) -> Services {
    let own = own_limits(config, shared);
    let tenants = tenants(config, &own, faults);
    let models = models_of(config);
    Services {
        shared: shared.clone(),
        views: Arc::new(Views::of(tenants.clone())),
        classifiers: Arc::new(classifiers(config, &models, shared, faults)),
        models,
        managed_keys: config.storage.as_ref().map(|_| shared.managed_keys.clone()),
        tenants,
        own_limits: Arc::new(own),
        nth: 0,
        decides_own: false,
        prices: Arc::new(prices(&config.prices)),
        files: Arc::new(Relative { directory: config.directory.clone(), read: read.clone() }),
        pepper: config.keys.pepper.as_ref().map(|pepper| pepper.expose().into()),
    }
}

/// What opens the limits that tenants and keys have for themselves.
pub fn own_limits(config: &Config, shared: &Shared) -> OwnLimits {
    OwnLimits::new(shared.store.clone(), Arc::new(prices(&config.prices)), models_of(config))
}

fn models_of(config: &Config) -> Arc<[Arc<str>]> {
    config.models.iter().map(|model| model.pattern.to_string().into()).collect()
}

/// The place of the last filter that has one of these names.
fn last(config: &Config, names: &[&str]) -> Option<usize> {
    config.filters.iter().rposition(|entry| names.contains(&&*entry.name))
}

/// Limits of tenants and keys that nobody decides over.
fn undecided(config: &Config) -> Option<Fault> {
    let Some(decides) = last(config, &[LIMITS]) else {
        let section = if config.tenants.is_some() { TENANTS } else { "filters" };
        let message = "tenants or keys have `limits`, and there is no filter `limits` that decides over them";
        let fault = Fault::error(KeyPath::root().key(section), message);
        return Some(fault.with_help("add `- limits: []` to `filters`, below the filter that knows who calls"));
    };
    let path = config.filters[decides].path.clone();
    let message = "here nobody knows yet who calls, and so which limits of tenants and keys apply";
    let late = last(config, &["api_key", "jwt"]).is_some_and(|identifies| identifies > decides);
    late.then(|| Fault::error(path, message).with_help("move it below the filter that knows"))
}

fn build_filters(
    config: &Config,
    registry: &Registry,
    services: &Services,
    faults: &mut Vec<Fault>,
) -> Vec<NamedFilter> {
    let mut built: Vec<NamedFilter> = Vec::new();
    // Several filters may limit, a cheap one in front of the keys for one; what callers bring along is decided once.
    let decides = last(config, &[LIMITS]);
    for (index, entry) in config.filters.iter().enumerate() {
        let nth = config.filters[..index].iter().filter(|above| above.name == entry.name).count();
        let services = &Services { decides_own: Some(index) == decides, nth, ..services.clone() };
        match registry.filter(&entry.name, entry.settings.clone(), services) {
            Some(Ok(filter)) => {
                faults.extend(unreachable_identity(&built, &*filter, entry));
                built.push(NamedFilter { name: entry.name.as_str().into(), filter });
            }
            Some(Err(errors)) => refuse(errors, &entry.path, faults),
            None => {
                let known: Vec<_> = registry.filters().iter().map(|entry| entry.name).collect();
                faults.push(unknown("filter", &entry.name, &known, entry.path.clone()));
            }
        }
    }
    // What could not be built has no place among the others.
    if built.len() == config.filters.len() {
        faults.extend(order::too_early(config, &built));
    }
    if services.own_limits.any() {
        faults.extend(undecided(config));
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

/// A filter that says who sends a request, below one that refuses whoever it does not know itself.
fn unreachable_identity(above: &[NamedFilter], filter: &dyn Filter, entry: &config::FilterEntry) -> Option<Fault> {
    filter.identifies()?;
    let refusing = above.iter().find(|named| named.filter.identifies() == Some(Otherwise::Refuse))?;
    let message = format!("nobody could get in by `{}`: `{}` above it refuses them", entry.name, refusing.name);
    let help =
        format!("set `otherwise: next` on `{}`, so that it leaves to others whom it does not know", refusing.name);
    Some(Fault::error(entry.path.clone(), message).with_help(help))
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
    faults.extend(errors.into_iter().map(|error| fault(path, error)));
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
    // The file may say now how they are to be asked.
    known.iter().for_each(|backend| backend.forget_refusals());
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
        resume: pool.resume,
        retries: pool.retries.clone(),
        usage: pool.usage,
        idle_connections: pool.idle_connections,
        salts: pool.cache_salt.as_ref().map(|secret| crate::exchange::salt_key(secret.expose())),
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
        None => Arc::new(Budget::new(pool.retries.budget, pool.retries.always, KEPT)),
    }
}

/// Backends that are known before anybody was asked: those in a file.
fn listed(pool: &config::Pool, discover: &config::Discover, faults: &mut Vec<Fault>) -> Option<Vec<config::Backend>> {
    let config::Discovered::File(file) = &discover.from else { return Some(Vec::new()) };
    let read = discovery::read(file);
    read.map_err(|trouble| faults.push(Fault::error(pool.path.key("discover").key("file"), trouble))).ok()
}
