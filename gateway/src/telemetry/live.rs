//! What is going on now, for the page at `/` and for `tidegate top`: one small document, made of what the metrics hold
//! anyway. It has counts since the start, never rates: who looks twice has the rate for whatever time lies between, so
//! that nothing is kept for those who look, however many there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts by what they are of.
pub type Counts = BTreeMap<String, u64>;

/// The gateway at one moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Live {
    /// The version of the program.
    pub version: String,
    /// When this was, in milliseconds since 1970.
    pub time_ms: u64,
    /// How long the process had run, in milliseconds: what rates are made with.
    pub uptime_ms: u64,
    /// The hash of the configuration in use.
    pub config: String,
    /// Whether requests should be sent here.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
    /// Whether the process is finishing its last requests.
    pub draining: bool,
    /// Open connections of clients.
    pub connections: u64,
    /// Requests that are not over.
    pub in_flight: u64,
    /// Resident memory of the process, in bytes.
    pub memory: u64,
    /// Processor time of the process, in seconds.
    pub cpu_seconds: f64,
    /// What money is in.
    pub currency: String,
    /// The upper bounds of the buckets of `Spread`s, in seconds; each has one bucket more, for what is above.
    pub bounds: Bounds,
    /// By route: a model of the file, `other_paths`, or `other` for requests that have none.
    pub routes: BTreeMap<String, RouteNow>,
    /// Time that the gateway itself added to requests.
    pub overhead: Spread,
    /// By pool.
    pub pools: BTreeMap<String, PoolNow>,
    /// The limits there are.
    pub limits: Vec<LimitNow>,
    /// Who was refused most by limits, within the last five minutes.
    pub limited: Vec<Limited>,
    /// The cache, and what else spares backends work.
    pub cache: CacheNow,
}

/// The bounds of all buckets.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Bounds {
    /// Of whole requests.
    pub duration: Vec<f64>,
    /// Of the time to the first token.
    pub first_token: Vec<f64>,
    /// Of the gateway's own time.
    pub overhead: Vec<f64>,
    /// Of the time in queues.
    pub queue: Vec<f64>,
}

/// How often values fell between which bounds, since the start.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Spread {
    /// One for each bound, and one for what is above the last.
    pub buckets: Vec<u64>,
    /// All values together, in seconds.
    pub sum: f64,
}

/// One route.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RouteNow {
    /// Requests that are not over.
    pub in_flight: u64,
    /// Requests that are over.
    pub requests: u64,
    /// Those that did not go well, by who is to blame.
    pub failures: Counts,
    /// Tokens by type: input, output, cached_input (a part of input), reasoning (a part of output).
    pub tokens: Counts,
    /// What they cost.
    pub cost: f64,
    /// How long requests took.
    pub duration: Spread,
    /// How long the first token took.
    pub first_token: Spread,
}

/// One pool.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PoolNow {
    /// Whether any of its backends is up.
    pub up: bool,
    /// Whether most are out, and all are used.
    pub panicking: bool,
    /// Its queue.
    pub queue: QueueNow,
    /// By name.
    pub backends: BTreeMap<String, BackendNow>,
}

/// A pool's queue.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct QueueNow {
    /// How many wait.
    pub waiting: u64,
    /// By how waiting ended: served, full, hopeless, expired, left.
    pub outcomes: Counts,
    /// How long those waited that got a place.
    pub wait: Spread,
}

/// One backend.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BackendNow {
    /// up, down, unknown (not asked yet), draining, leaving (discovery names it no more).
    pub state: String,
    /// Requests it is working on for this gateway.
    pub in_flight: u64,
    /// How many it gets at once; null: no bound.
    pub max_in_flight: Option<u64>,
    /// closed (trusted), half_open or open (left alone): the worst of its models.
    pub breaker: String,
    /// How much of its own cache for prompts is used, from 0 to 1, if it says so.
    pub cache_used: Option<f64>,
    /// Requests it was tried with.
    pub attempts: u64,
    /// Requests it gave the answer to.
    pub requests: u64,
    /// What went wrong with it.
    pub errors: Counts,
}

