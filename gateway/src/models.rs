//! From the model a client asks for to who answers: exact names first, then the wildcard with the longest prefix.

use crate::telemetry::Series;
use crate::upstream::Pool;
use crate::upstream::hedge::Hedging;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tidegate_config::{FallbackOn, Pattern, Timeouts};

/// All models of one configuration.
pub struct Models {
    exact: HashMap<Box<str>, Arc<Model>>,
    prefixes: HashMap<Box<str>, Arc<Model>>,
    /// How long prefixes are, the longest first, so that the first match is the closest: they are of few lengths, however
    /// many there are.
    lengths: Vec<usize>,
    in_order: Vec<Arc<Model>>,
    /// What a request without a model gets.
    pub default: Option<Arc<str>>,
}

/// One entry of the file's `models`.
pub struct Model {
    /// Which names it answers to.
    pub pattern: Pattern,
    /// Its name as the file writes it: the `route` of metrics and logs.
    pub name: Arc<str>,
    /// Who answers.
    pub targets: Vec<Target>,
    /// Whether the answer names the model the client asked for.
    pub keep_name: bool,
    /// Who answers when those cannot, one after the other, with what the models among them fall back to.
    pub fallback: Arc<[Step]>,
    /// How long the queue may be before the first fallback for that is taken.
    pub overflow_after: Option<Duration>,
    /// What of its requests that came no farther than a filter is counted by, once there is one.
    pub unrouted: OnceLock<Arc<Series>>,
    turn: AtomicUsize,
    total_weight: usize,
}

/// One of those who answer for a model.
pub struct Target {
    /// The pool.
    pub pool: Arc<Pool>,
    /// The model's name there, if another.
    pub send_as: Option<Arc<str>>,
    /// Its share.
    pub weight: u32,
    /// The timeouts that apply: the model's over the pool's over the file's.
    pub timeouts: Timeouts,
    /// Metrics of this model at this pool.
    pub series: Arc<Series>,
    /// When a second backend is asked; none: never.
    pub hedging: Option<Arc<Hedging>>,
}

/// Who answers when those before cannot.
#[derive(Clone)]
pub struct Step {
    /// After what.
    pub on: Arc<[FallbackOn]>,
    /// The model it is, if it is one: not all callers may use it.
    pub model: Option<Arc<str>>,
    /// The name by which its tokens have a price; none: the one that the client asked for.
    pub priced_as: Option<Arc<str>>,
    /// How long it may take to begin its answer.
    pub within: Option<Duration>,
    /// Its pools.
    pub serves: Arc<Model>,
}

impl Model {
    /// A model answered by `targets`; those with no weight get nothing.
    pub fn new(pattern: Pattern, targets: Vec<Target>, keep_name: bool) -> Self {
        let name = pattern.to_string().into();
        let total_weight = targets.iter().map(|target| target.weight as usize).sum();
        let (fallback, overflow_after) = (Arc::default(), None);
        let (unrouted, turn) = (OnceLock::new(), AtomicUsize::new(0));
        Self { pattern, name, targets, keep_name, fallback, overflow_after, unrouted, turn, total_weight }
    }

    /// The target whose turn it is: out of every sum-of-weights requests each gets its weight.
    pub fn target(&self) -> &Target {
        let first = &self.targets[0];
        if self.targets.len() == 1 || self.total_weight == 0 {
            return first;
        }
        // A golden-ratio walk over the weights spreads a small share evenly instead of sending it in a burst.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as u64;
        let point = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let slot = ((u128::from(point) * self.total_weight as u128) >> 64) as usize;
        let mut passed = 0;
        self.targets
            .iter()
            .find(|target| {
                passed += target.weight as usize;
                slot < passed
            })
            .unwrap_or(first)
    }
}

impl Models {
    /// The models of a file, in its order.
    pub fn new(in_order: Vec<Arc<Model>>, default: Option<Arc<str>>) -> Self {
        let mut exact = HashMap::new();
        let mut prefixes: HashMap<Box<str>, _> = HashMap::new();
        for model in &in_order {
            match &model.pattern {
                Pattern::Exact(name) => {
                    exact.insert(name.as_str().into(), model.clone());
                }
                Pattern::Prefix(prefix) => {
                    prefixes.insert(prefix.as_str().into(), model.clone());
                }
            }
        }
        let lengths: BTreeSet<usize> = prefixes.keys().map(|prefix| prefix.len()).collect();
        Self { exact, prefixes, lengths: lengths.into_iter().rev().collect(), in_order, default }
    }

    /// Who answers to `name`.
    pub fn resolve(&self, name: &str) -> Option<&Arc<Model>> {
        let closest = || self.lengths.iter().find_map(|length| self.prefixes.get(name.get(..*length)?));
        self.exact.get(name).or_else(closest)
    }

    /// All models, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.in_order.iter()
    }

    /// Up to three of `known` that `name` may have meant.
    pub fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
        let name = name.to_lowercase();
        let mut scored: Vec<_> = known
            .map(|known| (strsim::jaro_winkler(&name, &known.to_lowercase()), known))
            .filter(|(score, _)| *score > NEAR)
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored.into_iter().take(3).map(|(_, known)| known).collect()
    }
}

/// Jaro-Winkler similarity from which a name is worth suggesting.
const NEAR: f64 = 0.8;
