//! Pools, with what of them outlives a reload.

use super::backends::authority;
use super::filters::{refuse, unknown};
use super::{Parts, Recipe};
use crate::upstream::budget::{Budget, KEPT};
use crate::upstream::discovery::{self, Discovery};
use crate::upstream::queue::Queue;
use crate::upstream::{Membership, Pool};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tidegate_config::{self as config, Config, Fault};
use tidegate_plugins::Registry;
use tidegate_plugins::balancer::Balancer;

pub(super) fn balancer(pool: &config::Pool, registry: &Registry, faults: &mut Vec<Fault>) -> Option<Arc<dyn Balancer>> {
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

pub(super) fn build(config: &Config, pool: &config::Pool, parts: &Parts<'_>, faults: &mut Vec<Fault>) -> Option<Pool> {
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
pub(super) fn listed(
    pool: &config::Pool,
    discover: &config::Discover,
    faults: &mut Vec<Fault>,
) -> Option<Vec<config::Backend>> {
    let config::Discovered::File(file) = &discover.from else { return Some(Vec::new()) };
    let path = pool.path.key("discover").key("file");
    let told = |fault: Fault| Fault { path: path.clone(), ..fault };
    discovery::read(file).map_err(|found| faults.extend(found.into_iter().map(told))).ok()
}