/// One limit.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LimitNow {
    /// Its name.
    pub limit: String,
    /// Whose buckets it has.
    pub per: String,
    /// What it counts.
    pub kind: String,
    /// How much it allows, as the file writes it.
    pub allows: String,
    /// Whether it only counts.
    pub shadow: bool,
    /// Subjects that have a bucket now.
    pub subjects: u64,
    /// What became of decisions: granted, refused, would_refuse, crowded.
    pub decisions: Counts,
}

/// Somebody whom limits refuse.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limited {
    /// key, user or org.
    pub by: String,
    /// Which.
    pub name: String,
    /// The organisation of a user, if one is known.
    pub org: Option<String>,
    /// Requests that a limit refused.
    pub limited: u64,
    /// Requests in all.
    pub requests: u64,
}

/// What is kept of answers, and what that spared.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CacheNow {
    /// Answers that are kept in memory.
    pub answers: u64,
    /// Memory that they take.
    pub bytes: u64,
    /// Requests that met the cache: hit, stale, partial, miss, bypass.
    pub requests: Counts,
    /// Tokens that were not computed.
    pub saved_tokens: u64,
    /// What they would have cost.
    pub saved_cost: f64,
    /// Requests that could share an answer: led, followed, took_over, alone, failed.
    pub flights: Counts,
    /// Requests with an Idempotency-Key, by what became of them.
    pub idempotency: Counts,
}

impl Spread {
    /// Adds another one to this, bucket by bucket.
    pub fn add(&mut self, other: &Self) {
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(to, from)| *to += from);
        self.sum += other.sum;
    }

    /// What has come since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let old = before.buckets.iter().chain(std::iter::repeat(&0));
        let buckets = self.buckets.iter().zip(old).map(|(new, old)| new.saturating_sub(*old)).collect();
        Self { buckets, sum: self.sum - before.sum }
    }

    /// How many values there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The value that `share` of them are not above, as well as the buckets tell; none without values.
    #[must_use]
    pub fn quantile(&self, share: f64, bounds: &[f64]) -> Option<f64> {
        let wanted = share * self.count() as f64;
        let (mut below, mut low) = (0.0, 0.0);
        for (at, count) in self.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
            low = if at == 0 { 0.0 } else { *bounds.get(at - 1)? };
            // What is above the last bound is told as that.
            let Some(high) = bounds.get(at) else { break };
            let here = *count as f64;
            if below + here >= wanted {
                return Some(low + (high - low) * ((wanted - below) / here).clamp(0.0, 1.0));
            }
            below += here;
            low = *high;
        }
        (self.count() > 0).then_some(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [f64; 3] = [1.0, 2.0, 4.0];

    fn spread(buckets: &[u64]) -> Spread {
        Spread { buckets: buckets.to_vec(), sum: 0.0 }
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let spread = spread(&[0, 10, 10, 0]);
        assert_eq!(spread.quantile(0.5, &BOUNDS), Some(2.0));
        assert_eq!(spread.quantile(0.75, &BOUNDS), Some(3.0));
        assert_eq!(spread.quantile(1.0, &BOUNDS), Some(4.0));
    }

    #[test]
    fn what_is_above_all_bounds_is_told_as_the_last_and_nothing_as_nothing() {
        assert_eq!(spread(&[0, 0, 0, 5]).quantile(0.5, &BOUNDS), Some(4.0));
        assert_eq!(spread(&[1, 0, 0, 5]).quantile(0.9, &BOUNDS), Some(4.0));
        assert_eq!(spread(&[0, 0, 0, 0]).quantile(0.5, &BOUNDS), None);
        assert_eq!(spread(&[]).quantile(0.5, &BOUNDS), None);
    }

    #[test]
    fn what_came_between_two_looks_is_the_difference() {
        let since = spread(&[5, 7, 0, 1]).since(&spread(&[5, 2, 0, 1]));
        assert_eq!(since.buckets, [0, 5, 0, 0]);
        assert_eq!(spread(&[5]).since(&Spread::default()).buckets, [5]);
    }
}
