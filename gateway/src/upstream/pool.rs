//! A pool: backends that answer for the same models, and who among them takes a request.

use super::attempt::Attempt;
use super::backend::Backend;
use super::budget::Budget;
use super::discovery::Discovery;
use super::lease::Lease;
use super::membership::{Leniency, Membership, View};
use super::queue::Queue;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidegate_config::{AskUsage, Balance, Breaker, Hold, Resume, Retries, Signals, Timeouts};
use tidegate_plugins::{Balancer, Exchange};

/// Backends that answer for each other.
pub struct Pool {
    /// Its name in the file.
    pub name: Arc<str>,
    /// Who picks.
    pub balancer: Arc<dyn Balancer>,
    /// What the file says about that: the same balancer stays over a reload that leaves it alone.
    pub balance: Balance,
    /// When a backend is left alone for what it does.
    pub breaker: Option<Breaker>,
    /// How long its backends may take.
    pub timeouts: Timeouts,
    /// What is tried again, and how often.
    pub retries: Retries,
    /// How much more is tried again. Kept over a reload that does not change it.
    pub budget: Arc<Budget>,
    /// How much of a stream is held before its client gets any.
    pub hold: Hold,
    /// When the rest of a stream that broke is asked of another backend; none: never.
    pub resume: Option<Resume>,
    /// Where requests wait while all are full. Kept over a reload that does not change it.
    pub queue: Option<Arc<Queue>>,
    /// Whether its backends are asked what a stream has cost where the client did not ask.
    pub usage: AskUsage,
    /// How long an idle connection is kept.
    pub idle_connections: Duration,
    /// What tenants' salts are made with, where the backends take salts.
    pub salts: Option<[u8; 32]>,
    /// Who is in it now.
    pub membership: ArcSwap<Membership>,
    /// Requests that all its backends are answering; they count themselves in.
    pub in_flight: Arc<AtomicUsize>,
    /// Whether so many are out that all are used.
    pub panicking: AtomicBool,
    /// What is read of its backends' own metrics.
    pub signals: Option<Signals>,
    /// Where its backends come from, if they come and go.
    pub discovery: Option<Discovery>,
}

/// Why nobody takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoBackend {
    /// All are down; ask again after this long, when the next probe has run.
    Down(Duration),
    /// All that are up have as many requests as they take.
    Busy,
    /// All that want requests have been tried for this one.
    Tried,
    /// All that are up have said that they want no requests for this long.
    Resting(Duration),
}

/// Places that are taken by others between the look and the step, before we give up.
const RACES: usize = 32;

impl Pool {
    /// A place at one of the backends that is up, has room and is not in `tried`.
    ///
    /// # Errors
    /// [`NoBackend`] says why there is none.
    pub fn lease(self: &Arc<Self>, exchange: &Exchange, tried: &[Arc<Backend>]) -> Result<Lease, NoBackend> {
        let membership = self.membership.load();
        let model = exchange.model().map_or(0, |model| model_id(model));
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let mut view = View::new(&membership, model, tried, self.breaker.as_ref(), in_flight);
        if self.panicking.load(Ordering::Relaxed) && self.panics(&view) {
            view.leniency = Leniency::Panic;
        }
        if let [only] = &membership.backends[..]
            && view.is_open(only)
            && let Some(lease) = self.take(&view, only)
        {
            return Ok(lease);
        }
        loop {
            if let Some(lease) = self.pick(exchange, &view) {
                return Ok(lease);
            }
            if !view.widen() {
                match view.leniency {
                    Leniency::None => view.leniency = Leniency::Recovering,
                    Leniency::Recovering if self.panics(&view) => {
                        self.panicking.store(true, Ordering::Relaxed);
                        view.leniency = Leniency::Panic;
                    }
                    _ => return Err(self.why_none(&view)),
                }
            }
        }
    }

    /// Lets the balancer pick until a place is taken, or it finds nobody.
    fn pick(self: &Arc<Self>, exchange: &Exchange, view: &View<'_>) -> Option<Lease> {
        for _ in 0..RACES {
            let picked = self.balancer.pick(exchange, view)?;
            // Somebody may have been faster to the last place there.
            if let Some(lease) = self.take(view, view.backend(picked)) {
                return Some(lease);
            }
        }
        None
    }

