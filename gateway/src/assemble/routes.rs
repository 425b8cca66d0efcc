//! From the models of a file to routes: who answers, and who does when those cannot.

use super::Parts;
use crate::models::{Model, Step, Target};
use crate::upstream::Pool;
use crate::upstream::hedge::Hedging;
use std::sync::Arc;
use tidegate_config::{self as config, Config, FallbackTo};

/// As deep as chains of models are followed; a file with a deeper one is refused before it comes here.
const DEEPEST: usize = 16;

/// A model with its pools and its fallbacks.
pub(super) fn build_model<'a>(
    config: &Config,
    model: &config::Model,
    find: &impl Fn(&str) -> Option<&'a Arc<Pool>>,
    parts: &Parts<'_>,
) -> Model {
    let route = model.pattern.to_string();
    let builder = Builder { config, find, parts, route: &route };
    let mut steps = Vec::new();
    builder.steps(model, None, &mut steps);
    let mut built = Model::new(model.pattern.clone(), builder.targets(model, None), model.keep_name);
    (built.fallback, built.overflow_after) = (steps.into(), model.overflow_after);
    built
}

struct Builder<'a, F> {
    config: &'a Config,
    find: &'a F,
    parts: &'a Parts<'a>,
    /// The model that clients ask for: all that is measured counts as its.
    route: &'a str,
}

impl<'p, F: Fn(&str) -> Option<&'p Arc<Pool>>> Builder<'_, F> {
    /// The pools of `model`, which is asked for as `name`, if by another name than the client's.
    fn targets(&self, model: &config::Model, name: Option<&str>) -> Vec<Target> {
        let target = |target: &config::Target| {
            let pool = (self.find)(&target.pool)?;
            let send_as = target.as_model.as_deref().or(name);
            Some(self.target(pool, send_as, target.weight, model))
        };
        model.targets.iter().filter_map(target).collect()
    }

    fn target(&self, pool: &Arc<Pool>, send_as: Option<&str>, weight: u32, model: &config::Model) -> Target {
        let hedge = model.hedge.as_ref().or(self.config.pool(&pool.name).and_then(|pool| pool.hedge.as_ref()));
        Target {
            pool: pool.clone(),
            send_as: send_as.map(Into::into),
            weight,
            timeouts: model.timeouts.resolve(&pool.timeouts),
            series: self.parts.metrics.series(self.route, &pool.name),
            hedging: hedge.map(|hedge| self.hedging(&pool.name, send_as, hedge)),
        }
    }

    /// What is known of how long first tokens take outlives a reload that does not change how it is used.
    fn hedging(&self, pool: &str, send_as: Option<&str>, hedge: &config::Hedge) -> Arc<Hedging> {
        let before = self.parts.previous.and_then(|previous| {
            let model = previous.models.iter().find(|model| *model.name == *self.route)?;
            // It may be where it falls back to that is asked.
            let below = model.fallback.iter().flat_map(|step| &step.serves.targets);
            let is_same = |target: &&Target| *target.pool.name == *pool && target.send_as.as_deref() == send_as;
            model.targets.iter().chain(below).find(is_same)?.hedging.clone()
        });
        before.filter(|before| before.settings == *hedge).unwrap_or_else(|| Arc::new(Hedging::new(hedge.clone())))
    }

    /// The steps of `model`, which is `below` another that falls back to it by that name, if it is; each step is followed
    /// by those of the model that it is.
    fn steps(&self, model: &config::Model, below: Option<(&str, usize)>, steps: &mut Vec<Step>) {
        let depth = below.map_or(0, |(_, depth)| depth);
        for step in &model.fallback {
            let (serves, name, next) = match &step.to {
                FallbackTo::Pool { pool, as_model } => {
                    let Some(pool) = (self.find)(pool) else { continue };
                    (vec![self.target(pool, as_model.as_deref(), 1, model)], None, None)
                }
                FallbackTo::Model { model: name } => {
                    let Some(next) = self.config.model(name) else { continue };
                    (self.targets(next, Some(name)), Some(name.as_str().into()), Some((name.as_str(), next)))
                }
            };
            let priced_as = name.clone().or_else(|| self.price_name(step)).or_else(|| Some(below?.0.into()));
            if serves.is_empty() {
                continue;
            }
            let serves = Arc::new(Model::new(model.pattern.clone(), serves, model.keep_name));
            steps.push(Step { on: step.on.as_slice().into(), model: name, priced_as, within: step.timeout, serves });
            if let Some((name, next)) = next.filter(|_| depth < DEEPEST && steps.len() < DEEPEST) {
                self.steps(next, Some((name, depth + 1)), steps);
            }
        }
    }

    /// The name that a pool knows the model by, if that has a price of its own.
    fn price_name(&self, step: &config::Fallback) -> Option<Arc<str>> {
        let FallbackTo::Pool { as_model: Some(name), .. } = &step.to else { return None };
        self.config.prices.models.contains_key(name).then(|| name.as_str().into())
    }
}
