//! One limit, and what a request asks of it.

use super::estimate::Cost;
use super::model_names::any_matches;
use super::scope::Scopes;
use super::settings::{Anonymous, CacheHits, Entry, Kind, Meant};
use crate::exchange::Exchange;
use crate::filter::SettingsError;
use crate::prices::Prices;
use crate::store::{Demand, Ledger, Spec, Store, Subject};
use http::header;
use std::sync::Arc;

/// One limit.
#[derive(Clone)]
pub(super) struct Limit {
    pub(super) kind: Kind,
    pub(super) per: Scopes,
    pub(super) models: Vec<String>,
    pub(super) shadow: bool,
    pub(super) anonymous: Anonymous,
    pub(super) cache_hits: CacheHits,
    /// What one unit of its ledger stands for.
    pub(super) scale: u64,
    /// As the file writes it.
    pub(super) text: String,
    pub(super) ledger: Arc<Ledger>,
}

impl Limit {
    /// Opened in `store`.
    pub(super) fn open(entry: &Entry, meant: Meant, store: &dyn Store) -> Self {
        let Meant { kind, quota, calendar, scale, text, label, id } = meant;
        let spec = Spec { id, label, quota, calendar, shared: entry.per.is_global() };
        Self {
            kind,
            per: entry.per.clone(),
            models: entry.models.clone(),
            shadow: entry.shadow,
            anonymous: entry.anonymous,
            cache_hits: entry.cache_hits,
            scale,
            text,
            ledger: store.open(spec),
        }
    }

    pub(super) fn is_for(&self, exchange: &Exchange) -> bool {
        self.models.is_empty() || exchange.model().is_some_and(|model| any_matches(&self.models, model))
    }

    /// How much of it a request takes, in units of its ledger.
    pub(super) fn amount(&self, cost: &Cost, exchange: &Exchange) -> u64 {
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
    pub(super) fn demand(&self, tag: usize, subject: Subject, cost: &Cost, exchange: &Exchange) -> Option<Demand> {
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
pub(super) fn declared(exchange: &Exchange) -> u64 {
    let length = exchange.headers().get(header::CONTENT_LENGTH);
    length.and_then(|length| length.to_str().ok()?.parse().ok()).unwrap_or(0)
}

/// Models that a limit of money is for, and that have no price: they would cost nothing.
pub(super) fn unpriced(entry: &Entry, path: &str, models: &[Arc<str>], prices: &Prices) -> Option<SettingsError> {
    let all: Vec<&str> = match entry.models.is_empty() {
        true => models.iter().map(|name| &**name).collect(),
        false => entry.models.iter().map(String::as_str).collect(),
    };
    let unpriced: Vec<_> = all.into_iter().filter(|name| !prices.covers(name)).collect();
    if unpriced.is_empty() {
        return None;
    }
    let message = format!("no price is known for {}: what they are asked would cost nothing", unpriced.join(", "));
    let help = "add them to `prices.models`, `\"*\"` for all others; `{}` if they are free";
    Some(SettingsError::at(format!("{path}.cost"), message).help(help))
}
