//! `limits`: how much whom may have, in requests, tokens, money, bytes, and requests at a time.
//!
//! One decision over every limit that applies to a request: all are taken from, or none. What a request will cost in
//! tokens is reserved before it goes out, by an [`estimate`]; what it did cost is settled when it is over, by the
//! object in [`held`], which gives everything back should it be dropped before. [`refusal`] says why not, and when.

mod estimate;
mod held;
mod rate;
mod refusal;
mod scope;
mod settings;
#[cfg(test)]
mod tests;

use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::prices::Prices;
use crate::services::Services;
use crate::store::{Demand, Ledger, Spec, Store, Subject};
use async_trait::async_trait;
use estimate::{Cost, Estimate, Spends};
use held::Held;
use http::header;
use scope::{Found, ModelNames, Scope, Scopes, any_matches};
use settings::{Anonymous, CacheHits, Kind, Meant, Reader};
use std::collections::HashSet;
use std::sync::Arc;

pub use estimate::Estimates;
pub use rate::{Amount, Rate};
pub use settings::{Entry, Settings};

/// See the module.
pub struct Limits(Arc<Inner>);

/// The limits as meant, shared with the requests that hold something of them.
struct Inner {
    store: Arc<dyn Store>,
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
}

/// One limit.
struct Limit {
    kind: Kind,
    per: Scopes,
    models: Vec<String>,
    shadow: bool,
    anonymous: Anonymous,
    cache_hits: CacheHits,
    /// What one unit of its ledger stands for.
    scale: u64,
    /// As the file writes it.
    text: String,
    ledger: Arc<Ledger>,
}

/// What a request asks of the limits.
struct Asked {
    demands: Vec<Demand>,
    cost: Cost,
    spends: Spends,
    /// The first limit that could never admit it: its place among the demands, and how much it would have to.
    never: Option<(usize, u64)>,
}

#[async_trait]
impl Filter for Limits {
    fn needs_body(&self) -> bool {
        self.0.needs_body
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let inner = &self.0;
        let mut asked = inner.ask(exchange);
        if asked.demands.is_empty() {
            return Ok(Verdict::Continue);
        }
        if let Some((at, needs)) = asked.never {
            return Ok(Verdict::Answer(inner.refuse_for_good(exchange, &mut asked, at, needs).await));
        }
        let granted = inner.store.try_take(&mut asked.demands).await;
        for demand in asked.demands.iter().filter(|demand| demand.would_refuse()) {
            exchange.note("shadow_limit", &**demand.ledger.label());
        }
        exchange.ration(inner.rates(&asked.demands));
        if !granted {
            return Ok(Verdict::Answer(inner.too_many(exchange, &asked.demands)));
        }
        if asked.demands.iter().any(|demand| inner.limit(demand).kind.is_usage()) {
            exchange.ask_usage();
        }
        let estimate = inner.estimates[inner.model(exchange).0].clone();
        Ok(Verdict::Follow(Box::new(Held::new(inner.clone(), estimate, asked))))
    }
}

impl Inner {
    fn limit(&self, demand: &Demand) -> &Limit {
        &self.limits[demand.tag]
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

    /// What the request will cost, as far as any limit counts that.
    fn cost(&self, exchange: &Exchange, index: usize, spends: Spends) -> Cost {
        if !self.counts_usage {
            return Cost::default();
        }
        let mut cost = self.estimates[index].cost(spends, exchange.call(), exchange.body());
        if self.counts_money && spends != Spends::Nothing {
            let price = exchange.model().and_then(|model| self.prices.of(model));
            cost.price = price.copied().unwrap_or_default();
        }
        cost
    }

    /// The limits that are for a request, each with the tag that [`Inner::limit`] finds it by.
    fn applying<'a>(&'a self, exchange: &Exchange) -> impl Iterator<Item = (usize, &'a Limit)> {
        self.limits.iter().enumerate().filter(|(_, limit)| limit.is_for(exchange))
    }

    /// Finds the limits that apply, and how much is asked of each.
    fn ask(&self, exchange: &mut Exchange) -> Asked {
        let (index, model) = self.model(exchange);
        let spends = Spends::of(exchange.endpoint(), !exchange.body().is_empty() || declared(exchange) > 0);
        let cost = self.cost(exchange, index, spends);
        let mut asked = Asked { demands: Vec::with_capacity(self.limits.len()), cost, spends, never: None };
        let mut name = Vec::with_capacity(64);
        let mut last: Option<(&Scopes, Found, Subject)> = None;
        let mut unmet = Vec::new();
        for (tag, limit) in self.applying(exchange) {
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
            match limit.demand(tag, subject, &cost, exchange) {
                Some(demand) => asked.demands.push(demand),
                None if limit.shadow => {
                    limit.ledger.count_never(false);
                    unmet.push(limit.ledger.label().clone());
                }
                None => {
                    let needs = limit.amount(&cost.certain(), exchange);
                    asked.never.get_or_insert((asked.demands.len(), needs));
                    let mut demand = Demand::new(limit.ledger.clone(), subject, 0);
                    demand.tag = tag;
                    asked.demands.push(demand);
                }
            }
        }
        unmet.iter().for_each(|label| exchange.note("shadow_limit", &**label));
        asked
    }
}