    fn take(self: &Arc<Self>, view: &View<'_>, backend: &Arc<Backend>) -> Option<Lease> {
        let breaker = view.breaker.and_then(|_| backend.breakers.find(view.model));
        let probing = match breaker.map(|breaker| breaker.enter(view.now)) {
            Some(None) if view.leniency < Leniency::Panic => return None,
            Some(probing) => probing.unwrap_or(false),
            None => false,
        };
        // From here on the drop of the attempt says that it led to nothing.
        let attempt = Attempt::new(self, backend, view.model, probing);
        if !backend.enter() {
            return None;
        }
        backend.series.picked(probing, view.leniency == Leniency::Panic);
        Some(Lease::new(backend, attempt))
    }

    /// Whether so few are up and trusted that all are used. Not where all are down: that would help nobody.
    fn panics(&self, view: &View<'_>) -> bool {
        let Some(breaker) = &self.breaker else { return false };
        let (available, all) = view.available();
        (available as f64) < all as f64 * breaker.panic_below && self.is_up()
    }

    /// Looks whether the pool still has to use all of its backends, and whether one of them has got another model. To be
    /// called now and then.
    pub fn look(&self) {
        let membership = self.membership.load();
        let models = membership.backends.iter().flat_map(|backend| backend.breakers.open());
        let panics = |model| self.panics(&View::new(&membership, model, &[], self.breaker.as_ref(), 0));
        // Model 0 has no breaker: whether enough are up at all.
        let panicking = panics(0) || models.into_iter().any(panics);
        if self.panicking.swap(panicking, Ordering::Relaxed) != panicking {
            tracing::warn!(pool = &*self.name, panicking, "whether all backends are used, because most are out");
        }
        let changed = membership.backends.iter().filter(|backend| backend.serves_anew.swap(false, Ordering::Relaxed));
        if changed.count() > 0 {
            self.membership.store(Arc::new(Membership::new(membership.backends.clone())));
        }
    }

    /// Who is in it.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        self.membership.load().backends.clone()
    }

    /// Whether anybody in it is up.
    pub fn is_up(&self) -> bool {
        let membership = self.membership.load();
        membership.backends.iter().any(|backend| backend.health.is_up() && !backend.is_draining())
    }

    /// Whether every backend has been probed at least once.
    pub fn is_known(&self) -> bool {
        let membership = self.membership.load();
        !membership.backends.is_empty() && membership.backends.iter().all(|backend| backend.health.is_known())
    }

    /// Whether somebody in it has been heard of, and is up.
    pub fn serves(&self) -> bool {
        let membership = self.membership.load();
        let is_well =
            |backend: &Arc<Backend>| backend.health.is_known() && backend.health.is_up() && !backend.is_draining();
        membership.backends.iter().any(is_well)
    }

    /// How long all that are up want no requests, if they do.
    pub fn rest(&self) -> Option<Duration> {
        self.soonest().filter(|wait| !wait.is_zero())
    }

    /// When the first of those that are up wants requests, as far as they have said; none if nobody is up.
    pub fn soonest(&self) -> Option<Duration> {
        let membership = self.membership.load();
        let up = membership.backends.iter().filter(|backend| backend.health.is_up() && !backend.is_draining());
        up.map(|backend| backend.holdoff.left().unwrap_or_default()).min()
    }

    fn why_none(&self, view: &View<'_>) -> NoBackend {
        let membership = self.membership.load();
        if view.available().0 == 0 {
            let next = membership.backends.iter().map(|backend| backend.health.settings().every).min();
            return NoBackend::Down(next.unwrap_or(Duration::from_secs(1)));
        }
        if let Some(rest) = self.rest() {
            return NoBackend::Resting(rest);
        }
        let mut up = membership.backends.iter().filter(|backend| backend.health.is_up() && !backend.is_draining());
        // Who rests is not waited for as long as there is one that does not, tried or not.
        let is_done = |backend: &Arc<Backend>| {
            backend.holdoff.left().is_some() || view.tried.iter().any(|other| Arc::ptr_eq(other, backend))
        };
        if up.all(is_done) { NoBackend::Tried } else { NoBackend::Busy }
    }
}

/// A model's name as breakers and lists of models know it; never 0.
pub fn model_id(name: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    name.bytes().fold(0xcbf2_9ce4_8422_2325, fold).max(1)
}
