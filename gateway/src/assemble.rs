//! From a configuration to a snapshot: filters built, models bound to pools, pools to backends. All faults at once.

use crate::models::{Model, Models, Target};
use crate::networks::{Lists, Networks};
use crate::outbound::Fetcher;
use crate::snapshot::{NamedFilter, OtherPaths, Snapshot};
use crate::telemetry::{Metrics, NO_POOL, OTHER_ROUTE};
use crate::upstream::backend::{self, Address, Settings, Tls};
use crate::upstream::health::{Health, HealthSettings};
use crate::upstream::{Backend, Membership, Pool};
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::utils::tls::{WrappedX509, parse_x509};
use prometheus::core::Collector;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;
use tidegate_config::{self as config, Config, Fault, KeyPath, Positions};
use tidegate_plugins::balancer::{Balancer, Member};

use tidegate_plugins::credential::Otherwise;
use tidegate_plugins::filter::SettingsError;
use tidegate_plugins::filters::prompt_cache::CacheMetrics;
use tidegate_plugins::flight::FlightMetrics;
use tidegate_plugins::keys::KeyHasher;
use tidegate_plugins::prices::{Price, Prices};
use tidegate_plugins::services::{Files, Shared};
use tidegate_plugins::store::{LimitMetrics, Local};
use tidegate_plugins::tenants::Tenants;
use tidegate_plugins::{Filter, Registry, Services};