impl Limit {
    fn is_for(&self, exchange: &Exchange) -> bool {
        self.models.is_empty() || exchange.model().is_some_and(|model| any_matches(&self.models, model))
    }

    /// How much of it a request takes, in units of its ledger.
    fn amount(&self, cost: &Cost, exchange: &Exchange) -> u64 {
        match self.kind {
            Kind::Requests | Kind::InFlight => 1,
            Kind::Tokens => cost.total(),
            Kind::PromptTokens => cost.prompt,
            Kind::CompletionTokens => cost.completion,
            Kind::Cost => cost.money().div_ceil(self.scale),
            Kind::Bytes => declared(exchange).max(exchange.body().len() as u64),
        }
    }

    /// What a request asks of it; none if it could never be granted, since it surely needs more than a full bucket has.
    fn demand(&self, tag: usize, subject: Subject, cost: &Cost, exchange: &Exchange) -> Option<Demand> {
        let burst = self.ledger.quota().burst();
        if self.amount(&cost.certain(), exchange) > burst {
            return None;
        }
        // A guess that is too large is no reason to refuse for good: it takes all there is.
        let amount = self.amount(cost, exchange).min(burst);
        let mut demand = Demand::new(self.ledger.clone(), subject, amount);
        (demand.tag, demand.binding) = (tag, !self.shadow);
        Some(demand)
    }
}

/// Bytes that the request says it brings.
fn declared(exchange: &Exchange) -> u64 {
    let length = exchange.headers().get(header::CONTENT_LENGTH);
    length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
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
        let counts_usage = limits.iter().any(|limit| limit.kind.is_usage());
        let reads = |limit: &Limit| {
            let parts = limit.per.parts();
            let names_model = parts.contains(&Scope::Model) || parts.contains(&Scope::Route);
            limit.kind == Kind::Bytes || !limit.models.is_empty() || names_model
        };
        Ok(Self(Arc::new(Inner {
            store: services.shared.store.clone(),
            needs_body: counts_usage || limits.iter().any(reads),
            names: ModelNames::new(&services.models),
            counts_bytes: limits.iter().any(|limit| limit.kind == Kind::Bytes),
            counts_money: limits.iter().any(|limit| limit.kind == Kind::Cost),
            prices: services.prices.clone(),
            limits,
            estimates,
            counts_usage,
        })))
    }
}

fn limits(settings: &Settings, services: &Services, faults: &mut Vec<SettingsError>) -> Vec<Limit> {
    let mut limits = Vec::new();
    let mut labels = HashSet::new();
    if settings.0.is_empty() {
        faults.push(SettingsError::at("", "there is no limit").help("leave the filter out if you want none"));
    }
    for (index, entry) in settings.0.iter().enumerate() {
        let path = format!("[{index}]");
        let all = Reader { entry, path: &path, prices: &services.prices, faults }.meant();
        if entry.cost.is_some() {
            faults.extend(unpriced(entry, &path, services));
        }
        for Meant { kind, quota, calendar, scale, text, label, id } in all {
            if !labels.insert(label.clone()) {
                let fault = SettingsError::at(&*path, format!("there is another limit called {label}"));
                faults.push(fault.help("give one of them a `name` of its own"));
            }
            let shared = entry.per.is_global();
            limits.push(Limit {
                kind,
                per: entry.per.clone(),
                models: entry.models.clone(),
                shadow: entry.shadow,
                anonymous: entry.anonymous,
                cache_hits: entry.cache_hits,
                scale,
                text,
                ledger: services.shared.store.open(Spec { id, label, quota, calendar, shared }),
            });
        }
    }
    limits
}

/// Models that a limit of money is for, and that have no price: they would cost nothing.
fn unpriced(entry: &Entry, path: &str, services: &Services) -> Option<SettingsError> {
    let all: Vec<&str> = match entry.models.is_empty() {
        true => services.models.iter().map(|name| &**name).collect(),
        false => entry.models.iter().map(String::as_str).collect(),
    };
    let unpriced: Vec<_> = all.into_iter().filter(|name| !services.prices.covers(name)).collect();
    if unpriced.is_empty() {
        return None;
    }
    let message = format!("no price is known for {}: what they are asked would cost nothing", unpriced.join(", "));
    let help = "add them to `prices.models`, `\"*\"` for all others; `{}` if they are free";
    Some(SettingsError::at(format!("{path}.cost"), message).help(help))
}
