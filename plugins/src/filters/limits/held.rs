//! What one request holds of its limits, from the decision to the settlement.

use super::estimate::{Cost, Estimate, Spends};
use super::settings::{CacheHits, Kind};
use super::turns::Conversation;
use super::{Asked, Inner, Limit};
use crate::call::Endpoint;
use crate::exchange::{Exchange, Outcome, Source};
use crate::filter::{Head, ResponseFilter, Result};
use crate::prices::Price;
use crate::store::Demand;
use crate::tenants::Tenant;
use crate::turns::Turns;
use crate::usage::Usage;
use async_trait::async_trait;
use bytes::Bytes;
use http::header;
use std::sync::Arc;

/// Reservations, and places among the requests in flight.
pub(super) struct Held {
    limits: Arc<Inner>,
    tenants: Arc<[Arc<Tenant>]>,
    estimate: Arc<Estimate>,
    reserved: Vec<Demand>,
    in_flight: Vec<Demand>,
    /// What a dearer model takes besides, and which that is.
    dearer: Option<(Box<str>, Vec<Demand>)>,
    cost: Cost,
    spends: Spends,
    /// Bytes of the answer that are still to come, if it says how many there are.
    left: Option<u64>,
    /// Whether it is an answer with its usage in it, should it come in one piece.
    is_whole: bool,
}

impl Held {
    pub(super) fn new(limits: Arc<Inner>, estimate: Arc<Estimate>, asked: Asked) -> Self {
        let is_flight = |demand: &Demand| limits.limit(demand, &asked.tenants).kind == Kind::InFlight;
        let (in_flight, reserved) = asked.demands.into_iter().partition(is_flight);
        let (cost, spends, tenants) = (asked.cost, asked.spends, asked.tenants);
        Self { limits, tenants, estimate, reserved, in_flight, dearer: None, cost, spends, left: None, is_whole: false }
    }

    /// The client is about to know that its answer is complete, and may ask for more before `end` is called: what it
    /// holds must be free by then.
    fn let_go(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight);
        if !in_flight.is_empty() {
            self.limits.store.settle(&in_flight);
        }
    }

    fn settle(&mut self, spent: impl Fn(&Limit, &mut Demand) -> u64) {
        let mut reserved = std::mem::take(&mut self.reserved);
        for demand in &mut reserved {
            demand.spent = spent(self.limits.limit(demand, &self.tenants), demand);
        }
        // What was spent is told of the first demands; these go back.
        reserved.extend(self.dearer.take().into_iter().flat_map(|(_, demands)| demands));
        if !reserved.is_empty() {
            self.limits.store.settle(&reserved);
        }
    }

    /// What a request of this cost takes of a limit of money besides what it has.
    fn more(&self, demand: &Demand, cost: &Cost, exchange: &Exchange) -> Option<Demand> {
        let limit = self.limits.limit(demand, &self.tenants);
        // All of it, be it more than a full bucket has: what is not held would be spent all the same.
        let needs = if limit.kind == Kind::Cost { limit.amount(cost, exchange) } else { 0 };
        // It may have been content with less than it may need: for its own model it needs no more here either.
        let has = limit.amount(&self.cost, exchange).max(demand.amount);
        let amount = needs.checked_sub(has).filter(|amount| *amount > 0)?;
        let mut more = Demand::new(demand.ledger.clone(), demand.subject, amount);
        (more.tag, more.binding) = (demand.tag, demand.binding);
        Some(more)
    }

    /// What of an outcome counts here.
    fn used(&self, outcome: &Outcome) -> Used {
        let usage = outcome.usage.filter(|_| self.spends != Spends::Nothing);
        let bytes = Some(outcome.request_bytes.saturating_add(outcome.response_bytes));
        Used { usage, bytes, again: Again::of(outcome.source, outcome.charged) }
    }

    /// What a request has used whose backend has not said it: the estimate for its prompt, and what has come.
    fn estimated(&self, outcome: &Outcome) -> Option<Usage> {
        let began = match outcome.source {
            // What the gateway says by itself has cost nobody anything, nor has waiting in line in vain.
            Source::Gateway => outcome.gone && outcome.asked,
            _ => outcome.gone || outcome.status < 400,
        };
        let completion = match outcome.streamed {
            true => self.estimate.of_events(outcome.events),
            // Four bytes a token, and no more than was reserved: JSON around the answer is not the answer.
            false => (outcome.response_bytes / 4).min(self.cost.completion),
        };
        let (prompt, completion) = (Some(self.cost.prompt), Some(completion));
        began.then(|| Usage { prompt, completion, estimated: true, ..Usage::default() })
    }

    /// With the estimate for the prompt, if the backend did not count it.
    fn complete(&self, usage: Usage) -> Usage {
        Usage { prompt: usage.prompt.or(Some(self.cost.prompt)), ..usage }
    }

    fn settle_by(&mut self, exchange: &Exchange, used: &Used) {
        let price = self.limits.priced(exchange, self.cost).price;
        self.settle(|limit, demand| limit.spent(demand, &price, used));
    }
}