/// The section that says who there is.
const TENANTS: &str = "tenants";

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
    let services = services(config, &shared, &mut faults);
    let _filters = build_filters(config, &registry, &services, &mut faults);
    if config.storage.is_none() && shared.store.has_budgets() {
        let limits = config.filters.iter().find(|entry| entry.name == "limits");
        let path = limits.map_or_else(KeyPath::root, |entry| entry.path.clone());
        let fault = Fault::error(path, "its budgets begin anew with each start of the gateway").as_warning();
        faults.push(fault.with_help("add `storage: { path: tidegate.db }`, so that what is spent is kept"));
    }
    for pool in &config.pools {
        balancer(pool, &registry, &mut faults);
        authority(pool, &mut faults);
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
pub fn filters(config: &Config, shared: &Shared) -> Result<Vec<NamedFilter>, Vec<Fault>> {
    let mut faults = Vec::new();
    let services = services(config, shared, &mut faults);
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
    schema
}

/// Builds a snapshot.
///
/// # Errors
/// All faults that building finds.
pub fn assemble(config: &Config, parts: &Parts<'_>) -> Result<Snapshot, Vec<Fault>> {
    let mut faults = Vec::new();
    let shared = parts.previous.map_or_else(|| first_shared(parts.metrics), |previous| previous.shared.clone());
    let services = services(config, &shared, &mut faults);
    let filters = build_filters(config, parts.registry, &services, &mut faults);
    let pools: Vec<Arc<Pool>> =
        config.pools.iter().filter_map(|pool| build_pool(config, pool, parts, &mut faults)).map(Arc::new).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let find = |name: &str| pools.iter().find(|pool| &*pool.name == name);
    let models = config.models.iter().map(|model| Arc::new(build_model(model, find, parts.metrics))).collect();
    let late = filters.iter().position(|named| named.filter.needs_body()).unwrap_or(filters.len());
    let kept_headers = filters.iter().flat_map(|named| named.filter.keeps()).cloned().collect();
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
        views: services.views.clone(),
        prices: services.prices.clone(),
        hasher: KeyHasher::new(services.pepper.as_deref()),
        tenants: services.tenants,
        overlap: config.keys.overlap,
        early,
        late: rest,
        kept_headers,
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

/// Who there is, if the file says so. What is left of a section with faults still tells a known name from others.
fn tenants(config: &Config, faults: &mut Vec<Fault>) -> Option<Arc<Tenants>> {
    let (tenants, errors) = Tenants::read(config.tenants.clone()?);
    let path = KeyPath::root().key(TENANTS);
    faults.extend(errors.into_iter().map(|error| fault(&path, error)));
    Some(Arc::new(tenants))
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
struct Relative(PathBuf);

impl Files for Relative {
    fn read(&self, path: &Path) -> io::Result<serde_json::Value> {
        let text = std::fs::read_to_string(self.0.join(path))?;
        config::parse_value(&text).map_err(io::Error::other)
    }
}

/// What filters share from the start of the process to its end.
pub(crate) fn first_shared(metrics: &Metrics) -> Shared {
    let store = Arc::new(Local::default());
    measure(metrics, "limits", LimitMetrics::new(store.clone()));
    let shared = Shared { outbound: Arc::new(Fetcher::default()), ..Shared::with(store) };
    measure(metrics, "who is limited", Ok(shared.limited.counter()));
    measure(metrics, "tokens", Ok(shared.issuers.metrics.clone()));
    measure(metrics, "caches", CacheMetrics::new(shared.caches.clone()));
    measure(metrics, "shared answers", FlightMetrics::new(shared.flights.clone()));
    shared
}

/// Shows what something shared counts. That it cannot be shown is no reason not to serve.
fn measure<C: Collector + 'static>(metrics: &Metrics, what: &str, collector: prometheus::Result<C>) {
    if let Err(error) = collector.and_then(|collector| metrics.also(Box::new(collector))) {
        tracing::error!(%error, "{what} are not measured");
    }
}

/// What filters may ask for.
fn services(config: &Config, shared: &Shared, faults: &mut Vec<Fault>) -> Services {
    Services {
        shared: shared.clone(),
        views: Arc::default(),
        models: config.models.iter().map(|model| model.pattern.to_string().into()).collect(),
        managed_keys: config.storage.as_ref().map(|_| shared.managed_keys.clone()),
        tenants: tenants(config, faults),
        prices: Arc::new(prices(&config.prices)),
        files: Arc::new(Relative(config.directory.clone())),
        pepper: config.keys.pepper.as_ref().map(|pepper| pepper.expose().into()),
    }
}

fn build_filters(
    config: &Config,
    registry: &Registry,
    services: &Services,
    faults: &mut Vec<Fault>,
) -> Vec<NamedFilter> {
    let mut built: Vec<NamedFilter> = Vec::new();
    for entry in &config.filters {
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
    let authority = authority(pool, faults);
    let in_flight = before.map(|before| before.in_flight.clone()).unwrap_or_default();
    let backends = pool
        .backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .map(|backend| build_backend(pool, backend, authority.as_ref(), &in_flight, parts))
        .collect();
    Some(Pool {
        name: pool.name.as_str().into(),
        balancer,
        balance: pool.balance.clone(),
        breaker: pool.breaker.clone(),
        timeouts: pool.timeouts.resolve(&config.timeouts),
        retries: pool.retries,
        usage: pool.usage,
        idle_connections: pool.idle_connections,
        membership: ArcSwap::from_pointee(Membership::new(backends)),
        in_flight,
        panicking: AtomicBool::new(false),
    })
}

/// The pool's own certificate authority.
fn authority(pool: &config::Pool, faults: &mut Vec<Fault>) -> Option<Arc<[WrappedX509]>> {
    let path = pool.tls.ca.as_ref()?;
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let mut store = rustls::RootCertStore::empty();
    let wrapped: Vec<_> = certificates
        .unwrap_or_default()
        .into_iter()
        // Pingora's parser panics on what is no certificate: rustls looks first.
        .filter(|certificate| store.add(certificate.clone()).is_ok())
        .map(|certificate| WrappedX509::new(certificate.to_vec(), parse_x509))
        .collect();
    if wrapped.is_empty() {
        let message = format!("{} has no usable certificate", path.display());
        faults.push(Fault::error(pool.path.key("tls").key("ca"), message));
        return None;
    }
    Some(wrapped.into())
}

fn build_backend(
    pool: &config::Pool,
    written: &config::Backend,
    authority: Option<&Arc<[WrappedX509]>>,
    in_flight: &Arc<AtomicUsize>,
    parts: &Parts<'_>,
) -> Arc<Backend> {
    let origin = backend::Origin::new(pool, written);
    let before = parts
        .previous
        .and_then(|previous| previous.pools.iter().find(|known| *known.name == pool.name))
        .and_then(|known| known.backends().into_iter().find(|backend| backend.origin == origin));
    if let Some(backend) = before {
        return backend;
    }
    let health = match &pool.health {
        Some(health) => HealthSettings {
            every: health.every,
            path: health.path.clone(),
            timeout: health.timeout,
            down_after: health.down_after,
            up_after: health.up_after,
            enabled: true,
        },
        None => HealthSettings {
            every: Duration::from_secs(10),
            path: String::new(),
            timeout: Duration::from_secs(2),
            down_after: u32::MAX,
            up_after: 1,
            enabled: false,
        },
    };
    let series = parts.metrics.backend(&pool.name, &written.name);
    series.up.set(1);
    let settings = settings(pool, written, authority);
    let member = Member::new(&pool.name, &settings.name, settings.weight);
    Arc::new(Backend::new(settings, member, origin, Health::new(health), series, in_flight.clone()))
}

fn settings(pool: &config::Pool, written: &config::Backend, authority: Option<&Arc<[WrappedX509]>>) -> Settings {
    let address = match &written.url.address {
        config::Address::Ip(address) => Address::Tcp(address.ip().to_string(), address.port()),
        config::Address::Name { host, port } => Address::Tcp(host.clone(), *port),
        config::Address::Unix(path) => Address::Unix(path.clone()),
    };
    let server_name = pool.tls.server_name.clone().unwrap_or_else(|| match &address {
        Address::Tcp(host, _) => host.clone(),
        Address::Unix(_) => "localhost".to_owned(),
    });
    let tls = written.url.tls.then(|| Tls { server_name, ca: authority.cloned(), verify: pool.tls.verify });
    let mut headers = HeaderMap::new();
    let secret = written.key.as_ref().map(|key| -> Arc<str> { key.expose().into() });
    if let Some(secret) = &secret {
        let (name, value) = match written.auth {
            config::Auth::Bearer => (http::header::AUTHORIZATION, backend::bearer(secret)),
            config::Auth::XApiKey => (HeaderName::from_static("x-api-key"), HeaderValue::from_str(secret)),
        };
        if let Ok(mut value) = value {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    headers.extend(written.headers.iter().cloned());
    Settings {
        name: written.name.as_str().into(),
        address,
        tls,
        http2: pool.http2,
        authority: written.url.authority.as_str().into(),
        base_path: written.url.base_path.as_str().into(),
        headers,
        secret,
        weight: written.weight,
        max_in_flight: written.max_in_flight.map(|max| max as usize),
    }
}

fn build_model<'a>(model: &config::Model, find: impl Fn(&str) -> Option<&'a Arc<Pool>>, metrics: &Metrics) -> Model {
    let route = model.pattern.to_string();
    let targets = model
        .targets
        .iter()
        .filter_map(|target| {
            let pool = find(&target.pool)?;
            Some(Target {
                pool: pool.clone(),
                send_as: target.as_model.as_deref().map(Into::into),
                weight: target.weight,
                timeouts: model.timeouts.resolve(&pool.timeouts),
                series: metrics.series(&route, &pool.name),
            })
        })
        .collect();
    Model::new(model.pattern.clone(), targets, model.keep_name)
}
