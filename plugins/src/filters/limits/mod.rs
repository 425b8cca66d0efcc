//! `limits`: how much whom may have, in requests, tokens, bytes, and requests at a time.
//!
//! One decision over every limit that applies to a request: all are taken from, or none. What a request will cost in
//! tokens is reserved before it goes out, by an [`estimate`]; what it did cost is settled when it is over, by the
//! object in [`held`], which gives everything back should it be dropped before. [`refusal`] says why not, and when.

mod estimate;
mod held;
mod limited;
mod rate;
mod refusal;
mod scope;
mod settings;
#[cfg(test)]
mod tests;
mod views;

use crate::exchange::Exchange;
use crate::filter::{Filter, Plugin, Result, SettingsError, Verdict};
use crate::reply::Reply;
use crate::services::Services;
use crate::store::{Demand, Ledger, Spec, Store, Subject};
use async_trait::async_trait;
use estimate::{Cost, Estimate, Spends};
use held::Held;
use http::header;
use limited::Refused;
use scope::{Found, ModelNames, Scope, Scopes, any_matches};
use settings::{Anonymous, Kind};
use std::collections::HashSet;
use std::sync::Arc;

pub use estimate::Estimates;
pub use limited::{LIMITED, LIMITED_HELP, LIMITED_LABELS, Limited};
pub use rate::{Amount, Rate};
pub use settings::{Entry, Settings};
pub use views::{BucketView, LimitView, Views};

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
    needs_body: bool,
    counts_tokens: bool,
    counts_bytes: bool,
}

/// One limit.
struct Limit {
    kind: Kind,
    per: Scopes,
    models: Vec<String>,
    shadow: bool,
    anonymous: Anonymous,
    /// As the file writes it.
    text: String,
    ledger: Arc<Ledger>,
}

/// What a request asks of the limits.
struct Asked {
    demands: Vec<Demand>,
    cost: Cost,
    spends: Spends,
}

#[async_trait]
impl Filter for Limits {
    fn needs_body(&self) -> bool {
        self.0.needs_body
    }

    async fn request(&self, exchange: &mut Exchange) -> Result<Verdict> {
        let inner = &self.0;
        let mut asked = match inner.ask(exchange) {
            Ok(asked) if asked.demands.is_empty() => return Ok(Verdict::Continue),
            Ok(asked) => asked,
            Err(reply) => return Ok(Verdict::Answer(*reply)),
        };
        let granted = inner.store.try_take(&mut asked.demands).await;
        for demand in asked.demands.iter().filter(|demand| demand.would_refuse()) {
            exchange.note("shadow_limit", &**demand.ledger.label());
            inner.limited.say(inner, inner.limit(demand), exchange, Refused::InShadow);
        }
        exchange.ration(inner.rates(&asked.demands));
        if !granted {
            return Ok(Verdict::Answer(inner.too_many(exchange, &asked.demands)));
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

    /// Finds the limits that apply, and how much is asked of each. A request that is larger than a limit's burst is
    /// refused for good.
    fn ask(&self, exchange: &mut Exchange) -> std::result::Result<Asked, Box<Reply>> {
        let (index, model) = self.model(exchange);
        let spends = Spends::of(exchange.endpoint(), !exchange.body().is_empty() || declared(exchange) > 0);
        let cost = match self.counts_tokens {
            true => self.estimates[index].cost(spends, exchange.call(), exchange.body()),
            false => Cost::default(),
        };
        let mut demands = Vec::with_capacity(self.limits.len());
        let mut name = Vec::with_capacity(64);
        let mut last: Option<(&Scopes, Found, Subject)> = None;
        for (tag, limit) in self.limits.iter().enumerate() {
            if !limit.is_for(exchange) {
                continue;
            }
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
            let (burst, certain) = (limit.ledger.quota().burst(), limit.kind.amount(&cost.certain(), exchange));
            if certain > burst {
                limit.ledger.count_never(!limit.shadow);
            }
            if certain > burst && limit.shadow {
                exchange.note("shadow_limit", &**limit.ledger.label());
                self.limited.say(self, limit, exchange, Refused::InShadow);
                continue;
            }
            if certain > burst {
                return Err(Box::new(self.never(exchange, limit, certain, cost.is_stated)));
            }
            // A guess that is too large is no reason to refuse for good: it takes all there is.
            let amount = limit.kind.amount(&cost, exchange).min(burst);
            let mut demand = Demand::new(limit.ledger.clone(), subject, amount);
            (demand.tag, demand.binding) = (tag, !limit.shadow);
            demands.push(demand);
        }
        Ok(Asked { demands, cost, spends })
    }
}

impl Kind {
    /// How much of it a request takes.
    fn amount(self, cost: &Cost, exchange: &Exchange) -> u64 {
        match self {
            Self::Requests | Self::InFlight => 1,
            Self::Tokens => cost.total(),
            Self::PromptTokens => cost.prompt,
            Self::CompletionTokens => cost.completion,
            Self::Bytes => declared(exchange).max(exchange.body().len() as u64),
        }
    }
}

impl Limit {
    fn is_for(&self, exchange: &Exchange) -> bool {
        self.models.is_empty() || exchange.model().is_some_and(|model| any_matches(&self.models, model))
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
        let mut limits = Vec::new();
        let mut labels = HashSet::new();
        if settings.0.is_empty() {
            faults.push(SettingsError::at("", "there is no limit").help("leave the filter out if you want none"));
        }
        for (index, entry) in settings.0.into_iter().enumerate() {
            let path = format!("[{index}]");
            for meant in entry.meant(&path, &mut faults) {
                if !labels.insert(meant.label.clone()) {
                    let fault = SettingsError::at(&*path, format!("there is another limit called {}", meant.label));
                    faults.push(fault.help("give one of them a `name` of its own"));
                }
                let (id, label, quota) = (entry.id(&meant), meant.label, meant.quota);
                let ledger = services.shared.store.open(Spec { id, label, quota, shared: entry.per.is_global() });
                limits.push(Limit {
                    kind: meant.kind,
                    per: entry.per.clone(),
                    models: entry.models.clone(),
                    shadow: entry.shadow,
                    anonymous: entry.anonymous,
                    text: meant.text,
                    ledger,
                });
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let known = |name: &Arc<str>| services.shared.estimates.of(name);
        let estimates = services.models.iter().map(known).chain([Arc::default()]).collect();
        let counts_tokens = limits.iter().any(|limit| limit.kind.is_tokens());
        let reads = |limit: &Limit| {
            limit.kind == Kind::Bytes || !limit.models.is_empty() || limit.per.parts().contains(&Scope::Model)
        };
        let inner = Arc::new(Inner {
            store: services.shared.store.clone(),
            limited: services.shared.limited.clone(),
            needs_body: counts_tokens || limits.iter().any(reads),
            names: ModelNames::new(&services.models),
            counts_bytes: limits.iter().any(|limit| limit.kind == Kind::Bytes),
            limits,
            estimates,
            counts_tokens,
        });
        services.views.add(&inner);
        Ok(Self(inner))
    }
}
