//! Limits as those see them who look after them: what there is, and how somebody's buckets stand.

use super::limit::Limit;
use super::named::Named;
use super::scope::Scopes;
use super::settings::Kind;
use super::{Inner, own};
use crate::caller::Caller;
use crate::prices::NANOS;
use crate::store::Standing;
use crate::tenants::{Level, Tenant, Tenants};
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many of those who have a limit of their own are named.
const LISTED: usize = 16;

/// The limits of one version of the configuration, in the order of the file. Each filter adds its own when it is built.
#[derive(Default)]
pub struct Views {
    filters: Mutex<Vec<Arc<Inner>>>,
    keys: Mutex<Vec<Arc<dyn Holders>>>,
    tenants: Option<Arc<Tenants>>,
}

/// Knows who has keys.
pub trait Holders: Send + Sync {
    /// All of them, each with the name of its key, as of now.
    fn holders(&self) -> Vec<Arc<Caller>>;

    /// Whether the file has a key of this name.
    fn is_in_file(&self, key: &str) -> bool;
}

/// One limit.
#[derive(Debug, Serialize)]
pub struct LimitView {
    /// Its name in messages, logs and metrics.
    pub limit: String,
    /// Whose buckets it has.
    pub per: String,
    /// Of a limit that tenants or keys have for themselves: who has it, the first of them by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub of: Vec<String>,
    /// How many more have it.
    #[serde(skip_serializing_if = "is_none")]
    pub others: usize,
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
    /// Of a file with these tenants, which may have limits of their own.
    pub fn of(tenants: Option<Arc<Tenants>>) -> Self {
        Self { tenants, ..Self::default() }
    }

    pub(super) fn add(&self, limits: &Arc<Inner>) {
        lock(&self.filters).push(limits.clone());
    }

    /// Keys may have limits of their own, too.
    pub fn add_keys(&self, keys: Arc<dyn Holders>) {
        lock(&self.keys).push(keys);
    }

    /// Whether the file has a key of this name: no managed key may have it too, since whoever has it would have the
    /// other's buckets.
    pub fn has_key(&self, name: &str) -> bool {
        lock(&self.keys).iter().any(|keys| keys.is_in_file(name))
    }

    fn filters(&self) -> Vec<Arc<Inner>> {
        lock(&self.filters).clone()
    }

    fn holders(&self) -> Vec<Arc<Caller>> {
        let keys = lock(&self.keys).clone();
        keys.iter().flat_map(|keys| keys.holders()).collect()
    }

    /// All limits: those of the filters, and those that tenants and keys have for themselves, each of these once however
    /// many have the same.
    pub fn limits(&self) -> Vec<LimitView> {
        let mut views: Vec<_> =
            self.filters().iter().flat_map(|filter| filter.limits.iter().map(Limit::view)).collect();
        let holders = self.holders();
        let mut seen = HashMap::new();
        for (whose, limit) in self.own(&holders) {
            let same = (limit.ledger.label(), &limit.text, &limit.models, limit.shadow);
            let at = *seen.entry(same).or_insert_with(|| {
                views.push(limit.view());
                views.len() - 1
            });
            if views[at].of.len() < LISTED { views[at].of.push(whose) } else { views[at].others += 1 }
        }
        views
    }

    /// The limits that tenants and keys have for themselves, if they are decided over, each with whose it is, as subjects
    /// are spelled.
    fn own<'a>(&'a self, holders: &'a [Arc<Caller>]) -> Vec<(String, &'a Limit)> {
        if !self.filters().iter().any(|filter| filter.decides_own) {
            return Vec::new();
        }
        let spelt = |org: &str, tenant: &Tenant| match tenant.level {
            Level::Org | Level::Key => format!("{}:{}", tenant.level.setting(), tenant.name),
            level => format!("org:{org}/{}:{}", level.setting(), tenant.name),
        };
        let keys = holders.iter().filter_map(|caller| caller.tenant(Level::Key)).map(|key| ("", &**key));
        let everyone = self.tenants.iter().flat_map(|tenants| tenants.everyone()).chain(keys);
        let limits = everyone.flat_map(|(org, tenant)| own::of_one(tenant).map(move |own| (org, own)));
        let mut own: Vec<_> = limits.map(|(org, (tenant, limit))| (spelt(org, tenant), limit)).collect();
        own.sort_by(|(one, _), (other, _)| one.cmp(other));
        own
    }

    /// How the buckets of `subject` stand: one for each limit that is per what it names, or that it has for itself.
    ///
    /// # Errors
    /// What is wrong with how it is spelled.
    pub async fn buckets(&self, subject: &str) -> Result<Vec<BucketView>, String> {
        let (tenants, holders) = (self.tenants.as_deref(), self.holders());
        let named = subject.parse::<Named>()?.completed(tenants, &holders)?;
        let mut views = Vec::new();
        for filter in self.filters() {
            for limit in &filter.limits {
                let Some(subject) = named.subject(&limit.per, &filter.names) else { continue };
                let standing = filter.store.peek(&limit.ledger, subject).await;
                views.push(limit.bucket(&standing));
            }
        }
        let decides = self.filters().into_iter().find(|filter| filter.decides_own);
        let Some((filter, (level, caller))) = decides.zip(named.tenant(tenants, &holders)) else {
            return Ok(views);
        };
        let subject = own::subject(level, Some(&caller), &mut Vec::new());
        for (_, limit) in caller.tenant(level).into_iter().flat_map(|tenant| own::of_one(tenant)) {
            let standing = filter.store.peek(&limit.ledger, subject).await;
            views.push(limit.bucket(&standing));
        }
        Ok(views)
    }

    /// What there is to ask for, in words.
    pub fn there(&self) -> String {
        let mut scopes: Vec<String> = Vec::new();
        let per = |limit: &Limit| Scopes::to_string(&limit.per);
        for scope in self.filters().iter().flat_map(|filter| filter.limits.iter().map(per)) {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        let holders = self.holders();
        let mut own: Vec<_> = self.own(&holders).into_iter().map(|(whose, _)| whose).collect();
        own.dedup();
        let more = if own.len() > LISTED { " and others" } else { "" };
        own.truncate(LISTED);
        let per = (!scopes.is_empty()).then(|| format!("limits per {}", scopes.join(", ")));
        let own = (!own.is_empty()).then(|| format!("limits that these have of their own: {}{more}", own.join(", ")));
        let there: Vec<_> = [per, own].into_iter().flatten().collect();
        if there.is_empty() { "no limits".to_owned() } else { there.join(", and ") }
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
            of: Vec::new(),
            others: 0,
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

fn is_none(count: &usize) -> bool {
    *count == 0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
