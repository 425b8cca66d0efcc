//! Backends that come and go: the addresses of a name, or the list in a file.
//!
//! A source that cannot be asked, or has nothing, or nonsense, changes nothing. A backend that is still there keeps its
//! state, its connections and its requests. One that is gone gets no more requests, ends those it has, and is forgotten.

use super::backend::Backend;
use super::membership::Membership;
use super::pool::Pool;
use crate::assemble::Recipe;
use crate::core::Core;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_config::{self as config, Discover, Discovered, ProcessEnvironment, Source};
use tokio::task::JoinSet;

/// How often it is looked whether a source is due, and whether one that is gone has ended its requests.
const TICK: Duration = Duration::from_millis(100);

/// Backends that one source may name.
const MOST: usize = 10_000;

/// Where a pool's backends come from, and what is made of them.
pub struct Discovery {
    /// Where.
    pub discover: Discover,
    recipe: Recipe,
    /// Those that are gone, with requests that are not over.
    leaving: Mutex<Vec<Arc<Backend>>>,
    /// What was wrong the last time, so that it is said once.
    trouble: Mutex<Option<String>>,
}

impl Discovery {
    /// A source whose backends are made by `recipe`.
    pub fn new(discover: Discover, recipe: Recipe) -> Self {
        Self { discover, recipe, leaving: Mutex::default(), trouble: Mutex::default() }
    }

    /// Who is there now, as the source says.
    async fn look(&self) -> Result<Vec<config::Backend>, String> {
        let found = match &self.discover.from {
            Discovered::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || read(&file)).await;
                read.map_err(|error| error.to_string())??
            }
            Discovered::Dns(backend) => resolve(backend).await?,
        };
        if found.is_empty() || found.len() > MOST {
            return Err(format!("{} backends; 1 to {MOST} are taken", found.len()));
        }
        Ok(found)
    }

    /// Puts what was found into the pool: who stays keeps its state.
    fn apply(&self, pool: &Pool, found: &[config::Backend], metrics: &Metrics) {
        let before = pool.backends();
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<_> = before.iter().chain(leaving.iter()).cloned().collect();
        let after: Vec<_> =
            found.iter().filter(|one| one.weight > 0).map(|one| self.recipe.make(one, &known, metrics)).collect();
        let is_in = |list: &[Arc<Backend>], one: &Arc<Backend>| list.iter().any(|other| Arc::ptr_eq(other, one));
        if after.len() == before.len() && after.iter().zip(&before).all(|(one, other)| Arc::ptr_eq(one, other)) {
            return;
        }
        leaving.retain(|backend| !is_in(&after, backend));
        for backend in before.iter().filter(|backend| !is_in(&after, backend)) {
            tracing::info!(pool = &*pool.name, backend = &*backend.settings.name, "backend is gone");
            leaving.push(backend.clone());
        }
        for backend in after.iter().filter(|backend| !is_in(&before, backend)) {
            tracing::info!(pool = &*pool.name, backend = &*backend.settings.name, "backend has come");
        }
        drop(leaving);
        pool.membership.store(Arc::new(Membership::new(after)));
    }

    /// Those that are gone but still have requests.
    pub fn leaving(&self) -> Vec<Arc<Backend>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets those that have ended their last request; whether there were any.
    fn forget(&self) -> bool {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        let before = leaving.len();
        leaving.retain(|backend| backend.in_flight() > 0);
        leaving.len() < before
    }

    fn say(&self, pool: &Pool, trouble: Option<String>) {
        let mut known = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != trouble {
            match &trouble {
                Some(trouble) => tracing::warn!(
                    pool = &*pool.name,
                    trouble,
                    "backends cannot be discovered; those that are known stay"
                ),
                None => tracing::info!(pool = &*pool.name, "backends are discovered again"),
            }
            *known = trouble;
        }
    }
}

/// The list in a file.
///
/// # Errors
/// What is wrong with it.
pub fn read(file: &Path) -> Result<Vec<config::Backend>, String> {
    let source = Source::read(file).map_err(|faults| faults.to_string())?;
    config::load_backends(&source, &ProcessEnvironment).map_err(|faults| faults.to_string())
}

/// A backend for each address of a name, in the order of their names.
async fn resolve(backend: &config::Backend) -> Result<Vec<config::Backend>, String> {
    let config::Address::Name { host, port } = &backend.url.address else { return Ok(vec![backend.clone()]) };
    let found = tokio::net::lookup_host((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
    let mut addresses: Vec<_> = found.collect();
    addresses.sort_unstable();
    addresses.dedup();
    let at = |address: std::net::SocketAddr| {
        let url = config::BackendUrl { address: config::Address::Ip(address), ..backend.url.clone() };
        config::Backend { name: address.to_string(), url, ..backend.clone() }
    };
    Ok(addresses.into_iter().map(at).collect())
}

/// Looks at the sources of whatever configuration is current, until dropped.
pub async fn run(core: &Core) {
    let mut due: HashMap<usize, Instant> = HashMap::new();
    let mut looks = JoinSet::new();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            Some(_) = looks.join_next() => continue,
        }
        let snapshot = core.snapshot.load_full();
        let discovered = || snapshot.pools.iter().filter_map(|pool| Some((pool, pool.discovery.as_ref()?)));
        let is_there = |known: &usize| discovered().any(|(pool, _)| Arc::as_ptr(pool).addr() == *known);
        due.retain(|known, _| is_there(known));
        let mut gone = false;
        for (pool, discovery) in discovered() {
            gone |= discovery.forget();
            let now = Instant::now();
            let at = due.entry(Arc::as_ptr(pool).addr()).or_insert(now);
            if *at <= now {
                *at = now + discovery.discover.every;
                let (pool, metrics) = (pool.clone(), core.metrics.clone());
                looks.spawn(async move {
                    let Some(discovery) = &pool.discovery else { return };
                    let found = discovery.look().await;
                    if let Ok(found) = &found {
                        discovery.apply(&pool, found, &metrics);
                    }
                    discovery.say(&pool, found.err());
                });
            }
        }
        if gone {
            crate::life::forget(core, &snapshot);
        }
    }
}
