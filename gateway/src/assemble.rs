//! From a configuration to a snapshot: filters built, models bound to pools, pools to backends. All faults at once.

mod routes;

use crate::models::Models;
use crate::networks::{Lists, Networks};
use crate::snapshot::{NamedFilter, OtherPaths, Snapshot};
use crate::telemetry::{Metrics, NO_POOL, OTHER_ROUTE};
use crate::upstream::backend::{self, Address, Settings, Tls};
use crate::upstream::budget::Budget;
use crate::upstream::health::{Health, HealthSettings};
use crate::upstream::queue::Queue;
use crate::upstream::{Backend, Pool};
use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidegate_config::{self as config, Config, Fault, KeyPath, Positions};
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
    config::schema_with_filters(&filters)
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
            Some(Err(errors)) => {
                for error in errors {
                    let mut fault = Fault::error(below(&entry.path, &error.path), error.message);
                    if let Some(help) = error.help {
                        fault = fault.with_help(help);
                    }
                    faults.push(fault);
                }
            }
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

fn balancer(
    pool: &config::Pool,
    registry: &Registry,
    faults: &mut Vec<Fault>,
) -> Option<Box<dyn tidegate_plugins::Balancer>> {
    let balancer = registry.balancer(&pool.balance);
    if balancer.is_none() {
        let known: Vec<_> = registry.balancers().collect();
        faults.push(unknown("balancer", &pool.balance, &known, pool.path.key("balance")));
    }
    balancer
}

fn build_pool(config: &Config, pool: &config::Pool, parts: &Parts<'_>, faults: &mut Vec<Fault>) -> Option<Pool> {
    let balancer = balancer(pool, parts.registry, faults)?;
    let authority = authority(pool, faults);
    let backends = pool
        .backends
        .iter()
        .filter(|backend| backend.weight > 0)
        .map(|backend| build_backend(pool, backend, authority.as_ref(), parts))
        .collect();
    Some(Pool {
        name: pool.name.as_str().into(),
        backends,
        balancer,
        timeouts: pool.timeouts.resolve(&config.timeouts),
        budget: retry_budget(pool, parts),
        queue: queue(pool, parts),
        hold: pool.hold,
        retries: pool.retries.clone(),
        idle_connections: pool.idle_connections,
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
    parts: &Parts<'_>,
) -> Arc<Backend> {
    let origin = backend::Origin::new(pool, written);
    let before = parts
        .previous
        .and_then(|previous| previous.pools.iter().find(|known| *known.name == pool.name))
        .and_then(|known| known.backends.iter().find(|backend| backend.origin == origin));
    if let Some(backend) = before {
        return backend.clone();
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
    Arc::new(Backend::new(settings(pool, written, authority), origin, Health::new(health), series))
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