impl Limit {
    /// What of a demand was spent, in units of its ledger.
    pub(super) fn spent(&self, demand: &mut Demand, price: &Price, used: &Used) -> u64 {
        let usage = used.usage.filter(|_| used.again.counts(self.cache_hits));
        let (prompt, completion) =
            usage.map_or((0, 0), |usage| (usage.prompt.unwrap_or(0), usage.completion.unwrap_or(0)));
        demand.estimated = self.kind.is_usage() && usage.is_some_and(|usage| usage.estimated);
        match self.kind {
            Kind::Requests => demand.amount,
            Kind::InFlight => 0,
            Kind::Tokens => prompt.saturating_add(completion),
            Kind::PromptTokens => prompt,
            Kind::CompletionTokens => completion,
            Kind::Cost => usage.map_or(0, |usage| price.of(&usage).div_ceil(self.scale)),
            Kind::Bytes => used.bytes.unwrap_or(demand.amount),
        }
    }
}

/// What a request has used.
pub(super) struct Used {
    /// None: nothing of tokens and money.
    pub(super) usage: Option<Usage>,
    pub(super) bytes: Option<u64>,
    pub(super) again: Again,
}

/// Whether somebody else has paid for the answer already.
#[derive(Clone, Copy)]
pub(super) enum Again {
    No,
    /// It was made for another request.
    Shared,
    /// It was made for this very request when it was sent before.
    Repeated,
}

impl Again {
    fn of(source: Source, charged: bool) -> Self {
        match source {
            _ if charged => Self::No,
            Source::Cache | Source::Flight => Self::Shared,
            Source::Gateway | Source::Backend | Source::Replay => Self::Repeated,
        }
    }

    /// Whether its tokens count all the same.
    fn counts(self, hits: CacheHits) -> bool {
        match self {
            Self::No => true,
            Self::Shared => hits == CacheHits::Full,
            Self::Repeated => false,
        }
    }
}

#[async_trait]
impl ResponseFilter for Held {
    async fn affords(&mut self, exchange: &Exchange, model: &str) -> bool {
        if self.dearer.as_ref().is_some_and(|(known, _)| **known == *model) {
            return true;
        }
        if let Some((_, demands)) = self.dearer.take() {
            self.limits.store.settle(&demands);
        }
        let price = self.limits.prices.of(model).copied().unwrap_or_default();
        let mut cost = self.cost;
        cost.price = price;
        let mut demands: Vec<_> =
            self.reserved.iter().filter_map(|demand| self.more(demand, &cost, exchange)).collect();
        // A look first: what is not taken is no refusal.
        for demand in demands.iter().filter(|demand| demand.binding) {
            let left = self.limits.store.peek(&demand.ledger, demand.subject).await.level.left;
            if left < demand.amount {
                return false;
            }
        }
        let granted = demands.is_empty() || self.limits.store.try_take(&mut demands).await;
        if granted {
            self.dearer = Some((model.into(), demands));
        }
        granted
    }

