//! What the filter looks up: for the hash of a secret, whom it lets in, or why nobody.

use crate::caller::Caller;
use crate::filters::limits::{Holders, OwnLimits};
use crate::keys::{Follow, KeyHash, Record};
use crate::reply::Refusal;
use crate::tenants::{Tenants, standing};
use crate::when::When;
use arc_swap::ArcSwapOption;
use http::StatusCode;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Whom a secret lets in.
#[derive(Clone)]
pub(super) struct Entry {
    /// Whose it is, as far as that is known.
    pub(super) caller: Arc<Caller>,
    /// Why it lets nobody in, if that is so whatever the clock says.
    refused: Option<Arc<Refusal>>,
    /// When another secret has taken its place for good.
    until: Option<When>,
}

impl Entry {
    /// Of a key that has one secret only.
    pub(super) fn of(caller: Caller) -> Self {
        Self { caller: Arc::new(caller), refused: None, until: None }
    }

    /// Why it lets nobody in now.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if let Some(refused) = &self.refused {
            return Some(Refusal::clone(refused));
        }
        if self.until.is_some_and(|until| until <= When::now()) {
            return Some(invalid("api_key_expired", "This API key was replaced by another."));
        }
        standing::refusal(&self.caller)
    }
}

fn invalid(code: &'static str, message: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, code, format!("{message} Ask whoever runs this gateway for a new one."))
}

/// All keys: those of the file, and the managed ones, if they let in too.
pub(super) struct Table {
    entries: HashMap<KeyHash, Entry>,
    /// What the keys of the file are called.
    ids: Arc<HashSet<String>>,
    managed: Option<Arc<Managed>>,
}

impl Table {
    pub(super) fn new(
        entries: HashMap<KeyHash, Entry>,
        ids: Arc<HashSet<String>>,
        managed: Option<Arc<Managed>>,
    ) -> Self {
        Self { entries, ids, managed }
    }

    /// Whether the managed ones let in, too.
    pub(super) fn has_managed(&self) -> bool {
        self.managed.is_some()
    }

    pub(super) fn find(&self, hash: &KeyHash) -> Result<Entry, Missing> {
        match (self.entries.get(hash), &self.managed) {
            (Some(entry), _) => Ok(entry.clone()),
            (None, Some(managed)) => managed.find(hash),
            (None, None) => Err(Missing::Unknown),
        }
    }
}

impl Holders for Table {
    fn holders(&self) -> Vec<Arc<Caller>> {
        let managed = self.managed.as_ref().and_then(|managed| managed.entries.load_full());
        let managed = managed.iter().flat_map(|entries| entries.values());
        self.entries.values().chain(managed).map(|entry| entry.caller.clone()).collect()
    }

    fn is_in_file(&self, key: &str) -> bool {
        self.ids.contains(key)
    }
}

/// The managed keys, as the tenants of one version of the file have them. None before they have been read.
pub(super) struct Managed {
    tenants: Option<Arc<Tenants>>,
    own: Arc<OwnLimits>,
    /// What the keys of the file are called: no other key may go by these names.
    taken: Arc<HashSet<String>>,
    entries: ArcSwapOption<HashMap<KeyHash, Entry>>,
}

/// A managed key that is not to be found.
pub(super) enum Missing {
    /// There is none.
    Unknown,
    /// Nobody has read yet which there are.
    NotRead,
}

impl Managed {
    pub(super) fn new(tenants: Option<Arc<Tenants>>, own: Arc<OwnLimits>, taken: Arc<HashSet<String>>) -> Self {
        Self { tenants, own, taken, entries: ArcSwapOption::empty() }
    }

    pub(super) fn find(&self, hash: &KeyHash) -> Result<Entry, Missing> {
        let entries = self.entries.load();
        let entries = entries.as_ref().ok_or(Missing::NotRead)?;
        entries.get(hash).cloned().ok_or(Missing::Unknown)
    }

    fn entry(&self, record: &Record) -> Entry {
        let (caller, unknown) = match record.key.caller(self.tenants.as_deref(), &self.own) {
            Ok(caller) => (caller, None),
            Err(unknown) => {
                let (key, reason) = (&record.key.id, &unknown.message);
                if record.revoked.is_none() {
                    tracing::warn!(key, reason, "a managed key lets nobody in: its owner is not known");
                }
                (Caller { key: Some(key.as_str().into()), ..Caller::default() }, Some(unknown.refusal()))
            }
        };
        let revoked = record.revoked.map(|_| invalid("api_key_revoked", "This API key was revoked."));
        Entry { refused: revoked.or(unknown).map(Arc::new), ..Entry::of(caller) }
    }
}

impl Follow for Managed {
    fn keys_are(&self, records: &[Record]) {
        let mut entries = HashMap::with_capacity(records.len());
        // Whoever has one of the others would have the buckets, and the name in the log, of a key of the file.
        for record in records.iter().filter(|record| !self.taken.contains(&record.key.id)) {
            let entry = self.entry(record);
            let secret = |secret: &crate::keys::Secret| (secret.hash, Entry { until: secret.until, ..entry.clone() });
            entries.extend(record.secrets.iter().map(secret));
        }
        self.entries.store(Some(Arc::new(entries)));
    }
}
