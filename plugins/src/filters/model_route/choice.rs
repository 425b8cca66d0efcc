//! One model, or one of several by weight.

use super::settings::Sticky;
use crate::exchange::Exchange;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub(super) enum Choice {
    One(Arc<str>),
    Split { models: Vec<(Arc<str>, u32)>, sticky: Option<Sticky>, turn: AtomicU64 },
}

impl Choice {
    pub(super) fn one(model: &str) -> Self {
        Self::One(model.into())
    }

    pub(super) fn split(models: BTreeMap<String, u32>, sticky: Option<Sticky>) -> Self {
        let models = models.into_iter().filter(|(_, weight)| *weight > 0);
        let models = models.map(|(model, weight)| (model.into(), weight)).collect();
        Self::Split { models, sticky, turn: AtomicU64::new(0) }
    }

    /// The model for a request; `rule` is the name of the rule that chooses, so that a caller that one split sends to
    /// a canary is not the one that all of them do.
    pub(super) fn model(&self, rule: &str, exchange: &Exchange) -> &Arc<str> {
        match self {
            Self::One(model) => model,
            Self::Split { models, sticky, turn } => match sticky.as_ref().and_then(|sticky| sticky.of(exchange)) {
                Some(subject) => sticking(models, rule, subject),
                // A golden-ratio walk over the weights spreads a small share evenly instead of sending it in a burst.
                None => at(models, turn.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            },
        }
    }
}

impl Choice {
    /// All that it may be for a request, each with its share of 1.
    pub(super) fn shares(&self, rule: &str, exchange: &Exchange) -> Vec<(Arc<str>, f64)> {
        let Self::Split { models, sticky, .. } = self else { return vec![(self.model(rule, exchange).clone(), 1.0)] };
        if let Some(subject) = sticky.as_ref().and_then(|sticky| sticky.of(exchange)) {
            return vec![(sticking(models, rule, subject).clone(), 1.0)];
        }
        let total: f64 = models.iter().map(|(_, weight)| f64::from(*weight)).sum();
        models.iter().map(|(model, weight)| (model.clone(), f64::from(*weight) / total)).collect()
    }
}

/// For people.
impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(model) => f.write_str(model),
            Self::Split { models, .. } => {
                let weights = models.iter().map(|(model, weight)| format!("{model} {weight}"));
                f.write_str(&weights.collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// The model at `point` of all weights laid end to end, of which 2^64 is the end.
fn at(models: &[(Arc<str>, u32)], point: u64) -> &Arc<str> {
    let total: u64 = models.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut place = ((u128::from(point) * u128::from(total)) >> 64) as u64;
    for (model, weight) in models {
        match place.checked_sub(u64::from(*weight)) {
            Some(rest) => place = rest,
            None => return model,
        }
    }
    &models[0].0
}

/// Weighted rendezvous: every model draws a lot for the subject, and the highest wins. A model that comes, goes or
/// changes its weight moves only the subjects that it wins or loses.
fn sticking<'a>(models: &'a [(Arc<str>, u32)], rule: &str, subject: &[u8]) -> &'a Arc<str> {
    let lot = |model: &str, weight: u32| {
        let mut hash = blake3::Hasher::new();
        for part in [rule.as_bytes(), model.as_bytes(), subject] {
            hash.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
        let drawn = hash.finalize().as_bytes().iter().take(8).fold(0_u64, |lot, byte| lot << 8 | u64::from(*byte));
        // Between 0 and 1, neither of them.
        let drawn = ((drawn >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
        -f64::from(weight) / drawn.ln()
    };
    let best = models.iter().max_by(|(a, weight_a), (b, weight_b)| lot(a, *weight_a).total_cmp(&lot(b, *weight_b)));
    best.map_or(&models[0].0, |(model, _)| model)
}

impl Sticky {
    /// Who that is in a request.
    pub(crate) fn of<'a>(&self, exchange: &'a Exchange) -> Option<&'a [u8]> {
        let caller = exchange.caller();
        let named = match self {
            Self::Key => caller.and_then(|caller| caller.key.as_ref()),
            Self::User => caller.and_then(|caller| caller.user.as_ref()),
            Self::Team => caller.and_then(|caller| caller.team.as_ref()),
            Self::Org => caller.and_then(|caller| caller.org.as_ref()),
            Self::Header(name) => return exchange.headers().get(name).map(http::HeaderValue::as_bytes),
        };
        named.map(|name| name.as_bytes())
    }
}
