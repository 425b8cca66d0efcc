//! Who answers for a model when its pools cannot, and that no chain comes back to where it began.

use super::Resolver;
use crate::key_path::KeyPath;
use crate::meant::{Config, Fallback, FallbackTo, Model, Pattern};
use crate::near::did_you_mean;
use crate::settings::{FallbackOn, FallbackStep, usual};
use crate::written::{self, TextOr};

/// The most steps of one model, those of the models it falls back to included.
const MOST_STEPS: usize = 16;

impl Resolver<'_> {
    /// The steps of one model, as far as they can be judged alone.
    pub(super) fn fallbacks(&mut self, path: &KeyPath, steps: Vec<TextOr<FallbackStep>>) -> Vec<Fallback> {
        let mut all = Vec::new();
        for (path, step) in self.items(path).into_iter().zip(steps) {
            let step = match step {
                TextOr::Table(step) => step,
                TextOr::Text(name) => {
                    let is_pool = self.tree.keys(&KeyPath::root().key("pools")).contains(&name.as_str());
                    let (pool, model) = if is_pool { (Some(name), None) } else { (None, Some(name)) };
                    FallbackStep { pool, as_model: None, model, on: usual(), timeout: None }
                }
            };
            if step.on.is_empty() && !self.tree.has_gone(&path.key("on")) {
                self.fault(&path.key("on"), "nothing is named after which to come here", None);
            }
            if step.timeout.is_some_and(|timeout| timeout.is_zero()) {
                self.fault(&path.key("timeout"), "a timeout cannot be 0: every request would fail", None);
            }
            let to = match (step.pool, step.model) {
                (Some(pool), None) => {
                    self.known_pool(&path.key("pool"), &pool);
                    FallbackTo::Pool { pool, as_model: step.as_model }
                }
                (None, Some(_)) if step.as_model.is_some() => {
                    self.fault(&path.key("as"), "`as` belongs to a `pool`: a model has its own", None);
                    continue;
                }
                (None, Some(model)) => FallbackTo::Model { model },
                _ => {
                    self.fault(&path, "a step is either a `pool` or a `model`", None);
                    continue;
                }
            };
            all.push(Fallback { to, on: step.on, timeout: step.timeout, path });
        }
        all
    }

    /// What can only be judged when all models are known.
    pub(super) fn fallback_chains(&mut self, config: &Config) {
        for model in &config.models {
            self.overflow(model);
            self.repeated(config, model);
            for step in &model.fallback {
                let FallbackTo::Model { model: name } = &step.to else { continue };
                if config.model(name).is_none() && !self.may_be_model(name) {
                    let models = KeyPath::root().key("models");
                    let mut known = self.tree.keys(&models);
                    let pools = KeyPath::root().key("pools");
                    known.extend(self.tree.keys(&pools));
                    let help = did_you_mean(name, &known);
                    self.fault(&step.path, format!("there is no pool and no model `{name}`"), help);
                }
            }
            let mut seen = vec![model.pattern.to_string()];
            let steps = self.follow(config, model, model, &mut seen);
            if steps > MOST_STEPS {
                let message = format!("{steps} steps, with those of other models: more than {MOST_STEPS}");
                self.fault(&model.path.key("fallback"), message, None);
            }
        }
    }

    /// How many steps follow from `at`; reports those by which `first` comes back to itself.
    fn follow(&mut self, config: &Config, first: &Model, at: &Model, seen: &mut Vec<String>) -> usize {
        let mut steps = at.fallback.len();
        for step in &at.fallback {
            let FallbackTo::Model { model: name } = &step.to else { continue };
            let Some(next) = config.model(name) else { continue };
            let next_name = next.pattern.to_string();
            if next.pattern == first.pattern {
                let way = format!("{} -> {next_name}", seen.join(" -> "));
                self.fault(&step.path, format!("the chain comes back to where it began: {way}"), None);
            } else if !seen.contains(&next_name) && steps <= MOST_STEPS {
                seen.push(next_name);
                steps += self.follow(config, first, next, seen);
                seen.pop();
            }
        }
        steps
    }

    /// Steps that ask for what was asked for before: of the model's own pool, or of a step for the same reason.
    fn repeated(&mut self, config: &Config, model: &Model) {
        let own_name = exact(model);
        let own = only(model, own_name.as_deref());
        let mut asked: Vec<(Asked<'_>, &Fallback)> = Vec::new();
        for step in &model.fallback {
            let this = match &step.to {
                FallbackTo::Pool { pool, as_model } => {
                    Some((pool.as_str(), as_model.as_deref().or(own_name.as_deref())))
                }
                FallbackTo::Model { model: name } => config
                    .model(name)
                    .filter(|next| next.pattern != model.pattern)
                    .and_then(|next| only(next, Some(name))),
            };
            let Some(this) = this else { continue };
            let same_reason = |other: &Fallback| other.on.iter().any(|on| step.on.contains(on));
            if own == Some(this) {
                let message = format!("the chain comes back to where it began: {} -> `{}`", model.pattern, this.0);
                let help = "the pool's `retries` say how often it is asked; a step is somebody else".to_owned();
                self.fault(&step.path, message, Some(help));
            } else if asked.iter().any(|(before, other)| *before == this && same_reason(other)) {
                self.fault(&step.path, format!("`{}` has been asked by then, after the same", this.0), None);
            }
            asked.push((this, step));
        }
    }

    fn overflow(&mut self, model: &Model) {
        let path = model.path.key("overflow_after");
        match model.overflow_after {
            Some(after) if after.is_zero() => self.fault(&path, "`overflow_after` cannot be 0", None),
            Some(_) if !model.fallback.iter().any(|step| step.on.contains(&FallbackOn::Overloaded)) => {
                let help = "add a step to `fallback` that is for `overloaded`".to_owned();
                self.fault(&path, "there is nowhere to go when the queue is long", Some(help));
            }
            _ => {}
        }
    }

    /// Settings of hedging that mean nothing.
    pub(super) fn hedge(&mut self, path: &KeyPath, hedge: Option<&written::Hedge>) {
        if hedge.is_some_and(|hedge| hedge.budget.of_one() == 0.0) {
            self.fault(&path.key("budget"), "a budget of nothing: leave `hedge` out", None);
        }
    }
}

/// A pool, and by which name it is asked for a model; none: by the client's.
type Asked<'a> = (&'a str, Option<&'a str>);

/// Who answers for `model`, which is asked for as `name`, if it is always the same.
fn only<'a>(model: &'a Model, name: Option<&'a str>) -> Option<Asked<'a>> {
    let [target] = &model.targets[..] else { return None };
    Some((&target.pool, target.as_model.as_deref().or(name)))
}

/// The name that all ask for who are meant by `model`, if it is one.
fn exact(model: &Model) -> Option<String> {
    matches!(model.pattern, Pattern::Exact(_)).then(|| model.pattern.to_string())
}
