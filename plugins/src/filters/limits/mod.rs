//! `limits`: how much whom may have, in requests, tokens, money, bytes, and requests at a time.
//!
//! One decision over every limit that applies to a request: all are taken from, or none. What a request will cost in
//! tokens is reserved before it goes out, by an [`estimate`]; what it did cost is settled when it is over, by the
//! object in [`held`], which gives everything back should it be dropped before. [`refusal`] says why not, and when.

mod estimate;
mod held;
mod limit;
mod limited;
mod model_names;
mod named;
mod own;
mod rate;
mod refusal;
mod scope;
mod settings;
#[cfg(test)]
mod tests;
mod turns;
mod views;

use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::prices::Prices;
use crate::services::Services;
use crate::store::{Demand, Quota, Store, Subject};
use crate::tenants::Tenant;
use async_trait::async_trait;
use estimate::{Cost, Estimate, Spends};
use held::Held;
use limit::{Limit, declared, unpriced};
use limited::Refused;
use model_names::ModelNames;
use scope::{Found, Scope, Scopes};
use settings::{Anonymous, Kind, Reader};
use std::collections::HashSet;
use std::sync::Arc;

pub use estimate::Estimates;
pub use limited::{LIMITED, LIMITED_HELP, LIMITED_LABELS, Limited};
pub use own::{Own, OwnEntry, OwnLimits};
pub use rate::{Amount, Rate};
pub use settings::{Entry, Settings};
pub use views::{BucketView, Holders, LimitView, Views};

/// See the module.
pub struct Limits(Arc<Inner>);

/// The limits as meant, shared with the requests that hold something of them.
struct Inner {
    store: Arc<dyn Store>,
    limited: Arc<Limited>,
    limits: Vec<Limit>,
    names: ModelNames,
    /// For each of the names, and last for what is none of them.
    estimates: Vec<Arc<Estimate>>,
    prices: Arc<Prices>,
    needs_body: bool,
    /// Tokens or money.
    counts_usage: bool,
    counts_money: bool,
    counts_bytes: bool,
    /// Whether it decides over what callers bring along.
    decides_own: bool,
}

/// What a request asks of the limits.
struct Asked {
    demands: Vec<Demand>,
    cost: Cost,
    spends: Spends,
    /// The first limit that could never admit it: its place among the demands, and how much it would have to.
    never: Option<(usize, u64)>,
    /// Who brought limits of their own.
    tenants: Arc<[Arc<Tenant>]>,
    /// Limits that could never admit it but do not bind, by their tags.
    unmet: Vec<usize>,
}

#[async_trait]
impl Filter for Limits {
    fn needs_body(&self) -> bool {
        self.0.needs_body
    }

    fn counts_refused(&self) -> bool {
        true
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let inner = &self.0;
        let mut asked = inner.ask(exchange);
        for limit in asked.unmet.iter().map(|tag| inner.at(*tag, &asked.tenants)) {
            limit.ledger.count_never(false);
            exchange.note("shadow_limit", &**limit.ledger.label());
            inner.limited.say(inner, limit, exchange, Refused::InShadow);
        }
        if asked.demands.is_empty() {
            return Ok(Verdict::Continue);
        }
        if let Some((at, needs)) = asked.never {
            return Ok(Verdict::Answer(inner.refuse_for_good(exchange, &mut asked, at, needs).await));
        }
        let granted = inner.take(&mut asked, exchange).await;
        for demand in asked.demands.iter().filter(|demand| demand.would_refuse()) {
            exchange.note("shadow_limit", &**demand.ledger.label());
            inner.limited.say(inner, inner.limit(demand, &asked.tenants), exchange, Refused::InShadow);
        }
        exchange.ration(inner.rates(&asked.demands, &asked.tenants));
        if !granted {
            return Ok(Verdict::Answer(inner.too_many(exchange, &asked)));
        }
        if asked.demands.iter().any(|demand| inner.limit(demand, &asked.tenants).kind.is_usage()) {
            exchange.ask_usage();
        }
        let estimate = inner.estimates[inner.model(exchange).0].clone();
        Ok(Verdict::Follow(Box::new(Held::new(inner.clone(), estimate, asked))))
    }
}

