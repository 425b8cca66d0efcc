//! What filters may ask for, and what they share.

use super::filters::fault;
use crate::cache_file::CacheFiles;
use crate::outbound::Fetcher;
use crate::records::{RecordMetrics, RecordSinks};
use crate::telemetry::Metrics;
use prometheus::core::Collector;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tidegate_config::{self as config, Config, Fault, KeyPath};
use tidegate_plugins::Services;
use tidegate_plugins::classify::Classifiers;
use tidegate_plugins::filters::limits::{OwnLimits, Views};
use tidegate_plugins::filters::prompt_cache::CacheMetrics;
use tidegate_plugins::flight::FlightMetrics;
use tidegate_plugins::prices::{Price, Prices};
use tidegate_plugins::services::{Files, Shared};
use tidegate_plugins::store::{LimitMetrics, Local};
use tidegate_plugins::tenants::Tenants;

/// The section that says who there is.
pub(super) const TENANTS: &str = "tenants";

/// The section that says what gives requests a class.
pub(super) const CLASSIFIERS: &str = "classifiers";

/// Files that filters' settings name, relative to the configuration file.
struct Relative {
    directory: PathBuf,
    /// Those that were read.
    read: Read,
}

/// Files that were read for a configuration.
pub(super) type Read = Arc<Mutex<BTreeSet<PathBuf>>>;

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
    let mut shared = Shared { outbound, tiers, ..Shared::with(store) };
    match RecordMetrics::new() {
        Ok(series) => {
            measure(metrics, "records", Ok(series.clone()));
            shared.records = Arc::new(RecordSinks::new(series));
        }
        Err(error) => tracing::error!(%error, "records cannot be measured, and are not kept"),
    }
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
pub(super) fn services(config: &Config, shared: &Shared, read: &Read, faults: &mut Vec<Fault>) -> Services {
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

fn prices(written: &config::Prices) -> Prices {
    let price = |price: &config::Price| Price {
        prompt: price.prompt.0,
        cached_prompt: price.cached_prompt.unwrap_or(price.prompt).0,
        completion: price.completion.0,
        request: price.request.0,
    };
    Prices::new(&written.currency, written.models.iter().map(|(name, written)| (name.as_str(), price(written))))
}
