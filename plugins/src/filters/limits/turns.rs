//! Limits of requests, tokens and money for each turn on a WebSocket: reserved before the backend hears of the turn,
//! settled by the usage of its response. What is in flight is held by the connection, and bytes are settled at its end.

use super::estimate::{Cost, Estimate, Spends};
use super::held::{Again, Used};
use super::settings::Kind;
use super::{Inner, Limit, own};
use crate::exchange::Exchange;
use crate::filter::Result;
use crate::reply::Refusal;
use crate::store::Demand;
use crate::tenants::Tenant;
use crate::turns::{Turn, Turns};
use crate::usage::Usage;
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::Arc;

/// The turns of one connection.
pub(super) struct Conversation {
    limits: Arc<Inner>,
    tenants: Arc<[Arc<Tenant>]>,
    estimate: Arc<Estimate>,
    open: VecDeque<(Vec<Demand>, Cost)>,
}

impl Kind {
    /// Whether each turn takes of it.
    fn is_per_turn(self) -> bool {
        !matches!(self, Self::InFlight | Self::Bytes)
    }
}

impl Conversation {
    /// None if no limit has to know about turns.
    pub(super) fn new(limits: &Arc<Inner>, estimate: &Arc<Estimate>, exchange: &Exchange) -> Option<Self> {
        let tenants = limits.tenants(exchange);
        let own = own::of(&tenants).map(|(_, limit)| limit).filter(|limit| limit.is_for(exchange));
        let all = limits.applying(exchange).map(|(_, limit)| limit).chain(own);
        let any = all.into_iter().any(|limit| limit.kind.is_per_turn());
        let (limits, estimate, open) = (limits.clone(), estimate.clone(), VecDeque::new());
        any.then_some(Self { limits, tenants, estimate, open })
    }

    fn settle(&self, (mut demands, cost): (Vec<Demand>, Cost), used: &Used) {
        for demand in &mut demands {
            demand.spent = self.limits.limit(demand, &self.tenants).spent(demand, &cost.price, used);
        }
        self.limits.store.settle(&demands);
    }

    /// What a turn has cost that nobody has asked us for: it is taken whether it is there or not.
    async fn charge(&self, exchange: &Exchange, used: &Used) {
        let cost = self.limits.priced(exchange, Cost::default());
        let mut asked = self.limits.ask_for(exchange, cost, Spends::PromptAndAnswer, |limit| limit.kind.is_per_turn());
        for demand in &mut asked.demands {
            (demand.amount, demand.binding) = (0, false);
        }
        if self.limits.store.try_take(&mut asked.demands).await {
            for demand in &mut asked.demands {
                let limit: &Limit = self.limits.limit(demand, &self.tenants);
                demand.spent = if limit.kind == Kind::Requests { 1 } else { limit.spent(demand, &cost.price, used) };
            }
            self.limits.store.settle(&asked.demands);
        }
    }
}

#[async_trait]
impl Turns for Conversation {
    async fn begin(&mut self, exchange: &Exchange, turn: &Turn) -> Result<Option<Refusal>> {
        let limits = &self.limits;
        let cost = limits.priced(exchange, self.estimate.turn(turn.text, turn.max_tokens));
        let mut asked = limits.ask_for(exchange, cost, Spends::PromptAndAnswer, |limit| limit.kind.is_per_turn());
        if let Some((at, needs)) = asked.never {
            return Ok(Some(limits.larger(exchange, &asked, at, needs)));
        }
        if !limits.take(&mut asked, exchange).await {
            return Ok(Some(limits.refused(exchange, &asked).1));
        }
        self.open.push_back((asked.demands, asked.cost));
        Ok(None)
    }

    fn withdraw(&mut self) {
        if let Some((demands, _)) = self.open.pop_back() {
            self.limits.store.settle(&demands);
        }
    }

    async fn end(&mut self, exchange: &Exchange, usage: Usage) -> Usage {
        let open = self.open.pop_front();
        let estimate = open.as_ref().map_or(0, |(_, cost)| cost.prompt);
        let usage = Usage { prompt: usage.prompt.or(Some(estimate)), ..usage };
        let used = Used { usage: Some(usage), bytes: None, again: Again::No };
        match open {
            Some(open) => self.settle(open, &used),
            None => self.charge(exchange, &used).await,
        }
        usage
    }
}

/// Whatever ends a connection without its turns being told gives everything back.
impl Drop for Conversation {
    fn drop(&mut self) {
        self.open.drain(..).for_each(|(demands, _)| self.limits.store.settle(&demands));
    }
}