impl Inner {
    /// What a demand asks of.
    fn limit<'a>(&'a self, demand: &Demand, tenants: &'a [Arc<Tenant>]) -> &'a Limit {
        self.at(demand.tag, tenants)
    }

    /// The limit with this tag: one of the filter, or behind those one that the caller's tenants brought.
    fn at<'a>(&'a self, tag: usize, tenants: &'a [Arc<Tenant>]) -> &'a Limit {
        let behind = tag.checked_sub(self.limits.len());
        let own = behind.and_then(|tag| own::of(tenants).nth(tag)).map(|(_, limit)| limit);
        own.unwrap_or_else(|| &self.limits[tag])
    }

    /// Takes from all, or from none. Where nobody knows how long the answer will be, what is left of a budget will do: it does
    /// not come back before the next one begins, and a guess is no reason to wait for that.
    async fn take(&self, asked: &mut Asked, exchange: &Exchange) -> bool {
        if self.store.try_take(&mut asked.demands).await {
            return true;
        }
        let least = asked.cost.least();
        let mut yields = false;
        for demand in asked.demands.iter_mut().filter(|demand| demand.binding && demand.wait.is_some()) {
            let limit = self.at(demand.tag, &asked.tenants);
            let needs = limit.amount(&least, exchange).min(demand.amount).max(demand.level.left.min(demand.amount));
            if needs < demand.amount && matches!(limit.ledger.quota(), Quota::Budget { .. }) {
                (demand.amount, yields) = (needs, true);
            }
        }
        yields && self.store.try_take(&mut asked.demands).await
    }

    /// Those whose own limits it decides over too.
    fn tenants(&self, exchange: &Exchange) -> Arc<[Arc<Tenant>]> {
        let caller = exchange.caller().filter(|_| self.decides_own);
        caller.map(|caller| caller.tenants.clone()).unwrap_or_default()
    }

    /// The model of the file that a request asks for: its place among the estimates, and its name; no name if the
    /// request asks for none.
    fn model<'a>(&'a self, exchange: &Exchange) -> (usize, Option<&'a str>) {
        let names = self.names.names();
        let Some(asked) = exchange.model() else { return (names.len(), None) };
        match self.names.index(asked) {
            Some(index) => (index, Some(&names[index])),
            // What is not in the file shares one bucket until it is refused.
            None => (names.len(), Some("")),
        }
    }

    /// What is known of how much requests to this model cost.
    fn estimate_of(&self, model: &str) -> &Arc<Estimate> {
        &self.estimates[self.names.index(model).unwrap_or(self.names.names().len())]
    }

    /// What the request will cost, as far as any limit counts that.
    fn cost(&self, exchange: &Exchange, index: usize, spends: Spends) -> Cost {
        if !self.counts_usage {
            return Cost::default();
        }
        let cost = self.estimates[index].cost(spends, exchange.call(), exchange.body());
        if spends == Spends::Nothing { cost } else { self.priced(exchange, cost) }
    }

    /// With what the tokens of the request's model cost, if money is limited: of the one that answers, once a fallback has
    /// turned to another.
    fn priced(&self, exchange: &Exchange, mut cost: Cost) -> Cost {
        if self.counts_money {
            let price = exchange.priced_as().and_then(|model| self.prices.of(model));
            cost.price = price.copied().unwrap_or_default();
        }
        cost
    }

    /// The limits that are for a request, each with the tag that [`Inner::limit`] finds it by.
    fn applying<'a>(&'a self, exchange: &Exchange) -> impl Iterator<Item = (usize, &'a Limit)> {
        self.limits.iter().enumerate().filter(|(_, limit)| limit.is_for(exchange))
    }

    /// What the request asks of all limits.
    fn ask(&self, exchange: &Exchange) -> Asked {
        let index = self.model(exchange).0;
        let spends = Spends::of(exchange.endpoint(), !exchange.body().is_empty() || declared(exchange) > 0);
        self.ask_for(exchange, self.cost(exchange, index, spends), spends, |_| true)
    }

    /// Finds those of the limits that apply, and how much is asked of each.
    fn ask_for(&self, exchange: &Exchange, cost: Cost, spends: Spends, those: impl Fn(&Limit) -> bool) -> Asked {
        let model = self.model(exchange).1;
        let tenants = self.tenants(exchange);
        let demands = Vec::with_capacity(self.limits.len() + own::of(&tenants).count());
        let mut asked = Asked { demands, cost, spends, never: None, tenants: tenants.clone(), unmet: Vec::new() };
        let mut name = Vec::with_capacity(64);
        let mut last: Option<(&Scopes, Found, Subject)> = None;
        for (tag, limit) in self.applying(exchange).filter(|(_, limit)| those(limit)) {
            // Limits of the same subject mostly stand together.
            let (found, subject) = match last {
                Some((per, found, subject)) if *per == limit.per => (found, subject),
                _ => {
                    let found = limit.per.write(exchange, model, &mut name);
                    (found, Subject::of(&name))
                }
            };
            last = Some((&limit.per, found, subject));
            match found {
                Found::Named => {}
                Found::Nobody if limit.anonymous == Anonymous::Shared => {}
                Found::Nobody | Found::NoModel => continue,
            }
            asked.add(tag, limit, subject, exchange);
        }
        let caller = exchange.caller().map(Arc::as_ref);
        for (index, (tenant, limit)) in own::of(&tenants).enumerate() {
            if limit.is_for(exchange) && those(limit) {
                let subject = own::subject(tenant.level, caller, &mut name);
                asked.add(self.limits.len() + index, limit, subject, exchange);
            }
        }
        asked
    }
}

