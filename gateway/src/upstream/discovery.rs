//! Backends that come and go: the addresses of a name, the servers of a service, or the list in a file.
//!
//! A source that cannot be asked, or has nothing, or nonsense, changes nothing. A backend that is still there keeps its
//! state, its connections and its requests. One that is gone gets no more requests, ends those it has, and is forgotten.

use super::backend::Backend;
use super::membership::Membership;
use super::names::{Found, Names, Served};
use super::pool::Pool;
use crate::assemble::Recipe;
use crate::core::Core;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidegate_config::{self as config, Discover, Discovered, Fault, Faults, ProcessEnvironment, Source};
use tokio::task::JoinSet;

/// How often it is looked whether a source is due, and whether one that is gone has ended its requests.
const TICK: Duration = Duration::from_millis(100);

/// How long an answer is believed to be good at most.
const LONGEST: Duration = Duration::from_secs(60);

/// Backends that one source may name.
const MOST: usize = 10_000;

/// Where a pool's backends come from, and what is made of them.
pub struct Discovery {
    /// Where.
    pub discover: Discover,
    recipe: Recipe,
    names: Names,
    /// What was found last, and until when that is good; held while it is looked.
    known: tokio::sync::Mutex<Option<(Instant, Vec<Served>)>>,
    /// Those that are gone, with requests that are not over.
    leaving: Mutex<Vec<Arc<Backend>>>,
    /// What was wrong the last time, so that it is said once.
    trouble: Mutex<Option<String>>,
}

impl Discovery {
    /// A source whose backends are made by `recipe`.
    pub fn new(discover: Discover, recipe: Recipe) -> Self {
        let names = Names::new(discover.server);
        let known = tokio::sync::Mutex::default();
        Self { discover, recipe, names, known, leaving: Mutex::default(), trouble: Mutex::default() }
    }

    /// Looks once, unless somebody does: at the source, or, while what it said is good, at who of those is up.
    async fn tend(&self, pool: &Pool, metrics: &Metrics) {
        let Ok(mut known) = self.known.try_lock() else { return };
        let began = Instant::now();
        if known.as_ref().is_none_or(|(until, _)| *until <= began) {
            match self.look().await {
                Ok(found) => {
                    *known = Some((began + found.ttl.min(LONGEST), found.all));
                    self.say(pool, None);
                }
                Err(trouble) => {
                    self.say(pool, Some(trouble));
                    // It is asked again the next time, whatever was good before.
                    if let Some((until, _)) = known.as_mut() {
                        *until = began;
                    }
                }
            }
        }
        if let Some((_, all)) = known.as_ref() {
            self.apply(pool, &first(all, &pool.backends()), metrics);
        }
    }

    /// Who is there now, as the source says.
    async fn look(&self) -> Result<Found<Served>, String> {
        let at_once = |backend| Served { priority: 0, backend };
        let found = match &self.discover.from {
            Discovered::File(file) => {
                let file = file.clone();
                let read = tokio::task::spawn_blocking(move || read(&file)).await.map_err(|error| error.to_string())?;
                let said =
                    |faults: Vec<Fault>| faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>().join("; ");
                let all = read.map_err(said)?.into_iter().map(at_once).collect();
                Found { all, ttl: Duration::ZERO }
            }
            Discovered::Dns(named) => {
                let found = self.names.addresses(named).await?;
                Found { all: found.all.into_iter().map(at_once).collect(), ttl: found.ttl }
            }
            Discovered::Srv(named) => self.names.service(named).await?,
        };
        if found.all.is_empty() || found.all.len() > MOST {
            return Err(format!("{} backends; 1 to {MOST} are taken", found.all.len()));
        }
        Ok(found)
    }

    /// Puts what was found into the pool: who stays keeps its state.
    fn apply(&self, pool: &Pool, found: &[&config::Backend], metrics: &Metrics) {
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
pub fn read(file: &Path) -> Result<Vec<config::Backend>, Vec<Fault>> {
    // Each says where in the list it is: what is told of the whole has a place of its own, in the file that names this one.
    let told = |fault: Fault| {
        let place = fault.place.as_ref().map(|place| format!("{}:{}:{}: ", place.file, place.line, place.column));
        let message = format!("{}{}", place.unwrap_or_default(), fault.message);
        Fault { message, place: None, ..fault }
    };
    let read = Source::read(file).and_then(|source| config::load_backends(&source, &ProcessEnvironment));
    read.map_err(|Faults(faults)| faults.into_iter().map(told).collect())
}

/// Those that get requests: of the priorities as many, from the lowest on, as it takes for one of `known` to be up, or not
/// heard of yet.
fn first<'a>(all: &'a [Served], known: &[Arc<Backend>]) -> Vec<&'a config::Backend> {
    let may_be_up = |served: &&Served| {
        let backend = known.iter().find(|backend| *backend.settings.name == *served.backend.name);
        backend.is_none_or(|backend| backend.health.is_up())
    };
    let is_one = all.iter().all(|served| served.priority == all[0].priority);
    let last = if is_one { None } else { all.iter().filter(may_be_up).map(|served| served.priority).min() };
    let gets = |served: &&Served| last.is_none_or(|last| served.priority <= last);
    all.iter().filter(gets).map(|served| &served.backend).collect()
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
                    if let Some(discovery) = &pool.discovery {
                        discovery.tend(&pool, &metrics).await;
                    }
                });
            }
        }
        if gone {
            crate::life::forget(core, &snapshot);
        }
    }
}