    fn turns(&mut self, exchange: &Exchange) -> Option<Box<dyn Turns>> {
        let turns = Conversation::new(&self.limits, &self.estimate, exchange)?;
        Some(Box::new(turns))
    }

    fn head(&mut self, exchange: &mut Exchange, head: &mut Head) -> Result<()> {
        self.limits.write_rates(exchange, &mut head.headers);
        let length = head.headers.get(header::CONTENT_LENGTH);
        self.left = length.and_then(|length| length.to_str().ok()?.parse().ok());
        self.is_whole = head.status.is_success() && exchange.call().is_some() && !exchange.wants_stream();
        Ok(())
    }

    fn chunk(&mut self, exchange: &mut Exchange, data: &mut Bytes, last: bool) -> Result<()> {
        let all = self.left == Some(data.len() as u64) && self.is_whole;
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        if last || self.left == Some(0) || (!self.in_flight.is_empty() && ends(exchange, data)) {
            self.let_go();
        }
        // The whole answer in one piece: settled before the client has it, so that its next request finds the rest.
        if all && self.limits.counts_usage && exchange.source() != Source::Gateway {
            let again = Again::of(exchange.source(), exchange.is_charged());
            // Mostly it has been read on the way here.
            let said = exchange.spent().filter(|usage| !usage.estimated);
            match said.or_else(|| Usage::from_answer(data)) {
                Some(usage) if !self.limits.counts_bytes => {
                    let usage = Some(self.complete(usage));
                    self.settle_by(exchange, &Used { usage, bytes: None, again });
                }
                None if exchange.source() == Source::Backend => exchange.note("usage", "estimated"),
                _ => {}
            }
        }
        self.is_whole &= data.is_empty();
        Ok(())
    }

    fn settles(&self, exchange: &Exchange, outcome: &Outcome) -> Option<Usage> {
        if !self.limits.counts_usage || self.spends == Spends::Nothing || exchange.is_limited() {
            return None;
        }
        match outcome.reported {
            // As many as there were events that carried some of it.
            Some(usage) if usage.estimated => {
                let completion = usage.completion.map(|events| self.estimate.of_events(events));
                Some(self.complete(Usage { completion, ..usage }))
            }
            Some(usage) => Some(self.complete(usage)),
            None => self.estimated(outcome),
        }
    }

    fn end(mut self: Box<Self>, exchange: &Exchange) {
        self.let_go();
        // Another limit has refused it: nothing of this one is spent.
        if exchange.is_limited() {
            return self.settle(|_, _| 0);
        }
        let Some(outcome) = exchange.outcome() else { return };
        let used = self.used(outcome);
        self.settle_by(exchange, &used);
        if let Some(usage) =
            outcome.reported.filter(|_| outcome.complete && outcome.charged && self.limits.counts_usage)
        {
            // What another model's answers are like says nothing about this one's.
            let answered = exchange.priced_as().map_or(&self.estimate, |model| self.limits.estimate_of(model));
            answered.learn(&self.cost, &usage, outcome.events);
        }
    }
}

/// Whether these events are the last ones, which tell the client that its answer is complete.
fn ends(exchange: &Exchange, events: &[u8]) -> bool {
    let rest = events.trim_ascii_end();
    match exchange.endpoint() {
        Endpoint::Messages => has(rest, b"message_stop"),
        Endpoint::Responses => has(rest, b"response.completed") || has(rest, b"response.incomplete"),
        _ => rest.ends_with(b"[DONE]"),
    }
}

/// Whether the beginning of the last event names it so.
fn has(events: &[u8], name: &[u8]) -> bool {
    let start = memchr::memmem::rfind(events, b"\n\n").map_or(0, |at| at + 2);
    let event = &events[start..];
    memchr::memmem::find(&event[..event.len().min(128)], name).is_some()
}

/// Whatever ends a request without its end being told gives everything back.
impl Drop for Held {
    fn drop(&mut self) {
        self.let_go();
        self.settle(|_, _| 0);
    }
}