impl Asked {
    /// Asks a limit.
    fn add(&mut self, tag: usize, limit: &Limit, subject: Subject, exchange: &Exchange) {
        match limit.demand(tag, subject, &self.cost, exchange) {
            Some(demand) => self.demands.push(demand),
            None if limit.shadow => self.unmet.push(tag),
            None => {
                let needs = limit.amount(&self.cost.certain(), exchange);
                self.never.get_or_insert((self.demands.len(), needs));
                let mut demand = Demand::new(limit.ledger.clone(), subject, 0);
                demand.tag = tag;
                self.demands.push(demand);
            }
        }
    }
}

impl Plugin for Limits {
    const NAME: &'static str = "limits";
    type Settings = Settings;

    fn new(settings: Settings, services: &Services) -> std::result::Result<Self, Vec<SettingsError>> {
        let mut faults = Vec::new();
        let limits = limits(&settings, services, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        let known = |name: &Arc<str>| services.shared.estimates.of(name);
        let estimates = services.models.iter().map(known).chain([Arc::default()]).collect();
        // What callers bring is not known before they come.
        let own = services.decides_own && services.own_limits.may_be();
        let counts_usage = own || limits.iter().any(|limit| limit.kind.is_usage());
        let reads = |limit: &Limit| {
            let parts = limit.per.parts();
            let names_model = parts.contains(&Scope::Model) || parts.contains(&Scope::Route);
            limit.kind == Kind::Bytes || !limit.models.is_empty() || names_model
        };
        let inner = Arc::new(Inner {
            store: services.shared.store.clone(),
            limited: services.shared.limited.clone(),
            needs_body: own || counts_usage || limits.iter().any(reads),
            names: ModelNames::new(&services.models),
            counts_bytes: own || limits.iter().any(|limit| limit.kind == Kind::Bytes),
            counts_money: own || limits.iter().any(|limit| limit.kind == Kind::Cost),
            prices: services.prices.clone(),
            limits,
            estimates,
            counts_usage,
            decides_own: own,
        });
        services.views.add(&inner);
        Ok(Self(inner))
    }
}

fn limits(settings: &Settings, services: &Services, faults: &mut Vec<SettingsError>) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut labels = HashSet::new();
    if settings.0.is_empty() && !(services.decides_own && services.own_limits.may_be()) {
        faults.push(SettingsError::at("", "there is no limit").help("leave the filter out if you want none"));
    }
    for (index, entry) in settings.0.iter().enumerate() {
        let path = format!("[{index}]");
        let all = Reader { entry, path: &path, prices: &services.prices, faults }.meant();
        if entry.cost.is_some() {
            faults.extend(unpriced(entry, &path, &services.models, &services.prices));
        }
        for meant in all {
            let label = &meant.label;
            if !labels.insert(label.clone()) {
                let fault = SettingsError::at(&*path, format!("there is another limit called {label}"));
                faults.push(fault.help("give one of them a `name` of its own"));
            }
            limits.push(Limit::open(entry, meant, &*services.shared.store));
        }
    }
    limits
}
