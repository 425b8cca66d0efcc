//! Limits as those see them who look after them: what there is, and how somebody's buckets stand.

use super::scope::{Named, Scopes};
use super::settings::Kind;
use super::{Inner, Limit};
use crate::prices::NANOS;
use crate::store::Standing;
use serde::Serialize;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The limits of one version of the configuration, in the order of the file. Each filter adds its own when it is built.
#[derive(Default)]
pub struct Views(Mutex<Vec<Arc<Inner>>>);

/// One limit.
#[derive(Debug, Serialize)]
pub struct LimitView {
    /// Its name in messages, logs and metrics.
    pub limit: String,
    /// Whose buckets it has.
    pub per: String,
    /// What it counts.
    pub kind: &'static str,
    /// How much it allows, as the file writes it.
    pub allows: String,
    /// What a full bucket holds; of money in the currency, of all else a whole number.
    pub most: Value,
    /// The models it is for; none: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Whether it only counts.
    pub shadow: bool,
    /// Subjects that have a bucket now.
    pub subjects: u64,
    /// What became of decisions since it was opened.
    pub decisions: Decisions,
}

/// What became of decisions.
#[derive(Debug, Serialize)]
pub struct Decisions {
    granted: u64,
    refused: u64,
    would_refuse: u64,
    crowded: u64,
}

/// One bucket of one subject.
#[derive(Debug, Serialize)]
pub struct BucketView {
    /// The limit it is of.
    pub limit: String,
    /// What is counted.
    pub kind: &'static str,
    /// How much is allowed, as the file writes it.
    pub allows: String,
    /// Whether the limit only counts.
    pub shadow: bool,
    /// What a full bucket holds; of money in the currency, of all else a whole number.
    pub most: Value,
    /// What is left.
    pub left: Value,
    /// What requests that are not over have taken of it, by estimate.
    pub reserved: Value,
    /// What was spent beyond what there was.
    pub owed: Value,
    /// Milliseconds until there is one more; none if it is full, or where nobody knows.
    pub next_in_ms: Option<u64>,
    /// Milliseconds until it is full, if nothing more is taken.
    pub full_in_ms: u64,
}

impl Views {
    pub(super) fn add(&self, limits: &Arc<Inner>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(limits.clone());
    }

    fn filters(&self) -> Vec<Arc<Inner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All limits.
    pub fn limits(&self) -> Vec<LimitView> {
        self.filters().iter().flat_map(|filter| filter.limits.iter().map(Limit::view)).collect()
    }

    /// How the buckets of `subject` stand: one for each limit that is per what it names.
    ///
    /// # Errors
    /// What is wrong with how it is spelled.
    pub async fn buckets(&self, subject: &str) -> Result<Vec<BucketView>, String> {
        let named: Named = subject.parse()?;
        let mut views = Vec::new();
        for filter in self.filters() {
            for limit in &filter.limits {
                let Some(subject) = limit.per.subject(&named, &filter.names) else { continue };
                let standing = filter.store.peek(&limit.ledger, subject).await;
                views.push(limit.bucket(&standing));
            }
        }
        Ok(views)
    }

    /// What limits are per, each once: what there is to ask for.
    pub fn scopes(&self) -> Vec<String> {
        let mut scopes: Vec<String> = Vec::new();
        let per = |limit: &Limit| Scopes::to_string(&limit.per);
        for scope in self.filters().iter().flat_map(|filter| filter.limits.iter().map(per)) {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        scopes
    }
}

impl Limit {
    /// So many of its ledger's units.
    fn amount_of(&self, units: u64) -> Value {
        match self.kind {
            Kind::Cost => (units as f64 * self.scale as f64 / NANOS as f64).into(),
            _ => units.into(),
        }
    }

    fn bucket(&self, standing: &Standing) -> BucketView {
        BucketView {
            limit: self.ledger.label().to_string(),
            kind: self.kind.name(),
            allows: self.text.clone(),
            shadow: self.shadow,
            most: self.amount_of(standing.level.most),
            left: self.amount_of(standing.level.left),
            reserved: self.amount_of(standing.reserved),
            owed: self.amount_of(standing.owed),
            next_in_ms: standing.next_in.map(millis),
            full_in_ms: millis(standing.level.full_in),
        }
    }

    fn view(&self) -> LimitView {
        let [granted, refused, would_refuse, crowded] = self.ledger.counted().map(|(_, count)| count);
        LimitView {
            limit: self.ledger.label().to_string(),
            per: self.per.to_string(),
            kind: self.kind.name(),
            allows: self.text.clone(),
            most: self.amount_of(self.ledger.quota().burst()),
            models: self.models.clone(),
            shadow: self.shadow,
            subjects: self.ledger.subjects(),
            decisions: Decisions { granted, refused, would_refuse, crowded },
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
