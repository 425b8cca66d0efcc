//! What clients ask for, and which pools answer.

use std::collections::BTreeMap;

use super::Resolver;
use crate::key_path::KeyPath;
use crate::meant::{Config, Model, Pattern, Target};
use crate::near::did_you_mean;
use crate::settings::TimeoutOverrides;
use crate::written;

/// Above this, weights of a list could add up to more than fits.
pub(super) const HEAVIEST: u32 = 1_000_000;

impl Resolver<'_> {
    pub(super) fn models(&mut self, mut models: BTreeMap<String, written::Model>) -> Vec<Model> {
        let path = KeyPath::root().key("models");
        let names: Vec<String> = self.tree.keys(&path).into_iter().map(str::to_owned).collect();
        if names.is_empty() {
            return self.everything_to_the_only_pool();
        }
        // The map forgot the order of the file; the tree did not.
        let mut all = Vec::new();
        for name in names {
            if let Some(model) = models.remove(&name) {
                all.extend(self.model(path.key(&name), &name, model));
            }
        }
        all
    }

    fn everything_to_the_only_pool(&mut self) -> Vec<Model> {
        let pools = self.tree.keys(&KeyPath::root().key("pools"));
        let [pool] = pools[..] else {
            if pools.len() > 1 {
                let help = "add `models:` with a line a model, `NAME: { pool: POOL }`; `\"*\"` stands for all others";
                let message = "there are several pools, and no `models` that say which one answers";
                self.fault_at_key(&KeyPath::root().key("pools"), message, Some(help.to_owned()));
            }
            return Vec::new();
        };
        vec![Model {
            pattern: Pattern::Prefix(String::new()),
            targets: vec![Target { pool: pool.to_owned(), as_model: None, weight: 1 }],
            keep_name: true,
            timeouts: TimeoutOverrides::default(),
            fallback: Vec::new(),
            overflow_after: None,
            hedge: None,
            path: KeyPath::root(),
        }]
    }

    fn model(&mut self, path: KeyPath, name: &str, model: written::Model) -> Option<Model> {
        let pattern = match name.split_once('*') {
            Some((prefix, "")) => Pattern::Prefix(prefix.to_owned()),
            Some(_) => {
                self.fault_at_key(&path, "`*` can only stand at the end of a model's name", None);
                return None;
            }
            None if name.is_empty() => {
                self.fault_at_key(&path, "a model's name cannot be empty", None);
                return None;
            }
            None => Pattern::Exact(name.to_owned()),
        };
        self.timeout_overrides(&path.key("timeouts"), &model.timeouts);
        let targets = self.targets(&path, model.pool, model.as_model, model.split);
        let fallback = self.fallbacks(&path.key("fallback"), model.fallback);
        self.hedge(&path.key("hedge"), model.hedge.as_ref());
        let (keep_name, timeouts) = (model.keep_name, model.timeouts);
        let (overflow_after, hedge) = (model.overflow_after, model.hedge);
        Some(Model { pattern, targets, keep_name, timeouts, fallback, overflow_after, hedge, path })
    }

    fn targets(
        &mut self,
        path: &KeyPath,
        pool: Option<String>,
        as_model: Option<String>,
        split: Option<Vec<written::Share>>,
    ) -> Vec<Target> {
        if as_model.as_ref().is_some_and(String::is_empty) {
            self.fault(&path.key("as"), "a model's name cannot be empty", None);
        }
        match (pool, split) {
            (Some(pool), None) => {
                self.known_pool(&path.key("pool"), &pool);
                vec![Target { pool, as_model, weight: 1 }]
            }
            (None, Some(shares)) => {
                if as_model.is_some() {
                    let help = "give each item of `split` its own `as`".to_owned();
                    self.fault_at_key(&path.key("as"), "`as` belongs into the items of `split`", Some(help));
                }
                self.split(&path.key("split"), shares)
            }
            (Some(_), Some(_)) => {
                self.fault_at_key(&path.key("split"), "a model has either `pool` or `split`", None);
                Vec::new()
            }
            (None, None) => {
                if !self.tree.has_gone(path) {
                    let help = "write `{ pool: NAME }`, or `{ split: [...] }` for several".to_owned();
                    self.fault_at_key(path, "the model does not say which pool answers", Some(help));
                }
                Vec::new()
            }
        }
    }

    fn split(&mut self, path: &KeyPath, shares: Vec<written::Share>) -> Vec<Target> {
        let mut targets = Vec::new();
        for (path, share) in self.items(path).iter().zip(shares) {
            self.known_pool(&path.key("pool"), &share.pool);
            self.weight(&path.key("weight"), share.weight);
            if share.as_model.as_ref().is_some_and(String::is_empty) {
                self.fault(&path.key("as"), "a model's name cannot be empty", None);
            }
            targets.push(Target { pool: share.pool, as_model: share.as_model, weight: share.weight });
        }
        if targets.iter().all(|target| target.weight == 0) && !self.tree.has_gone(path) {
            let message =
                if targets.is_empty() { "the split is empty" } else { "all weights are 0: nobody would answer" };
            self.fault(path, message, None);
        }
        targets
    }

    pub(super) fn weight(&mut self, path: &KeyPath, weight: u32) {
        if weight > HEAVIEST {
            self.fault(path, format!("a weight cannot be more than {HEAVIEST}"), None);
        }
    }

    /// Whether the file has an entry that may answer for this model: one with faults of its own, too.
    pub(super) fn may_be_model(&self, name: &str) -> bool {
        let models = KeyPath::root().key("models");
        let is_for = |entry: &&str| entry.strip_suffix('*').map_or(*entry == name, |prefix| name.starts_with(prefix));
        self.tree.is_gone(&models) || self.tree.keys(&models).iter().any(is_for)
    }

    pub(super) fn default_model(&mut self, config: &Config) {
        let Some(name) = &config.default_model else { return };
        let models = KeyPath::root().key("models");
        if config.model(name).is_some() || self.may_be_model(name) {
            return;
        }
        let help = did_you_mean(name, &self.tree.keys(&models));
        let path = KeyPath::root().key("default_model");
        let message = format!("no model answers to `{}`", self.tree.as_written(&path, name));
        self.fault(&path, message, help);
    }
}
